// Command asm writes the vector code of package tensor:
//
//	go generate ./tensor
//
// It is a module of its own, so that nothing that imports Coppice depends on the
// assembler library. Every function has a twin in plain Go of the same name with Go
// for its suffix, which the tests compare it with. All take a number of elements
// that is a multiple of vectorStep (64, which every loop's step divides); the caller
// gives the rest to the twin.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64")
	minMax16()
	minMax32()
	maxMagnitude16()
	maxMagnitude32()
	decodeF16()
	decodeBF16()
	encode16("encodeF16AVX2", "F16", f16Overflow, func(in [2]VecVirtual, out VecVirtual) {
		for i, x := range in {
			half := XMM()
			VCVTPS2PH(Imm(0), x, half) // 0: round to nearest even, whatever MXCSR says
			if i == 0 {
				VMOVDQA(half, out.AsX())
			} else {
				VINSERTI128(Imm(1), half, out, out)
			}
		}
	})
	encode16("encodeBF16AVX2", "BF16", bf16Overflow, roundBF16())
	sums("sumsF32AVX2", "float32", 4, func(p Mem, x VecVirtual) {
		VCVTPS2PD(p, x)
	})
	sums("sumsF16AVX2", "F16", 2, func(p Mem, x VecVirtual) {
		VCVTPH2PS(p, x.AsX())
		VCVTPS2PD(x.AsX(), x)
	})
	sums("sumsBF16AVX2", "BF16", 2, func(p Mem, x VecVirtual) {
		VPMOVZXWD(p, x.AsX())
		VPSLLD(Imm(16), x.AsX(), x.AsX())
		VCVTPS2PD(x.AsX(), x)
	})
	sums512("sumsF16AVX512", "F16", 2, func(p Mem, x VecVirtual) {
		VCVTPH2PS(p, x.AsY())
		VCVTPS2PD(x.AsY(), x)
	})
	sums512("sumsBF16AVX512", "BF16", 2, func(p Mem, x VecVirtual) {
		VPMOVZXWD(p, x.AsY())
		VPSLLD(Imm(16), x.AsY(), x.AsY())
		VCVTPS2PD(x.AsY(), x)
	})
	latticeSums()
	quantiseQ8_0()
	quantiseQ4_0()
	Generate()
}

// loop emits body, which consumes step elements, until n are consumed.
func loop(n Register, step uint8, body func()) {
	Label("loop")
	CMPQ(n, Imm(0))
	JLE(LabelRef("done"))
	body()
	SUBQ(U8(step), n)
	JMP(LabelRef("loop"))
	Label("done")
}

// ones returns a register with every bit set.
func ones() VecVirtual {
	r := YMM()
	VPCMPEQD(r, r, r)
	return r
}

// broadcast returns a register that holds v in each of its eight dwords.
func broadcast(v uint32) VecVirtual {
	g, r, y := GP32(), XMM(), YMM()
	MOVL(U32(v), g)
	VMOVD(g, r)
	VPBROADCASTD(r, y)
	return y
}
