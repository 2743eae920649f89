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
	"github.com/coppice-lm/coppice/internal/filelock"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
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
	Rounds int
	// Attention has the output projection of each layer's attention refitted too, before its
	// MLP, to repair the layers before.
	Attention bool
	Damping   float64 // above 0, at most plan.MaxDamping; 0: chosen for each layer from surgery.Dampings on held-back text
	// Report is called after each layer's fit; may be nil.
	Report func(LayerFit)
}

// LayerFit says how a layer was fitted. Errors are means over held-back tokens of the
// squared distance from the target, over the target's mean square; zero where no text is
// held back. The error after is that of weights fitted without these tokens, which chose
// the dampings and, with rounds, how far to step; the down_proj that is kept is fitted to all.
type LayerFit struct {
	Layer         int
	Damping       float64 // of the MLP's own part of the target
	Heads         float64 // damping of the repair by the attention's output projection; 0: none
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
	for l, layer := range p.Layers {
		if layer.DropAttention || layer.KeepHeads != nil || !layer.Drop && layer.Width < min(1, c.Spec.Widths[l]) {
			return nil, &surgery.RefitError{Reason: fmt.Sprintf("the plan drops attention, heads or the MLP of layer %d, and `coppice refit` goes through whole layers; carry that out first, and make a plan for what is left", l)}
		}
	}
	opt.Model = model
	r, err := begin(ctx, m, sources, out, opt.Options, refitBytes(m, p, &opt), 2, opt.pairs())
	if err != nil {
		return nil, err
	}
	f := &refitter{run: r, plan: p, from: c, fit: opt}
	if err := f.describe(); err != nil {
		return nil, err
	}
	held, err := lock(out)
	if err != nil {
		return nil, err
	}
	defer filelock.Release(held)
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
	if err := refitWith(p, w, f.fit.Cap, f.fit.Target); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (o *RefitOptions) checkFit(m *arch.Transformer) error {
	switch {
	case o.Target != plan.MLPTarget && o.Target != plan.StreamTarget:
		return fmt.Errorf("target %q: expected %s or %s", o.Target, plan.StreamTarget, plan.MLPTarget)
	case !(o.Cap >= 0 && o.Cap <= 1):
		return fmt.Errorf("a cap of %v for first tokens: expected a share between 0 and 1", o.Cap)
	case o.Weigh && o.Cap != 1:
		return fmt.Errorf("a cap of %v for first tokens, and tokens weighed by their streams: one or the other", o.Cap)
	case o.Rounds < 0:
		return fmt.Errorf("%d rounds: expected 0 or more", o.Rounds)
	case !(o.Damping >= 0 && o.Damping <= plan.MaxDamping):
		return fmt.Errorf("a damping of %v: expected a number above 0 and at most %v, or 0 to choose it", o.Damping, plan.MaxDamping)
	}
	if o.Attention {
		if err := checkHeads(m); err != nil {
			return err
		}
	}
	for _, l := range m.Layers {
		if l.Down.Bias != "" {
			return &surgery.RefitError{Reason: "a down_proj with a bias is not refitted on a text; use --refit least-squares of plan or prune"}
		}
		if o.Rounds > 0 && (m.Activation != arch.SiLU || l.Gate.Bias != "" || l.Up.Bias != "") {
			return &surgery.RefitError{Reason: "steps on gate and up are for MLPs with SiLU and without biases; refit down alone (no rounds)"}
		}
		if o.Target == plan.StreamTarget && l.MLPOut != "" {
			return &surgery.RefitError{Reason: fmt.Sprintf("target %s: this family normalises what its MLPs put out, so that no output makes up for a given error of the residual stream; use the target %s", plan.StreamTarget, plan.MLPTarget)}
		}
	}
	return nil
}

// pairs is how many vectors of each token are kept while a layer is fitted, beside the two
// streams: where gate and up take steps, the inputs and the parts of the target.
func (o *RefitOptions) pairs() int {
	switch {
	case o.Rounds == 0:
		return 0
	case o.Target == plan.StreamTarget:
		return 3
	}
	return 2
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

func (f *refitter) describe() error {
	selection, err := f.plan.Selection()
	if err != nil {
		return err
	}
	info := f.model.Info()
	f.head = surgery.WeightsHead{Version: surgery.WeightsVersion, Model: f.opt.Model, Plan: selection, Tokenizer: info.Tokenizer, Text: f.text.fingerprint(),
		Context: f.opt.Context, Rows: string(f.opt.Rows), Seed: f.opt.Seed, DType: info.DType,
		Body: f.text.body, First: f.text.first, Held: f.text.held,
		Recipe: fmt.Sprintf("%s, target %s, weigh %v, cap %v, damping %v, rounds %d, attention %v", plan.Propagated, f.fit.Target, f.fit.Weigh, f.fit.Cap, f.fit.Damping, f.fit.Rounds, f.fit.Attention),
		Inner:  f.fit.Rounds > 0,
		Hidden: f.model.Engine().Model().Hidden}
	for _, l := range f.plan.Layers {
		k := 0
		if f.refits(l) {
			k = len(l.Keep)
		}
		f.head.Widths = append(f.head.Widths, k)
	}
	if m := f.model.Engine().Model(); f.fit.Attention {
		f.head.Heads, f.head.Outs = m.Heads*m.HeadDim, outs(f.plan.Layers, f.refits)
	}
	return nil
}

func (f *refitter) refits(l plan.Layer) bool { return l.Prunes(f.from.Spec.Widths[l.Layer]) }

// finished returns what is already there.
func (f *refitter) finished() (*surgery.Weights, error) {
	if _, err := os.Lstat(f.files.out); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	w, err := surgery.OpenWeights(f.files.out)
	if err == nil {
		if reflect.DeepEqual(w.WeightsHead, f.head) {
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

// all makes the partial output, from where an earlier run was.
func (f *refitter) all() error {
	at, err := f.resume(&f.head)
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
	l := f.plan.Layers[index]
	if l.Drop {
		return f.each(func(b *batch) error { return f.advance(layer, nil, index, b) })
	}
	fit := LayerFit{Layer: index}
	pruned := layer
	var weights surgery.LayerWeights
	if f.head.Heads > 0 && f.head.Outs[index] {
		if weights.Out, pruned, err = f.refitHeads(layer, index, &fit); err != nil {
			return fmt.Errorf("layer %d: %w", index, err)
		}
	}
	if f.refits(l) {
		if pruned, err = f.refit(layer, pruned, l.Keep, &weights, &fit); err != nil {
			return err
		}
	}
	if weights.Out != nil || weights.Down != nil {
		if err := w.WriteLayer(index, weights); err != nil {
			return writeError(err)
		}
		if f.fit.Report != nil {
			f.fit.Report(fit)
		}
	}
	return f.each(func(b *batch) error { return f.advance(layer, pruned, index, b) })
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

// refit fits the MLP of a layer that keeps the given neurons, on what pruned, the dense
// layer or one with another output projection of its attention, makes of the pruned
// model's stream. It returns that layer with the MLP.
func (f *refitter) refit(dense, pruned engine.Layer, keep []int, weights *surgery.LayerWeights, fit *LayerFit) (engine.Layer, error) {
	index := fit.Layer
	mlp, err := keptMLP(f.from, &f.model.Engine().Model().Layers[index], f.head.Hidden, keep)
	if err != nil {
		return nil, err
	}
	kept, err := pruned.WithMLP(f.ctx, *mlp)
	if err != nil {
		return nil, err
	}
	sums := newTargets(f.head.Hidden, len(keep), f.fit.Target == plan.StreamTarget)
	if err := f.each(func(b *batch) error { return f.sum(sums, dense, pruned, kept, index, b) }); err != nil {
		return nil, err
	}
	if err := f.solve(sums, mlp, fit); err != nil {
		return nil, fmt.Errorf("layer %d: %w", index, err)
	}
	weights.Gate, weights.Up, weights.Down = mlp.Gate, mlp.Up, mlp.Down
	return pruned.WithMLP(f.ctx, *mlp)
}

func grow[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
