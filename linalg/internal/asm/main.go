// Command asm writes the AVX2 code of package linalg:
//
//	go generate ./linalg
package main

import (
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
	tile(g)
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

// tile emits the tile of 4 x 8 sums: two vectors a row stay in registers while each step
// loads eight values of b and broadcasts four of a.
func tile(g *build.Context) {
	const rows, width = 4, 32 // width: bytes of a vector
	g.Function("tileAVX2")
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	g.SignatureExpr("func(c *float64, ldc int, a, b *float64, k int)")
	g.Doc("tileAVX2 adds to c, rows of 8 that are ldc apart, k > 0 steps of a product: 4 values of a step in a, 8 in b.")
	c, ld := g.Load(g.Param("c"), g.GP64()), g.Load(g.Param("ldc"), g.GP64())
	a, b := g.Load(g.Param("a"), g.GP64()), g.Load(g.Param("b"), g.GP64())
	k := g.Load(g.Param("k"), g.GP64())
	at := func(base reg.Register, off int) operand.Mem { return operand.Mem{Base: base, Disp: off} }
	g.SHLQ(operand.U8(3), ld)
	row := g.GP64()
	var sums [2 * rows]reg.VecVirtual
	each := func(f func(r int)) {
		g.MOVQ(c, row)
		for r := range rows {
			f(r)
			if r+1 < rows {
				g.ADDQ(ld, row)
			}
		}
	}
	for i := range sums {
		sums[i] = g.YMM()
	}
	each(func(r int) {
		g.VMOVUPD(at(row, 0), sums[2*r])
		g.VMOVUPD(at(row, width), sums[2*r+1])
	})
	b0, b1 := g.YMM(), g.YMM()
	x := [2]reg.VecVirtual{g.YMM(), g.YMM()}
	g.Label("step")
	g.VMOVUPD(at(b, 0), b0)
	g.VMOVUPD(at(b, width), b1)
	for r := range rows {
		g.VBROADCASTSD(at(a, 8*r), x[r%2])
		g.VFMADD231PD(b0, x[r%2], sums[2*r])
		g.VFMADD231PD(b1, x[r%2], sums[2*r+1])
	}
	g.ADDQ(operand.I32(8*rows), a)
	g.ADDQ(operand.I32(2*width), b)
	g.DECQ(k)
	g.JNZ(operand.LabelRef("step"))
	each(func(r int) {
		g.VMOVUPD(sums[2*r], at(row, 0))
		g.VMOVUPD(sums[2*r+1], at(row, width))
	})
	g.VZEROUPPER()
	g.RET()
}
