package plan

import (
	"fmt"
	"slices"
	"strings"
)

// RefitMethod says how down_proj is changed to make up for the neurons that go.
type RefitMethod string

// The refits. W is down_proj, K the neurons of a layer that stay, P those that go, H the
// second moment of activations and mu their mean (score.LayerStats.Second), l the ridge.
const (
	LeastSquares RefitMethod = "least-squares" // W_K += W_P H_PK (H_KK + lI)^-1
	Bias         RefitMethod = "bias"          // b += W_P mu_P; needs mlp_bias (FLAP, arXiv 2312.11983)
)

// Refits lists the refits in the order in which help prints them.
var Refits = []RefitMethod{LeastSquares, Bias}

// Refit says that down_proj is refitted, and from which statistics. The weights
// themselves are not in the plan: they follow from it, the model and the statistics.
type Refit struct {
	Method RefitMethod `json:"method"`
	Stats  string      `json:"stats"`           // fingerprint of the statistics
	Cap    float64     `json:"first_token_cap"` // most of the trace of H that first tokens have
}

// ParseRefit returns the refit of that name.
func ParseRefit(name string) (RefitMethod, error) {
	if slices.Contains(Refits, RefitMethod(name)) {
		return RefitMethod(name), nil
	}
	var names []string
	for _, r := range Refits {
		names = append(names, string(r))
	}
	return "", fmt.Errorf("unknown refit %q; refits are none, %s", name, strings.Join(names, ", "))
}

func (r *Refit) check() error {
	if _, err := ParseRefit(string(r.Method)); err != nil {
		return err
	}
	if r.Stats == "" || !(r.Cap >= 0 && r.Cap <= 1) {
		return fmt.Errorf("statistics %q with a cap of %v: expected a fingerprint and a share between 0 and 1", r.Stats, r.Cap)
	}
	return nil
}

// Refits reports whether a layer's down_proj is refitted: only where neurons go.
func (p *Plan) Refits(l Layer) bool {
	return p.Refit != nil && !l.Drop && len(l.Keep) < p.Intermediate
}
