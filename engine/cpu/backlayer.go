package cpu

import (
	"context"
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/tensor"
)

var _ engine.BackwardLayer = (*oneLayer)(nil)

// transposed packs the transposed matrices, without their biases, in the precision of the engine.
func (e *Engine) transposed(ctx context.Context, memory *kernel.Memory, from ...*matrix) ([]*matrix, error) {
	switch e.precision {
	case engine.F32, engine.BF16, engine.F16:
	default:
		return nil, fmt.Errorf("gradients in %v are not supported: use f32, bf16 or f16", e.precision)
	}
	src := givenWeights{}
	for i, m := range from {
		dense, row := make([]float32, m.out*m.in), make([]float32, m.in)
		for o := range m.out {
			m.Row(o, row)
			for k, v := range row {
				dense[k*m.out+o] = v
			}
		}
		src[fmt.Sprint(i)] = givenTensor{tensor.Shape{m.in, m.out}, dense}
	}
	back := make([]*matrix, len(from))
	err := e.loader(ctx, src).fill(memory, func(l *loader) {
		for i, m := range from {
			back[i] = l.matrix(m.out, src.projection(fmt.Sprint(i)))
		}
	})
	return back, err
}

// layerBack is a layer's transposed matrices.
type layerBack struct {
	qkv                 []*matrix
	out, gate, up, down *matrix
}

// transpose makes the layer's transposed matrices, which are those of this layer until another is made.
func (o *oneLayer) transpose(ctx context.Context) error {
	if o.back != nil {
		return nil
	}
	l, all := &o.weights, []*matrix(nil)
	if l.out != nil {
		all = append(append(all, l.qkv...), l.out)
	}
	if l.down != nil {
		all = append(all, l.gate, l.up, l.down)
	}
	back, err := o.w.e.transposed(ctx, &o.w.backMemory, all...)
	if err != nil {
		return err
	}
	o.back = &layerBack{}
	if l.out != nil {
		n := len(l.qkv)
		o.back.qkv, o.back.out, back = back[:n], back[n], back[n+1:]
	}
	if l.down != nil {
		o.back.gate, o.back.up, o.back.down = back[0], back[1], back[2]
	}
	return nil
}

// Back implements engine.BackwardLayer.
func (o *oneLayer) Back(ctx context.Context, batch engine.Batch, stream, gradient []float32, observe engine.MLPGradientObserver) error {
	for _, s := range [][]float32{stream, gradient} {
		if err := o.w.fits(batch, s); err != nil {
			return err
		}
	}
	if len(stream) == 0 {
		return ctx.Err()
	}
	e := o.w.e
	defer e.begin()()
	if err := o.transpose(ctx); err != nil {
		return err
	}
	b := &backpass{backBuffers: &o.w.buffers, e: e, back: o.back, x: stream, gradient: gradient, observe: observe}
	b.p = &pass{e: e, ctx: ctx, layout: lay(batch, e.model.Regime), one: &o.weights}
	b.p.n = b.p.layout.n
	b.p.makeTables()
	return b.run(o.index)
}

// backpass is a layer that is computed again, and then differentiated: first its MLP,
// from which the gradient by what attention added follows, then its attention.
type backpass struct {
	*backBuffers
	e           *Engine
	p           *pass
	back        *layerBack
	x, gradient []float32 // [n, hidden], the stream before the layer; after it, then before it
	observe     engine.MLPGradientObserver
}

// backBuffers are kept from one layer to the next.
type backBuffers struct {
	in, att, act, dOut, dQKV, dGate, dUp rows
	raw                                  []float32 // [n, queries+2*keys], not normalised
	qkv                                  []float32 // rotated
	out                                  []float32 // [n, hidden], of attention or MLP before their norms
	middle                               []float32 // [n, hidden], the stream between attention and MLP
	gate, up, sum, add                   []float32
	ones                                 []float32
}

