package cpu

import (
	"math"

	"github.com/coppice-lm/coppice/arch"
)

// ropeTable is the cosines and sines of one rotary embedding: those of position p are
// the half values from p*half on.
type ropeTable struct {
	half     int
	cos, sin []float32
}

// at returns the cosines and sines of a position.
func (t *ropeTable) at(position int) (cos, sin []float32) {
	i, j := position*t.half, (position+1)*t.half
	return t.cos[i:j], t.sin[i:j]
}

// ropeTables makes tables as they are needed and keeps those of regimes 0 and 1. The
// others belong to one length each.
type ropeTables struct {
	model *arch.Transformer
	kept  map[ropeKey]*ropeTable
}

type ropeKey struct{ rope, regime int }

// get returns the table of a rotary embedding that covers n positions.
func (r *ropeTables) get(key ropeKey, n int) *ropeTable {
	t := r.kept[key]
	if t == nil {
		t = &ropeTable{half: r.model.Ropes[key.rope].Dim / 2}
		if key.regime <= 1 {
			if r.kept == nil {
				r.kept = map[ropeKey]*ropeTable{}
			}
			r.kept[key] = t
		}
	}
	if have := len(t.cos) / max(t.half, 1); have < n {
		r.extend(t, key, have, n)
	}
	return t
}

// extend computes positions have to n. The angle is rounded to float32 before its
// cosine is taken, as the reference does.
func (r *ropeTables) extend(t *ropeTable, key ropeKey, have, n int) {
	rope := &r.model.Ropes[key.rope]
	length := key.regime // a dynamic regime is a length
	switch key.regime {
	case 0:
		length = 1
	case 1:
		length = rope.OriginalLength + 1
	}
	frequencies, scale := rope.Frequencies(length)
	for p := have; p < n; p++ {
		for _, f := range frequencies {
			sin, cos := math.Sincos(float64(float32(p) * f))
			t.cos = append(t.cos, float32(cos)*scale)
			t.sin = append(t.sin, float32(sin)*scale)
		}
	}
}
