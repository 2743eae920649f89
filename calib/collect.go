package calib

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/internal/filelock"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/score"
)

// The defaults of Options.
const (
	DefaultTokens  = 128 * 512
	DefaultContext = 512
	DefaultMemory  = 2 << 30
)

// Options say what Collect does. Tokens, Context, Rows and Threads must be given.
type Options struct {
	Model   string // fingerprint of the checkpoint that the model was loaded from
	Tokens  int    // how many are wanted; fewer are used where the text ends
	Context int    // most tokens of a row
	Seed    uint64 // of the order of the documents
	Rows    RowMode
	Memory  int64         // most bytes of sums in memory, but at least a layer's; 0: DefaultMemory
	Threads int           // that add up; the engine has its own number
	Save    time.Duration // how often the sums so far are saved; 0: see saveEvery
	Replace bool          // whether other statistics in the output's place may go

	Progress func(done, total int64) // called with tokens run, of all passes together; may be nil
	Warn     func(message string)    // may be nil
}

func (o *Options) check(longest int) error {
	switch {
	case o.Tokens < 1:
		return fmt.Errorf("%d tokens: expected at least one", o.Tokens)
	case o.Context < 2 || o.Context > longest:
		return fmt.Errorf("rows of %d tokens: expected 2 to %d, the longest sequence of the model", o.Context, longest)
	case o.Rows != Packed && o.Rows != Padded:
		return fmt.Errorf("rows %q: expected packed or padded", o.Rows)
	case o.Threads < 1:
		return fmt.Errorf("%d threads: expected at least one", o.Threads)
	}
	return nil
}

// Collect runs the model over the text of files and directories and writes the statistics
// of its MLPs to a file, which it returns opened. Where the file is there already and is
// what would be written, nothing is run; any other file is refused, but with Replace. Errors name the
// source, document, layer or option. A *checkpoint.WriteError is a failure to write.
func Collect(ctx context.Context, m *lm.Model, sources []string, out string, opt Options) (*score.Stats, error) {
	if err := opt.check(m.Info().MaxLength); err != nil {
		return nil, err
	}
	documents, err := readSources(sources)
	if err != nil {
		return nil, err
	}
	text, err := layRows(m, documents, &opt)
	if err != nil {
		return nil, err
	}
	c := &collector{ctx: ctx, model: m, text: text, opt: opt, files: filesFor(out), adder: &adder{threads: opt.Threads}}
	c.describe()
	if err := c.judge(); err != nil {
		return nil, err
	}
	held, err := lock(out)
	if err != nil {
		return nil, err
	}
	defer filelock.Release(held)
	if done, err := c.finished(); done != nil || err != nil {
		return done, err
	}
	if err := c.run(); err != nil {
		if ctx.Err() == nil && !errors.As(err, new(*checkpoint.WriteError)) {
			c.files.remove() // the same call would fail again
		}
		return nil, err
	}
	if err := os.Rename(c.files.part, out); err != nil {
		return nil, &checkpoint.WriteError{Err: err}
	}
	c.files.remove()
	return score.OpenStats(out)
}

// collector is one call of Collect.
type collector struct {
	ctx   context.Context
	model *lm.Model
	text  *layout
	opt   Options
	head  score.StatsHead
	files files
	adder *adder

	groups  [][2]int // first layer and the one after the last
	batches [][]row
	done    int64
	total   int64
	saved   time.Time
	saving  time.Duration // that the last save took
}

// describe fills in what the statistics are of and how the work is cut.
func (c *collector) describe() {
	info := c.model.Info()
	c.head = score.StatsHead{Version: score.StatsVersion, Model: c.opt.Model, Tokenizer: info.Tokenizer, Text: c.text.fingerprint(),
		Documents: c.text.documents, Context: c.opt.Context, Rows: string(c.opt.Rows), Seed: c.opt.Seed, DType: info.DType,
		Body: c.text.body, First: c.text.first, Held: c.text.held}
	for _, l := range c.model.Engine().Model().Layers {
		c.head.Widths = append(c.head.Widths, l.Width)
	}
	memory := c.opt.Memory
	if memory == 0 {
		memory = DefaultMemory
	}
	c.groups = groupLayers(c.head.Widths, memory)
	c.batches = c.text.batches()
	c.total = c.text.tokens() * int64(len(c.groups))
}

