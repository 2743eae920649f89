package tensor

import "math"

// The K types have two stages of scales: each sub-block of 16 or 32 elements has a scale
// (and Q4_K and Q5_K an offset) of its own, which are stored as integers of 6 or 8 bits
// and scaled in turn by F16 numbers of the block of 256. A block is made in three steps:
//
//  1. For each sub-block, the scale and offset of least squared error. For given quants
//     they are the solution of a 2x2 system; the quants are tried that rounding by steps
//     a little smaller and larger than the range demands gives, and by the solution itself.
//  2. The block's own scale is such that the greatest of these becomes the greatest
//     integer, rounded to F16 as it is stored.
//  3. With that scale as it is, each sub-block's integers and their neighbours are tried,
//     so that what rounding lost is made good as far as an integer can.
//
// Where a step has a free choice it is decided by the sums of weighted quants alone,
// (Σwq, Σwq², Σwqy), from which the error follows without another pass. These are computed
// for eight sub-blocks side by side (latticeSums), which is where the time goes.

// lanesK is how many sub-blocks are searched side by side.
const lanesK = 8

// perLane is a number for each of the sub-blocks that are searched side by side.
type perLane [lanesK]float32

// latticeResult holds Σwq, Σwq² and Σwqy of each lane.
type latticeResult [3]perLane

// group is eight sub-blocks of up to 32 elements, element i of sub-block l at 8i+l, and
// for each lane Σw, Σwx and Σwx².
type group struct {
	n        int // elements of a sub-block
	x, w     [32 * lanesK]float32
	sw       perLane
	sx, sxx  [lanesK]float64
	low, top perLane // least value; value of the greatest magnitude
	high     perLane
}

// load fills the group with 8n elements and their importance, nil for 1 each.
func (g *group) load(x, w []float32, n int) {
	g.n = n
	for l := range lanesK {
		part := x[l*n:][:n]
		low, high := part[0], part[0]
		var sw, sx, sxx float64
		for i, v := range part {
			importance := float32(1)
			if w != nil {
				importance = w[l*n+i]
			}
			g.x[lanesK*i+l], g.w[lanesK*i+l] = v, importance
			if v < low {
				low = v
			}
			if v > high {
				high = v
			}
			sw += float64(importance)
			y := float64(importance) * float64(v)
			sx += y
			sxx += y * float64(v)
		}
		g.low[l], g.high[l], g.top[l] = low, high, high
		if -low > high {
			g.top[l] = low
		}
		g.sw[l], g.sx[l], g.sxx[l] = float32(sw), sx, sxx
	}
}

// sums rounds (x-base)*inv to whole numbers within [lo, hi] and adds up.
func (g *group) sums(base, inv *perLane, lo, hi float32) *latticeResult {
	var r latticeResult
	latticeSums(&r, g.x[:lanesK*g.n], g.w[:lanesK*g.n], base, inv, lo, hi)
	return &r
}

// rounder added to and taken from a float32 of magnitude below 2^22 rounds it to the
// nearest whole number, ties to even.
const rounder = 3 << 22

// latticeSumsGo is the twin of latticeSumsAVX2.
func latticeSumsGo(r *latticeResult, x, w []float32, base, inv *perLane, lo, hi float32) {
	for l := range lanesK {
		var s1, s2, sy float32
		b, k := base[l], inv[l]
		for i := l; i < len(x); i += lanesK {
			y := x[i] - b
			t := float32(y * k)
			if t < lo {
				t = lo
			}
			if t > hi {
				t = hi
			}
			q := float32(t+rounder) - rounder
			wq := float32(w[i] * q)
			s1 += wq
			s2 += float32(wq * q)
			sy += float32(wq * y)
		}
		r[0][l], r[1][l], r[2][l] = s1, s2, sy
	}
}

// affineTries are by how much the steps that are tried in a range divide it into more (or
// fewer) parts than there are quants.
var affineTries = [...]float32{0, -0.75, -0.45, -0.2, 0.2, 0.4, 0.6, 0.85}

// affine finds for each lane the step d >= 0 and the offset m <= 0 of least error for
// x ~ d q + m with q in [0, last].
func (g *group) affine(last float32) (d, m perLane) {
	var base, inv perLane
	var least [lanesK]float64
	for l := range lanesK {
		m[l] = min(g.low[l], 0)
		base[l] = m[l]
		least[l] = math.Inf(1)
	}
	floor := m
	for _, t := range affineTries {
		for l := range lanesK {
			inv[l] = (last + t) * inverse(g.high[l]-floor[l])
		}
		g.fit(&base, &inv, last, &d, &m, &least)
	}
	for range 2 {
		for l := range lanesK {
			base[l], inv[l] = m[l], inverse(d[l])
		}
		g.fit(&base, &inv, last, &d, &m, &least)
	}
	return d, m
}

