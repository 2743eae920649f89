package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// attention emits the kernels of attention.go.
func attention(g *gen) {
	g.both("scoreMax", "func(p *float32, rows, n int, scale float32, top *float32)",
		"multiplies rows of n scores (a positive multiple of 16) by scale and takes them into each row's top.", func() {
			p, rows, n, top := g.arg("p"), g.arg("rows"), g.arg("n"), g.arg("top")
			scale := g.broadcastArg("scale")
			g.eachRow(p, rows, n, func(at, count reg.Register) {
				sums := make([]reg.VecVirtual, 16/g.elems())
				for i := range sums {
					sums[i] = g.vec()
					g.VBROADCASTSS(mem(top, 0), sums[i])
				}
				g.each(count, len(sums), func() {
					for i, s := range sums {
						v := g.vec()
						g.VMULPS(mem(at, i*g.elems()*4), scale, v)
						g.VMOVUPS(v, mem(at, i*g.elems()*4))
						g.VMAXPS(s, v, s)
					}
				}, at)
				g.VMOVSS(g.fold(sums, func(a, b, dst operand.Op) { g.VMAXPS(a, b, dst) }), mem(top, 0))
				g.ADDQ(operand.I32(4), top)
			})
		})
	g.both("scoreExp", "func(p *float32, rows, n int, top, sum *float32)",
		"replaces rows of n scores (a positive multiple of 16) by e^(score-top) and stores each row's sum.", func() {
			p, rows, n := g.arg("p"), g.arg("rows"), g.arg("n")
			top, sum := g.arg("top"), g.arg("sum")
			e := g.expConsts()
			g.eachRow(p, rows, n, func(at, count reg.Register) {
				m := g.vec()
				g.VBROADCASTSS(mem(top, 0), m)
				sums := make([]reg.VecVirtual, 16/g.elems())
				for i := range sums {
					sums[i] = g.zero()
				}
				g.each(count, len(sums), func() {
					for i, s := range sums {
						v := g.copyOf(mem(at, i*g.elems()*4))
						g.VSUBPS(m, v, v)
						y := g.exp(e, v)
						g.VADDPS(y, s, s)
						g.VMOVUPS(y, mem(at, i*g.elems()*4))
					}
				}, at)
				g.VMOVSS(g.fold(sums, func(a, b, dst operand.Op) { g.VADDPS(a, b, dst) }), mem(sum, 0))
				g.ADDQ(operand.I32(4), top)
				g.ADDQ(operand.I32(4), sum)
			})
		})
	g.both("copyRows", "func(dst, src *float32, ld, n int)",
		"packs the first 32 elements of n > 0 rows, ld elements apart, one after the other.", func() {
			dst, src, ld, n := g.arg("dst"), g.arg("src"), g.arg("ld"), g.arg("n")
			g.SHLQ(operand.U8(2), ld)
			g.Label("loop")
			for off := 0; off < param.NR*4; off += g.elems() * 4 {
				g.VMOVUPS(g.copyOf(mem(src, off)), mem(dst, off))
			}
			g.ADDQ(ld, src)
			g.ADDQ(operand.I32(param.NR*4), dst)
			g.DECQ(n)
			g.JNE(operand.LabelRef("loop"))
		})
	for _, g.wide = range []bool{false, true} {
		g.function("transpose"+g.suffix(), "func(dst, src *float32, ld, n int)",
			"writes element e of 16 rows, ld elements apart, to dst[e*32:], for e < n, a positive multiple of 16.", func() {
				if g.wide {
					g.transpose512()
				} else {
					g.transpose256()
				}
			})
	}
}

// eachRow runs body for rows of packed activations, with a pointer to the row and the
// number of its elements, which body may change.
func (g *gen) eachRow(p, rows, n reg.Register, body func(at, count reg.Register)) {
	at, count := g.GP64(), g.GP64()
	loop := g.label("row")
	g.Label(loop)
	g.MOVQ(p, at)
	g.MOVQ(n, count)
	body(at, count)
	g.ADDQ(operand.I32(param.XStride*4), p)
	g.DECQ(rows)
	g.JNE(operand.LabelRef(loop))
}

// fold combines 16 lanes into one by halves, as lanes.sum does, and returns it in the
// first element.
func (g *gen) fold(v []reg.VecVirtual, op func(a, b, dst operand.Op)) reg.Register {
	y := g.YMM()
	if g.wide {
		g.VEXTRACTF64X4(operand.U8(1), v[0], y)
		op(y, v[0].AsY(), y)
	} else {
		op(v[1], v[0], y)
	}
	x, t := g.XMM(), g.XMM()
	g.VEXTRACTF128(operand.U8(1), y, t)
	op(t, y.AsX(), x)
	g.VPERMILPS(operand.U8(0x4e), x, t) // upper pair down
	op(t, x, x)
	g.VPERMILPS(operand.U8(0xb1), x, t) // neighbours
	op(t, x, x)
	return x
}