// multiply stores x W' + b in columns of y, n rows ld apart, on all threads.
func (e *Engine) multiply(y []float32, ld int, m *matrix, x rows, n int) {
	units, at := m.cut(n, e.pool.threads)
	e.pool.run(units, func(_, unit int) { m.region(y, ld, x, at(unit)) })
}

// normalise stores the normalised rows of x in the result, for a product.
func (b *backpass) normalise(into rows, x, weight []float32) rows {
	e, n, h := b.e, b.p.n, b.e.model.Hidden
	into = e.sized(into, n, h)
	e.pool.rows(n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			e.norm(into.values[r*h:(r+1)*h], x[r*h:(r+1)*h], weight)
		}
		into.round(r0, r1)
	})
	return into
}

// run replaces the gradient.
func (b *backpass) run(layer int) error {
	l, n, h := b.p.one, b.p.n, b.e.model.Hidden
	b.middle = append(b.middle[:0], b.x...)
	b.sum, b.add = grow(b.sum, n*h), grow(b.add, n*h)
	if l.out != nil {
		if err := b.attend(layer); err != nil {
			return err
		}
		b.out = grow(b.out, n*h)
		b.e.multiply(b.out, h, l.out, b.att, n)
		b.rows(func(r int, of func([]float32) []float32) {
			out := of(b.out)
			if l.attentionOut != nil {
				b.e.norm(of(b.add), out, l.attentionOut)
				out = of(b.add)
			}
			kernel.AXPY(b.e.model.ResidualScale, out, of(b.middle))
		})
	}
	if l.down != nil {
		if err := b.mlp(layer); err != nil {
			return err
		}
	}
	if l.out != nil {
		b.attentionBack(layer)
	}
	return b.p.ctx.Err()
}

// rows calls f for each row, on all threads, with a function that takes a row out of a matrix
// [n, hidden].
func (b *backpass) rows(f func(r int, of func([]float32) []float32)) {
	h := b.e.model.Hidden
	b.e.pool.rows(b.p.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			f(r, func(x []float32) []float32 { return x[r*h : (r+1)*h] })
		}
	})
}

// branchBack stores in b.dOut the gradient by what a branch, attention or MLP, gave
// before its norm, from the gradient by the stream that it was added to; out is what it gave.
func (b *backpass) branchBack(weight, out []float32) {
	b.dOut = b.e.sized(b.dOut, b.p.n, b.e.model.Hidden)
	b.rows(func(r int, of func([]float32) []float32) {
		d := of(b.dOut.values)
		if weight == nil {
			copy(d, of(b.gradient))
		} else {
			clear(d)
			copy(of(b.add), of(b.gradient))
			b.e.normBack(d, of(out), weight, of(b.add))
		}
		if scale := b.e.model.ResidualScale; scale != 1 {
			kernel.Scale(d, scale)
		}
		b.dOut.round(r, r+1)
	})
}

