package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gen is an avo context with what the families share. Its vectors are 512 bits wide
// if wide is set, else 256 bits.
type gen struct {
	*build.Context
	wide   bool
	name   string          // of the current function
	labels int             // used in it
	table  map[uint32]bool // constants emitted so far in this file, by their bits
}

// function emits one function without a frame. Its pointers do not escape.
func (g *gen) function(name, signature, doc string, body func()) {
	g.name, g.labels = name, 0
	g.Function(name)
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	g.SignatureExpr(signature)
	g.Doc(name + " " + doc)
	body()
	g.VZEROUPPER()
	g.RET()
}

// both emits a function for AVX2 and for AVX-512, with the level's name added.
func (g *gen) both(name, signature, doc string, body func()) {
	for _, g.wide = range []bool{false, true} {
		g.function(name+g.suffix(), signature, doc, body)
	}
}

func (g *gen) suffix() string {
	if g.wide {
		return "AVX512"
	}
	return "AVX2"
}

// label returns a new label of the current function.
func (g *gen) label(what string) string {
	g.labels++
	return fmt.Sprintf("%s%d", what, g.labels)
}

// vec is a new vector register.
func (g *gen) vec() reg.VecVirtual {
	if g.wide {
		return g.ZMM()
	}
	return g.YMM()
}

// elems is the number of float32 in a vector.
func (g *gen) elems() int {
	if g.wide {
		return 16
	}
	return 8
}

// arg loads a parameter into a general register.
func (g *gen) arg(name string) reg.Register { return g.Load(g.Param(name), g.GP64()) }

// broadcastArg loads a float32 parameter into all lanes.
func (g *gen) broadcastArg(name string) reg.VecVirtual {
	v := g.vec()
	a, err := g.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	g.VBROADCASTSS(a.Addr, v)
	return v
}

// mem is base + off bytes.
func mem(base reg.Register, off int) operand.Mem { return operand.Mem{Base: base, Disp: off} }

// konst is a vector filled with a float32, for the last source of an instruction: a
// register with AVX-512, which has 32, and memory with AVX2, which has 16.
func (g *gen) konst(f float32) operand.Op { return g.konstBits(math.Float32bits(f)) }

// konstBits is konst by its bits.
func (g *gen) konstBits(bits uint32) operand.Op {
	m := g.datumBits(bits)
	if !g.wide {
		return m
	}
	v := g.vec()
	g.VBROADCASTSS(m, v)
	return v
}

// datum is a constant in memory, repeated to 32 bytes.
func (g *gen) datum(f float32) operand.Mem { return g.datumBits(math.Float32bits(f)) }

func (g *gen) datumBits(bits uint32) operand.Mem {
	name := fmt.Sprintf("x%08x", bits)
	if g.table == nil {
		g.table = map[uint32]bool{}
	}
	if !g.table[bits] {
		g.table[bits] = true
		g.StaticGlobal(name)
		g.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range 8 {
			g.AddDatum(4*i, operand.U32(bits))
		}
	}
	return operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
}

// each loops over body until the count n of elements is used up. Body handles so many
// vectors, by which the pointers then move.
func (g *gen) each(n reg.Register, vectors int, body func(), pointers ...reg.Register) {
	loop := g.label("loop")
	g.Label(loop)
	body()
	for _, p := range pointers {
		g.ADDQ(operand.I32(vectors*g.elems()*4), p)
	}
	g.SUBQ(operand.I32(vectors*g.elems()), n)
	g.JG(operand.LabelRef(loop))
}

// raw emits an instruction that Go's assembler does not know as bytes.
func (g *gen) raw(code []byte) {
	for len(code) > 0 {
		op, n, v := "BYTE", 1, uint64(code[0])
		switch {
		case len(code) >= 4:
			op, n = "LONG", 4
			v = uint64(code[0]) | uint64(code[1])<<8 | uint64(code[2])<<16 | uint64(code[3])<<24
		case len(code) >= 2:
			op, n = "WORD", 2
			v = uint64(code[0]) | uint64(code[1])<<8
		}
		g.Instruction(&ir.Instruction{Opcode: op, Operands: []operand.Op{operand.Imm(v)}})
		code = code[n:]
	}
}

// vdpbf16ps emits VDPBF16PS: dst += the pairwise bfloat16 products of a and b, register
// numbers 0..31 of ZMM. Encoding: EVEX.512.F3.0F38.W0 52 /r.
func (g *gen) vdpbf16ps(dst, a, b int) { g.raw(evex(2, 0x52, dst, a, b)) }

// vpdpbusd emits VPDPBUSD: dst += sums of four products of unsigned bytes of a and
// signed bytes of b, register numbers of ZMM. Encoding: EVEX.512.66.0F38.W0 50 /r.
func (g *gen) vpdpbusd(dst, a, b int) { g.raw(evex(1, 0x50, dst, a, b)) }

// vcvtneps2bf16 emits VCVTNEPS2BF16: the lower half of dst becomes src in bfloat16,
// register numbers of ZMM. Encoding: EVEX.512.F3.0F38.W0 72 /r.
func (g *gen) vcvtneps2bf16(dst, src int) { g.raw(evex(2, 0x72, dst, 0, src)) }

// evex encodes a three-register 512-bit instruction of the 0F38 map without mask;
// prefix is the pp field (1: 66, 2: F3); a is 0 where there are but two registers. Registers beyond 15 or 7 go, inverted, into
// the bits R', R, V', X and B.
func evex(prefix, opcode byte, dst, a, b int) []byte {
	inv := func(n, bit int) byte { return byte(^n >> bit & 1) }
	return []byte{
		0x62,
		inv(dst, 3)<<7 | inv(b, 4)<<6 | inv(b, 3)<<5 | inv(dst, 4)<<4 | 0x02,
		byte(^a&15)<<3 | 0x04 | prefix,
		0x40 | inv(a, 4)<<3,
		opcode,
		0xc0 | byte(dst&7)<<3 | byte(b&7),
	}
}
