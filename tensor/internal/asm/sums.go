package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lanes is the number of partial sums of each kind, as in package tensor.
const lanes = 16

// sums emits the accumulation of sum, absolute sum and sum of squares; load widens the
// four elements at p to float64. A square of at most 24 significant bits is exact in
// float64, so that the fused multiply-add rounds as a product and a sum do.
func sums(name, typ string, size int, load func(p Mem, x VecVirtual)) {
	TEXT(name, NOSPLIT, "func(acc *[48]float64, p *byte, n int)")
	Pragma("noescape")
	Doc(name + " adds n " + typ + " to acc; n is a multiple of vectorStep.")
	a, p, n := Load(Param("acc"), GP64()), Load(Param("p"), GP64()), Load(Param("n"), GP64())
	var acc [3 * lanes / 4]VecVirtual
	for i := range acc {
		acc[i] = YMM()
		VMOVUPD(Mem{Base: a, Disp: 32 * i}, acc[i])
	}
	mask := ones()
	VPSRLQ(Imm(1), mask, mask)
	loop(n, lanes, func() {
		for i := range lanes / 4 {
			sum, abs, square := acc[i], acc[lanes/4+i], acc[2*lanes/4+i]
			x, mag := YMM(), YMM()
			load(Mem{Base: p, Disp: 4 * size * i}, x)
			VADDPD(x, sum, sum)
			VANDPD(mask, x, mag)
			VADDPD(mag, abs, abs)
			VFMADD231PD(x, x, square)
		}
		ADDQ(U32(uint32(lanes*size)), p)
	})
	for i := range acc {
		VMOVUPD(acc[i], Mem{Base: a, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}

// sums512 is sums with eight lanes to a register: of 16-bit floats twice as fast, which two
// threads need to keep up with memory. For float32 memory is the limit at four lanes.
func sums512(name, typ string, size int, load func(p Mem, x VecVirtual)) {
	TEXT(name, NOSPLIT, "func(acc *[48]float64, p *byte, n int)")
	Pragma("noescape")
	Doc(name + " adds n " + typ + " to acc; n is a multiple of vectorStep.")
	a, p, n := Load(Param("acc"), GP64()), Load(Param("p"), GP64()), Load(Param("n"), GP64())
	var acc [3 * lanes / 8]VecVirtual
	for i := range acc {
		acc[i] = ZMM()
		VMOVUPD(Mem{Base: a, Disp: 64 * i}, acc[i])
	}
	mask := ZMM()
	VPTERNLOGQ(Imm(0xff), mask, mask, mask)
	VPSRLQ(Imm(1), mask, mask)
	loop(n, lanes, func() {
		ahead(p, 0)
		for i := range lanes / 8 {
			sum, abs, square := acc[i], acc[lanes/8+i], acc[2*lanes/8+i]
			x, mag := ZMM(), ZMM()
			load(Mem{Base: p, Disp: 8 * size * i}, x)
			VADDPD(x, sum, sum)
			VPANDQ(mask, x, mag)
			VADDPD(mag, abs, abs)
			VFMADD231PD(x, x, square)
		}
		ADDQ(U32(uint32(lanes*size)), p)
	})
	for i := range acc {
		VMOVUPD(acc[i], Mem{Base: a, Disp: 64 * i})
	}
	VZEROUPPER()
	RET()
}
