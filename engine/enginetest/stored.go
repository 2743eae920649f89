package enginetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

// storedAs is the type in which a model hands out a tensor: projections in m.Stored,
// all else in F32.
func (m *Model) storedAs(name string) tensor.DType {
	if m.Stored != tensor.Invalid && strings.HasSuffix(name, "proj.weight") {
		return m.Stored
	}
	return tensor.F32
}

// Scales of the block types, as half-precision bits: steps that take the formula's
// weights, from -1/4 to 1/4, into the range of the quants.
const (
	step2to9   = 0x1800 // 2^-9: 128 steps
	step2to5   = 0x2800 // 2^-5: 8 steps
	minQuarter = 0xb400 // -1/4
)

// encode appends weights in a stored type. Blocks have the fixed scales above, which is
// all that a test needs: it is the same bytes that every precision reads.
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
		default:
			return nil, fmt.Errorf("the tests know no weights in %v", d)
		}
	}
	return dst, nil
}

// testStored: weights that stay in the type of the file give what the same weights
// give in float32, but for the rounding of activations; and what holds for the other
// precisions holds here: the bits do not depend on the batch, and decoding agrees.
func testStored(t *testing.T, open Opener) {
	for _, c := range []struct {
		dtype     tensor.DType
		tolerance float64 // of the largest log-probability
	}{
		{tensor.F32, 0}, {tensor.F16, 1e-5}, {tensor.BF16, 0.02}, {tensor.Q8_0, 0.02}, {tensor.Q4_0, 0.02}, {tensor.Q4_1, 0.02},
	} {
		t.Run(c.dtype.String(), func(t *testing.T) {
			m := model(t, With(TinyLlama, map[string]any{"intermediate_size": 64, "attention_bias": true}))
			m.Stored = c.dtype
			stored := open(t, m, Options{Precision: engine.Stored, Threads: 2})
			nodes := []engine.Node{next(sequence(1, 70)), next(sequence(2, 30))}
			nodes[1].Parent = 0
			got := score(t, stored, nodes...)
			want := score(t, open(t, m, Options{}), nodes...)
			for i := range nodes {
				if d := near(got[i], want[i]); !(d <= c.tolerance) {
					t.Errorf("node %d differs from float32 by %.2g of the largest log-probability", i, d)
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
