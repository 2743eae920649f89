package calib

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// RefitOptions say how Refit fits, besides on which text.
type RefitOptions struct {
	Options
	Target  plan.Target
	Cap     float64 // in [0, 1], most of the trace of H that first tokens have
	Damping float64 // in (0, 1]; 0: chosen for each layer from surgery.Dampings on held-back text
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
	r, err := begin(ctx, m, sources, out, opt.Options, layerBytes(m.Engine().Model())+targetBytes(m.Engine().Model(), p), 2)
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
	case !(o.Damping >= 0 && o.Damping <= 1):
		return fmt.Errorf("a damping of %v: expected a number above 0 and at most 1, or 0 to choose it", o.Damping)
	}
	for _, l := range m.Layers {
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
	scratch       []float32 // a batch's streams that are run for their sums alone
	target        []float32 // of a batch
}

func (f *refitter) describe() {
	info := f.model.Info()
	f.head = surgery.WeightsHead{Version: surgery.WeightsVersion, Model: f.opt.Model, Tokenizer: info.Tokenizer, Text: f.text.fingerprint(),
		Context: f.opt.Context, Rows: string(f.opt.Rows), Seed: f.opt.Seed, DType: info.DType,
		Body: f.text.body, First: f.text.first, Held: f.text.held,
		Recipe: fmt.Sprintf("%s, target %s, cap %v, damping %v", plan.Propagated, f.fit.Target, f.fit.Cap, f.fit.Damping),
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
		return f.each(index, func(b *batch) error { return f.advance(layer, nil, index, b) })
	case !f.refits(l):
		return f.each(index, func(b *batch) error { return f.advance(layer, layer, index, b) })
	default:
		return f.refit(w, layer, index, l.Keep)
	}
}

// each calls do for each batch.
func (f *refitter) each(index int, do func(*batch) error) error {
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
	if err := f.each(index, func(b *batch) error { return f.sum(sums, layer, narrow, index, b) }); err != nil {
		return err
	}
	if err := f.solve(sums, mlp); err != nil {
		return fmt.Errorf("layer %d: %w", index, err)
	}
	if err := w.WriteLayer(index, surgery.MLP{Down: mlp.Down}); err != nil {
		return writeError(err)
	}
	if narrow, err = layer.WithMLP(f.ctx, *mlp); err != nil {
		return err
	}
	return f.each(index, func(b *batch) error { return f.step(f.pruned, narrow, index, b) })
}

// solve replaces down_proj by the refitted one.
func (f *refitter) solve(sums *targets, mlp *engine.MLPWeights) error {
	threads := f.opt.Threads
	down := linalg.New(f.head.Hidden, mlp.Width)
	for i, v := range mlp.Down {
		down.Data[i] = float64(v)
	}
	damping := f.fit.Damping
	if damping == 0 {
		var err error
		if damping, err = sums.fit(score.Fit, f.fit.Cap, threads).Choose(down, sums.heldBack(), threads); err != nil {
			return err
		}
	}
	fitted, err := sums.fit(score.AllTokens, f.fit.Cap, threads).Solve(down, damping, threads)
	if err != nil {
		return err
	}
	for i, v := range fitted.Data {
		mlp.Down[i] = float32(v)
	}
	return nil
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
	at := 0
	observe := func(m engine.MLP) error {
		at += copy(f.target[at:], m.Output)
		return nil
	}
	if f.fit.Target == plan.StreamTarget {
		observe = nil
	}
	if err := dense.Run(f.ctx, forest, x, observe); err != nil {
		return err
	}
	if observe == nil {
		copy(f.target, x)
	}
	if err := f.dense.put(index, b.first, x); err != nil {
		return err
	}

	if x, err = f.stream(f.pruned, index, b); err != nil {
		return err
	}
	f.scratch = append(f.scratch[:0], x...) // the refitted layer runs on x
	at = 0
	scale := f.model.Engine().Model().ResidualScale
	return narrow.Run(f.ctx, forest, f.scratch, func(m engine.MLP) error {
		target := f.target[at*h:][:len(m.Rows)*h]
		at += len(m.Rows)
		if f.fit.Target == plan.StreamTarget {
			for i, v := range m.Residual {
				target[i] = (target[i] - v) / scale
			}
		}
		return f.add(sums, m, target, b.rows)
	})
}

// add adds rows of one call of an observer to the sums of their classes.
func (f *refitter) add(sums *targets, m engine.MLP, target []float32, rows []row) error {
	first, others := byClass(m.Rows, rows)
	to := sums.body()
	if rows[0].held {
		to = sums.held()
	}
	finite := f.adder.addTargetExact(sums.first(), m.Activations, target, first)
	if finite = f.adder.addTarget(to, m.Activations, target, others) && finite; finite {
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