// fit solves for the step and offset that serve the quants of (base, inv) best, and keeps
// those of lanes in which they beat the least error so far.
func (g *group) fit(base, inv *perLane, last float32, d, m *perLane, least *[lanesK]float64) {
	r := g.sums(base, inv, 0, last)
	for l := range lanesK {
		b, w := float64(base[l]), float64(g.sw[l])
		s1, s2, sqy := float64(r[0][l]), float64(r[1][l]), float64(r[2][l])
		sy := g.sx[l] - b*w
		var step, off float64 // of y = x - b
		if det := w*s2 - s1*s1; det > 1e-6*w*s2 {
			step, off = (w*sqy-s1*sy)/det, (s2*sy-s1*sqy)/det
		} else if w > 0 {
			step, off = 0, sy/w
		}
		syy := g.sxx[l] - b*(2*g.sx[l]-b*w)
		e := syy - step*sqy - off*sy
		if off+b > 0 || step < 0 {
			// The offset cannot be positive: the best step without one.
			sqx := sqy + b*s1
			step, off = 0, -b
			if s2 > 0 {
				step = max(0, sqx/s2)
			}
			e = g.sxx[l] - step*sqx
		}
		if e < least[l] {
			least[l], d[l], m[l] = e, float32(step), float32(off+b)
		}
	}
}

// quantiseAffine makes a block of Q4_K or Q5_K but for the quants' place: scales d and
// dmin, eight 6-bit integers for each, and the quants, from 0 to last.
func quantiseAffine(x, w []float32, last float32, scales []byte, q *[256]byte) (d, dmin float32) {
	var g group
	g.load(x, w, 32)
	steps, offs := g.affine(last)
	var topStep, topOff float32
	for l := range lanesK {
		topStep, topOff = max(topStep, steps[l]), max(topOff, -offs[l])
	}
	d, dmin = topStep/63, topOff/63
	dh, mh := f16ToF32(f32ToF16(d)), f16ToF32(f32ToF16(dmin))
	ls, lm := g.settle(&steps, &offs, dh, mh, last)
	clear(scales)
	for s := range lanesK {
		putScaleMin(scales, s, byte(ls[s]), byte(lm[s]))
		step, off := float32(dh*ls[s]), float32(mh*lm[s])
		inv := inverse(step)
		for i, v := range x[32*s:][:32] {
			t := float32((v + off) * inv)
			if t < 0 {
				t = 0
			}
			if t > last {
				t = last
			}
			q[32*s+i] = byte(int32(t + 0.5))
		}
	}
	return d, dmin
}

// settle chooses the integers that scale the block's d and dmin, as they are stored, in
// each sub-block: the nearest to its step and offset, or a neighbour that serves better.
func (g *group) settle(steps, offs *perLane, d, dmin, last float32) (ls, lm perLane) {
	invD, invM := inverse(d), inverse(dmin)
	var least [lanesK]float64
	var s, m, base, inv perLane
	try := func() {
		for l := range lanesK {
			base[l], inv[l] = -float32(dmin*m[l]), inverse(float32(d*s[l]))
		}
		r := g.sums(&base, &inv, 0, last)
		for l := range lanesK {
			b, step := float64(base[l]), float64(float32(d*s[l]))
			syy := g.sxx[l] - b*(2*g.sx[l]-b*float64(g.sw[l]))
			if e := syy - step*(2*float64(r[2][l])-step*float64(r[1][l])); e < least[l] {
				least[l], ls[l], lm[l] = e, s[l], m[l]
			}
		}
	}
	near := func(v float32) float32 { return min(63, max(0, float32(math.RoundToEven(float64(v))))) }
	var s0, m0 perLane
	for l := range lanesK {
		least[l] = math.Inf(1)
		s0[l], m0[l] = near(steps[l]*invD), near(-offs[l]*invM)
	}
	for _, delta := range [...]float32{0, -1, 1} {
		for l := range lanesK {
			s[l], m[l] = near(s0[l]+delta), m0[l]
		}
		try()
	}
	for _, delta := range [...]float32{-1, 1} {
		for l := range lanesK {
			s[l], m[l] = ls[l], near(m0[l]+delta)
		}
		try()
	}
	return ls, lm
}

// putScaleMin stores the 6-bit scale and minimum of sub-block s, whose bits are clear, as
// scaleMin reads them.
func putScaleMin(b []byte, s int, scale, minimum byte) {
	if s < 4 {
		b[s] |= scale
		b[s+4] |= minimum
		return
	}
	b[s+4] |= scale&15 | minimum<<4
	b[s-4] |= scale >> 4 << 6
	b[s] |= minimum >> 4 << 6
}

// quantiseQ4_K makes the block that blockQ4_K reads, and returns its scale or that of its
// minima, the greater.
func quantiseQ4_K(b []byte, x, w []float32) float32 {
	var q [256]byte
	d, dmin := quantiseAffine(x, w, 15, b[4:16], &q)
	putHalf(b, d)
	putHalf(b[2:], dmin)
	for j := range 4 {
		out, lo, hi := b[16+32*j:][:32], q[64*j:][:32], q[64*j+32:][:32]
		for i := range out {
			out[i] = lo[i] | hi[i]<<4
		}
	}
	return max(d, dmin)
}

