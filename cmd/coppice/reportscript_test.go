package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coppice-lm/coppice/report/reporttest"
	"github.com/coppice-lm/coppice/study"
)

// makeLedger writes the ledger of a study that nobody ran: dense, and maxabs and best at 20
// and 40 %. Each further argument METHOD=ERROR makes the cells of a method fail.
func makeLedger(ts *testscript.TestScript, args []string) error {
	g := reporttest.Small()
	g.Methods, g.Ratios, g.Layers = []string{"maxabs", "best"}, []float64{0.2, 0.4}, 2
	l := g.Ledger()
	for _, arg := range args[1:] {
		method, text, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not METHOD=ERROR", arg)
		}
		for i := range l.Records {
			if r := &l.Records[i]; r.Cell.Method == method {
				*r = study.Record{Version: r.Version, Cell: r.Cell, Status: study.Failed, Error: text}
			}
		}
	}
	b, err := l.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(ts.MkAbs(args[0]), b, 0o666)
}
