package cpu

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/enginetest"
	"github.com/coppice-lm/coppice/tensor"
)

// roundedTo is x rounded to 8 bits in blocks of size: what activations are in a product
// with weights in such blocks.
func roundedTo(t *testing.T, x []float32, size int) []float64 {
	t.Helper()
	y := make([]float64, len(x))
	for b := 0; b < len(x); b += size {
		top := float32(0)
		for _, v := range x[b : b+size] {
			top = max(top, v, -v)
		}
		d := []float32{top / 127}
		if size == 32 { // steps are in half precision
			half := make([]byte, 2)
			if err := tensor.Encode(half, d, tensor.F16); err != nil {
				t.Fatal(err)
			}
			if err := tensor.Decode(d, half, tensor.F16); err != nil {
				t.Fatal(err)
			}
		}
		for i, v := range x[b : b+size] {
			y[b+i] = math.RoundToEven(float64(v*(127/top))) * float64(d[0])
		}
	}
	return y
}

// product is x W' in float64.
func product(x []float64, w []float32, n, in, out int) []float64 {
	y := make([]float64, n*out)
	for r := range n {
		for o := range out {
			for i := range in {
				y[r*out+o] += x[r*in+i] * float64(w[o*in+i])
			}
		}
	}
	return y
}

// farthest is the largest difference.
func farthest(got []float32, want []float64) float64 {
	worst := 0.0
	for i := range want {
		worst = max(worst, math.Abs(float64(got[i])-want[i]))
	}
	return worst
}

// Weights in blocks that have no product of their own are multiplied with activations
// that are rounded in blocks of the same size, whether rows are rounded as a whole or in
// parts.
func TestStoredProduct(t *testing.T) {
	const in = 512
	for stored, size := range map[tensor.DType]int{
		tensor.Q5_0: 32, tensor.Q5_1: 32, tensor.Q4_K: 256, tensor.Q5_K: 256, tensor.Q6_K: 256,
	} {
		s := sourceOf(t, stored, in)
		l := newLoader(s, engine.Stored)
		m := l.matrix(in, whole)
		if l.err != nil {
			t.Fatal(l.err)
		}
		w := make([]float32, testRows*in)
		if err := tensor.Decode(w, s.data, stored); err != nil {
			t.Fatal(err)
		}
		e := &Engine{takes: l.takes}
		for _, n := range []int{1, fewRows + 1, 40} {
			x := e.sized(rows{}, n, in)
			if x.grain() != size {
				t.Fatalf("%v: parts of rows begin at multiples of %d, expected %d", stored, x.grain(), size)
			}
			exact := make([]float64, n*in)
			for i := range x.values {
				x.values[i] = float32(math.Sin(float64(7*i*i%997))) * float32(1+i%13)
				exact[i] = float64(x.values[i])
			}
			want := product(roundedTo(t, x.values, size), w, n, in, testRows)
			unrounded := product(exact, w, n, in, testRows)
			check := func(what string) {
				t.Helper()
				y := make([]float32, n*testRows)
				m.region(y, testRows, x, region{0, n, 0, testRows})
				if d, far := farthest(y, want), farthest(y, unrounded); d > 1e-3 || far < 10*d {
					t.Errorf("%v, %d rows, %s: %.2g from the product of rounded activations, %.2g from that of others", stored, n, what, d, far)
				}
			}
			x.round(0, n)
			check("rounded as a whole")
			clear(x.by32)
			clear(x.by256)
			x.roundRegion(region{0, n, 0, size})
			x.roundRegion(region{0, n, size, in})
			check("rounded in parts")
		}
	}
}

// several are tensors of one shape in types of their own.
type several map[string]source

func (s several) Lookup(name string) (tensor.Info, bool) {
	one, ok := s[name]
	return one.info, ok
}

func (s several) ReadRows(name string, dst []byte, first, n int) error {
	return s[name].ReadRows(name, dst, first, n)
}