// groupLayers cuts the layers into stretches whose sums fit into memory, one layer at
// least.
func groupLayers(widths []int, memory int64) [][2]int {
	var groups [][2]int
	for first := 0; first < len(widths); {
		end, bytes := first, int64(0)
		for end < len(widths) && (end == first || bytes+layerBytes(widths[end]) <= memory) {
			bytes += layerBytes(widths[end])
			end++
		}
		groups = append(groups, [2]int{first, end})
		first = end
	}
	return groups
}

// layerBytes is the size of a layer's sums.
func layerBytes(d int) int64 { return 12 * int64(d) * int64(d+3) }

// judge says whether there is enough text.
func (c *collector) judge() error {
	width, tokens := int64(slices.Max(c.head.Widths)), c.text.tokens()
	switch {
	case tokens < width || c.head.Body == 0:
		return fmt.Errorf("the calibration text has %d tokens (%d asked for); the model's MLPs are %d wide, and fewer tokens than that say too little: give more text or ask for more, best %d or more", tokens, c.opt.Tokens, width, 4*width)
	case tokens < 4*width:
		c.warn("%d calibration tokens are fewer than 4 x the width of the MLPs, %d: scores and refits will be poor; give more text or ask for more tokens", tokens, 4*width)
	}
	if tokens < int64(c.opt.Tokens) {
		c.warn("the text gives %d tokens, fewer than the %d asked for; it is used once", tokens, c.opt.Tokens)
	}
	if c.head.Held == 0 {
		c.warn("the text has fewer than %d documents, so none is held back to choose a damping by", heldBack)
	}
	// English has about 4.5 bytes a token, and most languages that a tokenizer was made for
	// above 2; a vocabulary of bytes is not meant.
	if c.model.Tokenizer().VocabSize() > 1000 && c.text.bytes > 0 && float64(c.text.bytes)/float64(tokens) < 1.5 {
		c.warn("the text has %.1f bytes a token: it may be in a language, or not text at all, that the model was not trained on", float64(c.text.bytes)/float64(tokens))
	}
	return nil
}

func (c *collector) warn(format string, args ...any) {
	if c.opt.Warn != nil {
		c.opt.Warn(fmt.Sprintf(format, args...))
	}
}

