package calib

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/plan"
)

const (
	// partRounds is how often parts are looked at, and partsMeasured of how many of them the
	// loss is measured then.
	partRounds    = 3
	partsMeasured = 24
)

// dropped are how many parts are tried together.
var dropped = []int{1, 2, 4, 8, 16}

// lesion is a part of a model, and what the model is without it.
type lesion struct {
	plan.Part
	parameters int64
	// change is what the residual stream behind the layer changes by: the mean over tokens of
	// |with - without|^2 / |with|^2, first tokens left out.
	change float64
	rise   float64 // of the loss
}

// dropParts lets parts go, and gives what they had to the neurons of all layers, as long as
// that loses less on held-back text.
//
// Like slopes, losses of parts do not add up, and a part that the dense model hardly uses may
// be what the pruned one lives on. So parts are looked at in the model that is cut in all
// layers: first by the change of the residual stream for each parameter, which costs one run
// of a layer; then, the two dozen with the least, by the rise of the loss. One, two, four,
// eight and sixteen of them together, the cheapest first, are tried with the widths that the
// residual curve then gives (those in a part that goes before them are passed over), and the
// best of these, if it loses less, is where the next round looks.
func (s *sharer) dropParts(choose plan.AllocateOptions) error {
	spec := &s.checkpoint.Spec
	choose.Budget = &s.opt.Rule
	best, loss, err := s.shareAndLose(s.rule, choose)
	if err != nil {
		return err
	}
	for range partRounds {
		lesions, err := s.lesions(best)
		if err != nil {
			return err
		}
		before, rule, gone, taken := s.rule, s.rule, []plan.Part(nil), 0
		for _, n := range dropped {
			last := taken
			for ; taken < n && len(lesions) > 0; lesions = lesions[1:] {
				part := lesions[0].Part
				if !slices.Contains(rule.Parts(spec, s.opt.Units), part) {
					continue
				}
				gone = slices.DeleteFunc(gone, func(p plan.Part) bool { // what it holds needs no name
					return p.Layer == part.Layer && part.Unit != plan.HeadUnit
				})
				rule, gone = rule.Without(part), append(gone, part)
				taken++
			}
			if taken == last { // no more can go
				break
			}
			next, lost, err := s.shareAndLose(rule, choose)
			if err != nil {
				return err
			}
			if lost.mean() >= loss.mean() {
				break
			}
			mean, stderr := lost.rise(loss)
			names := make([]string, len(gone))
			for i, p := range gone {
				names[i] = p.String()
			}
			s.note("divergence on held-back text: %.4f without %s, %.4f ± %.4f less", lost.mean(), strings.Join(names, ", "), -mean, stderr)
			s.rule, best, loss = rule, next, lost
		}
		if s.rule.SameParts(&before) {
			s.note("no other part is worth less than neurons in its place")
			return nil
		}
	}
	return nil
}

// shareAndLose shares out what a rule keeps, and measures the loss.
func (s *sharer) shareAndLose(rule plan.Rule, choose plan.AllocateOptions) (plan.Rule, perToken, error) {
	shared, _, err := plan.Allocate(s.scores.Curves, &s.checkpoint.Spec, rule, choose)
	if err != nil {
		return rule, nil, err
	}
	loss, err := s.loss(shared)
	return shared, loss, err
}

// lesions lists the parts that may go from the model of a rule, those whose loss was
// measured, in the order of what they cost for each parameter.
func (s *sharer) lesions(rule plan.Rule) ([]*lesion, error) {
	spec := &s.checkpoint.Spec
	whole, err := rule.Parameters(spec)
	if err != nil {
		return nil, err
	}
	var all []*lesion
	for _, part := range rule.Parts(spec, s.opt.Units) {
		if named := s.opt.Rule.Layers; len(named) > 0 && !slices.Contains(named, part.Layer) {
			continue
		}
		without := rule.Without(part)
		n, err := without.Parameters(spec)
		if err != nil {
			return nil, err
		}
		all = append(all, &lesion{Part: part, parameters: whole - n})
	}
	p, err := s.plan(rule)
	if err != nil {
		return nil, err
	}
	model, err := s.losses.pruned(s.ctx, p)
	if err != nil {
		return nil, err
	}
	if _, err := s.losses.without(s.ctx, model, p, spec, all, false); err != nil {
		return nil, err
	}
	sortBy(all, func(l *lesion) float64 { return l.change / float64(l.parameters) })
	all = all[:min(len(all), partsMeasured)]
	if _, err := s.losses.without(s.ctx, model, p, spec, all, true); err != nil {
		return nil, err
	}
	sortBy(all, func(l *lesion) float64 { return l.rise / float64(l.parameters) })
	return all, nil
}

