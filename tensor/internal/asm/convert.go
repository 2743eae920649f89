package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The smallest magnitudes that overflow, as in package tensor.
const (
	f16Overflow  = 0x477ff000
	bf16Overflow = 0x7f7f8000
	f32Inf       = 0x7f800000
)

// step is the number of elements that one iteration of a conversion takes.
const step = 32

func decodeF16() {
	TEXT("decodeF16AVX2", NOSPLIT, "func(dst *float32, src *byte, n int)")
	Pragma("noescape")
	Doc("decodeF16AVX2 writes n F16 as float32; n is a multiple of vectorStep.")
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	loop(n, step, func() {
		for i := range step / 8 {
			x := YMM()
			VCVTPH2PS(Mem{Base: src, Disp: 16 * i}, x)
			VMOVDQU(x, Mem{Base: dst, Disp: 32 * i})
		}
		ADDQ(U32(2*step), src)
		ADDQ(U32(4*step), dst)
	})
	VZEROUPPER()
	RET()
}

func decodeBF16() {
	TEXT("decodeBF16AVX2", NOSPLIT, "func(dst *float32, src *byte, n int)")
	Pragma("noescape")
	Doc("decodeBF16AVX2 writes n BF16 as float32; n is a multiple of vectorStep.")
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	loop(n, step, func() {
		for i := range step / 8 {
			x := YMM()
			VPMOVZXWD(Mem{Base: src, Disp: 16 * i}, x)
			VPSLLD(Imm(16), x, x)
			VMOVDQU(x, Mem{Base: dst, Disp: 32 * i})
		}
		ADDQ(U32(2*step), src)
		ADDQ(U32(4*step), dst)
	})
	VZEROUPPER()
	RET()
}

// encode16 emits the loop of an encoder to a 16-bit type; round makes 16 words, in
// order, of two vectors of float32, which it may change.
func encode16(name, typ string, limit uint32, round func(in [2]VecVirtual, out VecVirtual)) {
	TEXT(name, NOSPLIT, "func(dst *byte, src *float32, n int) (overflow bool)")
	Pragma("noescape")
	Doc(name + " rounds n float32 to " + typ + " and reports whether a finite one became infinite; n is a multiple of vectorStep.")
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	magnitude := ones()
	VPSRLD(Imm(1), magnitude, magnitude)
	below, finite := broadcast(limit-1), broadcast(f32Inf-1)
	overflow := YMM()
	VPXOR(overflow, overflow, overflow)
	loop(n, step, func() {
		for i := range step / 16 {
			in := [2]VecVirtual{YMM(), YMM()}
			for j, x := range in {
				VMOVDQU(Mem{Base: src, Disp: 32 * (2*i + j)}, x)
				mag, inf := YMM(), YMM()
				VPAND(magnitude, x, mag)
				VPCMPGTD(finite, mag, inf)
				VPCMPGTD(below, mag, mag)
				VPANDN(mag, inf, mag)
				VPOR(mag, overflow, overflow)
			}
			out := YMM()
			round(in, out)
			VMOVDQU(out, Mem{Base: dst, Disp: 32 * i})
		}
		ADDQ(U32(4*step), src)
		ADDQ(U32(2*step), dst)
	})
	r := GP8()
	VPTEST(overflow, overflow)
	SETNE(r)
	Store(r, Return("overflow"))
	VZEROUPPER()
	RET()
}

// roundBF16 rounds as f32ToBF16 of package tensor does.
func roundBF16() func(in [2]VecVirtual, out VecVirtual) {
	return func(in [2]VecVirtual, out VecVirtual) {
		one, bias, quiet := broadcastMem("one", 1), broadcastMem("bias", 0x7fff), broadcastMem("quiet", 0x40)
		for _, x := range in {
			high, rounded, nan := YMM(), YMM(), YMM()
			VPSRLD(Imm(16), x, high)
			VPAND(one, high, rounded)
			VPADDD(bias, rounded, rounded)
			VPADDD(x, rounded, rounded)
			VPSRLD(Imm(16), rounded, rounded)
			VCMPPS(Imm(3), x, x, nan) // 3: unordered
			VPOR(quiet, high, high)
			VPBLENDVB(nan, high, rounded, x)
		}
		VPACKUSDW(in[1], in[0], out)         // within each 128-bit half,
		VPERMQ(Imm(0b11_01_10_00), out, out) // so the middle quarters change places
	}
}

var constants = map[string]Mem{}

// broadcastMem returns a read-only memory operand of eight equal dwords.
func broadcastMem(name string, v uint32) Mem {
	if m, ok := constants[name]; ok {
		return m
	}
	m := GLOBL("bf16_"+name, RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(v))
	}
	constants[name] = m
	return m
}
