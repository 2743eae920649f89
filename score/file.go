package score

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Encode returns the file form: JSON with one line a layer. Floats have the digits that
// read back to the same float32.
func (s *Scores) Encode() ([]byte, error) {
	head, err := json.Marshal(struct {
		*Scores
		Layers any `json:"layers,omitempty"`
	}{Scores: s})
	if err != nil {
		return nil, err
	}
	b := append(head[:len(head)-1], `,"layers":[`...)
	for l, layer := range s.Layers {
		if l > 0 {
			b = append(b, ',')
		}
		b = append(b, "\n["...)
		for j, v := range layer {
			if j > 0 {
				b = append(b, ',')
			}
			if v-v != 0 {
				return nil, fmt.Errorf("layer %d, neuron %d: the score %v is not finite", l, j, v)
			}
			b = strconv.AppendFloat(b, float64(v), 'g', -1, 32)
		}
		b = append(b, ']')
	}
	return append(b, "\n]}\n"...), nil
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
	if len(s.Curves) != 0 && len(s.Curves) != len(s.Layers) {
		return nil, fmt.Errorf("key \"curves\" is of %d layers, \"layers\" of %d", len(s.Curves), len(s.Layers))
	}
	for l, layer := range s.Layers {
		if len(layer) == 0 {
			return nil, fmt.Errorf("layer %d has no scores", l)
		}
		for j, v := range layer {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("layer %d, neuron %d: the score is not finite", l, j)
			}
		}
	}
	return &s, nil
}
