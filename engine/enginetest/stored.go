package enginetest

import (
	"context"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

// storedAs is the type in which a model hands out a tensor: projections in m.Stored or
// m.Apart, all else in F32.
func (m *Model) storedAs(name string) tensor.DType {
	if m.Stored == tensor.Invalid || !strings.HasSuffix(name, "proj.weight") {
		return tensor.F32
	}
	parts := strings.Split(name, ".")
	if d, ok := m.Apart[parts[len(parts)-2]]; ok {
		return d
	}
	return m.Stored
}

// Scales of the block types, as half-precision bits: steps that take the formula's
// weights, from -1/4 to 1/4, into the range of the quants.
const (
	step2to9   = 0x1800 // 2^-9: 128 steps
	step2to5   = 0x2800 // 2^-5: 8 steps
	minQuarter = 0xb400 // -1/4
)

// encode appends weights in a stored type. Blocks of the types that engines multiply by
// themselves have the fixed scales above, which is all that a test needs: it is the same
// bytes that every precision reads.
func encode(dst []byte, w []float32, d tensor.DType) ([]byte, error) {
	half := func(bits uint16) { dst = binary.LittleEndian.AppendUint16(dst, bits) }
	quant := func(v float32, scale float64, low, high float64) byte {
		return byte(int8(min(max(math.Round(float64(v)*scale), low), high)))
	}
	switch d {
	case tensor.F32:
		for _, v := range w {
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
		}
		return dst, nil
	case tensor.F16, tensor.BF16:
		b := make([]byte, len(w)*d.BlockBytes())
		err := tensor.Encode(b, w, d)
		return append(dst, b...), err
	}
	if d != tensor.Q8_0 && d != tensor.Q4_0 && d != tensor.Q4_1 {
		b := make([]byte, len(w)/d.BlockSize()*d.BlockBytes())
		err := tensor.Quantise(b, w, d)
		return append(dst, b...), err
	}
	for ; len(w) >= 32; w = w[32:] {
		switch d {
		case tensor.Q8_0:
			half(step2to9)
			for _, v := range w[:32] {
				dst = append(dst, quant(v, 1<<9, -128, 127))
			}
		case tensor.Q4_0:
			half(step2to5)
			for i := range 16 {
				dst = append(dst, quant(w[i]+0.25, 1<<5, 0, 15)|quant(w[i+16]+0.25, 1<<5, 0, 15)<<4)
			}
		case tensor.Q4_1:
			half(step2to5)
			half(minQuarter)
			for i := range 16 {
				dst = append(dst, quant(w[i]+0.25, 1<<5, 0, 15)|quant(w[i+16]+0.25, 1<<5, 0, 15)<<4)
			}
		}
	}
	return dst, nil
}

// testStored: weights that stay in the type of the file give what the same weights
// give in float32, but for the rounding of activations; and what holds for the other
// precisions holds here: the bits do not depend on the batch, and decoding agrees.
func testStored(t *testing.T, open Opener) {
	// Rows of whole blocks, and key heads with the queries of 32 columns or (one) of 256.
	narrow := With(TinyLlama, map[string]any{"intermediate_size": 64, "attention_bias": true})
	wide := With(TinyLlama, map[string]any{"hidden_size": 256, "attention_bias": true, "num_attention_heads": 8, "intermediate_size": 512, "num_hidden_layers": 2})
	oneKey := With(wide, map[string]any{"num_key_value_heads": 1})
	mixed := map[string]tensor.DType{
		"q_proj": tensor.Q8_0, "v_proj": tensor.Q5_0, "up_proj": tensor.Q4_1, "down_proj": tensor.Q6_K,
	}
	for _, c := range []struct {
		dtype     tensor.DType
		config    string
		tolerance float64 // of the largest log-probability
		apart     map[string]tensor.DType
	}{
		{tensor.F32, narrow, 0, nil}, {tensor.F16, narrow, 1e-5, nil}, {tensor.BF16, narrow, 0.02, nil},
		{tensor.Q8_0, narrow, 0.02, nil}, {tensor.Q4_0, narrow, 0.02, nil}, {tensor.Q4_1, narrow, 0.02, nil},
		{tensor.Q5_0, narrow, 0.02, nil}, {tensor.Q5_1, narrow, 0.02, nil}, {tensor.Q5_1, wide, 0.06, nil},
		{tensor.Q4_K, wide, 0.06, nil}, {tensor.Q5_K, oneKey, 0.06, nil}, {tensor.Q6_K, wide, 0.06, nil},
		{tensor.Q4_K, wide, 0.06, mixed},
	} {
		t.Run(c.dtype.String(), func(t *testing.T) {
			m := model(t, c.config)
			m.Stored, m.Apart = c.dtype, c.apart
			stored := open(t, m, Options{Precision: engine.Stored, Threads: 2})
			nodes := []engine.Node{next(sequence(1, 70)), next(sequence(2, 30))}
			nodes[1].Parent = 0
			got := score(t, stored, nodes...)
			want := score(t, open(t, m, Options{}), nodes...)
			for i := range nodes {
				d := near(got[i], want[i])
				if !(d <= c.tolerance) {
					t.Errorf("node %d differs from float32 by %.2g of the largest log-probability", i, d)
				}
				// Less than that is no rounding of activations to 8 bits.
				if c.dtype.IsBlock() && d < 1e-5 {
					t.Errorf("node %d differs from float32 by %.2g of the largest log-probability: nothing is rounded", i, d)
				}
			}
			for _, threads := range []int{1, 3} {
				other := score(t, open(t, m, Options{Precision: engine.Stored, Threads: threads}), nodes...)
				for i := range nodes {
					sameBits(t, "another number of threads", other[i], got[i])
				}
			}
			whole := next(engine.Batch{Nodes: nodes}.Path(1))
			sameBits(t, "a node and its sequence alone", got[1], score(t, stored, whole)[0][70:])
			cache := stored.NewCache()
			logits := make([]float32, 48)
			for _, token := range whole.Tokens {
				if err := cache.Append(context.Background(), []int32{token}, logits); err != nil {
					t.Fatal(err)
				}
			}
			decoded, scored := logSoftmax(logits), scoreAll(t, stored, whole.Tokens)
			for i := range scored {
				if d := math.Abs(decoded[i] - scored[i]); !(d <= decodeTolerance) {
					t.Fatalf("token %d: decoded log-probability %v, scored %v", i, decoded[i], scored[i])
				}
			}
		})
	}
}

// testRounded: weights rounded while they are loaded give what the same rounded weights
// give in float32, but for the rounding of activations.
func testRounded(t *testing.T, open Opener) {
	for _, c := range []struct {
		precision engine.Precision
		dtype     tensor.DType
		tolerance float64 // of the largest log-probability
	}{
		{engine.F16, tensor.F16, 1e-5}, {engine.Q8_0, tensor.Q8_0, 0.02}, {engine.Q4_0, tensor.Q4_0, 0.02}, {engine.Q4_1, tensor.Q4_1, 0.02},
	} {
		t.Run(c.precision.String(), func(t *testing.T) {
			config := With(TinyLlama, map[string]any{"intermediate_size": 64})
			node := next(sequence(1, 100))
			got := score(t, open(t, model(t, config), Options{Precision: c.precision}), node)[0]
			unrounded := score(t, open(t, model(t, config), Options{}), node)[0]
			m := model(t, config)
			for name, w := range m.Weights {
				d := c.dtype
				switch {
				case strings.HasSuffix(name, "norm.weight"):
					continue
				case d.IsBlock() && !strings.HasSuffix(name, "proj.weight"):
					d = tensor.Q8_0 // embedding and head
				}
				if err := round(w, d); err != nil {
					t.Fatal(err)
				}
			}
			want := score(t, open(t, m, Options{}), node)[0]
			if d := near(got, want); !(d <= c.tolerance) {
				t.Errorf("differs from float32 with rounded weights by %.2g of the largest log-probability", d)
			}
			// The 8 bits of weights are no coarser than those of activations.
			if c.dtype != tensor.Q8_0 && near(got, want) >= near(got, unrounded) {
				t.Errorf("rounded weights in float32 are %.2g away, those that were not rounded %.2g", near(got, want), near(got, unrounded))
			}
		})
	}
}

// round gives weights the values that they have in a stored type.
func round(w []float32, d tensor.DType) error {
	b := make([]byte, len(w)/d.BlockSize()*d.BlockBytes())
	encode := tensor.Encode
	if d.IsBlock() {
		encode = tensor.Quantise
	}
	if err := encode(b, w, d); err != nil {
		return err
	}
	return tensor.Decode(w, b, d)
}
