package arch

import (
	"encoding/json"
	"fmt"
	"math"
)

// Rope is a rotary position embedding: the first Dim values of a head are Dim/2 pairs
// (i, i+Dim/2), and the pair i at position p is turned by the angle p*Frequencies[i].
// The scalings are those of transformers' modeling_rope_utils: linear (position
// interpolation), dynamic (NTK by length), llama3 (by wavelength), yarn (arXiv
// 2309.00071) and longrope (arXiv 2402.13753).
type Rope struct {
	Dim   int // rotated values of a head, even
	Theta float64
	Type  RopeType

	Factor         float64
	OriginalLength int     // positions before scaling (llama3, yarn, longrope, dynamic)
	LowFreq        float64 // llama3: low_freq_factor
	HighFreq       float64 // llama3: high_freq_factor
	BetaFast       float64 // yarn
	BetaSlow       float64 // yarn
	Truncate       bool    // yarn: whole dimensions bound the ramp
	Attention      float64 // yarn, longrope: multiplies sine and cosine
	ShortFactors   []float64
	LongFactors    []float64
}

// RopeType is the way frequencies are scaled.
type RopeType string

// The types, as rope_type spells them.
const (
	RopeDefault RopeType = "default"
	RopeLinear  RopeType = "linear"
	RopeDynamic RopeType = "dynamic"
	RopeLlama3  RopeType = "llama3"
	RopeYarn    RopeType = "yarn"
	RopeLong    RopeType = "longrope"
)

// Regime numbers the sets of frequencies: sequences of lengths with equal regimes are
// rotated alike, so that what was computed for one can serve the other. Only dynamic
// and longrope have more than regime 0.
func (r *Rope) Regime(length int) int {
	switch {
	case length <= r.OriginalLength:
		return 0
	case r.Type == RopeDynamic:
		return length
	case r.Type == RopeLong:
		return 1
	}
	return 0
}

// Frequencies returns the Dim/2 angles per position, in radians, for sequences of that
// many tokens, and the factor that multiplies sine and cosine. Rounding follows the
// reference, which keeps frequencies in float32.
func (r *Rope) Frequencies(length int) (perPosition []float32, scale float32) {
	theta := r.Theta
	if r.Type == RopeDynamic && length > r.OriginalLength {
		stretch := r.Factor*float64(length)/float64(r.OriginalLength) - (r.Factor - 1)
		theta *= math.Pow(stretch, float64(r.Dim)/float64(r.Dim-2))
	}
	perPosition = make([]float32, r.Dim/2)
	low, high := r.yarnRamp()
	for i := range perPosition {
		period := float32(math.Pow(theta, float64(float32(2*i)/float32(r.Dim))))
		f := float64(1 / period)
		switch r.Type {
		case RopeLinear:
			f /= r.Factor
		case RopeLlama3:
			f = r.llama3(f)
		case RopeYarn:
			interpolate := min(max((float64(i)-low)/(high-low), 0), 1)
			f = f/r.Factor*interpolate + f*(1-interpolate)
		case RopeLong:
			factors := r.ShortFactors
			if r.Regime(length) == 1 {
				factors = r.LongFactors
			}
			f = 1 / (factors[i] * float64(period))
		}
		perPosition[i] = float32(f)
	}
	if r.Attention != 0 {
		return perPosition, float32(r.Attention)
	}
	return perPosition, 1
}

