package score

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/linalg"
)

// StatsVersion is the version of the file form of Stats.
const StatsVersion = 2

// DefaultCap is the largest share of the trace of H that first tokens have unless the
// user says otherwise.
const DefaultCap = 0.5

// StatsHead says what statistics are of: everything but the sums. Two runs with the same
// head have the same sums, bit for bit.
type StatsHead struct {
	Version   int    `json:"coppice_stats"`
	Model     string `json:"model"`     // fingerprint of the checkpoint
	Tokenizer string `json:"tokenizer"` // fingerprint of the tokenizer
	Text      string `json:"text"`      // fingerprint of the rows of tokens that were run
	Documents int    `json:"documents"` // that the rows are of
	Context   int    `json:"context"`   // most tokens of a row
	Rows      string `json:"rows"`      // packed or padded
	Seed      uint64 `json:"seed"`      // of the order of the documents
	DType     string `json:"dtype"`     // precision in which the model ran
	// Body, First and Held are how many tokens the sums of that name are of, in every
	// layer.
	Body  int64 `json:"body_tokens"`
	First int64 `json:"first_tokens"`
	Held  int64 `json:"held_tokens"`

	Widths []int `json:"widths"` // neurons, one a layer
}

// Tokens is the number of tokens that were run.
func (h *StatsHead) Tokens() int64 { return h.Body + h.First + h.Held }

// Unlike says in what two heads differ, in words; empty if in nothing.
func (h *StatsHead) Unlike(o *StatsHead) string {
	var differ []string
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"version", h.Version, o.Version}, {"model", h.Model, o.Model}, {"tokenizer", h.Tokenizer, o.Tokenizer},
		{"text", h.Text, o.Text}, {"context", h.Context, o.Context}, {"rows", h.Rows, o.Rows}, {"seed", h.Seed, o.Seed},
		{"dtype", h.DType, o.DType}, {"documents", h.Documents, o.Documents}, {"tokens", fmt.Sprint(h.Body, h.First, h.Held), fmt.Sprint(o.Body, o.First, o.Held)},
		{"widths", fmt.Sprint(h.Widths), fmt.Sprint(o.Widths)},
	} {
		if f.a != f.b {
			differ = append(differ, fmt.Sprintf("%s %v instead of %v", f.name, f.a, f.b))
		}
	}
	return strings.Join(differ, ", ")
}

func (h *StatsHead) check() error {
	switch {
	case h.Version != StatsVersion:
		return fmt.Errorf("statistics of version %d; this program reads version %d; make them again with `coppice calib`", h.Version, StatsVersion)
	case len(h.Widths) == 0 || slices.Min(h.Widths) < 0 || slices.Max(h.Widths) == 0:
		return fmt.Errorf("widths %v: expected a number a layer, 0 only where others are more", h.Widths)
	case h.Body < 1 || h.First < 0 || h.Held < 0:
		return fmt.Errorf("%d, %d and %d tokens: expected at least one in the body and none below zero", h.Body, h.First, h.Held)
	}
	return nil
}

// Moments are sums over N activation vectors a of a layer (d values each, what down_proj
// receives).
type Moments struct {
	N   int64
	Sum []float64 // [d], sum of a
	// Gram is the sum of a a', the lower triangle row after row: element (i, j), j <= i, at
	// i(i+1)/2 + j. Its diagonal is the second moments times N.
	Gram []float64

	Stream Stream // of the same tokens
}

// Stream are sums over the residual stream r of a layer: what the layer hands on of a
// token, hidden_size values, with the MLP's output added.
type Stream struct {
	Energy  float64 // sum over tokens of |r|^2
	Weights float64 // sum over tokens of 1 / mean(r^2), the weight at which all have one energy
}

// add adds the sums of s to those of a.
func (a *Stream) add(s Stream) {
	a.Energy += s.Energy
	a.Weights += s.Weights
}

// NewMoments returns sums over nothing.
func NewMoments(d int) Moments {
	return Moments{Sum: make([]float64, d), Gram: make([]float64, triangle(d))}
}

// triangle is the number of elements of a lower triangle.
func triangle(d int) int { return d * (d + 1) / 2 }

// Add adds the sums of m to those of a.
func (a *Moments) Add(m Moments) {
	a.N += m.N
	for i, x := range m.Sum {
		a.Sum[i] += x
	}
	for i, x := range m.Gram {
		a.Gram[i] += x
	}
	a.Stream.add(m.Stream)
}

// Trace is the sum of the squares of all values.
func (m *Moments) Trace() float64 {
	t := 0.0
	for i := range m.Sum {
		t += m.Gram[triangle(i+1)-1]
	}
	return t
}

// LayerStats are the statistics of one layer. The tokens of the text fall into three
// classes, which are never mixed here:
//
//   - First: the first token of a row, of a document and each BOS. In trained models few
//     neurons have activations there that are larger by orders of magnitude than anywhere
//     else (arXiv 2402.17762), and the layer's output there, the attention sink, must
//     survive.
//   - Held: the other tokens of a tenth of the documents, on which choices such as the
//     damping of a refit are judged.
//   - Body: all others.
type LayerStats struct {
	Width             int
	Body, First, Held Moments
}

