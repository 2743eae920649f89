package calib

import (
	"context"
	"errors"
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
				n, err := s.plan(changed(rule, rises))
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

// How much text goes through at a time changes nothing, nor do threads; batches that differ say how sure
// the parts are.
func TestAttributeByBatches(t *testing.T) {
	var all [][]rise
	for _, test := range []struct{ kept, threads int }{{0, 2}, {1, 2}, {1 << 15, 1}} {
		f := newFixture(t, test.threads)
		s, rows := f.sharer(t, f.widths())
		s.threads, s.losses.threads, s.losses.kept, s.losses.batches = test.threads, test.threads, test.kept, nil
		at := int64(0)
		for i, r := range rows {
			s.losses.batches = append(s.losses.batches, batch{rows[i : i+1], at, len(r.tokens)})
			at += int64(len(r.tokens))
		}
		if len(rows) < 3 {
			t.Fatalf("%d rows", len(rows))
		}
		passed := 0
		s.losses.progress = func() { passed++ }
		rule := plan.Rule{Widths: []int{24, 12, 8}, Align: 1, AlignMode: plan.Nearest}
		rises := []rise{{layer: 0, width: 20}, {layer: 1, width: 8}, {layer: 2, width: 8}} // the last stays
		p, err1 := s.plan(rule)
		n, err2 := s.plan(changed(rule, rises))
		if err := errors.Join(err1, err2, s.losses.attribute(context.Background(), p, n, rises)); err != nil {
			t.Fatal(err)
		}
		if want := 3 * tinyLayers * len(rows); passed != want { // the dense model, there, and back
			t.Errorf("%d layers ran over a batch, want %d", passed, want)
		}
		if !(rises[0].stderr > 0) || !(rises[1].stderr > 0) || rises[2].mean != 0 || rises[2].stderr != 0 {
			t.Errorf("rises %+v", rises)
		}
		all = append(all, rises)
	}
	for _, rises := range all[1:] {
		if !slices.Equal(rises, all[0]) {
			t.Errorf("rises %+v, want %+v", rises, all[0])
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
	all, err := divergences(s.ctx, m, s.losses.batches, s.losses.dense, streams, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	return all.mean()
}
