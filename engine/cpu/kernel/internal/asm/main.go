// Asm writes the amd64 assembly of package kernel and its Go declarations.
//
// Run it through go generate in the package's directory. Each family of kernels is a
// function here and a file there. Instructions that avo does not know are emitted as
// bytes. The product does not import this package.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

// family is one pair of generated files, NAME_amd64.s and NAME_stub_amd64.go.
type family struct {
	dir  string // relative to the directory of package kernel
	pkg  string
	name string
	emit func(g *gen)
}

var families = []family{
	{".", "kernel", "matmul", matmul},
	{".", "kernel", "convert", convert},
	{".", "kernel", "exp", exponential},
	{".", "kernel", "activation", activation},
	{".", "kernel", "norm", norm},
	{".", "kernel", "elementwise", elementwise},
	{".", "kernel", "attention", attention},
	{".", "kernel", "quant", quant},
	{".", "kernel", "few", few},
	{".", "kernel", "prefetch", prefetch},
	{"internal/peak", "peak", "peak", peak},
}

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", ".", "directory of package kernel")
	flag.Parse()
	for _, f := range families {
		files, err := f.generate()
		if err != nil {
			log.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(*dir, name), text, 0o666); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// generate returns the family's files by name, relative to package kernel.
func (f family) generate() (map[string][]byte, error) {
	ctx := build.NewContext()
	f.emit(&gen{Context: ctx})
	file, err := ctx.Result()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	if err := pass.Compile.Execute(file); err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	cfg := printer.Config{Name: "internal/asm", Pkg: f.pkg}
	asm, err1 := printer.NewGoAsm(cfg).Print(file)
	stub, err2 := printer.NewStubs(cfg).Print(file)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return map[string][]byte{
		filepath.Join(f.dir, f.name+"_amd64.s"):       asm,
		filepath.Join(f.dir, f.name+"_stub_amd64.go"): stub,
	}, nil
}
