package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// latticeSums emits the search's inner loop: eight sub-blocks lie side by side, one a lane,
// so that every lane adds up its own elements in order and nothing is added across lanes.
// Products and sums are rounded one by one, as the twin's.
func latticeSums() {
	TEXT("latticeSumsAVX2", NOSPLIT, "func(r, x, w *float32, n int, base, inv *float32, lo, hi float32)")
	Pragma("noescape")
	Doc("latticeSumsAVX2 rounds (x-base)*inv to whole numbers q within [lo, hi] and stores the sums",
		"of w*q, w*q*q and w*q*(x-base) of eight lanes at r; n, the floats at x, is a multiple of 8.")
	r, x, w, n := Load(Param("r"), GP64()), Load(Param("x"), GP64()), Load(Param("w"), GP64()), Load(Param("n"), GP64())
	lane := func(param string) VecVirtual {
		p, v := Load(Param(param), GP64()), YMM()
		VMOVUPS(Mem{Base: p}, v)
		return v
	}
	base, inv := lane("base"), lane("inv")
	bound := func(param string) VecVirtual {
		s, v := XMM(), YMM()
		Load(Param(param), s)
		VBROADCASTSS(s, v)
		return v
	}
	lo, hi := bound("lo"), bound("hi")
	var acc [3]VecVirtual
	for i := range acc {
		acc[i] = YMM()
		VXORPS(acc[i], acc[i], acc[i])
	}
	loop(n, 8, func() {
		y, q, wq, p := YMM(), YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: x}, y)
		VSUBPS(base, y, y)
		VMULPS(inv, y, q)
		VMAXPS(lo, q, q)
		VMINPS(hi, q, q)
		VROUNDPS(Imm(8), q, q) // 8: to nearest, ties to even, no exception
		VMULPS(Mem{Base: w}, q, wq)
		VADDPS(wq, acc[0], acc[0])
		VMULPS(wq, q, p)
		VADDPS(p, acc[1], acc[1])
		VMULPS(wq, y, p)
		VADDPS(p, acc[2], acc[2])
		ADDQ(Imm(32), x)
		ADDQ(Imm(32), w)
	})
	for i := range acc {
		VMOVUPS(acc[i], Mem{Base: r, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}
