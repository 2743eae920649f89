package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// unrolled is the number of vectors in flight: with one, the comparisons' latency and
// not memory would set the pace.
const unrolled = 4

// ahead prefetches the 64 bytes that come 4 KB later. The processor's own prefetchers stop at
// the ends of pages and of rows: without this two threads read 7 % less of memory. A
// prefetch beyond mapped memory does nothing.
func ahead(p Register, disp int) { PREFETCHT0(Mem{Base: p, Disp: 4096 + disp}) }

func minMax16() {
	TEXT("minMax16AVX2", NOSPLIT, "func(p *byte, n int) (lo, hi int16)")
	Pragma("noescape")
	Doc("minMax16AVX2 returns the extremes of the keys (see key16) of n 16-bit floats; n is a multiple of vectorStep, at least one.")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	mask := ones()
	VPSRLW(Imm(1), mask, mask) // 0x7fff
	lo, hi := extremes(mask)
	loop(n, 16*unrolled, func() {
		ahead(p, 0)
		ahead(p, 64)
		for i := range unrolled {
			x, flip := YMM(), YMM()
			VMOVDQU(Mem{Base: p, Disp: 32 * i}, x)
			VPSRAW(Imm(15), x, flip)
			VPAND(mask, flip, flip)
			VPXOR(flip, x, x)
			VPMINSW(x, lo[i], lo[i])
			VPMAXSW(x, hi[i], hi[i])
		}
		ADDQ(U32(32*unrolled), p)
	})
	l := fold(lo, VPMINSW, VPMINSW)
	h := fold(hi, VPMAXSW, VPMAXSW)
	// VPHMINPOSUW finds the smallest unsigned word: flipping the sign bit orders signed
	// words as unsigned ones, flipping the others too reverses the order.
	VPHMINPOSUW(flipped(l, mask, true), l)
	VPHMINPOSUW(flipped(h, mask, false), h)
	rl, rh := GP32(), GP32()
	VMOVD(l, rl)
	XORL(U32(0x8000), rl)
	VMOVD(h, rh)
	XORL(U32(0x7fff), rh)
	Store(rl.As16(), Return("lo"))
	Store(rh.As16(), Return("hi"))
	VZEROUPPER()
	RET()
}

// flipped is x with the sign bit (sign) or all the other bits of each word inverted.
func flipped(x, mask VecVirtual, sign bool) VecVirtual {
	r, m := XMM(), XMM()
	VMOVDQA(mask.AsX(), m)
	if sign {
		VPCMPEQD(m, m, m)
		VPXOR(mask.AsX(), m, m)
	}
	VPXOR(x, m, r)
	return r
}

func minMax32() {
	TEXT("minMax32AVX2", NOSPLIT, "func(p *byte, n int) (lo, hi int32)")
	Pragma("noescape")
	Doc("minMax32AVX2 returns the extremes of the keys (see key32) of n float32; n is a multiple of vectorStep, at least one.")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	mask := ones()
	VPSRLD(Imm(1), mask, mask) // 0x7fffffff
	lo, hi := extremes(mask)
	loop(n, 8*unrolled, func() {
		ahead(p, 0)
		ahead(p, 64)
		for i := range unrolled {
			x, flip := YMM(), YMM()
			VMOVDQU(Mem{Base: p, Disp: 32 * i}, x)
			VPSRAD(Imm(31), x, flip)
			VPAND(mask, flip, flip)
			VPXOR(flip, x, x)
			VPMINSD(x, lo[i], lo[i])
			VPMAXSD(x, hi[i], hi[i])
		}
		ADDQ(U32(32*unrolled), p)
	})
	store32(fold(lo, VPMINSD, VPMINSD), VPMINSD, "lo")
	store32(fold(hi, VPMAXSD, VPMAXSD), VPMAXSD, "hi")
	VZEROUPPER()
	RET()
}

// extremes returns accumulators that start at the largest and at the smallest key.
func extremes(mask VecVirtual) (lo, hi [unrolled]VecVirtual) {
	for i := range unrolled {
		lo[i], hi[i] = YMM(), YMM()
		VMOVDQA(mask, lo[i])
		VPCMPEQD(hi[i], hi[i], hi[i])
		VPXOR(mask, hi[i], hi[i])
	}
	return lo, hi
}

type op3 = func(...Op)

// fold combines the accumulators and both halves of the result, which is an XMM register.
func fold(acc [unrolled]VecVirtual, y, x op3) VecVirtual {
	for i := 1; i < unrolled; i++ {
		y(acc[i], acc[0], acc[0])
	}
	high, low := XMM(), XMM()
	VEXTRACTI128(Imm(1), acc[0], high)
	x(high, acc[0].AsX(), low)
	return low
}

// store32 reduces the four dwords of x and returns the result by name.
func store32(x VecVirtual, op op3, name string) {
	for _, order := range []uint8{0b01_00_11_10, 0b10_11_00_01} {
		t := XMM()
		VPSHUFD(U8(order), x, t)
		op(t, x, x)
	}
	g := GP32()
	VMOVD(x, g)
	Store(g, Return(name))
}

func maxMagnitude16() {
	TEXT("maxMagnitude16AVX2", NOSPLIT, "func(p *byte, n int) uint16")
	Pragma("noescape")
	Doc("maxMagnitude16AVX2 returns the largest of n words without their sign bits; n is a multiple of vectorStep.")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	mask := ones()
	VPSRLW(Imm(1), mask, mask)
	acc := zeros()
	loop(n, 16*unrolled, func() {
		for i := range unrolled {
			x := YMM()
			VPAND(Mem{Base: p, Disp: 32 * i}, mask, x)
			VPMAXSW(x, acc[i], acc[i])
		}
		ADDQ(U32(32*unrolled), p)
	})
	x := fold(acc, VPMAXSW, VPMAXSW)
	VPHMINPOSUW(flipped(x, mask, false), x)
	g := GP32()
	VMOVD(x, g)
	XORL(U32(0x7fff), g)
	Store(g.As16(), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func maxMagnitude32() {
	TEXT("maxMagnitude32AVX2", NOSPLIT, "func(p *byte, n int) uint32")
	Pragma("noescape")
	Doc("maxMagnitude32AVX2 returns the largest of n dwords without their sign bits; n is a multiple of vectorStep.")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	mask := ones()
	VPSRLD(Imm(1), mask, mask)
	acc := zeros()
	loop(n, 8*unrolled, func() {
		for i := range unrolled {
			x := YMM()
			VPAND(Mem{Base: p, Disp: 32 * i}, mask, x)
			VPMAXSD(x, acc[i], acc[i])
		}
		ADDQ(U32(32*unrolled), p)
	})
	x := fold(acc, VPMAXSD, VPMAXSD)
	for _, order := range []uint8{0b01_00_11_10, 0b10_11_00_01} {
		t := XMM()
		VPSHUFD(U8(order), x, t)
		VPMAXSD(t, x, x)
	}
	g := GP32()
	VMOVD(x, g)
	Store(g, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func zeros() (acc [unrolled]VecVirtual) {
	for i := range acc {
		acc[i] = YMM()
		VPXOR(acc[i], acc[i], acc[i])
	}
	return acc
}
