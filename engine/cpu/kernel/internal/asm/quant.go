package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const quantSig = "func(acc *float32, panel *byte, x *int8, scale *float32, sum *int32, blocks int)"

// blockType is what the kernels must know of a type of block weights.
type blockType struct {
	name    string
	nibbles bool // 4-bit quants, else signed bytes
	offset  bool // blocks have an offset beside their scale
	bias    int  // what unsigned quants count too much, a power of two as its logarithm
}

var blockTypes = []blockType{
	{name: "Q8_0", bias: 7},
	{name: "Q4_0", nibbles: true, bias: 3},
	{name: "Q4_1", nibbles: true, offset: true, bias: -1},
}

// head is the size of the scales and offsets before the quants of 32 blocks.
func (b blockType) head() int {
	if b.offset {
		return 128
	}
	return 64
}

// size is the size of 32 blocks.
func (b blockType) size() int {
	if b.nibbles {
		return b.head() + 512
	}
	return b.head() + 1024
}

// quant emits the kernels of quant.go: one row of 8-bit activations times one panel.
func quant(g *gen) {
	quantise(g)
	for _, b := range blockTypes {
		doc := "multiplies a row of activations in blocks > 0 blocks by a panel of 32 columns of " + b.name + "."
		g.wide = false
		g.function("quant"+b.name+"AVX2", quantSig, doc, func() { g.quantAVX2(b) })
		g.wide = true
		g.function("quant"+b.name+"AVX512VNNI", quantSig, doc, func() { g.quantVNNI(b) })
	}
}

// quantise emits the kernels that quantise activations.
func quantise(g *gen) {
	fold := func(v []reg.VecVirtual, op func(a, b, dst operand.Op)) reg.Register {
		for len(v) > 16/g.elems() { // 32 lanes to 16
			h := len(v) / 2
			for i := range h {
				op(v[h+i], v[i], v[i])
			}
			v = v[:h]
		}
		return g.fold(v, op)
	}
	g.both("blockTops", "func(top, x *float32, n int)",
		"stores the greatest magnitude of each of n > 0 blocks of 32, compared as bits.", func() {
			top, x, n := g.arg("top"), g.arg("x"), g.arg("n")
			abs := g.konstBits(1<<31 - 1)
			g.Label("block")
			var v []reg.VecVirtual
			for off := 0; off < 128; off += g.elems() * 4 {
				a := g.copyOf(mem(x, off))
				g.VANDPS(abs, a, a)
				v = append(v, a)
			}
			g.VMOVSS(fold(v, func(a, b, dst operand.Op) { g.VPMAXUD(a, b, dst) }), mem(top, 0))
			g.ADDQ(operand.I32(4), top)
			g.ADDQ(operand.I32(128), x)
			g.DECQ(n)
			g.JNE(operand.LabelRef("block"))
		})
	g.both("roundBlocks", "func(dst *int8, x, inv *float32, sum *int32, n int)",
		"rounds x*inv to bytes in n > 0 blocks of 32 and stores each block's sum.", func() {
			dst, x, inv, sum, n := g.arg("dst"), g.arg("x"), g.arg("inv"), g.arg("sum"), g.arg("n")
			var order reg.VecVirtual
			if !g.wide {
				order = g.copyOf(g.byteOrder())
			}
			g.Label("block")
			f := g.vec()
			g.VBROADCASTSS(mem(inv, 0), f)
			var v []reg.VecVirtual
			for off := 0; off < 128; off += g.elems() * 4 {
				a := g.vec()
				g.VMULPS(mem(x, off), f, a)
				g.VCVTPS2DQ(a, a)
				v = append(v, a)
			}
			if g.wide {
				for i, a := range v {
					g.VPMOVDB(a, mem(dst, 16*i))
				}
			} else {
				// Packing works on 128-bit halves: a permutation puts the groups of
				// four bytes in order.
				a, b := g.vec(), g.vec()
				g.VPACKSSDW(v[1], v[0], a)
				g.VPACKSSDW(v[3], v[2], b)
				g.VPACKSSWB(b, a, a)
				g.VPERMD(a, order, a)
				g.VMOVUPS(a, mem(dst, 0))
			}
			g.VMOVSS(fold(v, func(a, b, dst operand.Op) { g.VPADDD(a, b, dst) }), mem(sum, 0))
			g.ADDQ(operand.I32(32), dst)
			g.ADDQ(operand.I32(128), x)
			g.ADDQ(operand.I32(4), inv)
			g.ADDQ(operand.I32(4), sum)
			g.DECQ(n)
			g.JNE(operand.LabelRef("block"))
		})
}