// llama3 leaves short wavelengths alone, divides long ones by Factor, and blends those
// in between.
func (r *Rope) llama3(f float64) float64 {
	turns := float64(r.OriginalLength) * f / (2 * math.Pi) // in the original context
	switch {
	case turns > r.HighFreq:
		return f
	case turns < r.LowFreq:
		return f / r.Factor
	}
	keep := (turns - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return (1-keep)*f/r.Factor + keep*f
}

// yarnRamp is the range of pairs over which yarn goes from keeping to interpolating:
// those that turn BetaFast and BetaSlow times in the original context.
func (r *Rope) yarnRamp() (low, high float64) {
	if r.Type != RopeYarn {
		return 0, 1
	}
	pairTurning := func(turns float64) float64 {
		return float64(r.Dim) * math.Log(float64(r.OriginalLength)/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high = pairTurning(r.BetaFast), pairTurning(r.BetaSlow)
	if r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(r.Dim-1))
	if low == high {
		high += 0.001 // as the reference does, to divide by something
	}
	return low, high
}

// ropeContext is what the config says outside the dictionary of one rotary embedding.
type ropeContext struct {
	headDim, maxPositions int
	theta, partial        float64 // where the dictionary is silent
	original              int     // original_max_position_embeddings outside it; 0: absent
	suIsLong              bool
}

// parseRope reads a rope_parameters or rope_scaling dictionary; nil means none given.
func parseRope(raw json.RawMessage, ctx ropeContext) (Rope, error) {
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return Rope{}, err
	}
	p := &reader{c: c}
	kind := p.text("rope_type", p.text("type", string(RopeDefault)))
	if kind == "su" || ctx.suIsLong && kind == "yarn" {
		kind = string(RopeLong)
	}
	r := Rope{Theta: p.float("rope_theta", ctx.theta), Type: RopeType(kind)}
	r.Dim = int(float64(ctx.headDim) * p.float("partial_rotary_factor", ctx.partial))
	r.OriginalLength = ctx.original
	if r.OriginalLength == 0 {
		r.OriginalLength = p.int("original_max_position_embeddings", ctx.maxPositions)
	}
	switch r.Type {
	case RopeDefault:
	case RopeLinear:
		r.Factor = p.required("factor")
	case RopeDynamic:
		r.Factor, r.OriginalLength = p.required("factor"), ctx.maxPositions
		if r.Dim <= 2 {
			return r, fmt.Errorf("dynamic scaling needs more than %d rotated values a head", r.Dim)
		}
	case RopeLlama3:
		r.Factor, r.LowFreq, r.HighFreq = p.required("factor"), p.required("low_freq_factor"), p.required("high_freq_factor")
		if p.err == nil && r.HighFreq <= r.LowFreq {
			return r, fmt.Errorf("high_freq_factor %v is not above low_freq_factor %v", r.HighFreq, r.LowFreq)
		}
	case RopeYarn:
		r.Factor = p.float("factor", float64(ctx.maxPositions)/float64(r.OriginalLength))
		r.BetaFast, r.BetaSlow = p.positiveOr("beta_fast", 32), p.positiveOr("beta_slow", 1)
		r.Truncate = p.bool("truncate", true)
		r.Attention = p.float("attention_factor", yarnAttention(r.Factor, p.float("mscale", 0), p.float("mscale_all_dim", 0)))
	case RopeLong:
		r.ShortFactors, r.LongFactors = p.floats("short_factor"), p.floats("long_factor")
		for key, list := range map[string][]float64{"short_factor": r.ShortFactors, "long_factor": r.LongFactors} {
			if p.err == nil && len(list) != r.Dim/2 {
				return r, fmt.Errorf("%s has %d numbers, expected one a rotated pair, %d", key, len(list), r.Dim/2)
			}
		}
		factor := p.float("factor", float64(ctx.maxPositions)/float64(r.OriginalLength))
		attention := 1.0
		if factor > 1 {
			attention = math.Sqrt(1 + math.Log(factor)/math.Log(float64(r.OriginalLength)))
		}
		r.Attention = p.float("attention_factor", attention)
	default:
		return r, fmt.Errorf("unknown rope type %q (known: default, linear, dynamic, llama3, yarn, longrope)", kind)
	}
	if p.err != nil {
		return r, p.err
	}
	switch {
	case r.Dim < 2 || r.Dim%2 != 0 || r.Dim > ctx.headDim:
		return r, fmt.Errorf("%d of the %d values of a head would be rotated; expected an even number", r.Dim, ctx.headDim)
	case !(r.Theta > 1) || math.IsInf(r.Theta, 0):
		return r, fmt.Errorf("rope_theta is %v, expected a number above 1", r.Theta)
	case r.Factor < 0 || r.Factor == 0 && r.Type != RopeDefault && r.Type != RopeLong:
		return r, fmt.Errorf("factor is %v, expected a positive number", r.Factor)
	case r.Attention < 0 || math.IsInf(r.Attention, 0) || math.IsNaN(r.Attention):
		return r, fmt.Errorf("attention_factor is %v, expected a positive number", r.Attention)
	case r.OriginalLength < 1:
		return r, fmt.Errorf("original_max_position_embeddings is %d, expected at least 1", r.OriginalLength)
	}
	return r, nil
}

// yarnAttention is the temperature that yarn (equation 22) and DeepSeek's variant of it
// put on attention.
func yarnAttention(factor, mscale, mscaleAll float64) float64 {
	m := func(weight float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*weight*math.Log(factor) + 1
	}
	if mscale != 0 && mscaleAll != 0 {
		return m(mscale) / m(mscaleAll)
	}
	return m(1)
}
