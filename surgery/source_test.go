package surgery

import (
	"bytes"
	"context"
	"testing"

	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

// Tensors that are read from the program are those that it writes, rows in any stretches.
func TestSource(t *testing.T) {
	for _, refit := range []plan.RefitMethod{"", plan.LeastSquares, plan.Bias} {
		c := model(t, tensor.BF16, nil)
		st := statsOf(t, c, 5, nil)
		p := half(t, c)
		p.Layers[1].Keep = p.Layers[1].Keep[:len(p.Layers[1].Keep)/2]
		p.Layers[1].Width = len(p.Layers[1].Keep)
		prog, err := Compile(p, c, tensor.F32)
		if refit != "" {
			if err := PlanRefit(context.Background(), p, c, st, RefitOptions{Method: refit, Cap: 0.5, Damping: 0.01, Threads: 1}); err != nil {
				t.Fatal(err)
			}
			if prog, err = Compile(p, c, tensor.F32); err == nil {
				if _, err := prog.Source(c); err == nil {
					t.Errorf("%s: weights without statistics", refit)
				}
				err = prog.Attach(st, 2)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		w, err := prog.Source(c)
		if err != nil {
			t.Fatal(err)
		}
		written := written(t, c, prog)
		for _, info := range written.Tensors() {
			want, _ := values(t, written, info.Name)
			got, ok := w.Lookup(info.Name)
			if !ok || got.DType != info.DType || !got.Shape.Equal(info.Shape) {
				t.Fatalf("%q: %s is %v %v, written %v %v", refit, info.Name, got.DType, got.Shape, info.DType, info.Shape)
			}
			size := int(info.RowBytes())
			for first := 0; first < info.Rows(); first += 3 {
				n := min(3, info.Rows()-first)
				dst := make([]byte, n*size)
				if err := w.ReadRows(info.Name, dst, first, n); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(dst, want[first*size:][:n*size]) {
					t.Fatalf("%q: %s differs from row %d on", refit, info.Name, first)
				}
			}
			for _, bad := range [][3]int{{-1, 1, size}, {info.Rows(), 1, size}, {0, 1, size - 1}} {
				if err := w.ReadRows(info.Name, make([]byte, bad[2]), bad[0], bad[1]); err == nil {
					t.Errorf("%s: rows %v were read", info.Name, bad)
				}
			}
		}
		if _, ok := w.Lookup("other"); ok {
			t.Error("a tensor that is not made was found")
		}
	}
}

// Held-back text has no part in refits that are to be judged on it.
func TestHoldBack(t *testing.T) {
	c := model(t, tensor.F32, nil)
	make := func(seed uint64, hold bool) []byte {
		st := statsOf(t, c, 5, func(l int, x [][]float64) {
			for i, v := range vectors(seed+uint64(l), 50, len(x[0])) {
				copy(x[202+i], v) // the held-back part
			}
		})
		p := half(t, c)
		if err := PlanRefit(context.Background(), p, c, st, RefitOptions{Method: plan.LeastSquares, Cap: 1, Damping: 0.01, Threads: 1}); err != nil {
			t.Fatal(err)
		}
		prog, err := Compile(p, c, tensor.F32)
		if err == nil {
			err = prog.Attach(st, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		if hold {
			prog.HoldBack()
		}
		b, _ := values(t, written(t, c, prog), "model.layers.1.mlp.down_proj.weight")
		return b
	}
	if !bytes.Equal(make(90, true), make(91, true)) {
		t.Error("held-back text changes a refit that must not see it")
	}
	if bytes.Equal(make(90, false), make(91, false)) {
		t.Error("held-back text does not count in the refits of the plan")
	}
}