// transpose256 turns 8 x 8 elements at a time. A vector is loaded as four elements of a
// row and the same of the row four below; pairs of them are interleaved by element, then
// by two.
func (g *gen) transpose256() {
	dst, src, ld, n := g.arg("dst"), g.arg("src"), g.arg("ld"), g.arg("n")
	g.SHLQ(operand.U8(2), ld)
	row, below := g.GP64(), g.GP64()
	a, b := ymm[:8], ymm[8:]
	g.Label("loop")
	g.MOVQ(src, row)
	for half := range 2 {
		g.LEAQ(operand.Mem{Base: row, Index: ld, Scale: 4}, below)
		for i := range 4 {
			for q := range 2 {
				v := a[4*q+i]
				g.VMOVUPS(mem(row, 16*q), v.AsX())
				g.VINSERTF128(operand.U8(1), mem(below, 16*q), v, v)
			}
			g.ADDQ(ld, row)
			g.ADDQ(ld, below)
		}
		g.MOVQ(below, row)
		for q := 0; q < 8; q += 4 {
			for i := 0; i < 4; i += 2 {
				g.VUNPCKLPS(a[q+i+1], a[q+i], b[q+i])
				g.VUNPCKHPS(a[q+i+1], a[q+i], b[q+i+1])
			}
			for i := range 2 {
				g.VUNPCKLPD(b[q+2+i], b[q+i], a[q+2*i])
				g.VUNPCKHPD(b[q+2+i], b[q+i], a[q+2*i+1])
			}
			for e := range 4 {
				g.VMOVUPS(a[q+e], mem(dst, (q+e)*param.NR*4+half*32))
			}
		}
	}
	g.ADDQ(operand.I32(32), src)
	g.ADDQ(operand.I32(8*param.NR*4), dst)
	g.SUBQ(operand.I32(8), n)
	g.JG(operand.LabelRef("loop"))
}

// transpose512 turns 16 x 16 elements at a time: pairs of rows are interleaved by element,
// by two, then by 128-bit quarters twice.
func (g *gen) transpose512() {
	dst, src, ld, n := g.arg("dst"), g.arg("src"), g.arg("ld"), g.arg("n")
	g.SHLQ(operand.U8(2), ld)
	row := g.GP64()
	g.Label("loop")
	g.MOVQ(src, row)
	a, b := zmm[:16], zmm[16:]
	for i := range a {
		g.VMOVUPS(mem(row, 0), a[i])
		g.ADDQ(ld, row)
	}
	for i := 0; i < 16; i += 2 {
		g.VUNPCKLPS(a[i+1], a[i], b[i])
		g.VUNPCKHPS(a[i+1], a[i], b[i+1])
	}
	// b[4k..4k+3] to a[4k+e]: element e of each quarter, for rows 4k..4k+3.
	for i := 0; i < 16; i += 4 {
		g.VUNPCKLPD(b[i+2], b[i], a[i])
		g.VUNPCKHPD(b[i+2], b[i], a[i+1])
		g.VUNPCKLPD(b[i+3], b[i+1], a[i+2])
		g.VUNPCKHPD(b[i+3], b[i+1], a[i+3])
	}
	// Quarter q of a[4k+e] is element 4q+e of rows 4k..4k+3.
	for e := range 4 {
		g.VSHUFF32X4(operand.U8(0x88), a[4+e], a[e], b[e])      // rows 0-7, quarters 0, 2
		g.VSHUFF32X4(operand.U8(0xdd), a[4+e], a[e], b[4+e])    // quarters 1, 3
		g.VSHUFF32X4(operand.U8(0x88), a[12+e], a[8+e], b[8+e]) // rows 8-15
		g.VSHUFF32X4(operand.U8(0xdd), a[12+e], a[8+e], b[12+e])
	}
	store := func(imm uint8, from, element int) {
		g.VSHUFF32X4(operand.U8(imm), b[8+from], b[from], a[from])
		g.VMOVUPS(a[from], mem(dst, element*param.NR*4))
	}
	for e := range 4 {
		store(0x88, e, e)
		store(0x88, 4+e, 4+e)
		store(0xdd, e, 8+e)
		store(0xdd, 4+e, 12+e)
	}
	g.ADDQ(operand.I32(64), src)
	g.ADDQ(operand.I32(16*param.NR*4), dst)
	g.SUBQ(operand.I32(16), n)
	g.JG(operand.LabelRef("loop"))
}