// byteOrder is the permutation that undoes the interleaving of two packings.
func (g *gen) byteOrder() operand.Mem {
	m := g.StaticGlobal("byteOrder")
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		g.AddDatum(4*i, operand.U32(v))
	}
	return m
}

// quantArgs loads the parameters.
func (g *gen) quantArgs() (acc, panel, x, scale, sum, blocks reg.Register) {
	return g.arg("acc"), g.arg("panel"), g.arg("x"), g.arg("scale"), g.arg("sum"), g.arg("blocks")
}

// nextBlock moves the pointers on and loops.
func (g *gen) nextBlock(b blockType, panel, x, scale, sum, blocks reg.Register) {
	g.ADDQ(operand.I32(b.size()), panel)
	g.ADDQ(operand.I32(32), x)
	g.ADDQ(operand.I32(4), scale)
	g.ADDQ(operand.I32(4), sum)
	g.DECQ(blocks)
	g.JNE(operand.LabelRef("block"))
}

// quantVNNI uses VPDPBUSD, unsigned weights times signed activations in groups of
// four. Signed weights are made unsigned by flipping their top bit. What unsigned
// quants count too much is taken off at the start: bias times the block's sum.
func (g *gen) quantVNNI(b blockType) {
	acc, panel, x, scale, sum, blocks := g.quantArgs()
	z := zmm
	f, n := [2]int{0, 1}, [2]int{2, 3}
	const xb, w, lo, hi, mask, t, dx, s = 4, 5, 6, 7, 8, 9, 10, 11
	bits := uint32(0x80808080)
	if b.nibbles {
		bits = 0x0f0f0f0f
	}
	g.VBROADCASTSS(g.datumBits(bits), z[mask])
	g.VPXORD(z[f[0]], z[f[0]], z[f[0]])
	g.VPXORD(z[f[1]], z[f[1]], z[f[1]])
	g.Label("block")
	g.prefetch(panel, b.size())
	g.VPXORD(z[n[0]], z[n[0]], z[n[0]])
	if b.bias >= 0 {
		g.VBROADCASTSS(mem(sum, 0), z[t])
		g.VPSLLD(operand.U8(uint8(b.bias)), z[t], z[t])
		g.VPSUBD(z[t], z[n[0]], z[n[0]])
	}
	g.VMOVUPS(z[n[0]], z[n[1]])
	if b.nibbles {
		for group := range 4 {
			g.VBROADCASTSS(mem(x, 4*group), z[xb])
			g.VBROADCASTSS(mem(x, 4*group+16), z[s])
			for h := range 2 {
				g.VMOVUPS(mem(panel, b.head()+128*group+64*h), z[w])
				g.VPANDD(z[mask], z[w], z[lo])
				g.VPSRLW(operand.U8(4), z[w], z[hi])
				g.VPANDD(z[mask], z[hi], z[hi])
				g.vpdpbusd(n[h], lo, xb)
				g.vpdpbusd(n[h], hi, s)
			}
		}
	} else {
		for group := range 8 {
			g.VBROADCASTSS(mem(x, 4*group), z[xb])
			for h := range 2 {
				g.VPXORD(mem(panel, b.head()+128*group+64*h), z[mask], z[w])
				g.vpdpbusd(n[h], w, xb)
			}
		}
	}
	g.VBROADCASTSS(mem(scale, 0), z[dx])
	if b.offset {
		g.VBROADCASTSS(mem(sum, 0), z[s])
		g.VCVTDQ2PS(z[s], z[s])
		g.VMULPS(z[dx], z[s], z[s])
	}
	for h := range 2 {
		g.VCVTPH2PS(mem(panel, 32*h), z[t])
		g.VMULPS(z[dx], z[t], z[t])
		g.VCVTDQ2PS(z[n[h]], z[n[h]])
		g.VFMADD231PS(z[t], z[n[h]], z[f[h]])
		if b.offset {
			g.VCVTPH2PS(mem(panel, 64+32*h), z[t])
			g.VFMADD231PS(z[t], z[s], z[f[h]])
		}
	}
	g.nextBlock(b, panel, x, scale, sum, blocks)
	g.VMOVUPS(z[f[0]], mem(acc, 0))
	g.VMOVUPS(z[f[1]], mem(acc, 64))
}

