package calib

import (
	"math"
	"slices"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// glu is a gated MLP with SiLU, W(silu(Gx) * Ux), that is run forward and backward over
// rows of inputs and targets. The engine runs forward alone.
type glu struct {
	h, k, threads     int
	gate, up, down    *kernel.F32 // [k, h], [k, h], [h, k]
	back              *kernel.F32 // [k, h], the transpose of down
	g, u, a, y, d     []float32   // of a batch: gate and up before the product, their product, output, error
	slopes, delta, xs []float32
	memory            kernel.Memory
}

// load packs the weights of an MLP without biases.
func (m *glu) load(w *engine.MLPWeights) {
	m.k = w.Width
	transposed := make([]float32, m.k*m.h)
	for i := range m.h {
		for j := range m.k {
			transposed[j*m.h+i] = w.Down[i*m.k+j]
		}
	}
	m.memory.Reset()
	m.make()
	m.memory.Allocate()
	m.make()
	m.pack(m.gate, w.Gate)
	m.pack(m.up, w.Up)
	m.pack(m.down, w.Down)
	m.pack(m.back, transposed)
}

func (m *glu) make() {
	for _, x := range []struct {
		to      **kernel.F32
		out, in int
	}{{&m.gate, m.k, m.h}, {&m.up, m.k, m.h}, {&m.down, m.h, m.k}, {&m.back, m.k, m.h}} {
		w, err := kernel.NewF32(&m.memory, x.out, x.in)
		if err != nil {
			panic(err) // all sizes are positive
		}
		*x.to = w
	}
}

func (m *glu) pack(to *kernel.F32, w []float32) {
	linalg.Parallel(m.threads, to.Panels(), func(p int) {
		// The rows are in memory: nothing can fail.
		_ = to.Pack(p, p+1, func(o int, dst []float32) error { copy(dst, w[o*to.In:][:to.In]); return nil })
	})
}

// mul computes y = x W' for n rows.
func (m *glu) mul(y, x []float32, n int, w *kernel.F32) {
	parts := min(2*m.threads, w.Panels())
	linalg.Parallel(m.threads, parts, func(i int) {
		w.Mul(y, w.Out, x, w.In, n, i*w.Panels()/parts, (i+1)*w.Panels()/parts)
	})
}

// forward computes the errors of n rows against their targets, m.d = W a - t, and the
// squared error of each.
func (m *glu) forward(x, t []float32, n int) (squares []float64) {
	m.g, m.u, m.a = grow(m.g, n*m.k), grow(m.u, n*m.k), grow(m.a, n*m.k)
	m.d = grow(m.d, n*m.h)
	m.mul(m.g, x, n, m.gate)
	m.mul(m.u, x, n, m.up)
	squares = make([]float64, n)
	m.rows(n, func(r int) { kernel.SiLUMul(m.a[r*m.k:][:m.k], m.g[r*m.k:][:m.k], m.u[r*m.k:][:m.k]) })
	m.mul(m.d, m.a, n, m.down)
	m.rows(n, func(r int) {
		for i, v := range t[r*m.h:][:m.h] {
			e := m.d[r*m.h+i] - v
			m.d[r*m.h+i] = e
			squares[r] += float64(e) * float64(e)
		}
	})
	return squares
}

func (m *glu) rows(n int, do func(r int)) { linalg.Parallel(m.threads, n, do) }

// backward computes from what forward left the slopes s of rows, by gate and by up, and
// their part of the gradient, s times W'(W a - t), each times the root of the row's
// weight; and the inputs times the root.
func (m *glu) backward(x []float32, weights []float32) {
	n := len(weights)
	m.slopes, m.delta, m.xs = grow(m.slopes, 2*n*m.k), grow(m.delta, 2*n*m.k), grow(m.xs, n*m.h)
	m.y = grow(m.y, n*m.k)
	m.mul(m.y, m.d, n, m.back)
	m.rows(n, func(r int) {
		root := float32(math.Sqrt(float64(weights[r])))
		slopes, delta := m.slopesOf(r, root), m.delta[2*r*m.k:][:2*m.k]
		for j, v := range m.y[r*m.k:][:m.k] {
			delta[j] = slopes[j] * v
			delta[m.k+j] = slopes[m.k+j] * v
		}
		for i, v := range x[r*m.h:][:m.h] {
			m.xs[r*m.h+i] = v * root
		}
	})
}

// along returns, for rows that forward ran, the sums over them of weight times <Jp, e> and
// of weight times |Jp|^2: e is the error, Jp its change along the step p on gate and up,
// to first order.
func (m *glu) along(p *glu, x []float32, weights []float32) (slope, curvature float64) {
	n := len(weights)
	m.slopes, m.delta, m.y = grow(m.slopes, 2*n*m.k), grow(m.delta, 2*n*m.k), grow(m.y, n*m.h)
	p.g, p.u = grow(p.g, n*m.k), grow(p.u, n*m.k)
	m.mul(p.g, x, n, p.gate)
	m.mul(p.u, x, n, p.up)
	m.rows(n, func(r int) {
		slopes, change := m.slopesOf(r, 1), p.g[r*m.k:][:m.k]
		for j, v := range p.u[r*m.k:][:m.k] {
			change[j] = float32(slopes[j]*change[j]) + float32(slopes[m.k+j]*v)
		}
	})
	m.mul(m.y, p.g, n, m.down)
	slopeOf, curvatureOf := make([]float64, n), make([]float64, n)
	m.rows(n, func(r int) {
		for i, v := range m.y[r*m.h:][:m.h] {
			slopeOf[r] += float64(v) * float64(m.d[r*m.h+i])
			curvatureOf[r] += float64(v) * float64(v)
		}
	})
	for r, w := range weights {
		slope += float64(w) * slopeOf[r]
		curvature += float64(w) * curvatureOf[r]
	}
	return slope, curvature
}

// slopesOf computes the slopes of a row, times root. It uses the row's delta as room.
func (m *glu) slopesOf(r int, root float32) []float32 {
	slopes, e := m.slopes[2*r*m.k:][:2*m.k], m.delta[2*r*m.k:][:m.k]
	g, u := m.g[r*m.k:][:m.k], m.u[r*m.k:][:m.k]
	for j, v := range g {
		e[j] = -v
	}
	kernel.Exp(e, e)
	for j, v := range e {
		s := 1 / (1 + v)
		silu := float32(g[j] * s)
		slopes[j] = float32(float32(s+float32(silu*(1-s)))*u[j]) * root
		slopes[m.k+j] = silu * root
	}
	return slopes
}

// inner is sums for a Gauss-Newton step.
type inner struct {
	inputs, slopes score.Moments
	gradient       *linalg.Matrix
	weight         float64
}

func newInner(h, k int) *inner {
	return &inner{inputs: score.NewMoments(h), slopes: score.NewMoments(2 * k), gradient: linalg.New(2*k, h)}
}

// addInner adds the rows of a batch that have a weight, after backward.
func (a *adder) addInner(to *inner, m *glu, weights []float32) (finite bool) {
	var rows []int
	for r, w := range weights {
		if w > 0 {
			rows = append(rows, r)
			to.weight += float64(w)
		}
	}
	finite = a.add(&to.slopes, m.slopes, rows)
	for part := range slices.Chunk(rows, chunkRows) {
		c := a.load(m.xs, m.h, part)
		finite = a.gram(&to.inputs, c) && finite
		a.turn(&a.t, m.delta, 2*m.k, part)
		a.cross(to.gradient, c)
	}
	return finite
}

// means are the sums over the weight of all.
func (s *inner) means() *surgery.Inner {
	g := &surgery.Inner{Inputs: meanOf(&s.inputs, s.weight), Slopes: meanOf(&s.slopes, s.weight), Gradient: s.gradient}
	for i := range g.Gradient.Data {
		g.Gradient.Data[i] /= s.weight
	}
	return g
}

// meanOf is the sum of products over a weight.
func meanOf(m *score.Moments, weight float64) *linalg.Matrix {
	n := len(m.Sum)
	h := linalg.New(n, n)
	for i := range n {
		row := h.Row(i)
		for j := 0; j <= i; j++ {
			row[j] = m.Gram[i*(i+1)/2+j] / weight
		}
	}
	h.MirrorLower()
	return h
}
