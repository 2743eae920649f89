package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// quantiseBlocks emits the loop over blocks of 32 float32: step makes the step of a block
// (in the lowest lane of d) of its values x and their magnitudes, whose bits top holds the
// greatest of in every lane; store writes what follows the step, given values and inverse.
// The loop ends before a block whose step F16 does not hold or that is not finite, which
// the twin in Go looks after.
func quantiseBlocks(name, typ string, bytes uint32, step func(src Register, mags [4]VecVirtual, top VecVirtual, d VecVirtual), store func(x [4]VecVirtual, inv VecVirtual, dst Register)) {
	TEXT(name, NOSPLIT, "func(dst *byte, src *float32, n int) (done int)")
	Pragma("noescape")
	Doc(name+" makes n blocks of "+typ+" and returns how many it made: all, or those before one",
		"with a NaN, an infinity or a step beyond F16.")
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	done := GP64()
	XORQ(done, done)
	magnitude := ones()
	VPSRLD(Imm(1), magnitude, magnitude)
	one, limit, largest := scalar(1), scalar(65520), scalar(math.MaxFloat32)
	Label("block")
	CMPQ(done, n)
	JGE(LabelRef("end"))
	var x, mags [4]VecVirtual
	top := YMM()
	for i := range x {
		x[i], mags[i] = YMM(), YMM()
		VMOVUPS(Mem{Base: src, Disp: 32 * i}, x[i])
		VPAND(magnitude, x[i], mags[i])
	}
	// Magnitudes are ordered as their bits are, and infinities and NaNs are above all.
	a, b := YMM(), YMM()
	VPMAXSD(mags[0], mags[1], a)
	VPMAXSD(mags[2], mags[3], b)
	VPMAXSD(a, b, top)
	VPERM2I128(Imm(1), top, top, a)
	VPMAXSD(a, top, top)
	VPSHUFD(Imm(0x4e), top, a)
	VPMAXSD(a, top, top)
	VPSHUFD(Imm(0xb1), top, a)
	VPMAXSD(a, top, top)
	d := YMM()
	step(src, mags, top, d)
	abs := XMM()
	VPAND(magnitude.AsX(), d.AsX(), abs)
	VUCOMISS(limit.AsX(), abs)
	JCC(LabelRef("end")) // at least the limit
	JPS(LabelRef("end")) // a NaN
	inv, finite := YMM(), XMM()
	VDIVSS(d.AsX(), one.AsX(), inv.AsX())
	VPAND(magnitude.AsX(), inv.AsX(), abs)
	VCMPSS(Imm(2), largest.AsX(), abs, finite) // 2: at most
	VPAND(finite, inv.AsX(), inv.AsX())
	VBROADCASTSS(inv.AsX(), inv)
	half := XMM()
	VCVTPS2PH(Imm(0), d.AsX(), half) // 0: round to nearest even
	VPEXTRW(Imm(0), half, Mem{Base: dst})
	store(x, inv, dst)
	ADDQ(Imm(128), src)
	ADDQ(U32(bytes), dst)
	INCQ(done)
	JMP(LabelRef("block"))
	Label("end")
	Store(done, Return("done"))
	VZEROUPPER()
	RET()
}

// scalar returns a register that holds v in each lane.
func scalar(v float32) VecVirtual { return broadcast(math.Float32bits(v)) }

func quantiseQ8_0() {
	quantiseBlocks("quantiseQ8_0AVX2", "Q8_0", 34, func(_ Register, _ [4]VecVirtual, top, d VecVirtual) {
		VDIVSS(constantMem("q8_range", 127), top.AsX(), d.AsX())
	}, func(x [4]VecVirtual, inv VecVirtual, dst Register) {
		// The float32 below a half rounds what is a half and more away from zero, and
		// nothing less, once the sum is cut to a whole number.
		sign, half := constantVec("q8_sign", 1<<31), constantVec("q8_half", math.Float32bits(0.5)-1)
		for _, v := range x {
			h := YMM()
			VMULPS(inv, v, v)
			VANDPS(sign, v, h)
			VORPS(half, h, h)
			VADDPS(h, v, v)
			VCVTTPS2DQ(v, v)
		}
		a, b, order := YMM(), YMM(), YMM()
		VPACKSSDW(x[1], x[0], a)
		VPACKSSDW(x[3], x[2], b)
		VPACKSSWB(b, a, a)
		VMOVDQU(orderMem(), order)
		VPERMD(a, order, a)
		VMOVDQU(a, Mem{Base: dst, Disp: 2})
	})
}

func quantiseQ4_0() {
	quantiseBlocks("quantiseQ4_0AVX2", "Q4_0", 18, func(src Register, mags [4]VecVirtual, top, d VecVirtual) {
		// The first of the greatest magnitude gives the step its sign.
		mask := GP32()
		for i := range mags {
			part, eq := GP32(), YMM()
			VPCMPEQD(top, mags[3-i], eq)
			VMOVMSKPS(eq, part)
			if i == 0 {
				MOVL(part, mask)
			} else {
				SHLL(Imm(8), mask)
				ORL(part, mask)
			}
		}
		BSFL(mask, mask)
		VMOVSS(Mem{Base: src, Index: mask.As64(), Scale: 4}, d.AsX())
		VDIVSS(constantMem("q4_range", -8), d.AsX(), d.AsX())
	}, func(x [4]VecVirtual, inv VecVirtual, dst Register) {
		half, last := constantVec("q4_half", math.Float32bits(8.5)), constantVec("q4_last", 15)
		for _, v := range x {
			VMULPS(inv, v, v)
			VADDPS(half, v, v)
			VCVTTPS2DQ(v, v)
			VPMINSD(last, v, v)
		}
		for i := range 2 {
			VPSLLD(Imm(4), x[2+i], x[2+i])
			VPOR(x[2+i], x[i], x[i])
		}
		a, high := YMM(), XMM()
		VPACKSSDW(x[1], x[0], a)
		VPERMQ(Imm(0b11_01_10_00), a, a)
		VEXTRACTI128(Imm(1), a, high)
		VPACKUSWB(high, a.AsX(), high)
		VMOVDQU(high, Mem{Base: dst, Disp: 2})
	})
}

// constantVec is a read-only operand of eight equal dwords, constantMem of one float32.
func constantVec(name string, v uint32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(v))
	}
	return m
}

func constantMem(name string, v float32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	DATA(0, U32(math.Float32bits(v)))
	return m
}

// orderMem puts the dwords that packing within 128-bit halves mixes back in order.
func orderMem() Mem {
	m := GLOBL("q8_order", RODATA|NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}
	return m
}