func sortBy(all []*lesion, key func(*lesion) float64) {
	slices.SortStableFunc(all, func(a, b *lesion) int {
		switch x, y := key(a), key(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}

// without runs the model of a plan over the text, and beside it, one part at a time, each of
// the models that lack one of the parts: over the layer of the part alone, or, where losses
// are asked for, to the end. It fills in changes and rises, and returns the loss of the plan
// where losses are asked for.
func (m *lossMeter) without(ctx context.Context, model *pruned, p *plan.Plan, spec *arch.Spec, lesions []*lesion, losses bool) (perToken, error) {
	streams, err := embed(ctx, model, m.batches)
	if err != nil {
		return nil, err
	}
	type lacking struct {
		*lesion
		streams [][]float32
	}
	var running []lacking
	for l, index := range model.layers {
		if index < 0 {
			continue
		}
		layer, err := model.Layer(ctx, index)
		if err != nil {
			return nil, err
		}
		before := streams
		for _, r := range running {
			if err := m.runLayer(ctx, layer, r.streams); err != nil {
				return nil, err
			}
		}
		streams = clones(before)
		if err := m.runLayer(ctx, layer, streams); err != nil {
			return nil, err
		}
		for _, part := range lesions {
			if part.Layer != l {
				continue
			}
			with := clones(before)
			if part.Unit != plan.LayerUnit { // else they are as before
				other, err := model.withoutHeads(ctx, layer, index, p.Layers[l].HeadColumns(spec, part.Part))
				if err != nil {
					return nil, err
				}
				if err := m.runLayer(ctx, other, with); err != nil {
					return nil, err
				}
			}
			part.change = m.change(streams, with, model.Model().Hidden)
			if losses {
				running = append(running, lacking{part, with})
			}
		}
	}
	if !losses {
		return nil, nil
	}
	base, err := m.score(ctx, model, streams)
	if err != nil {
		return nil, err
	}
	for _, r := range running {
		loss, err := m.score(ctx, model, r.streams)
		if err != nil {
			return nil, err
		}
		r.rise, _ = loss.rise(base)
	}
	return base, nil
}

func clones(streams [][]float32) [][]float32 {
	all := make([][]float32, len(streams))
	for i, s := range streams {
		all[i] = slices.Clone(s)
	}
	return all
}

// change is the mean over tokens, first tokens left out, of |a - b|^2 / |a|^2.
func (m *lossMeter) change(a, b [][]float32, hidden int) float64 {
	sum, n := 0.0, 0.0
	for i := range m.batches {
		at := 0
		for _, r := range m.batches[i].rows {
			for _, first := range r.first {
				x, y := a[i][at:at+hidden], b[i][at:at+hidden]
				at += hidden
				if first {
					continue
				}
				differ, energy := 0.0, 0.0
				for j, v := range x {
					d := float64(v) - float64(y[j])
					differ += d * d
					energy += float64(v) * float64(v)
				}
				n++
				if energy > 0 {
					sum += differ / energy
				}
			}
		}
	}
	return sum / max(1, n)
}

// withoutHeads is a layer whose attention lacks the given columns of its output projection:
// they are zeros.
func (m *pruned) withoutHeads(ctx context.Context, layer engine.Layer, index int, columns []int) (engine.Layer, error) {
	t := m.Model()
	from, in := &t.Layers[index], t.Layers[index].Heads*t.HeadDim
	rows := make([]int, t.Hidden)
	for i := range rows {
		rows[i] = i
	}
	r := &weightReader{src: m.weights}
	out := r.rows(from.Out, in, rows)
	if r.err != nil {
		return nil, r.err
	}
	for i := range rows {
		for _, j := range columns {
			out[i*in+j] = 0
		}
	}
	other, err := layer.WithAttentionOut(ctx, out)
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", index, err)
	}
	return other, nil
}
