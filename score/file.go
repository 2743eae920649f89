package score

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"

	"github.com/coppice-lm/coppice/internal/parallel"
)

// Encode returns the file form: JSON with one line a layer. Floats have the digits that
// read back to the same float32.
func (s *Scores) Encode() ([]byte, error) {
	head, err := json.Marshal(struct {
		*Scores
		Layers any `json:"layers,omitempty"`
		Curves any `json:"error_curves,omitempty"`
	}{Scores: s})
	if err != nil {
		return nil, err
	}
	// On one thread the digits take a quarter of the time in which the weights are read.
	lines := make([][]byte, len(s.Layers))
	if err := parallel.Each(context.Background(), runtime.GOMAXPROCS(0), len(lines), func(_, l int) (err error) {
		lines[l], err = appendLayer(lines[l], s.Layers[l])
		if err != nil {
			err = fmt.Errorf("layer %d, %w", l, err)
		}
		return err
	}); err != nil {
		return nil, err
	}
	size := len(head) + 64
	for _, line := range lines {
		size += len(line) + 1
	}
	b := append(make([]byte, 0, size), head[:len(head)-1]...)
	b = append(b, `,"layers":[`...)
	for l, line := range lines {
		if l > 0 {
			b = append(b, ',')
		}
		b = append(b, line...)
	}
	b = append(b, "\n]"...)
	if s.Curves != nil {
		curves, err := json.Marshal(s.Curves)
		if err != nil {
			return nil, fmt.Errorf("the error curves: %w", err)
		}
		b = append(append(b, ",\n\"error_curves\":"...), curves...)
	}
	return append(b, "}\n"...), nil
}

// appendLayer appends a layer's line.
func appendLayer(b []byte, layer []float32) ([]byte, error) {
	b = append(slices.Grow(b, 16*len(layer)), "\n["...)
	for j, v := range layer {
		if j > 0 {
			b = append(b, ',')
		}
		if v-v != 0 {
			return nil, fmt.Errorf("neuron %d: the score %v is not finite", j, v)
		}
		b = strconv.AppendFloat(b, float64(v), 'g', -1, 32)
	}
	return append(b, ']'), nil
}

// Decode reads the file form and holds it against itself: version, method, and scores
// that are numbers.
func Decode(b []byte) (*Scores, error) {
	var s Scores
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("not a file of scores: %w", err)
	}
	if s.Version != Version {
		return nil, fmt.Errorf("key \"coppice_scores\" is %d; this program reads version %d", s.Version, Version)
	}
	if _, err := ParseMethod(string(s.Method)); err != nil {
		return nil, err
	}
	if len(s.Layers) == 0 {
		return nil, fmt.Errorf("key \"layers\" is empty")
	}
	if s.Method.Calibrated() != (s.Calibration != nil) {
		return nil, fmt.Errorf("key \"calibration\" does not go with method %q", s.Method)
	}
	for l, layer := range s.Layers {
		if layer == nil { // an empty list is a layer without MLP
			return nil, fmt.Errorf("layer %d has no scores", l)
		}
		for j, v := range layer {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("layer %d, neuron %d: the score is not finite", l, j)
			}
		}
	}
	if s.Curves != nil {
		if err := s.Curves.check(s.Layers); err != nil {
			return nil, fmt.Errorf("key \"error_curves\": %w", err)
		}
	}
	return &s, nil
}

// check holds curves of a file against the scores they are of.
func (c *Curves) check(layers [][]float32) error {
	if len(c.Layers) != len(layers) {
		return fmt.Errorf("is of %d layers, \"layers\" of %d", len(c.Layers), len(layers))
	}
	for l, curve := range c.Layers {
		want := len(layers[l]) + 1
		if len(curve.Fit) != want || len(curve.Cut) != want || len(curve.Held) != 0 && len(curve.Held) != want {
			return fmt.Errorf("layer %d has curves of %d, %d and %d numbers, expected %d for %d neurons", l, len(curve.Fit), len(curve.Held), len(curve.Cut), want, want-1)
		}
		for _, numbers := range [][]float32{curve.Fit, curve.Held, curve.Cut} {
			if i := slices.IndexFunc(numbers, func(x float32) bool { return !(x >= 0) || math.IsInf(float64(x), 0) }); i >= 0 {
				return fmt.Errorf("layer %d: an error of %v with %d neurons", l, numbers[i], i)
			}
		}
		if !(curve.BodyStream >= 0) || !(curve.HeldStream >= 0) {
			return fmt.Errorf("layer %d: the residual stream has energies of %v and %v", l, curve.BodyStream, curve.HeldStream)
		}
	}
	return nil
}
