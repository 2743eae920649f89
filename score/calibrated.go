package score

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/tensor"
)

// The methods that look at activations. H is the second moment of what down_proj
// receives (see LayerStats.Second), mu its mean, W_:j the neuron's column of down_proj and
// l = damping * trace(H)/d.
const (
	Activation  Method = "activation"  // sqrt(H_jj) |W_:j|_2 (Wanda, arXiv 2306.11695, summed over outputs)
	Fluctuation Method = "fluctuation" // (H_jj - mu_j^2) |W_:j|_2^2 (FLAP's WIFV, arXiv 2312.11983)
	Leverage    Method = "leverage"    // [H (H + lI)^-1]_jj (MoDeGPT, arXiv 2408.09632)
	// OBS removes one neuron after another, each time the one whose loss the others can
	// make up for best (SlimGPT, arXiv 2412.18110); the score is the place in that order.
	OBS Method = "obs"
)

// CalibratedMethods lists the methods that need statistics.
var CalibratedMethods = []Method{Activation, Fluctuation, Leverage, OBS}

// Calibrated reports whether a method needs statistics.
func (m Method) Calibrated() bool { return slices.Contains(CalibratedMethods, m) }

// MaxDamping is the largest damping of scores, error curves and refits. At it a neuron's own
// column of down_proj is all but left as it is.
const MaxDamping = 10

// DefaultDamping is the damping of scores unless the user says otherwise.
const DefaultDamping = 1e-3

// Calibration says from which statistics scores were made, and how.
type Calibration struct {
	Stats   string  `json:"stats"` // fingerprint of the statistics
	Text    string  `json:"text"`  // fingerprint of their text
	Tokens  int64   `json:"tokens"`
	Cap     float64 `json:"first_token_cap"`   // most of the trace of H that first tokens have
	Damping float64 `json:"damping,omitempty"` // of leverage and obs
}

// CalibratedOptions are what ComputeCalibrated can be told.
type CalibratedOptions struct {
	Cap      float64 // in [0, 1]
	Damping  float64 // in (0, MaxDamping]; for leverage and obs
	Threads  int
	Progress func(layers int64) // called with 1 after each layer; may be nil
	Note     func(string)       // what the user should be told; may be nil
}

// Check is an error if an option is out of range.
func (o *CalibratedOptions) Check() error {
	switch {
	case !(o.Cap >= 0 && o.Cap <= 1):
		return fmt.Errorf("a cap of %v for first tokens: expected a share between 0 and 1", o.Cap)
	case !(o.Damping > 0 && o.Damping <= MaxDamping):
		return fmt.Errorf("a damping of %v: expected a number above 0 and at most %v", o.Damping, MaxDamping)
	}
	return nil
}

// ComputeCalibrated scores all neurons of a checkpoint from statistics of it.
func ComputeCalibrated(ctx context.Context, c *checkpoint.Checkpoint, st *Stats, method Method, opt CalibratedOptions) (*Scores, error) {
	if !method.Calibrated() {
		return nil, fmt.Errorf("method %q needs no statistics", method)
	}
	if err := opt.Check(); err != nil {
		return nil, err
	}
	model, err := c.Fingerprint()
	if err != nil {
		return nil, err
	}
	if err := st.CheckModel(model, &c.Spec); err != nil {
		return nil, err
	}
	fingerprint, err := st.Fingerprint()
	if err != nil {
		return nil, err
	}
	s := &Scores{Version: Version, Model: model, Method: method,
		Calibration: &Calibration{Stats: fingerprint, Text: st.Text, Tokens: st.Tokens(), Cap: opt.Cap}}
	if method == Leverage || method == OBS {
		s.Calibration.Damping = opt.Damping
	}
	dead := 0
	for l, width := range st.Widths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if width == 0 {
			s.Layers = append(s.Layers, []float32{})
			if opt.Progress != nil {
				opt.Progress(1)
			}
			continue
		}
		layer, err := st.Layer(l)
		if err != nil {
			return nil, err
		}
		w, err := DownProj(c, l)
		if err != nil {
			return nil, err
		}
		n := len(layer.Dead())
		if n == layer.Width && opt.Note != nil {
			opt.Note(fmt.Sprintf("layer %d: no neuron fires on this text; all score alike, and the first ones stay", l))
		}
		dead += n
		scores, err := scoreLayer(method, layer, w, opt)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w; more calibration text or a larger damping helps", l, err)
		}
		s.Layers = append(s.Layers, scores)
		if opt.Progress != nil {
			opt.Progress(1)
		}
	}
	if dead > 0 && opt.Note != nil {
		opt.Note(fmt.Sprintf("%d neurons never fire on this text; they go first", dead))
	}
	return s, nil
}

// scoreLayer scores one layer; w is down_proj (h x d).
func scoreLayer(method Method, s *LayerStats, w *linalg.Matrix, opt CalibratedOptions) ([]float32, error) {
	h, mu := s.Second(AllTokens, opt.Cap, opt.Threads)
	norms := columnSquares(w)
	scores := make([]float32, s.Width)
	switch method {
	case Activation:
		for j := range scores {
			scores[j] = float32(math.Sqrt(h.At(j, j)) * math.Sqrt(norms[j]))
		}
	case Fluctuation:
		for j := range scores {
			scores[j] = float32(max(0, h.At(j, j)-mu[j]*mu[j]) * norms[j])
		}
	case Leverage:
		l := damp(h, opt.Damping)
		if l == 0 {
			return scores, nil // nothing fires
		}
		alive := make([]bool, s.Width)
		for j := range alive {
			alive[j] = h.At(j, j) > 0
		}
		h.AddDiagonal(l)
		f, err := linalg.Factor(h, opt.Threads)
		if err != nil {
			return nil, err
		}
		inverse := f.Inverse()
		for j := range scores {
			if alive[j] {
				scores[j] = float32(1 - l*inverse.At(j, j)) // H (H + lI)^-1 = I - l (H + lI)^-1
			}
		}
	default:
		return obs(h, w, damp(h, opt.Damping), opt.Threads)
	}
	return scores, nil
}

// columnSquares is the sum of squares of each column.
func columnSquares(w *linalg.Matrix) []float64 {
	sums := make([]float64, w.Cols)
	for i := range w.Rows {
		for j, x := range w.Row(i) {
			sums[j] += x * x
		}
	}
	return sums
}

// DownProj reads the down_proj of a layer, hidden_size x width, whatever its stored type.
func DownProj(c *checkpoint.Checkpoint, layer int) (*linalg.Matrix, error) {
	for _, t := range c.Spec.Tensors() {
		if t.Layer != layer || t.Unit != arch.Cols {
			continue
		}
		info, _ := c.Lookup(t.Name)
		w := linalg.New(info.Rows(), info.RowElements())
		raw := make([]byte, info.RowBytes())
		row := make([]float32, w.Cols)
		for i := range w.Rows {
			if err := c.ReadRows(t.Name, raw, i, 1); err != nil {
				return nil, err
			}
			if err := tensor.Decode(row, raw, info.DType); err != nil {
				return nil, fmt.Errorf("%s: tensor %q: %w", c.Path, t.Name, err)
			}
			for j, x := range row {
				if x-x != 0 {
					return nil, fmt.Errorf("%s: tensor %q row %d holds NaN or an infinity; the checkpoint is damaged", c.Path, t.Name, i)
				}
				w.Row(i)[j] = float64(x)
			}
		}
		return w, nil
	}
	return nil, fmt.Errorf("%s: layer %d has no down_proj", c.Path, layer)
}
