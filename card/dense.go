package card

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
)

// readPlan reads the plan that lies beside the weights, and holds it against them.
func readPlan(dir string, spec *arch.Spec) (*plan.Plan, error) {
	path := filepath.Join(dir, checkpoint.PlanName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: not there; a card is of a model that `coppice prune` or `coppice apply` wrote", path)
	}
	if err != nil {
		return nil, err
	}
	p, err := plan.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if p.Family != spec.Family.ModelType || p.Hidden != spec.Hidden || !slices.Equal(p.Widths(), spec.Widths) {
		return nil, fmt.Errorf("%s: the plan is of another model: it leaves %s with %d layers, hidden size %d and widths %v, the weights are %s with %d, %d and %v",
			path, p.Family, len(p.Kept()), p.Hidden, p.Widths(), spec.Family.ModelType, spec.Layers, spec.Hidden, spec.Widths)
	}
	return p, nil
}

// findDense finds the shape of the dense model, and that its results are of it. The plan
// names the dense model by a fingerprint that results do not have, so without the dense
// model itself they are held to its number of parameters and its tokenizer.
func (card *Card) findDense(ctx context.Context, src *Sources) error {
	shapes := card.denseShapes()
	card.Dense = shapes[0]
	if card.dense != nil {
		if a, b := card.dense.Model.Tokenizer, card.pruned.Model.Tokenizer; a != b {
			return fmt.Errorf("the results of the dense model (%s, tokenizer %s) and those of the pruned one (%s, tokenizer %s) are of different tokenizers", card.dense.Model.Name, a, card.pruned.Model.Name, b)
		}
	}
	if src.Dense != "" {
		return card.openDense(ctx, src)
	}
	if card.dense == nil {
		if len(shapes) > 1 {
			return fmt.Errorf("%s: the plan does not say whether the dense model had biases; name it with --baseline MODEL", src.Dir)
		}
		return nil
	}
	var counts []int64
	for _, s := range shapes {
		_, n := s.Parameters()
		if n == card.dense.Model.Parameters {
			card.Dense = s
			return nil
		}
		counts = append(counts, n)
	}
	return fmt.Errorf("the results of the dense model are of another one (%s, %d parameters) than the plan's (%s, %v parameters); name results of that one, or the model itself with --baseline MODEL",
		card.dense.Model.Name, card.dense.Model.Parameters, card.Plan.Model, counts)
}

// denseShapes are the shapes that the dense model can have had. A refit of biases adds
// them where there were none; heads that went from all layers alike are not known here.
func (card *Card) denseShapes() []arch.Spec {
	p := card.Plan
	s := card.Spec.WithLayers(slices.Repeat([]int{p.Intermediate}, len(p.Layers)), nil)
	s.Form = arch.Plain
	if p.Refit != nil && p.Refit.Method == plan.Bias && s.MLPBias {
		bare := s
		bare.MLPBias = false
		return []arch.Spec{bare, s}
	}
	return []arch.Spec{s}
}

// openDense holds plan and results against the dense model itself.
func (card *Card) openDense(ctx context.Context, src *Sources) error {
	c, err := checkpoint.Open(src.Dense)
	if err != nil {
		return err
	}
	defer c.Close()
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return err
	}
	if fingerprint != card.Plan.Model {
		return fmt.Errorf("%s was not made from %s: its plan is for the model %s, that one is %s", src.Dir, src.Dense, card.Plan.Model, fingerprint)
	}
	card.Dense = c.Spec
	card.from = provenanceOf(c)
	if card.dense == nil {
		return nil
	}
	weights, err := lm.Identify(ctx, c, src.Threads)
	if err != nil {
		return err
	}
	if r := card.dense.Model; r.Weights != weights {
		return &ForeignError{"the baseline", r.Name, r.Weights, src.Dense, weights}
	}
	return nil
}
