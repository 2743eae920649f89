package calib

import (
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// solve fits the MLP to the sums: down_proj to its own part of the target, gate and up with
// it, in rounds, where that is wanted, and down_proj to the part to repair at last. Until
// the dampings and the rounds are chosen no weight has seen held-back text; then down_proj
// is fitted to all tokens, from where the last fit without them began.
func (f *refitter) solve(sums *targets, mlp *engine.MLPWeights, fit *LayerFit) error {
	threads := f.opt.Threads
	held, from := sums.heldBack(), f.down(mlp)
	if held != nil && held.AllEnergy > 0 {
		fit.Before = held.AllError(from, threads) / held.AllEnergy
	}
	without, err := f.own(sums, held, from, fit)
	if err != nil {
		return err
	}
	if f.fit.Rounds > 0 {
		if from, without, err = f.fitInner(sums, mlp, from, without, fit); err != nil {
			return err
		}
		held = sums.heldBack()
	}
	fitted, err := sums.fit(score.AllTokens, f.fit.Cap, threads).Solve(from, fit.Damping, threads)
	if err != nil {
		return err
	}
	mlp.Down = narrow(fitted)
	if f.fit.Target == plan.StreamTarget {
		if without, err = f.repairs(sums, held, mlp, without, fit); err != nil {
			return err
		}
	}
	if held != nil && held.AllEnergy > 0 {
		fit.After = held.AllError(without, threads) / held.AllEnergy
	}
	return nil
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

// own returns what down_proj is fitted to for its own part of the target without held-back
// text, which chooses the damping: the ridge pulls to down.
func (f *refitter) own(sums *targets, held *surgery.Fit, down *linalg.Matrix, fit *LayerFit) (without *linalg.Matrix, err error) {
	threads := f.opt.Threads
	part := sums.fit(score.Fit, f.fit.Cap, threads)
	if fit.Damping = f.fit.Damping; fit.Damping == 0 {
		fit.Damping, without, err = part.Choose(down, held, threads)
		return without, err
	}
	return part.Solve(down, fit.Damping, threads)
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
