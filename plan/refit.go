package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/score"
)

// RefitMethod says how down_proj is changed to make up for the neurons that go.
type RefitMethod string

// The refits. W is down_proj, K the neurons of a layer that stay, P those that go, H the
// second moment of activations and mu their mean (score.LayerStats.Second), l the ridge.
const (
	LeastSquares RefitMethod = "least-squares" // W_K += W_P H_PK (H_KK + lI)^-1
	Bias         RefitMethod = "bias"          // b += W_P mu_P; needs mlp_bias (FLAP, arXiv 2312.11983)
	// Propagated refits layer after layer on what reaches a layer in the model that is
	// already pruned, X: W_K += (T'X_K - W_K X_K'X_K)/N (X_K'X_K/N + lI)^-1 for the target T.
	Propagated RefitMethod = "propagated"
)

// Target is what a propagated refit makes the pruned model match, token by token.
type Target string

// The targets.
const (
	MLPTarget    Target = "mlp"    // the output of the dense model's MLP
	StreamTarget Target = "stream" // the dense model's residual stream after the layer, less the pruned one's before its MLP
	// PredictionsTarget makes the whole model's predictions match, not an MLP's output:
	// all layers are refitted together.
	PredictionsTarget Target = "predictions"
)

// Targets lists the targets.
var Targets = []Target{MLPTarget, StreamTarget, PredictionsTarget}

// MaxDamping is the largest damping of a refit.
const MaxDamping = score.MaxDamping

// Refits lists the refits in the order in which help prints them.
var Refits = []RefitMethod{LeastSquares, Bias, Propagated}

// Refit says that down_proj is refitted, and from which statistics. The weights
// themselves are not in the plan: they follow from it, the model and the statistics. Those
// of a propagated refit, which depend on all layers before, are in the statistics.
type Refit struct {
	Method RefitMethod `json:"method"`
	Stats  string      `json:"stats"`            // fingerprint of the statistics
	Cap    float64     `json:"first_token_cap"`  // most of the trace of H that first tokens have
	Target Target      `json:"target,omitempty"` // of a propagated refit
	Labels float64     `json:"labels,omitempty"` // share of the text's own next tokens in PredictionsTarget
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
	if r.Method == Propagated != slices.Contains(Targets, r.Target) {
		return fmt.Errorf("a target %q with method %q: expected one of %v with %s, and none otherwise", r.Target, r.Method, Targets, Propagated)
	}
	if !(r.Labels >= 0 && r.Labels <= 1) || r.Labels > 0 && r.Target != PredictionsTarget {
		return fmt.Errorf("labels %v with target %q: expected a share between 0 and 1, and none but with target %s", r.Labels, r.Target, PredictionsTarget)
	}
	return nil
}

// Selection identifies what the plan keeps of which model: SHA-256 over the model's
// fingerprint and the neurons and heads of each layer. It does not depend on what is refitted, nor on
// the widths, since zero neurons up to a width change nothing: a plan has one selection in
// every form (InForm).
func (p *Plan) Selection() (string, error) {
	type layer struct {
		Drop          bool
		Keep          []int
		DropAttention bool  `json:",omitempty"`
		KeepHeads     []int `json:",omitempty"`
	}
	layers := make([]layer, len(p.Layers))
	for i, l := range p.Layers {
		layers[i] = layer{l.Drop, l.Keep, l.DropAttention, l.KeepHeads}
	}
	b, err := json.Marshal(struct {
		Model  string
		Layers []layer
	}{p.Model, layers})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte("coppice selection 2\n"), b...))
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Refits reports whether the down_proj of a layer, which has the given width in the model,
// is refitted: only where neurons go.
func (p *Plan) Refits(l Layer, width int) bool {
	return p.Refit != nil && l.Prunes(width)
}

// Prunes reports whether neurons go from a layer, of the given width, whose MLP stays.
func (l *Layer) Prunes(width int) bool { return !l.Drop && l.Width > 0 && len(l.Keep) < width }

// Pruned lists how many neurons stay in each layer from which neurons go, 0 for the others;
// widths are the layers' in the model.
func (p *Plan) Pruned(widths []int) []int {
	kept := make([]int, len(p.Layers))
	for i := range p.Layers {
		if p.Layers[i].Prunes(widths[i]) {
			kept[i] = len(p.Layers[i].Keep)
		}
	}
	return kept
}
