package calib

import (
	"math"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// mlpSums are sums over tokens of what a step on a layer's MLP needs: the gradient of a loss, and the
// two factors of the curvature by each matrix.
type mlpSums struct {
	gate, up, down *linalg.Matrix // gradients, [k, h], [k, h], [h, k]

	input, act       score.Moments // of what the matrices receive, h and k values
	dGate, dUp, dOut score.Moments // of gradients of sampled losses by what they produce
}

func newMLPSums(h, k int) *mlpSums {
	return &mlpSums{
		gate: linalg.New(k, h), up: linalg.New(k, h), down: linalg.New(h, k),
		input: score.NewMoments(h), act: score.NewMoments(k),
		dGate: score.NewMoments(k), dUp: score.NewMoments(k), dOut: score.NewMoments(h),
	}
}

// addGradient adds the gradient of a loss. It reports whether it is finite.
func (a *adder) addGradient(to *mlpSums, m engine.MLPGradient) (finite bool) {
	norm := float32(0)
	for _, x := range [][]float32{m.Gate, m.Up, m.Output} {
		norm += kernel.Dot(x, x)
	}
	for first := 0; first < len(m.Rows); first += chunkRows {
		rows := rowRange(first, min(first+chunkRows, len(m.Rows)))
		c := a.load(m.Input, m.Hidden, rows)
		for _, p := range []struct {
			to *linalg.Matrix
			d  []float32
		}{{to.gate, m.Gate}, {to.up, m.Up}} {
			a.turn(&a.t, p.d, m.Width, rows)
			a.cross(p.to, c)
		}
	}
	a.addDown(to.down, m)
	return norm-norm == 0
}

// addDown adds the gradient by down_proj to a matrix, [h, k].
func (a *adder) addDown(to *linalg.Matrix, m engine.MLPGradient) {
	for first := 0; first < len(m.Rows); first += chunkRows {
		rows := rowRange(first, min(first+chunkRows, len(m.Rows)))
		c := a.load(m.Activations, m.Width, rows)
		a.turn(&a.t, m.Output, m.Hidden, rows)
		a.cross(to, c)
	}
}

// addCurvature adds second moments. It reports whether the sums are finite.
func (a *adder) addCurvature(to *mlpSums, m engine.MLPGradient) (finite bool) {
	finite = true
	rows := rowRange(0, len(m.Rows))
	for _, p := range []struct {
		to *score.Moments
		x  []float32
	}{{&to.input, m.Input}, {&to.act, m.Activations}, {&to.dGate, m.Gate}, {&to.dUp, m.Up}, {&to.dOut, m.Output}} {
		finite = a.add(p.to, p.x, rows) && finite
	}
	return finite
}

func rowRange(r0, r1 int) []int {
	rows := make([]int, r1-r0)
	for i := range rows {
		rows[i] = r0 + i
	}
	return rows
}

// step returns the change of gate, up and down that a damped step makes. tokens is how many
// predictions the gradient, which is overwritten, is of. What is added to each of a curvature's
// two factors is the root of the damping times its mean diagonal.
func (s *mlpSums) step(tokens, damping float64, threads int) (*surgery.LayerWeights, error) {
	n := float64(s.input.N)
	var steps [3][]float32
	for i, p := range []struct {
		g       *linalg.Matrix
		out, in *score.Moments
	}{{s.gate, &s.dGate, &s.input}, {s.up, &s.dUp, &s.input}, {s.down, &s.dOut, &s.act}} {
		for k := range p.g.Data {
			p.g.Data[k] /= tokens
		}
		if err := surgery.KroneckerStep(p.g, meanOf(p.out, n), meanOf(p.in, n), math.Sqrt(damping), threads); err != nil {
			return nil, err
		}
		steps[i] = narrow(p.g)
	}
	return &surgery.LayerWeights{Gate: steps[0], Up: steps[1], Down: steps[2]}, nil
}
