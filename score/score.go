// Package score says how much each neuron of each gated MLP matters. A neuron j of a
// layer is row j of gate_proj, row j of up_proj and column j of down_proj; its score is
// one number, and what has the least is pruned first.
//
// Compute holds the methods that look at weights alone. They read gate and up row by row,
// in the stored type, compute in float32 (sums in float64, then rounded) whatever that
// type is, and hold a few hundred kilobytes of rows at a time, or none where they can be
// read out of the page cache where they lie.
//
// ComputeCalibrated holds those that look at what the neurons do on a text. They see the
// text only through Stats, sums over activations that package calib makes and a file
// keeps, and run no model.
package score

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/parallel"
	"github.com/coppice-lm/coppice/tensor"
)

// Method is a rule that gives a neuron its score.
type Method string

// The weight-only methods. G_j and U_j are the neuron's rows of gate and up.
const (
	MaxAbs   Method = "maxabs"   // (max G_j + |min G_j|) + (max U_j + |min U_j|); the published recipe ("MAW", "PPM")
	Variance Method = "variance" // var(G_j) + var(U_j), over n-1 ("VOW")
	Product  Method = "product"  // |G_j|_1 |U_j|_1 ("PON")
	L2       Method = "l2"       // |G_j|_2 + |U_j|_2
	Random   Method = "random"   // uniform in [0, 1) from a seed: the control
)

// Methods lists the weight-only methods in the order in which help prints them.
var Methods = []Method{MaxAbs, Variance, Product, L2, Random}

// ParseMethod returns the method of that name.
func ParseMethod(name string) (Method, error) {
	all := slices.Concat(Methods, CalibratedMethods)
	if slices.Contains(all, Method(name)) {
		return Method(name), nil
	}
	var names []string
	for _, m := range all {
		names = append(names, string(m))
	}
	return "", fmt.Errorf("unknown method %q; methods are %s", name, strings.Join(names, ", "))
}

// Scores are the scores of every neuron of a model.
type Scores struct {
	Version int         `json:"coppice_scores"`
	Model   string      `json:"model"` // fingerprint of the checkpoint
	Method  Method      `json:"method"`
	Seed    uint64      `json:"seed"` // of Random; 0 otherwise
	Layers  [][]float32 `json:"layers"`

	// Calibration is where the scores of an activation-aware method come from.
	Calibration *Calibration `json:"calibration,omitempty"`
	// Curves say what each layer loses with each number of neurons; see AddCurves.
	Curves *Curves `json:"error_curves,omitempty"`
}

// Version is the version of the file form.
const Version = 1

// Options are what Compute can be told beside the method.
type Options struct {
	Seed           uint64            // for Random
	Threads        int               // goroutines; at least 1
	AllowNonFinite bool              // go on where a weight is NaN or infinite: such a neuron scores lowest
	Progress       func(bytes int64) // called with the bytes read since the last call, from many goroutines; may be nil
}

// job is a stretch of rows of one tensor of one layer.
type job struct {
	layer     int
	tensor    arch.Tensor
	row, n    int // rows of the tensor
	firstNeur int // neuron of the first row
	up        bool
}

