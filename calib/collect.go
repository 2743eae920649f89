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

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
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
	Memory  int64         // most bytes for weights, sums and residual streams; 0: DefaultMemory
	Threads int           // that add up; the engine has its own number
	Save    time.Duration // how often the sums so far are saved; 0: see saveEvery
	Replace bool          // whether other statistics in the output's place may go

	Progress func(done, total int64) // called with tokens run, of all layers together; may be nil
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
func Collect(ctx context.Context, m *lm.Layerwise, sources []string, out string, opt Options) (*score.Stats, error) {
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
	model *lm.Layerwise
	text  *layout
	opt   Options
	head  score.StatsHead
	files files
	adder *adder

	batches []batch
	streams *streams
	stats   *score.LayerStats // of the layer that is being run
	dirty   bool              // whether something was computed since the last save
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
	c.batches = c.text.batches()
	memory := c.opt.Memory
	if memory == 0 {
		memory = DefaultMemory
	}
	if m := c.model.Engine().Model(); layerBytes(m)+streamBytes(m, c.text.tokens()) > memory {
		c.files.spill()
	}
}

// streamBytes is the size of the residual streams of so many tokens.
func streamBytes(m *arch.Transformer, tokens int64) int64 { return 4 * int64(m.Hidden) * tokens }

// layerBytes is about the most memory that a layer takes: its weights in float32, its
// sums, and what is computed of a batch.
func layerBytes(m *arch.Transformer) int64 {
	h, d := int64(m.Hidden), int64(0)
	for _, l := range m.Layers {
		d = max(d, int64(l.Width))
	}
	queries, keys := int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim)
	weights := h*(2*queries+2*keys) + 3*h*d
	work := batchTokens*(6*h+2*queries+2*keys) + 3*chunkRows*d
	return 4*(weights+work) + 12*d*(d+3)
}

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
	job, err := c.job()
	if err != nil {
		return err
	}
	hidden := c.model.Engine().Model().Hidden
	at, err := c.load(job, hidden)
	if err != nil {
		return err
	}
	defer c.streams.close()
	begin := score.CreateStats
	if at.Layer > 0 {
		begin = score.ContinueStats
	}
	w, err := begin(c.files.part, c.head)
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	c.saved = time.Now()
	for at.Layer < len(c.head.Widths) && err == nil {
		err = c.layer(w, &at)
	}
	if e := w.Close(); err == nil && e != nil {
		err = &checkpoint.WriteError{Err: e}
	}
	return err
}

// layer runs the rest of a layer's batches, writes its sums, and goes to the next.
func (c *collector) layer(w *score.StatsWriter, at *place) error {
	c.stats = ready(c.stats, c.head.Widths[at.Layer], at.Batch > 0)
	var layer engine.Layer
	for at.Batch < len(c.batches) {
		if err := c.pause(w, *at); err != nil {
			return err
		}
		if layer == nil {
			var err error
			if layer, err = c.model.Engine().Layer(context.WithoutCancel(c.ctx), at.Layer); err != nil {
				return err
			}
		}
		if err := c.batch(layer, at.Layer, &c.batches[at.Batch]); err != nil {
			return err
		}
		at.Batch++
		c.dirty = true
		if c.opt.Progress != nil {
			done := c.text.tokens()
			if at.Batch < len(c.batches) {
				done = c.batches[at.Batch].first
			}
			c.opt.Progress(int64(at.Layer)*c.text.tokens()+done, int64(len(c.head.Widths))*c.text.tokens())
		}
	}
	if err := w.WriteLayer(at.Layer, c.stats); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	at.Layer, at.Batch = at.Layer+1, 0
	if c.files.spills() {
		// The next layer overwrites the streams that the last state goes on from.
		return c.save(w, *at)
	}
	return nil
}

// ready returns room for the sums of a layer: s where it is of that width, which keeps
// what it holds if keep is set.
func ready(s *score.LayerStats, width int, keep bool) *score.LayerStats {
	if s == nil || s.Width != width {
		return score.NewLayerStats(width)
	}
	if keep {
		return s
	}
	for _, m := range []*score.Moments{&s.Body, &s.First, &s.Held} {
		clear(m.Sum)
		clear(m.Gram)
		m.N, m.Stream = 0, score.Stream{}
	}
	return s
}

// pause saves what there is where it is time to, and returns an error where it is time to
// stop.
func (c *collector) pause(w *score.StatsWriter, at place) error {
	stopped := c.ctx.Err()
	if c.dirty && (stopped != nil || time.Since(c.saved) >= c.saveEvery()) {
		if err := c.save(w, at); err != nil {
			return err
		}
	}
	return stopped
}

// save makes all that was computed durable.
func (c *collector) save(w *score.StatsWriter, at place) error {
	begin := time.Now()
	if err := w.Sync(); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	made := at.Layer
	if at.Batch == 0 {
		made--
	}
	if err := c.streams.sync(made); err != nil {
		return err
	}
	stats := c.stats
	if at.Batch == 0 {
		stats = nil
	}
	if err := c.files.save(at, stats, c.streams.memory); err != nil {
		return err
	}
	c.saved, c.dirty = time.Now(), false
	c.saving = c.saved.Sub(begin)
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

// batch runs a layer over one batch and adds up what its MLP does. It is not interrupted,
// so that the sums are always those of whole batches.
func (c *collector) batch(layer engine.Layer, index int, b *batch) error {
	ctx := context.WithoutCancel(c.ctx)
	stream, err := c.streams.get(index, b.first, b.tokens)
	if err != nil {
		return err
	}
	forest := batchOf(b.rows)
	if index == 0 {
		if err := c.model.Engine().Embed(ctx, forest, stream); err != nil {
			return err
		}
	}
	seen := 0
	if err := layer.Run(ctx, forest, stream, func(mlp engine.MLP) error {
		seen += len(mlp.Rows)
		return c.observe(mlp, b.rows, c.stats)
	}); err != nil {
		return err
	}
	if seen != b.tokens {
		return fmt.Errorf("the engine showed %d of %d rows of layer %d", seen, b.tokens, index)
	}
	if err := c.addStream(index, stream, b.rows); err != nil {
		return err
	}
	return c.streams.put(index, b.first)
}

// addStream adds the energies of the residual stream after a layer.
func (c *collector) addStream(index int, stream []float32, rows []row) error {
	hidden := c.model.Engine().Model().Hidden
	for _, r := range rows {
		for i := range r.tokens {
			to := &c.stats.Body
			switch {
			case r.first[i]:
				to = &c.stats.First
			case r.held:
				to = &c.stats.Held
			}
			energy := 0.0
			for _, v := range stream[:hidden] {
				energy += float64(v) * float64(v)
			}
			if energy-energy != 0 {
				return fmt.Errorf("layer %d: the residual stream is not finite at token %d of a row of %s; the model is damaged, or its weights overflow on this text", index, i, c.text.document(&r, i))
			}
			to.Stream.Energy += energy
			if energy > 0 {
				to.Stream.Weights += float64(hidden) / energy
			}
			stream = stream[hidden:]
		}
	}
	return nil
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
