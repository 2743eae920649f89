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
	DefaultMemory  = 2_000_000_000
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
	r, err := begin(ctx, m, sources, out, opt, collectBytes(m), 1, 0)
	if err != nil {
		return nil, err
	}
	c := &collector{run: r}
	c.describe()
	held, err := lock(out)
	if err != nil {
		return nil, err
	}
	defer filelock.Release(held)
	if done, err := c.finished(); done != nil || err != nil {
		return done, err
	}
	if err := c.end(c.all()); err != nil {
		return nil, err
	}
	return score.OpenStats(out)
}

// collector is one call of Collect.
type collector struct {
	*run
	head    score.StatsHead
	streams *streams
	stats   *score.LayerStats // of the layer that is being run
	seen    engine.MLP        // rows and activations of a batch
}

// describe fills in what the statistics are of.
func (c *collector) describe() {
	info := c.model.Info()
	c.head = score.StatsHead{Version: score.StatsVersion, Model: c.opt.Model, Tokenizer: info.Tokenizer, Text: c.text.fingerprint(),
		Documents: c.text.documents, Context: c.opt.Context, Rows: string(c.opt.Rows), Seed: c.opt.Seed, DType: info.DType,
		Body: c.text.body, First: c.text.first, Held: c.text.held, Widths: widths(c.model)}
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
		return nil, fmt.Errorf("%s: holds other statistics: %s; remove it or choose another file", c.files.out, st.Unlike(&c.head))
	}
	c.files.remove() // left by a run that was killed after its last step
	return st, nil
}

// all makes the partial output, from where an earlier run was.
func (c *collector) all() error {
	at, err := c.resume(&c.head)
	if err != nil {
		return err
	}
	defer at.close()
	c.streams, c.stats = at.streams[0], at.stats
	begin := score.CreateStats
	if at.Layer > 0 {
		begin = score.ContinueStats
	}
	w, err := begin(c.files.part, c.head)
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	for at.Layer < len(c.head.Widths) && err == nil {
		err = c.layer(w, &at.place)
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
		c.progress(at)
	}
	if err := w.WriteLayer(at.Layer, c.stats); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	at.Layer, at.Batch = at.Layer+1, 0
	if c.files.spill {
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
	if c.due() {
		if err := c.save(w, at); err != nil {
			return err
		}
	}
	return c.ctx.Err()
}

// save makes all that was computed durable.
func (c *collector) save(w *score.StatsWriter, at place) error {
	made, stats := at.Layer, c.stats
	if at.Batch == 0 {
		made, stats = made-1, nil
	}
	return c.keep(at, made, w.Sync, stats, c.streams)
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
	c.seen.Rows, c.seen.Activations = c.seen.Rows[:0], slices.Grow(c.seen.Activations[:0], b.tokens*c.stats.Width)
	if err := layer.Run(ctx, forest, stream, c.see); err != nil {
		return err
	}
	if c.stats.Width == 0 { // a layer without MLP is not shown
		c.count(b.rows)
	} else if seen := len(c.seen.Rows); seen != b.tokens {
		return fmt.Errorf("the engine showed %d of %d rows of layer %d", seen, b.tokens, index)
	} else if err := c.observe(c.seen, b.rows, c.stats); err != nil {
		return err
	}
	if err := c.addStream(index, stream, b.rows); err != nil {
		return err
	}
	return c.streams.put(index, b.first, stream)
}

// see keeps what an observer is shown. Added up are all rows of a batch together: a wide
// layer is shown in parts of a few rows, for which it would take longer to go over its sums
// than to compute what is added to them. And while observers are called, the threads of the
// engine wait awake, in the way of those that add up.
func (c *collector) see(mlp engine.MLP) error {
	c.seen.Layer, c.seen.Hidden, c.seen.Width = mlp.Layer, mlp.Hidden, mlp.Width
	c.seen.Rows = append(c.seen.Rows, mlp.Rows...)
	c.seen.Activations = append(c.seen.Activations, mlp.Activations...)
	return nil
}

// class is where a token of a row counts.
func (c *collector) class(r *row, token int) *score.Moments {
	switch {
	case r.first[token]:
		return &c.stats.First
	case r.held:
		return &c.stats.Held
	}
	return &c.stats.Body
}

// count counts the tokens of rows, of which there is nothing to add up.
func (c *collector) count(rows []row) {
	for i := range rows {
		for token := range rows[i].tokens {
			c.class(&rows[i], token).N++
		}
	}
}

// addStream adds the energies of the residual stream after a layer.
func (c *collector) addStream(index int, stream []float32, rows []row) error {
	hidden := c.model.Engine().Model().Hidden
	for _, r := range rows {
		for i := range r.tokens {
			to := c.class(&r, i)
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

// observe adds the rows of a batch, class by class.
func (c *collector) observe(mlp engine.MLP, rows []row, s *score.LayerStats) error {
	first, others := byClass(mlp.Rows, rows)
	to := &s.Body
	if rows[0].held {
		to = &s.Held
	}
	finite := c.adder.addExact(&s.First, mlp.Activations, first)
	if finite = c.adder.add(to, mlp.Activations, others) && finite; finite {
		return nil
	}
	return c.notFinite(mlp, rows)
}

// byClass tells first tokens from others; both are numbers of rows.
func byClass(seen []engine.Row, rows []row) (first, others []int) {
	for i, r := range seen {
		if rows[r.Node].first[r.Index] {
			first = append(first, i)
		} else {
			others = append(others, i)
		}
	}
	return first, others
}

// notFinite says where activations are not.
func (r *run) notFinite(mlp engine.MLP, rows []row) error {
	at := mlp.Rows[worstRow(mlp)]
	return fmt.Errorf("layer %d: activations are not finite, or too large to be squared, at token %d of a row of %s; the model is damaged, or its weights overflow on this text", mlp.Layer, at.Index, r.text.document(&rows[at.Node], at.Index))
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
