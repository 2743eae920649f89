// Command asm writes the AVX2 and AVX-512 code of package linalg:
//
//	go generate ./linalg
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	for name, b := range generate() {
		if err := os.WriteFile(name, b, 0o666); err != nil {
			log.Fatal(err)
		}
	}
}

// generate returns the files by name, as go generate finds them in package linalg.
func generate() map[string][]byte {
	g := build.NewContext()
	tiles(g)
	solve(g, "solveAVX2", 32, g.YMM)
	solve(g, "solveAVX512", 64, g.ZMM)
	addRows(g, "addRowsAVX2", 8, 32, g.YMM)
	addRows(g, "addRowsAVX512", 16, 64, g.ZMM)
	addFloat32(g, "addFloat32AVX2", 32, g.YMM)
	addFloat32(g, "addFloat32AVX512", 64, g.ZMM)
	file, err := g.Result()
	if err != nil {
		log.Fatal(err)
	}
	if err := pass.Compile.Execute(file); err != nil {
		log.Fatal(err)
	}
	cfg := printer.Config{Name: "internal/asm", Pkg: "linalg"}
	code, err := printer.NewGoAsm(cfg).Print(file)
	if err != nil {
		log.Fatal(err)
	}
	stub, err := printer.NewStubs(cfg).Print(file)
	if err != nil {
		log.Fatal(err)
	}
	return map[string][]byte{"tile_amd64.s": code, "tile_stub_amd64.go": stub}
}

// tiles emits the tiles of sums. A step loads a row of b and broadcasts each value of a:
// with AVX2 into a register, with AVX-512 on the way of each addition.
func tiles(g *build.Context) {
	tile(g, "tileAVX2", 4, 3, 32, g.YMM, func(x operand.Mem, by, to []reg.VecVirtual) {
		value := g.YMM()
		g.VBROADCASTSD(x, value)
		for v := range by {
			g.VFMADD231PD(by[v], value, to[v])
		}
	})
	tile(g, "tileAVX512", 8, 3, 64, g.ZMM, func(x operand.Mem, by, to []reg.VecVirtual) {
		for v := range by {
			g.VFMADD231PD_BCST(x, by[v], to[v])
		}
	})
}

// function begins one, of which doc says what it does.
func function(g *build.Context, name, signature, doc string) {
	g.Function(name)
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	g.SignatureExpr(signature)
	g.Doc(name + " " + doc)
}

// at is memory at an offset.
func at(base reg.Register, off int) operand.Mem { return operand.Mem{Base: base, Disp: off} }

// tile emits a tile of rows x (vectors of that many bytes) sums, which stay in registers.
// The rows of c that the next tile has, below these, are prefetched.
func tile(g *build.Context, name string, rows, vectors, width int, vector func() reg.VecVirtual, addRow func(x operand.Mem, by, to []reg.VecVirtual)) {
	cols := vectors * width / 8
	function(g, name, "func(c *float64, ldc int, a, b *float64, k int)", fmt.Sprintf("adds to c, %d rows of %d that are ldc apart, k > 0 steps of a product: %[1]d values of a step in a, %[2]d in b.", rows, cols))
	c, ld := g.Load(g.Param("c"), g.GP64()), g.Load(g.Param("ldc"), g.GP64())
	a, b := g.Load(g.Param("a"), g.GP64()), g.Load(g.Param("b"), g.GP64())
	k := g.Load(g.Param("k"), g.GP64())
	g.SHLQ(operand.U8(3), ld)
	row := g.GP64()
	sums := make([]reg.VecVirtual, rows*vectors)
	for i := range sums {
		sums[i] = vector()
	}
	g.MOVQ(c, row)
	for r := range rows {
		for v := range vectors {
			g.VMOVUPD(at(row, v*width), sums[r*vectors+v])
		}
		g.ADDQ(ld, row)
	}
	for range rows {
		for off := 0; off < cols*8; off += 64 {
			g.PREFETCHT0(at(row, off))
		}
		g.ADDQ(ld, row)
	}
	bs := make([]reg.VecVirtual, vectors)
	for i := range bs {
		bs[i] = vector()
	}
	g.Label("step")
	for v := range vectors {
		g.VMOVUPD(at(b, v*width), bs[v])
	}
	for r := range rows {
		addRow(at(a, 8*r), bs, sums[r*vectors:][:vectors])
	}
	g.ADDQ(operand.I32(8*rows), a)
	g.ADDQ(operand.I32(cols*8), b)
	g.DECQ(k)
	g.JNZ(operand.LabelRef("step"))
	g.MOVQ(c, row)
	for r := range rows {
		for v := range vectors {
			g.VMOVUPD(sums[r*vectors+v], at(row, v*width))
		}
		if r+1 < rows {
			g.ADDQ(ld, row)
		}
	}
	g.VZEROUPPER()
	g.RET()
}

