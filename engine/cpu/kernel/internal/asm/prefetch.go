package main

import "github.com/mmcloughlin/avo/operand"

// prefetch emits the kernels of prefetch.go.
func prefetch(g *gen) {
	g.function("pauseAVX2", "func()", "tells the core that it is in a loop that waits.", func() { g.PAUSE() })
	g.function("prefetchAVX2", "func(p *byte, n int)", "asks for the cache lines at p, p+64, ... before p+n; n is positive.", func() {
		p, n := g.arg("p"), g.arg("n")
		g.Label("loop")
		g.PREFETCHT0(mem(p, 0))
		g.ADDQ(operand.I32(64), p)
		g.SUBQ(operand.I32(64), n)
		g.JG(operand.LabelRef("loop"))
	})
}