// finished returns what is already there.
func (c *collector) finished() (*score.Stats, error) {
	if _, err := os.Lstat(c.files.out); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	st, err := score.OpenStats(c.files.out)
	if err != nil && c.opt.Replace {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; it is in the output's place", err)
	}
	if !reflect.DeepEqual(st.StatsHead, c.head) {
		st.Close()
		if c.opt.Replace {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: holds other statistics (text %s, this text %s); remove it or choose another file", c.files.out, st.Text, c.head.Text)
	}
	c.files.remove() // left by a run that was killed after its last step
	return st, nil
}

// run makes the partial output, from where an earlier run was.
func (c *collector) run() error {
	job, err := job(&c.head, c.groups)
	if err != nil {
		return err
	}
	at, layers, err := c.files.load(job)
	if err != nil {
		return err
	}
	begin := score.CreateStats
	if at.Group > 0 {
		begin = score.ContinueStats
	}
	w, err := begin(c.files.part, c.head)
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	err = c.passes(w, at, layers)
	if e := w.Close(); err == nil && e != nil {
		err = &checkpoint.WriteError{Err: e}
	}
	return err
}

// passes runs over the text once for each group of layers.
func (c *collector) passes(w *score.StatsWriter, at place, layers []*score.LayerStats) error {
	for at.Group < len(c.groups) {
		group := c.groups[at.Group]
		if layers == nil {
			for _, d := range c.head.Widths[group[0]:group[1]] {
				layers = append(layers, score.NewLayerStats(d))
			}
		}
		if err := c.pass(&at, group, layers); err != nil {
			return err
		}
		for i, s := range layers {
			if err := w.WriteLayer(group[0]+i, s); err != nil {
				return &checkpoint.WriteError{Err: err}
			}
		}
		if err := w.Sync(); err != nil {
			return &checkpoint.WriteError{Err: err}
		}
		at.Group, at.Batch, layers = at.Group+1, 0, nil
		if err := c.files.save(at, nil); err != nil {
			return err
		}
	}
	return nil
}

// errEnough ends a forward pass whose last wanted layer has been seen.
var errEnough = errors.New("the layers above are not wanted")

// pass runs the batches from at.Batch on and adds up a group's layers.
func (c *collector) pass(at *place, group [2]int, layers []*score.LayerStats) error {
	c.saved = time.Now()
	c.done = int64(at.Group) * c.text.tokens()
	for _, rows := range c.batches[:at.Batch] {
		c.done += tokensOf(rows)
	}
	saved := at.Batch
	for at.Batch < len(c.batches) {
		stopped := c.ctx.Err()
		if at.Batch > saved && (stopped != nil || time.Since(c.saved) >= c.saveEvery()) {
			begin := time.Now()
			if err := c.files.save(*at, layers); err != nil {
				return err
			}
			c.saved, saved = time.Now(), at.Batch
			c.saving = c.saved.Sub(begin)
		}
		if stopped != nil {
			return stopped
		}
		rows := c.batches[at.Batch]
		if err := c.batch(rows, group, layers); err != nil {
			return err
		}
		at.Batch++
		c.done += tokensOf(rows)
		if c.opt.Progress != nil {
			c.opt.Progress(c.done, c.total)
		}
	}
	return nil
}

// saveEvery is how long sums go unsaved: a second at least, a minute at most, and in
// between so long that saving takes a fiftieth of the time. It decides nothing about the
// result.
func (c *collector) saveEvery() time.Duration {
	if c.opt.Save > 0 {
		return c.opt.Save
	}
	return min(max(50*c.saving, time.Second), time.Minute)
}

func tokensOf(rows []row) int64 {
	n := 0
	for _, r := range rows {
		n += len(r.tokens)
	}
	return int64(n)
}

// batch adds one batch to the sums of a group's layers. It is not interrupted, so that
// the sums are always those of whole batches.
func (c *collector) batch(rows []row, group [2]int, layers []*score.LayerStats) error {
	wanted := int(tokensOf(rows))
	seen := 0 // rows of the group's last layer
	observe := func(mlp engine.MLP) error {
		if mlp.Layer < group[0] {
			return nil
		}
		if err := c.observe(mlp, rows, layers[mlp.Layer-group[0]]); err != nil {
			return err
		}
		if mlp.Layer == group[1]-1 {
			if seen += len(mlp.Rows); seen == wanted {
				return errEnough
			}
		}
		return nil
	}
	_, err := c.model.Engine().Score(context.WithoutCancel(c.ctx), batchOf(rows), observe)
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the engine showed %d of %d rows of layer %d", seen, wanted, group[1]-1)
	}
	return err
}

// observe adds the rows of one call, class by class.
func (c *collector) observe(mlp engine.MLP, rows []row, s *score.LayerStats) error {
	var first, others []int
	for i, r := range mlp.Rows {
		if rows[r.Node].first[r.Index] {
			first = append(first, i)
		} else {
			others = append(others, i)
		}
	}
	to := &s.Body
	if rows[0].held {
		to = &s.Held
	}
	finite := c.adder.addExact(&s.First, mlp.Activations, first)
	if finite = c.adder.add(to, mlp.Activations, others) && finite; finite {
		return nil
	}
	bad := worstRow(mlp)
	r := mlp.Rows[bad]
	return fmt.Errorf("layer %d: activations are not finite, or too large to be squared, at token %d of a row of %s; the model is damaged, or its weights overflow on this text", mlp.Layer, r.Index, c.text.document(&rows[r.Node], r.Index))
}

// worstRow is the first row that holds a value that is not finite; where there is none,
// the row that holds the largest.
func worstRow(mlp engine.MLP) int {
	worst, most := 0, float32(-1)
	for i := range mlp.Rows {
		for _, v := range mlp.Activations[i*mlp.Width:][:mlp.Width] {
			if v-v != 0 {
				return i
			}
			if v = max(v, -v); v > most {
				worst, most = i, v
			}
		}
	}
	return worst
}