// solve emits a step of the solution of a triangular system for many rows side by side:
// two vectors of them.
func solve(g *build.Context, name string, width int, vector func() reg.VecVirtual) {
	const vectors, chains = 2, 4
	function(g, name, "func(x, from, l *float64, n int, pivot float64)", fmt.Sprintf("replaces x, a value of each of %d rows, by (x - sum over i<n of from[i]*l[i]) / pivot; from is values like x, one after another.", vectors*width/8))
	x, from := g.Load(g.Param("x"), g.GP64()), g.Load(g.Param("from"), g.GP64())
	l, n := g.Load(g.Param("l"), g.GP64()), g.Load(g.Param("n"), g.GP64())
	var sums [chains][vectors]reg.VecVirtual
	for c := range chains {
		for v := range vectors {
			sums[c][v] = vector()
			g.VXORPD(sums[c][v], sums[c][v], sums[c][v])
		}
	}
	by := vector()
	element := func(at0 int, to [vectors]reg.VecVirtual) {
		g.VBROADCASTSD(at(l, 8*at0), by)
		for v := range vectors {
			g.VFMADD231PD(at(from, (at0*vectors+v)*width), by, to[v])
		}
	}
	advance := func(n int) {
		g.ADDQ(operand.I32(8*n), l)
		g.ADDQ(operand.I32(n*vectors*width), from)
	}
	g.Label("four")
	g.SUBQ(operand.I8(chains), n)
	g.JLT(operand.LabelRef("added"))
	for c := range chains {
		element(c, sums[c])
	}
	advance(chains)
	g.JMP(operand.LabelRef("four"))
	g.Label("added")
	for v := range vectors {
		g.VADDPD(sums[1][v], sums[0][v], sums[0][v])
		g.VADDPD(sums[3][v], sums[2][v], sums[2][v])
		g.VADDPD(sums[2][v], sums[0][v], sums[0][v])
	}
	g.ADDQ(operand.I8(chains), n)
	g.Label("one")
	g.DECQ(n)
	g.JLT(operand.LabelRef("done"))
	element(0, sums[0])
	advance(1)
	g.JMP(operand.LabelRef("one"))
	g.Label("done")
	pivot, value := vector(), vector()
	p, err := g.Param("pivot").Resolve()
	if err != nil {
		log.Fatal(err)
	}
	g.VBROADCASTSD(p.Addr, pivot)
	for v := range vectors {
		g.VMOVUPD(at(x, v*width), value)
		g.VSUBPD(sums[0][v], value, value)
		g.VDIVPD(pivot, value, value)
		g.VMOVUPD(value, at(x, v*width))
	}
	g.VZEROUPPER()
	g.RET()
}

// addRows emits the addition of multiples of rows to some vectors of sums, which stay in
// registers.
func addRows(g *build.Context, name string, vectors, width int, vector func() reg.VecVirtual) {
	function(g, name, "func(to, rows *float64, stride int, by *float64, n int)", fmt.Sprintf("adds to %d values the sum of n > 0 rows, stride apart, each times a value of by.", vectors*width/8))
	to, rows, stride := g.Load(g.Param("to"), g.GP64()), g.Load(g.Param("rows"), g.GP64()), g.Load(g.Param("stride"), g.GP64())
	by, n := g.Load(g.Param("by"), g.GP64()), g.Load(g.Param("n"), g.GP64())
	g.SHLQ(operand.U8(3), stride)
	sums := make([]reg.VecVirtual, vectors)
	for v := range sums {
		sums[v] = vector()
		g.VMOVUPD(at(to, v*width), sums[v])
	}
	x := vector()
	g.Label("next")
	g.VBROADCASTSD(at(by, 0), x)
	for v, sum := range sums {
		g.VFMADD231PD(at(rows, v*width), x, sum)
	}
	g.ADDQ(stride, rows)
	g.ADDQ(operand.I32(8), by)
	g.DECQ(n)
	g.JNZ(operand.LabelRef("next"))
	for v, sum := range sums {
		g.VMOVUPD(sum, at(to, v*width))
	}
	g.VZEROUPPER()
	g.RET()
}

// addFloat32 emits the addition of float32 to float64.
func addFloat32(g *build.Context, name string, width int, vector func() reg.VecVirtual) {
	const vectors = 4
	function(g, name, "func(to *float64, x *float32, n int)", fmt.Sprintf("adds n values, a multiple of %d, to others.", vectors*width/8))
	to, x, n := g.Load(g.Param("to"), g.GP64()), g.Load(g.Param("x"), g.GP64()), g.Load(g.Param("n"), g.GP64())
	var values [vectors]reg.VecVirtual
	for v := range values {
		values[v] = vector()
	}
	g.Label("next")
	g.SUBQ(operand.I8(vectors*width/8), n)
	g.JLT(operand.LabelRef("done"))
	for v, value := range values {
		g.VCVTPS2PD(at(x, v*width/2), value)
		g.VADDPD(at(to, v*width), value, value)
		g.VMOVUPD(value, at(to, v*width))
	}
	g.ADDQ(operand.I32(vectors*width/2), x)
	g.ADDQ(operand.I32(vectors*width), to)
	g.JMP(operand.LabelRef("next"))
	g.Label("done")
	g.VZEROUPPER()
	g.RET()
}