// quantiseQ5_K makes the block that blockQ5_K reads, as Q4_K.
func quantiseQ5_K(b []byte, x, w []float32) float32 {
	var q [256]byte
	d, dmin := quantiseAffine(x, w, 31, b[4:16], &q)
	putHalf(b, d)
	putHalf(b[2:], dmin)
	fifth := b[16:48]
	clear(fifth)
	for j := range 4 {
		out, lo, hi := b[48+32*j:][:32], q[64*j:][:32], q[64*j+32:][:32]
		for i := range out {
			out[i] = lo[i]&15 | hi[i]<<4
			fifth[i] |= lo[i]>>4<<(2*j) | hi[i]>>4<<(2*j+1)
		}
	}
	return max(d, dmin)
}

// signedTries are into how many steps the greatest magnitude is divided.
var signedTries = [...]float32{0, -0.9, 0.6}

// signed finds for each lane the step of least error for x ~ d q with q in [lo, hi], where
// -lo is at least hi: of steps of that sign which makes the value with the greatest
// magnitude the lowest quant.
func (g *group) signed(lo, hi float32) (d perLane) {
	var base, inv perLane
	var gain [lanesK]float64
	try := func() {
		r := g.sums(&base, &inv, lo, hi)
		for l := range lanesK {
			s2, sqx := float64(r[1][l]), float64(r[2][l])
			if s2 > 0 && sqx*sqx > gain[l]*s2 {
				gain[l], d[l] = sqx*sqx/s2, float32(sqx/s2)
			}
		}
	}
	for _, t := range signedTries {
		for l := range lanesK {
			inv[l] = (lo - t) * inverse(g.top[l])
		}
		try()
	}
	for l := range lanesK {
		inv[l] = inverse(d[l])
	}
	try()
	return d
}

// quantiseQ6_K makes the block that blockQ6_K reads, and returns its scale.
func quantiseQ6_K(b []byte, x, w []float32) float32 {
	var g [2]group
	var steps [2]perLane
	var top float32
	for h := range g {
		var part []float32
		if w != nil {
			part = w[128*h:][:128]
		}
		g[h].load(x[128*h:][:128], part, 16)
		steps[h] = g[h].signed(-32, 31)
		if t := topOf(steps[h][:]); abs32(t) > abs32(top) {
			top = t
		}
	}
	d := top / -128
	putHalf(b[208:], d)
	dh := halfAt(b[208:])
	clear(b[:192])
	for h := range g {
		ls := g[h].settleSigned(&steps[h], dh)
		for l, s := range ls {
			b[192+8*h+l] = byte(int8(s))
			inv := inverse(float32(dh * s))
			sub := 8*h + l
			shift, low := sub%8/4*4, b[sub/8*64+sub%4*16:][:16]
			pair, pairShift := b[128+sub16(sub):][:16], shift16(sub)
			for i, v := range x[16*sub:][:16] {
				t := float32(v * inv)
				if t < -32 {
					t = -32
				}
				if t > 31 {
					t = 31
				}
				q := byte(int32(t + 32.5))
				low[i] |= q & 15 << shift
				pair[i] |= q >> 4 << pairShift
			}
		}
	}
	return d
}

// settleSigned chooses the integers that scale the block's d, as it is stored.
func (g *group) settleSigned(steps *perLane, d float32) (ls perLane) {
	invD := inverse(d)
	var least [lanesK]float64
	var base, inv, s perLane
	for l := range least {
		least[l] = math.Inf(1)
	}
	for _, delta := range [...]float32{0, -1, 1} {
		for l := range lanesK {
			s[l] = min(127, max(-128, float32(math.RoundToEven(float64(steps[l]*invD)))+delta))
			inv[l] = inverse(float32(d * s[l]))
		}
		r := g.sums(&base, &inv, -32, 31)
		for l := range lanesK {
			step := float64(float32(d * s[l]))
			if e := g.sxx[l] - step*(2*float64(r[2][l])-step*float64(r[1][l])); e < least[l] {
				least[l], ls[l] = e, s[l]
			}
		}
	}
	return ls
}

// weightedStep is the step of least weighted error of a block of 32, as signed finds it.
func weightedStep(x, w []float32, lo, hi float32) float32 {
	var g group
	g.loadOne(x, w)
	return g.signed(lo, hi)[0]
}

// weightedRange is the step and the offset of least weighted error of a block of 32. The
// offset may have either sign, unlike that of the K types, so that the search is about
// x less its greatest value.
func weightedRange(x, w []float32, last float32) (d, low float32) {
	high := x[0]
	for _, v := range x {
		high = max(high, v)
	}
	var y [32]float32
	for i, v := range x[:32] {
		y[i] = v - high
	}
	var g group
	g.loadOne(y[:], w)
	steps, offs := g.affine(last)
	return steps[0], offs[0] + high
}

// loadOne fills the first lane with a block of 32 and leaves the others zero.
func (g *group) loadOne(x, w []float32) {
	var all, weights [32 * lanesK]float32
	copy(all[:], x[:32])
	copy(weights[:], w[:32])
	g.load(all[:], weights[:], 32)
}
