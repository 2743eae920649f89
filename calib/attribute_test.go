package calib

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/plan"
)

// The parts of a rise add up to it, those of all layers together and of each alone.
func TestAttribute(t *testing.T) {
	f := newFixture(t, 2)
	for _, refit := range []plan.RefitMethod{plan.LeastSquares, plan.Bias, "none"} {
		for _, drop := range [][]int{nil, {1}} {
			opt := f.widths()
			opt.Refit, opt.Rule.Drop, opt.Step = refit, drop, 4
			s, _ := f.sharer(t, opt)
			rule := plan.Rule{Widths: []int{24, 12, 8}, Drop: drop, Align: 1, AlignMode: plan.Nearest}
			p, err := s.plan(rule)
			if err != nil {
				t.Fatal(err)
			}
			all := s.narrowed(rule.Widths)
			parts := [][]rise{all} // all layers together, then each alone
			for i := range all {
				parts = append(parts, all[i:i+1])
			}
			for _, rises := range parts {
				narrower := rule
				narrower.Widths = slices.Clone(rule.Widths)
				for _, r := range rises {
					narrower.Widths[r.layer] = r.width
				}
				n, err := s.plan(narrower)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.losses.attribute(context.Background(), p, n, rises); err != nil {
					t.Fatal(err)
				}
				sum := 0.0
				for _, r := range rises {
					sum += r.mean
				}
				if whole := s.lossOfAll(t, n) - s.lossOfAll(t, p); !(math.Abs(sum-whole) < 0.2*math.Abs(whole)) {
					t.Errorf("%s, without layers %v: parts of %v add up to %v, the divergence rises by %v", refit, drop, rises, sum, whole)
				}
			}
		}
	}
}

// lossOfAll is the mean loss over all tokens of a plan's model.
func (s *sharer) lossOfAll(t *testing.T, p *plan.Plan) float64 {
	t.Helper()
	m, err := s.losses.pruned(s.ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	streams, err := through(s.ctx, m, s.losses.batches, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := divergences(s.ctx, m, s.losses.batches, s.losses.dense, streams, 1)
	if err != nil {
		t.Fatal(err)
	}
	return all.mean()
}