// NewLayerStats returns the statistics of nothing.
func NewLayerStats(width int) *LayerStats {
	return &LayerStats{Width: width, Body: NewMoments(width), First: NewMoments(width), Held: NewMoments(width)}
}

// Part says which tokens a Second is of, besides the first ones.
type Part int

// Fit leaves the held-back tokens out, AllTokens has them.
const (
	Fit Part = iota
	AllTokens
)

// Second returns H, the weighted mean of a a' (d x d, both triangles), and mu, that of a.
// All tokens have weight 1 but first tokens, whose weight is such that their share of the
// trace of H is at most limit, in [0, 1].
func (s *LayerStats) Second(part Part, limit float64, threads int) (h *linalg.Matrix, mu []float64) {
	weight, scale := s.Weights(part, limit)
	h, mu = linalg.New(s.Width, s.Width), make([]float64, s.Width)
	combined := func(body, first, held float64) float64 {
		x := body
		if part == AllTokens {
			x += held
		}
		return (x + weight*first) * scale
	}
	linalg.Parallel(threads, s.Width, func(i int) {
		at := triangle(i)
		body, first, held := s.Body.Gram[at:], s.First.Gram[at:], s.Held.Gram[at:]
		row := h.Row(i)
		for j := 0; j <= i; j++ {
			row[j] = combined(body[j], first[j], held[j])
		}
		mu[i] = combined(s.Body.Sum[i], s.First.Sum[i], s.Held.Sum[i])
	})
	h.MirrorLower()
	return h, mu
}

// Weights returns the weight that Second gives first tokens, where others have 1, and the
// inverse of the sum of all weights.
func (s *LayerStats) Weights(part Part, limit float64) (first, scale float64) {
	total, trace := float64(s.Body.N), s.Body.Trace()
	if part == AllTokens {
		total += float64(s.Held.N)
		trace += s.Held.Trace()
	}
	first = firstWeight(trace, s.First.Trace(), limit)
	if total += first * float64(s.First.N); total == 0 {
		return first, 0
	}
	return first, 1 / total
}

// HeldBack returns the mean of a a' over the held-back tokens; nil where there are none.
func (s *LayerStats) HeldBack() *linalg.Matrix {
	if s.Held.N == 0 {
		return nil
	}
	h := linalg.New(s.Width, s.Width)
	for i := range s.Width {
		row, from := h.Row(i), s.Held.Gram[triangle(i):]
		for j := 0; j <= i; j++ {
			row[j] = from[j] / float64(s.Held.N)
		}
	}
	h.MirrorLower()
	return h
}

// firstWeight is the weight in [0, 1] at which the trace of the first tokens is at most
// the share limit of the whole, whose other part is rest.
func firstWeight(rest, first, limit float64) float64 {
	if limit >= 1 || first == 0 || rest == 0 {
		return 1 // nothing to compare with
	}
	return min(1, limit/(1-limit)*rest/first)
}

// Dead lists the neurons that never fired: those whose sum of squares is zero.
func (s *LayerStats) Dead() []int {
	var dead []int
	for i := range s.Width {
		at := triangle(i+1) - 1
		if s.Body.Gram[at] == 0 && s.First.Gram[at] == 0 && s.Held.Gram[at] == 0 {
			dead = append(dead, i)
		}
	}
	return dead
}

// BodyRMS is the root of the mean square of the body's activations.
func (s *LayerStats) BodyRMS() float64 {
	return math.Sqrt(s.Body.Trace() / max(1, float64(s.Body.N)) / float64(s.Width))
}

// FirstShare is the share of the sum of squares over all tokens that first tokens have,
// uncapped.
func (s *LayerStats) FirstShare() float64 {
	first := s.First.Trace()
	all := s.Body.Trace() + s.Held.Trace() + first
	if all == 0 {
		return 0
	}
	return first / all
}

// checkFinite is an error if a sum is not a number.
func (s *LayerStats) checkFinite() error {
	for _, m := range []*Moments{&s.Body, &s.First, &s.Held} {
		for _, v := range [][]float64{m.Sum, m.Gram, {m.Stream.Energy, m.Stream.Weights}} {
			for _, x := range v {
				if x-x != 0 {
					return fmt.Errorf("holds NaN or an infinity")
				}
			}
		}
		for i := range s.Width {
			if m.Gram[triangle(i+1)-1] < 0 {
				return fmt.Errorf("neuron %d has a negative sum of squares", i)
			}
		}
	}
	return nil
}

// damp is l = damping * trace(H)/d, what is added to the diagonal of H before it is
// inverted.
func damp(h *linalg.Matrix, damping float64) float64 {
	return damping * h.Trace() / float64(h.Rows)
}