// mlp computes the MLP again and takes the gradient back through it, some rows at a time.
func (b *backpass) mlp(layer int) error {
	e, l, n, h := b.e, b.p.one, b.p.n, b.e.model.Hidden
	width := l.width()
	b.in = b.normalise(b.in, b.middle, l.mlpIn)
	parts := (n + mlpRows(width) - 1) / mlpRows(width)
	forward := func(r0, r1 int) rows {
		in, n := b.in.slice(r0, r1), r1-r0
		b.gate, b.up, b.act = grow(b.gate, n*width), grow(b.up, n*width), e.sized(b.act, n, width)
		e.multiply(b.gate, width, l.gate, in, n)
		e.multiply(b.up, width, l.up, in, n)
		e.pool.rows(n, rowTile, func(_, a, c int) {
			copy(b.act.values[a*width:c*width], b.gate[a*width:c*width])
			activate(e.model.Activation, b.act.values[a*width:c*width], b.up[a*width:c*width])
			b.act.round(a, c)
		})
		return in
	}
	if l.mlpOut != nil { // its gradient needs what it normalises
		b.out = grow(b.out, n*h)
		for i := range parts {
			r0, r1 := i*n/parts, (i+1)*n/parts
			forward(r0, r1)
			e.multiply(b.out[r0*h:], h, l.down, b.act, r1-r0)
		}
	}
	b.branchBack(l.mlpOut, b.out)
	for len(b.ones) < rowTile*width {
		b.ones = append(b.ones, 1)
	}
	for i := range parts {
		r0, r1 := i*n/parts, (i+1)*n/parts
		n := r1 - r0
		in, dOut := forward(r0, r1), b.dOut.slice(r0, r1)
		b.dGate, b.dUp = e.sized(b.dGate, n, width), e.sized(b.dUp, n, width)
		e.multiply(b.dUp.values, width, b.back.down, dOut, n) // by the activations
		e.pool.rows(n, rowTile, func(_, a, c int) {
			activateBack(e.model.Activation, b.dGate.values[a*width:c*width], b.dUp.values[a*width:c*width],
				b.gate[a*width:c*width], b.up[a*width:c*width], b.ones[:(c-a)*width])
			b.dGate.round(a, c)
			b.dUp.round(a, c)
		})
		if b.observe != nil {
			err := b.observe(engine.MLPGradient{
				Layer: layer, Rows: b.p.layout.rows[r0:r1], Hidden: h, Width: width, Input: in.values,
				Activations: b.act.values, Gate: b.dGate.values, Up: b.dUp.values, Output: dOut.values,
			})
			if err != nil {
				return err
			}
		}
		e.multiply(b.sum[r0*h:], h, b.back.gate, b.dGate, n)
		e.multiply(b.add[r0*h:], h, b.back.up, b.dUp, n)
		if err := b.p.ctx.Err(); err != nil {
			return err
		}
	}
	b.rows(func(_ int, of func([]float32) []float32) {
		kernel.Add(of(b.sum), of(b.add))
		e.normBack(of(b.gradient), of(b.middle), l.mlpIn, of(b.sum))
	})
	return nil
}

// activateBack takes the gradient by act(gate)*up, which dUp holds, to those by gate and up.
func activateBack(a arch.Activation, dGate, dUp, gate, up, ones []float32) {
	if a == arch.SiLU {
		kernel.SiLUMul(dGate, gate, ones)
		for i, v := range dGate { // x s(x); the derivative is s + x s (1-s)
			s := float32(0.5)
			if gate[i] != 0 {
				s = v / gate[i]
			}
			dGate[i], dUp[i] = dUp[i]*up[i]*(s+v*(1-s)), dUp[i]*v
		}
		return
	}
	for i, d := range dUp {
		value, slope := geluSlope(a, float64(gate[i]))
		dGate[i], dUp[i] = d*up[i]*float32(slope), d*float32(value)
	}
}

// geluSlope returns the value of a form of GELU and its derivative.
func geluSlope(a arch.Activation, x float64) (value, slope float64) {
	if a == arch.GELUTanh { // x s(2u), u = c (x + 0.044715 x^3), s the logistic function
		const c = 0.7978845608028654 // sqrt(2/pi)
		s := 1 / (1 + math.Exp(-2*c*(x+0.044715*x*x*x)))
		return x * s, s + x*s*(1-s)*2*c*(1+3*0.044715*x*x)
	}
	cdf := math.Erfc(-x/math.Sqrt2) / 2
	return x * cdf, cdf + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
}

// normBack adds to dst the gradient by x of a norm, from the one by what it gives, g,
// which is changed: with r = 1/sqrt(mean x^2 + eps), r w g - x r^3 (x . w g)/n.
func (e *Engine) normBack(dst, x, weight, g []float32) {
	if weight == nil {
		kernel.Add(dst, g)
		return
	}
	for i, w := range weight[:len(x)] {
		g[i] *= w
	}
	n := float64(len(x))
	r := 1 / math.Sqrt(float64(kernel.Dot(x, x))/n+float64(e.model.NormEpsilon))
	along := float64(kernel.Dot(x, g))
	kernel.AXPY(float32(r), g, dst)
	kernel.AXPY(float32(-along*r*r*r/n), x, dst)
}