// Compute scores all neurons of a checkpoint.
func Compute(ctx context.Context, c *checkpoint.Checkpoint, method Method, opt Options) (*Scores, error) {
	s := &Scores{Version: Version, Method: method}
	rowScore, ok := rowScores[method]
	if method.Calibrated() {
		return nil, fmt.Errorf("method %q needs statistics of activations", method)
	}
	if !ok {
		_, err := ParseMethod(string(method))
		return nil, err
	}
	// Each neuron's two parts are computed apart and put together at the end, so that
	// the result does not depend on the order of the work.
	gate, up := newParts(c.Spec.Widths), newParts(c.Spec.Widths)
	var jobs []job
	if method != Random || !opt.AllowNonFinite { // else the weights are not looked at
		jobs = plan(c)
	}
	bufs := make([][]byte, max(1, opt.Threads))
	err := parallel.Each(ctx, opt.Threads, 1+len(jobs), func(w, i int) (err error) {
		if i == 0 {
			s.Model, err = c.Fingerprint()
			return err
		}
		j := jobs[i-1]
		info, _ := c.Lookup(j.tensor.Name)
		size := max(chunkBytes, int(info.RowBytes()))
		bufs[w] = slices.Grow(bufs[w][:0], size)[:size]
		to := gate
		if j.up {
			to = up
		}
		if err := scoreRows(c, j, info, bufs[w], to[j.layer][j.firstNeur:][:j.n], rowScore, opt.AllowNonFinite); err != nil {
			return err
		}
		if opt.Progress != nil {
			opt.Progress(int64(j.n) * info.RowBytes())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if method == Random {
		return drawn(s, c, opt), nil
	}
	s.Layers = make([][]float32, len(gate))
	for l := range gate {
		s.Layers[l] = make([]float32, len(gate[l]))
		for j := range gate[l] {
			s.Layers[l][j] = combine(method, gate[l][j], up[l][j])
		}
	}
	return s, nil
}

// A job is jobBytes of a tensor: enough that finding them costs little, little enough that
// all threads end together. Where they have to be copied, chunkBytes at a time stay in the
// second-level cache between the copy and the reduction.
const (
	jobBytes   = 8 << 20
	chunkBytes = 256 << 10
)

// plan cuts gate and up of all layers into jobs, in the order of the layers.
func plan(c *checkpoint.Checkpoint) []job {
	var jobs []job
	for _, t := range c.Spec.Tensors() {
		var halves []bool // of the tensor: false for gate, true for up
		switch t.Unit {
		case arch.GateRows:
			halves = []bool{false}
		case arch.UpRows:
			halves = []bool{true}
		case arch.FusedRows:
			halves = []bool{false, true}
		}
		if len(halves) == 0 || len(t.Shape) != 2 { // a bias takes no part in the scores
			continue
		}
		width := c.Spec.Widths[t.Layer]
		info, _ := c.Lookup(t.Name)
		step := max(1, int(jobBytes/max(1, info.RowBytes())))
		for h, up := range halves {
			for r := 0; r < width; r += step {
				jobs = append(jobs, job{t.Layer, t, h*width + r, min(step, width-r), r, up})
			}
		}
	}
	return jobs
}

// Bytes is how much Compute reads of a checkpoint for a method that reads weights.
func Bytes(c *checkpoint.Checkpoint) int64 {
	var n int64
	for _, j := range plan(c) {
		info, _ := c.Lookup(j.tensor.Name)
		n += int64(j.n) * info.RowBytes()
	}
	return n
}

func newParts(widths []int) [][]float32 {
	p := make([][]float32, len(widths))
	for l, w := range widths {
		p[l] = make([]float32, w)
	}
	return p
}

// scoreRows computes one part of the scores of a stretch of neurons.
func scoreRows(c *checkpoint.Checkpoint, j job, info tensor.Info, buf []byte, to []float32, rowScore rowFunc, allowNonFinite bool) error {
	size, elements := int(info.RowBytes()), info.RowElements()
	return c.ScanRows(j.tensor.Name, buf, j.row, j.n, func(row int, b []byte) error {
		for ; len(b) > 0; b, row = b[size:], row+1 {
			v, finite := rowScore(b[:size], info.DType, elements)
			if !finite {
				if !allowNonFinite {
					return fmt.Errorf("%s: tensor %q row %d holds NaN or an infinity; the checkpoint is damaged, or pass --allow-nonfinite to go on", c.Path, info.Name, row)
				}
				v = float32(math.Inf(-1))
			}
			to[row-j.row] = v
		}
		return nil
	})
}

// rowFunc is a neuron's part of a score from one of its rows of n elements.
type rowFunc func(row []byte, d tensor.DType, n int) (v float32, finite bool)

var rowScores = map[Method]rowFunc{
	MaxAbs: func(row []byte, d tensor.DType, _ int) (float32, bool) {
		lo, hi, finite := tensor.MinMax(row, d)
		return hi + float32(math.Abs(float64(lo))), finite
	},
	Variance: func(row []byte, d tensor.DType, n int) (float32, bool) {
		sum, _, squares := tensor.Sums(row, d)
		if n < 2 {
			return 0, finite(squares)
		}
		mean := sum / float64(n)
		return float32((squares - sum*mean) / float64(n-1)), finite(squares)
	},
	Product: func(row []byte, d tensor.DType, _ int) (float32, bool) {
		_, abs, _ := tensor.Sums(row, d)
		return float32(abs), finite(abs)
	},
	L2: func(row []byte, d tensor.DType, _ int) (float32, bool) {
		_, _, squares := tensor.Sums(row, d)
		return float32(math.Sqrt(squares)), finite(squares)
	},
	// Random needs no weights, but a damaged checkpoint is refused under every method.
	Random: func(row []byte, d tensor.DType, _ int) (float32, bool) {
		return 0, tensor.AllFinite(row, d)
	},
}

// drawn fills in the scores of Random.
func drawn(s *Scores, c *checkpoint.Checkpoint, opt Options) *Scores {
	s.Seed, s.Layers = opt.Seed, random(c.Spec.Widths, opt.Seed)
	return s
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// combine puts the parts of gate and up together, in float32. A neuron with a part that
// is not finite scores lowest.
func combine(m Method, gate, up float32) float32 {
	v := gate + up
	if m == Product && gate >= 0 && up >= 0 {
		v = gate * up
	}
	if v != v || math.IsInf(float64(v), -1) {
		return -math.MaxFloat32
	}
	return min(v, math.MaxFloat32)
}

// random draws scores layer by layer from the PCG generator of math/rand/v2, whose
// sequence Go keeps.
func random(widths []int, seed uint64) [][]float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	s := newParts(widths)
	for l := range s {
		for j := range s[l] {
			s[l][j] = r.Float32()
		}
	}
	return s
}
