package enginetest

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"math"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

//go:embed testdata/families.json
var recorded []byte

// Recording is a tiny model and its logits as another program computed them.
type Recording struct {
	Name      string
	Config    json.RawMessage
	Tokens    []int32
	Positions []int       // of the sequence
	Logits    [][]float32 // after each of the positions, of the whole vocabulary
}

// Recordings are the tiny models of every family that tools/peers/record_families.py
// ran through transformers.
func Recordings() ([]Recording, error) {
	var file struct{ Cases []Recording }
	d := json.NewDecoder(bytes.NewReader(recorded))
	err := d.Decode(&file)
	return file.Cases, err
}

// familyTolerance bounds the difference between recorded and computed log-probabilities,
// relative to the largest of them: both programs round in float32.
const familyTolerance = 1e-5

// testFamilies compares the log-probability of every token after every recorded
// position with the recording, and the logits of decoding with it.
func testFamilies(t *testing.T, open Opener) {
	cases, err := Recordings()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			m, err := NewModel(string(c.Config))
			if err != nil {
				t.Fatal(err)
			}
			e := open(t, m, Options{})
			node := engine.Node{Parent: -1, Tokens: c.Tokens}
			vocab := m.Transformer.Vocab
			for _, p := range c.Positions {
				for token := range vocab {
					node.Targets = append(node.Targets, engine.Target{Index: p, Token: int32(token)})
				}
			}
			if len(c.Tokens) > m.Transformer.MaxPositions {
				e = open(t, m, Options{MaxLength: len(c.Tokens)})
			}
			got, err := e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{node}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range c.Positions {
				want := logSoftmax(c.Logits[i])
				row := make([]float64, vocab)
				for token := range row {
					row[token] = float64(got[0][i*vocab+token].LogProb)
				}
				compare(t, "scored", p, row, want)
				if best := argMax(c.Logits[i]); !got[0][i*vocab+best].Greedy {
					t.Errorf("position %d: token %d has the largest recorded logit, but is not greedy", p, best)
				}
			}
			logits := make([]float32, vocab)
			cache := e.NewCache()
			last := c.Positions[len(c.Positions)-1]
			for _, token := range c.Tokens[:last+1] {
				if err := cache.Append(context.Background(), []int32{token}, logits); err != nil {
					t.Fatal(err)
				}
			}
			compare(t, "decoded", last, logSoftmax(logits), logSoftmax(c.Logits[len(c.Logits)-1]))
		})
	}
}

func compare(t *testing.T, how string, position int, got, want []float64) {
	t.Helper()
	var worst, scale float64
	at := 0
	for i := range want {
		scale = max(scale, math.Abs(want[i]))
		if d := math.Abs(got[i] - want[i]); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= familyTolerance*scale) {
		t.Errorf("%s, position %d: token %d: log-probability %v, recorded %v", how, position, at, got[at], want[at])
	}
}

func logSoftmax(logits []float32) []float64 {
	most := math.Inf(-1)
	for _, v := range logits {
		most = max(most, float64(v))
	}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - most)
	}
	out := make([]float64, len(logits))
	for i, v := range logits {
		out[i] = float64(v) - most - math.Log(sum)
	}
	return out
}

// argMax is the first index of the largest value.
func argMax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}