// Parts that follow one another in one type are one matrix, each with the product of its
// type; other precisions have one type, and one matrix.
func TestStoredParts(t *testing.T) {
	const in = 256
	for _, c := range []struct {
		types []tensor.DType
		rows  []int // of the matrices
	}{
		{[]tensor.DType{tensor.Q4_K, tensor.Q4_K, tensor.Q4_K}, []int{3 * testRows}},
		{[]tensor.DType{tensor.Q4_K, tensor.Q4_K, tensor.Q6_K}, []int{2 * testRows, testRows}},
		{[]tensor.DType{tensor.Q5_0, tensor.Q4_K, tensor.F32}, []int{testRows, testRows, testRows}},
	} {
		src := several{}
		var parts []arch.Projection
		for i, d := range c.types {
			name := fmt.Sprint(i)
			s := sourceOf(t, d, in)
			s.info.Name = name
			src[name] = s
			parts = append(parts, arch.Projection{Weight: name, Rows: testRows, OfRows: testRows})
		}
		l := &loader{ctx: t.Context(), src: src, precision: engine.Stored, pool: &pool{threads: 1}, readers: []rowReader{{src: src}}}
		got := l.matrices(in, parts...)
		if l.err != nil || len(got) != len(c.rows) {
			t.Fatalf("%v: %d matrices, error %v; expected %d", c.types, len(got), l.err, len(c.rows))
		}
		part := 0
		for i, m := range got {
			if m.out != c.rows[i] {
				t.Errorf("%v: matrix %d has %d rows, expected %d", c.types, i, m.out, c.rows[i])
			}
			row, want := make([]float32, in), make([]float32, testRows*in)
			for o := range m.out {
				if o%testRows == 0 {
					if err := tensor.Decode(want, src[fmt.Sprint(part)].data, c.types[part]); err != nil {
						t.Fatal(err)
					}
					part++
				}
				m.Row(o, row)
				for j, v := range row {
					if v != want[o%testRows*in+j] {
						t.Fatalf("%v: matrix %d, row %d, element %d is %v, expected %v", c.types, i, o, j, v, want[o%testRows*in+j])
					}
				}
			}
		}
		l.precision = engine.F16
		if one := l.matrices(in, parts...); len(one) != 1 || one[0].out != 3*testRows {
			t.Errorf("%v in f16: %d matrices", c.types, len(one))
		}
	}
}

// In a whole model each product has the rounding of its own weights: an MLP is what its
// formula gives in float64 for the input that an observer sees, and an observer changes
// nothing.
func TestStoredMLP(t *testing.T) {
	const hidden, width, n = 256, 768, 70
	config := enginetest.With(enginetest.TinyLlama, map[string]any{
		"hidden_size": hidden, "intermediate_size": width, "num_attention_heads": 8, "num_hidden_layers": 2,
	})
	m, err := enginetest.NewModel(config)
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]tensor.DType{"gate": tensor.Q5_0, "up": tensor.Q4_K, "down": tensor.Q6_K}
	m.Stored, m.Apart = tensor.Q5_1, map[string]tensor.DType{}
	for name, d := range types {
		m.Apart[name+"_proj"] = d
	}
	e, err := New(t.Context(), m.Transformer, m, Options{Precision: engine.Stored, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	node := engine.Node{Parent: -1}
	for i := range n {
		node.Tokens = append(node.Tokens, int32(i*i%47))
		node.Targets = append(node.Targets, engine.Target{Index: i, Token: int32(i % 48)})
	}
	batch := engine.Batch{Nodes: []engine.Node{node}}
	weights := func(layer int, name string) []float32 {
		full := fmt.Sprintf("model.layers.%d.mlp.%s_proj.weight", layer, name)
		info, _ := m.Lookup(full)
		size, err := info.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		b, w := make([]byte, size), make([]float32, info.Rows()*info.RowElements())
		if err := m.ReadRows(full, b, 0, info.Rows()); err != nil {
			t.Fatal(err)
		}
		if err := tensor.Decode(w, b, info.DType); err != nil {
			t.Fatal(err)
		}
		return w
	}
	check := func(what string, layer int, got []float32, rounded, unrounded []float64) {
		scale := 0.0
		for _, v := range rounded {
			scale = max(scale, math.Abs(v))
		}
		if d, far := farthest(got, rounded)/scale, farthest(got, unrounded)/scale; d > 1e-5 || far < 10*d {
			t.Errorf("layer %d, %s: %.2g of the largest from the product of rounded values, %.2g from that of others", layer, what, d, far)
		}
	}
	layers := 0
	observed, err := e.Score(context.Background(), batch, func(mlp engine.MLP) error {
		layers++
		rows := len(mlp.Rows)
		values := func(x []float32, name string, in, out int) (rounded, unrounded []float64) {
			w, exact := weights(mlp.Layer, name), make([]float64, len(x))
			for i, v := range x {
				exact[i] = float64(v)
			}
			return product(roundedTo(t, x, types[name].BlockSize()), w, rows, in, out), product(exact, w, rows, in, out)
		}
		gate, plainGate := values(mlp.Input, "gate", hidden, width)
		up, plainUp := values(mlp.Input, "up", hidden, width)
		for i, v := range gate {
			gate[i] = v / (1 + math.Exp(-v)) * up[i]
			plainGate[i] = plainGate[i] / (1 + math.Exp(-plainGate[i])) * plainUp[i]
		}
		check("gate and up", mlp.Layer, mlp.Activations, gate, plainGate)
		down, plainDown := values(mlp.Activations, "down", width, hidden)
		check("down", mlp.Layer, mlp.Output, down, plainDown)
		return nil
	})
	if err != nil || layers != 2 {
		t.Fatalf("%d layers were seen, error %v", layers, err)
	}
	scores, err := e.Score(context.Background(), batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range scores[0] {
		if s != observed[0][i] {
			t.Fatalf("token %d: %v, observed %v", i, s, observed[0][i])
		}
	}
}
