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
// held back. The error after is that of a down_proj fitted without these tokens; the one
// that is kept is fitted to all.
type LayerFit struct {
	Layer         int
	Damping       float64 // of the MLP's own part of the target
	Repair        float64 // damping of the part that repairs the layers before; 0: it repairs nothing
	Rounds        int     // of steps on gate and up that helped
	Before, After float64
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
		pairs = 3 // inputs, targets, what is to be repaired
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
	target        []float32 // of a batch: the MLP's own part
	repair        []float32 // and the part to repair, nil where there is none
	other         []float32 // room for the two to change places
	roots         []float32 // of the weights of a batch's tokens
	weighed       []float32 // activations times those
}

func (f *refitter) describe() {
	info := f.model.Info()
	f.head = surgery.WeightsHead{Version: surgery.WeightsVersion, Model: f.opt.Model, Tokenizer: info.Tokenizer, Text: f.text.fingerprint(),
		Context: f.opt.Context, Rows: string(f.opt.Rows), Seed: f.opt.Seed, DType: info.DType,
		Body: f.text.body, First: f.text.first, Held: f.text.held,
		Recipe: fmt.Sprintf("%s, target %s, weigh %v, cap %v, damping %v, rounds %d", plan.Propagated, f.fit.Target, f.fit.Weigh, f.fit.Cap, f.fit.Damping, f.fit.Rounds),
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
	sums := newTargets(f.head.Hidden, len(keep), f.fit.Target == plan.StreamTarget)
	if err := f.each(func(b *batch) error { return f.sum(sums, layer, narrow, index, b) }); err != nil {
		return err
	}
	fit, err := f.solve(sums, mlp)
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

// solve fits the MLP to the sums: down_proj to its own part of the target, gate and up with
// it, in rounds, where that is wanted, and down_proj to the part to repair at last.
func (f *refitter) solve(sums *targets, mlp *engine.MLPWeights) (fit LayerFit, err error) {
	threads := f.opt.Threads
	held := sums.heldBack()
	if held != nil && held.AllEnergy > 0 {
		fit.Before = held.AllError(f.down(mlp), threads) / held.AllEnergy
	}
	// The weights that the ridge pulls to, and those that are fitted without held-back text.
	fitted, err := f.own(sums, mlp, &fit)
	if err != nil {
		return fit, err
	}
	if f.fit.Rounds > 0 {
		if fitted, err = f.fitInner(sums, mlp, fitted, &fit); err != nil {
			return fit, err
		}
		held = sums.heldBack()
	}
	if f.fit.Target == plan.StreamTarget {
		if fitted, err = f.repairs(sums, held, mlp, fitted, &fit); err != nil {
			return fit, err
		}
	}
	if held != nil && held.AllEnergy > 0 {
		fit.After = held.AllError(fitted, threads) / held.AllEnergy
	}
	return fit, nil
}

// repairs adds to down_proj what repairs the layers before, and returns that of a
// down_proj that is fitted without held-back text.
func (f *refitter) repairs(sums *targets, held *surgery.Fit, mlp *engine.MLPWeights, without *linalg.Matrix, fit *LayerFit) (*linalg.Matrix, error) {
	threads := f.opt.Threads
	part := sums.fit(score.Fit, f.fit.Cap, threads)
	var err error
	if fit.Repair = f.fit.Damping; fit.Repair == 0 {
		fit.Repair, without, err = part.ChooseRepair(without, held, threads)
	} else {
		without, err = part.SolveRepair(without, fit.Repair, threads)
	}
	if err != nil || fit.Repair == 0 {
		return without, err
	}
	repaired, err := sums.fit(score.AllTokens, f.fit.Cap, threads).SolveRepair(f.down(mlp), fit.Repair, threads)
	if err != nil {
		return nil, err
	}
	mlp.Down = narrow(repaired)
	return without, nil
}

// own fits down_proj to its own part of the target, on all tokens, and returns what it is
// fitted to without those that are held back.
func (f *refitter) own(sums *targets, mlp *engine.MLPWeights, fit *LayerFit) (*linalg.Matrix, error) {
	threads, down := f.opt.Threads, f.down(mlp)
	part := sums.fit(score.Fit, f.fit.Cap, threads)
	var without *linalg.Matrix
	var err error
	if fit.Damping = f.fit.Damping; fit.Damping == 0 {
		fit.Damping, without, err = part.Choose(down, sums.heldBack(), threads)
	} else {
		without, err = part.Solve(down, fit.Damping, threads)
	}
	if err != nil {
		return nil, err
	}
	fitted, err := sums.fit(score.AllTokens, f.fit.Cap, threads).Solve(down, fit.Damping, threads)
	if err != nil {
		return nil, err
	}
	mlp.Down = narrow(fitted)
	return without, nil
}

// down is the MLP's down_proj.
func (f *refitter) down(mlp *engine.MLPWeights) *linalg.Matrix {
	return wide(mlp.Down, f.head.Hidden, mlp.Width)
}

// narrow is the values of a matrix, rounded.
func narrow(m *linalg.Matrix) []float32 {
	v := make([]float32, len(m.Data))
	for i, x := range m.Data {
		v[i] = float32(x)
	}
	return v
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
	f.repair = nil
	if f.fit.Target == plan.StreamTarget { // so far, target is the dense stream
		f.repair, f.target = f.target, grow(f.other, b.tokens*h)
		f.other = f.repair
		f.scratch = append(f.scratch[:0], x...)
		if err := dense.Run(f.ctx, forest, f.scratch, outputs(f.target)); err != nil {
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
			if err := f.keepPairs(b.first+int64(r0), m, r0, r1); err != nil {
				return err
			}
		}
		return f.add(sums, m, r0, r1, b.rows)
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

// aim makes the part to repair of rows r0 to r1 of a batch: the dense stream after the
// layer, less what there is before the MLP, less the MLP's own part.
func (f *refitter) aim(m engine.MLP, r0, r1 int) {
	if f.repair == nil {
		return
	}
	h, scale := f.head.Hidden, f.model.Engine().Model().ResidualScale
	repair, own := f.repair[r0*h:r1*h], f.target[r0*h:r1*h]
	for i, v := range m.Residual {
		repair[i] = (repair[i]-v)/scale - own[i]
	}
}

// add adds rows r0 to r1 of a batch, as an observer sees them, to the sums of their
// classes.
func (f *refitter) add(sums *targets, m engine.MLP, r0, r1 int, rows []row) error {
	h, x := m.Hidden, m.Activations
	own, repair := f.target[r0*h:r1*h], f.repair
	if repair != nil {
		repair = repair[r0*h : r1*h]
	}
	if f.fit.Weigh {
		f.weighed = append(f.weighed[:0], x...)
		x = f.weighed
		for i, w := range f.roots[r0:r1] {
			kernel.Scale(x[i*m.Width:][:m.Width], w)
			kernel.Scale(own[i*h:][:h], w)
			if repair != nil {
				kernel.Scale(repair[i*h:][:h], w)
			}
		}
	}
	first, others := byClass(m.Rows, rows)
	to := sums.body()
	if rows[0].held {
		to = sums.held()
	}
	finite := f.adder.addTargetExact(sums.first(), x, own, repair, first)
	if finite = f.adder.addTarget(to, x, own, repair, others) && finite; finite {
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
