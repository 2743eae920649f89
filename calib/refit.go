package calib

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"reflect"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// RefitOptions say how Refit fits, besides on which text.
type RefitOptions struct {
	Options
	Target plan.Target
	// Share, in (0, 1], is that of the stream target; the rest of the target is what the
	// dense MLP puts out for the pruned model's stream, which repairs nothing of the layers
	// before. 1 where the target is another.
	Share float64
	// Weigh gives each token the weight 1 / mean(r^2), r the dense residual stream after the
	// layer, so that all streams count alike; else first tokens are capped.
	Weigh bool
	Cap   float64 // in [0, 1], most of the trace of H that first tokens have; 1 with Weigh
	// Rounds is how often gate and up take a Gauss-Newton step, after which down is fitted
	// again; 0: they stay as they are.
	Rounds  int
	Damping float64 // above 0; 0: chosen for each layer from surgery.Dampings on held-back text
	// Report is called after each layer's fit; may be nil.
	Report func(LayerFit)
}

// LayerFit says how a layer was fitted. Errors are means over held-back tokens of the
// squared distance from the target, over the target's mean square; zero where no text is
// held back.
type LayerFit struct {
	Layer         int
	Damping       float64
	Before, After float64 // error of the weights as they were, and of the fitted ones
}

// Refit fits the down_proj of each layer that a plan prunes, layer after layer, on the
// text as it reaches the layer in the model that is pruned and refitted up to there
// (plan.Propagated). It writes the weights to the file out, which it returns opened, and
// the refit into the plan. m is the dense model, of the checkpoint c. Files that are there
// already, and errors, are treated as Collect does; Options.Model is not needed.
func Refit(ctx context.Context, m *lm.Layerwise, c *checkpoint.Checkpoint, p *plan.Plan, sources []string, out string, opt RefitOptions) (*surgery.Weights, error) {
	if err := opt.checkFit(m.Engine().Model()); err != nil {
		return nil, err
	}
	model, err := c.Fingerprint()
	if err != nil {
		return nil, err
	}
	if err := p.CheckModel(model, &c.Spec); err != nil {
		return nil, err
	}
	opt.Model = model
	// The sums of the neurons that stay, and of targets, are no more than those of all.
	pairs := 0
	if opt.Rounds > 0 {
		pairs = 2 // inputs and targets
	}
	r, err := begin(ctx, m, sources, out, opt.Options, layerBytes(m.Engine().Model())+targetBytes(m.Engine().Model(), p), 2, pairs)
	if err != nil {
		return nil, err
	}
	f := &refitter{run: r, plan: p, from: c, fit: opt}
	f.describe()
	w, err := f.finished()
	if err != nil {
		return nil, err
	}
	if w == nil {
		if err := f.end(f.all()); err != nil {
			return nil, err
		}
		if w, err = surgery.OpenWeights(out); err != nil {
			return nil, err
		}
	}
	if err := f.intoPlan(w); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (o *RefitOptions) checkFit(m *arch.Transformer) error {
	switch {
	case o.Target != plan.MLPTarget && o.Target != plan.StreamTarget:
		return fmt.Errorf("target %q: expected one of %v", o.Target, plan.Targets)
	case !(o.Cap >= 0 && o.Cap <= 1):
		return fmt.Errorf("a cap of %v for first tokens: expected a share between 0 and 1", o.Cap)
	case !(o.Share > 0 && o.Share <= 1) || o.Share < 1 && o.Target != plan.StreamTarget:
		return fmt.Errorf("a share of %v of the target %s: expected a number above 0 and at most 1, and 1 for other targets than %s", o.Share, o.Target, plan.StreamTarget)
	case o.Weigh && o.Cap != 1:
		return fmt.Errorf("a cap of %v for first tokens, and tokens weighed by their streams: one or the other", o.Cap)
	case o.Rounds < 0:
		return fmt.Errorf("%d rounds: expected 0 or more", o.Rounds)
	case !(o.Damping >= 0) || math.IsInf(o.Damping, 0):
		return fmt.Errorf("a damping of %v: expected a number above 0, or 0 to choose it", o.Damping)
	}
	for _, l := range m.Layers {
		if o.Rounds > 0 && (m.Activation != arch.SiLU || l.Gate.Bias != "" || l.Up.Bias != "" || l.Down.Bias != "") {
			return &surgery.RefitError{Reason: "steps on gate and up are for MLPs with SiLU and without biases; refit down alone (no rounds)"}
		}
		if o.Target == plan.StreamTarget && l.MLPOut != "" {
			return &surgery.RefitError{Reason: fmt.Sprintf("target %s: this family normalises what its MLPs put out, so that no output makes up for a given error of the residual stream; use the target %s", plan.StreamTarget, plan.MLPTarget)}
		}
	}
	return nil
}

// targetBytes is what the sums of targets take beside those of the neurons.
func targetBytes(m *arch.Transformer, p *plan.Plan) int64 {
	most := 0
	for _, l := range p.Layers {
		most = max(most, len(l.Keep))
	}
	return 5 * 8 * int64(m.Hidden) * int64(most)
}

// refitter is one call of Refit.
type refitter struct {
	*run
	plan *plan.Plan
	from *checkpoint.Checkpoint
	fit  RefitOptions
	head surgery.WeightsHead

	dense, pruned *streams
	pairs         *pairs    // nil where gate and up are not fitted
	glu           [2]glu    // an MLP, and a step on it
	scratch       []float32 // a batch's streams that are run for their sums alone
	target, local []float32 // of a batch: what is fitted, and what the dense MLP makes of the pruned stream
	roots         []float32 // of the weights of a batch's tokens
	weighed       []float32 // activations times those
}

func (f *refitter) describe() {
	info := f.model.Info()
	f.head = surgery.WeightsHead{Version: surgery.WeightsVersion, Model: f.opt.Model, Tokenizer: info.Tokenizer, Text: f.text.fingerprint(),
		Context: f.opt.Context, Rows: string(f.opt.Rows), Seed: f.opt.Seed, DType: info.DType,
		Body: f.text.body, First: f.text.first, Held: f.text.held,
		Recipe: fmt.Sprintf("%s, target %s, share %v, weigh %v, cap %v, damping %v, rounds %d", plan.Propagated, f.fit.Target, f.fit.Share, f.fit.Weigh, f.fit.Cap, f.fit.Damping, f.fit.Rounds),
		Inner:  f.fit.Rounds > 0,
		Hidden: f.model.Engine().Model().Hidden}
	for _, l := range f.plan.Layers {
		k := 0
		if f.refits(l) {
			k = len(l.Keep)
		}
		f.head.Widths = append(f.head.Widths, k)
	}
}

func (f *refitter) refits(l plan.Layer) bool { return !l.Drop && len(l.Keep) < f.plan.Intermediate }

// finished returns what is already there.
func (f *refitter) finished() (*surgery.Weights, error) {
	if _, err := os.Lstat(f.files.out); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	w, err := surgery.OpenWeights(f.files.out)
	if err == nil {
		head := f.head
		if head.Plan, err = f.plan.Selection(); err != nil {
			return nil, err
		}
		if reflect.DeepEqual(w.WeightsHead, head) {
			f.files.remove()
			return w, nil
		}
		w.Close()
		err = fmt.Errorf("%s: holds other refitted weights; remove it or choose another file", f.files.out)
	}
	if f.opt.Replace {
		return nil, nil
	}
	return nil, err
}

// intoPlan writes the refit into the plan.
func (f *refitter) intoPlan(w *surgery.Weights) error {
	fingerprint, err := w.Fingerprint()
	if err != nil {
		return err
	}
	f.plan.Refit = &plan.Refit{Method: plan.Propagated, Stats: fingerprint, Cap: f.fit.Cap, Target: f.fit.Target}
	return nil
}

// all makes the partial output, from where an earlier run was.
func (f *refitter) all() error {
	selection, err := f.plan.Selection()
	if err != nil {
		return err
	}
	at, err := f.resume([]any{&f.head, selection})
	if err != nil {
		return err
	}
	defer at.close()
	f.dense, f.pruned = at.streams[0], at.streams[1]
	if f.fit.Rounds > 0 {
		for i := range f.glu {
			f.glu[i].h, f.glu[i].threads = f.head.Hidden, f.opt.Threads
		}
		err := f.openPairs()
		defer f.pairs.close()
		if err != nil {
			return err
		}
	}
	open := surgery.CreateWeights
	if at.Layer > 0 {
		open = surgery.ContinueWeights
	}
	w, err := open(f.files.part, f.head)
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	for at.Layer < len(f.plan.Layers) && err == nil {
		if err = f.layer(w, at.Layer); err != nil {
			break
		}
		f.progress(&place{Layer: at.Layer, Batch: len(f.batches)})
		at.Layer++
		f.dirty = true
		if f.files.spill || f.due() {
			err = f.keep(at.place, at.Layer-1, w.Sync, nil, f.dense, f.pruned)
		}
	}
	if err == nil {
		err = writeError(w.Finish(selection))
	}
	if e := w.Close(); err == nil {
		err = writeError(e)
	}
	return err
}

func writeError(err error) error {
	if err == nil {
		return nil
	}
	return &checkpoint.WriteError{Err: err}
}

// layer refits a layer where the plan prunes it, and takes both models' streams over it.
func (f *refitter) layer(w *surgery.WeightsWriter, index int) error {
	layer, err := f.model.Engine().Layer(f.ctx, index)
	if err != nil {
		return err
	}
	switch l := f.plan.Layers[index]; {
	case l.Drop:
		return f.each(func(b *batch) error { return f.advance(layer, nil, index, b) })
	case !f.refits(l):
		return f.each(func(b *batch) error { return f.advance(layer, layer, index, b) })
	default:
		return f.refit(w, layer, index, l.Keep)
	}
}

// each calls do for each batch.
func (f *refitter) each(do func(*batch) error) error {
	for i := range f.batches {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if err := do(&f.batches[i]); err != nil {
			return err
		}
	}
	return nil
}

// stream returns a model's residual stream before a layer.
func (f *refitter) stream(s *streams, index int, b *batch) ([]float32, error) {
	x, err := s.get(index, b.first, b.tokens)
	if err == nil && index == 0 {
		err = f.model.Engine().Embed(f.ctx, batchOf(b.rows), x)
	}
	return x, err
}

// advance runs a batch of both models over a layer: nil for one that drops it.
func (f *refitter) advance(dense, pruned engine.Layer, index int, b *batch) error {
	if err := f.step(f.dense, dense, index, b); err != nil {
		return err
	}
	return f.step(f.pruned, pruned, index, b)
}

func (f *refitter) step(s *streams, layer engine.Layer, index int, b *batch) error {
	x, err := f.stream(s, index, b)
	if err != nil {
		return err
	}
	if layer != nil {
		if err := layer.Run(f.ctx, batchOf(b.rows), x, nil); err != nil {
			return err
		}
	}
	return s.put(index, b.first, x)
}

// refit fits down_proj of a layer that keeps the given neurons.
func (f *refitter) refit(w *surgery.WeightsWriter, layer engine.Layer, index int, keep []int) error {
	mlp, err := keptMLP(f.from, &f.model.Engine().Model().Layers[index], f.head.Hidden, keep)
	if err != nil {
		return err
	}
	narrow, err := layer.WithMLP(f.ctx, *mlp)
	if err != nil {
		return err
	}
	sums := newTargets(f.head.Hidden, len(keep))
	if err := f.each(func(b *batch) error { return f.sum(sums, layer, narrow, index, b) }); err != nil {
		return err
	}
	fit, err := f.solve(sums, mlp)
	if err == nil && f.fit.Rounds > 0 {
		fit, err = f.fitInner(sums, mlp, fit)
	}
	if err != nil {
		return fmt.Errorf("layer %d: %w", index, err)
	}
	if f.fit.Report != nil {
		fit.Layer = index
		f.fit.Report(fit)
	}
	if err := w.WriteLayer(index, surgery.MLP{Gate: mlp.Gate, Up: mlp.Up, Down: mlp.Down}); err != nil {
		return writeError(err)
	}
	if narrow, err = layer.WithMLP(f.ctx, *mlp); err != nil {
		return err
	}
	return f.each(func(b *batch) error { return f.step(f.pruned, narrow, index, b) })
}

// solve replaces down_proj by the refitted one.
func (f *refitter) solve(sums *targets, mlp *engine.MLPWeights) (LayerFit, error) {
	threads := f.opt.Threads
	fit := LayerFit{Damping: f.fit.Damping}
	down := wide(mlp.Down, f.head.Hidden, mlp.Width)
	held := sums.heldBack()
	if fit.Damping == 0 {
		var err error
		if fit.Damping, err = sums.fit(score.Fit, f.fit.Cap, threads).Choose(down, held, threads); err != nil {
			return fit, err
		}
	}
	fitted, err := sums.fit(score.AllTokens, f.fit.Cap, threads).Solve(down, fit.Damping, threads)
	if err != nil {
		return fit, err
	}
	if held != nil && held.Energy > 0 {
		fit.Before, fit.After = held.Error(down, threads)/held.Energy, held.Error(fitted, threads)/held.Energy
	}
	for i, v := range fitted.Data {
		mlp.Down[i] = float32(v)
	}
	return fit, nil
}

// wide is a matrix of float32 values.
func wide(v []float32, rows, cols int) *linalg.Matrix {
	m := linalg.New(rows, cols)
	for i, x := range v {
		m.Data[i] = float64(x)
	}
	return m
}

// sum takes the dense model's stream of a batch over a layer, and adds up what the kept
// neurons do on the pruned model's, with the targets.
func (f *refitter) sum(sums *targets, dense, narrow engine.Layer, index int, b *batch) error {
	h, forest := f.head.Hidden, batchOf(b.rows)
	f.target = grow(f.target, b.tokens*h)
	x, err := f.stream(f.dense, index, b)
	if err != nil {
		return err
	}
	var observe engine.MLPObserver
	if f.fit.Target == plan.MLPTarget {
		observe = outputs(f.target)
	}
	if err := dense.Run(f.ctx, forest, x, observe); err != nil {
		return err
	}
	if observe == nil {
		copy(f.target, x)
	}
	f.weigh(x, b.tokens)
	if err := f.dense.put(index, b.first, x); err != nil {
		return err
	}

	if x, err = f.stream(f.pruned, index, b); err != nil {
		return err
	}
	if f.fit.Share < 1 {
		f.local = grow(f.local, b.tokens*h)
		f.scratch = append(f.scratch[:0], x...)
		if err := dense.Run(f.ctx, forest, f.scratch, outputs(f.local)); err != nil {
			return err
		}
	}
	f.scratch = append(f.scratch[:0], x...) // the refitted layer runs on x
	at := 0
	return narrow.Run(f.ctx, forest, f.scratch, func(m engine.MLP) error {
		r0, r1 := at, at+len(m.Rows)
		at = r1
		f.aim(m, r0, r1)
		if f.pairs != nil {
			if err := f.keepPairs(b.first+int64(r0), m, f.target[r0*h:r1*h], f.roots[r0:r1]); err != nil {
				return err
			}
		}
		return f.add(sums, m, f.target[r0*h:r1*h], f.roots[r0:r1], b.rows)
	})
}

// outputs is an observer that keeps what an MLP puts out.
func outputs(to []float32) engine.MLPObserver {
	at := 0
	return func(m engine.MLP) error {
		at += copy(to[at:], m.Output)
		return nil
	}
}

// weigh finds the roots of the weights of tokens with these streams.
func (f *refitter) weigh(stream []float32, tokens int) {
	h := f.head.Hidden
	f.roots = grow(f.roots, tokens)
	for i := range f.roots {
		f.roots[i] = 1
		energy := 0.0
		for _, v := range stream[i*h:][:h] {
			energy += float64(v) * float64(v)
		}
		if f.fit.Weigh && energy > 0 {
			f.roots[i] = float32(math.Sqrt(float64(h) / energy))
		}
	}
}

// aim makes the targets of rows r0 to r1 of a batch out of the dense stream.
func (f *refitter) aim(m engine.MLP, r0, r1 int) {
	if f.fit.Target != plan.StreamTarget {
		return
	}
	h, scale, share := f.head.Hidden, f.model.Engine().Model().ResidualScale, float32(f.fit.Share)
	target := f.target[r0*h : r1*h]
	for i, v := range m.Residual {
		target[i] = (target[i] - v) / scale
	}
	if share == 1 {
		return
	}
	for i, v := range f.local[r0*h : r1*h] {
		target[i] = v + float32(share*(target[i]-v))
	}
}

// add adds rows of one call of an observer to the sums of their classes.
func (f *refitter) add(sums *targets, m engine.MLP, target, roots []float32, rows []row) error {
	x := m.Activations
	if f.fit.Weigh {
		f.weighed = append(f.weighed[:0], x...)
		x = f.weighed
		for i, w := range roots {
			kernel.Scale(x[i*m.Width:][:m.Width], w)
			kernel.Scale(target[i*m.Hidden:][:m.Hidden], w)
		}
	}
	first, others := byClass(m.Rows, rows)
	to := sums.body()
	if rows[0].held {
		to = sums.held()
	}
	finite := f.adder.addTargetExact(sums.first(), x, target, first)
	if finite = f.adder.addTarget(to, x, target, others) && finite; finite {
		return nil
	}
	return f.notFinite(m, rows)
}

func grow(b []float32, n int) []float32 {
	if cap(b) < n {
		return make([]float32, n)
	}
	return b[:n]
}