// quantAVX2 uses VPMADDUBSW on the absolute weights and activations that carry the
// weights' signs, since unsigned weights of 8 bits would overflow its 16-bit sums.
func (g *gen) quantAVX2(b blockType) {
	acc, panel, x, scale, sum, blocks := g.quantArgs()
	ones := g.konstBits(0x00010001)
	var mask reg.VecVirtual
	if b.nibbles {
		mask = g.copyOf(g.konstBits(0x0f0f0f0f))
	}
	f, n := make([]reg.VecVirtual, 4), make([]reg.VecVirtual, 4)
	for i := range f {
		f[i], n[i] = g.zero(), g.vec()
	}
	// add adds the products of unsigned w and signed v.
	add := func(w, v, sum reg.VecVirtual) {
		g.VPMADDUBSW(v, w, w)
		g.VPMADDWD(ones, w, w)
		g.VPADDD(w, sum, sum)
	}
	g.Label("block")
	g.prefetch(panel, b.size())
	for i := range n {
		g.VPXOR(n[i], n[i], n[i])
	}
	if b.nibbles && b.bias >= 0 {
		t := g.vec()
		g.VBROADCASTSS(mem(sum, 0), t)
		g.VPSLLD(operand.U8(uint8(b.bias)), t, t)
		for i := range n {
			g.VPSUBD(t, n[i], n[i])
		}
	}
	if b.nibbles {
		for group := range 4 {
			x0, x1 := g.vec(), g.vec()
			g.VBROADCASTSS(mem(x, 4*group), x0)
			g.VBROADCASTSS(mem(x, 4*group+16), x1)
			for i := range n {
				lo, hi := g.copyOf(mem(panel, b.head()+128*group+32*i)), g.vec()
				g.VPSRLW(operand.U8(4), lo, hi)
				g.VPAND(mask, lo, lo)
				g.VPAND(mask, hi, hi)
				add(lo, x0, n[i])
				add(hi, x1, n[i])
			}
		}
	} else {
		for group := range 8 {
			xb := g.vec()
			g.VBROADCASTSS(mem(x, 4*group), xb)
			for i := range n {
				w, v := g.copyOf(mem(panel, b.head()+128*group+32*i)), g.vec()
				g.VPSIGNB(w, xb, v)
				g.VPABSB(w, w)
				add(w, v, n[i])
			}
		}
	}
	dx, s := g.vec(), g.vec()
	g.VBROADCASTSS(mem(scale, 0), dx)
	if b.offset {
		g.VBROADCASTSS(mem(sum, 0), s)
		g.VCVTDQ2PS(s, s)
		g.VMULPS(dx, s, s)
	}
	for i := range n {
		t := g.vec()
		g.VCVTPH2PS(mem(panel, 16*i), t)
		g.VMULPS(dx, t, t)
		g.VCVTDQ2PS(n[i], n[i])
		g.VFMADD231PS(t, n[i], f[i])
		if b.offset {
			g.VCVTPH2PS(mem(panel, 64+16*i), t)
			g.VFMADD231PS(t, s, f[i])
		}
	}
	g.nextBlock(b, panel, x, scale, sum, blocks)
	for i := range f {
		g.VMOVUPS(f[i], mem(acc, 32*i))
	}
}
