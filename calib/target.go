package calib

import (
	"slices"

	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// targets are sums over the activations a of the k neurons that stay and what down_proj is
// to make of them, h values, by class of tokens as in score.LayerStats. The target has two
// parts: what the MLP should put out by itself, and, for some targets, an error of the
// layers before to repair.
type targets struct {
	stats *score.LayerStats // of a
	class []targetClass     // of body, first and held
}

// targetClass is the sums of a class.
type targetClass struct {
	*score.Moments
	cross     *linalg.Matrix // h x k, sum of t a', t the MLP's own part
	repair    *linalg.Matrix // the same of the part to repair; nil where there is none
	energy    float64        // sum of |t|^2
	allEnergy float64        // sum of the squares of both parts together
}

func newTargets(h, k int, repairs bool) *targets {
	t := &targets{stats: score.NewLayerStats(k)}
	for _, m := range []*score.Moments{&t.stats.Body, &t.stats.First, &t.stats.Held} {
		c := targetClass{Moments: m, cross: linalg.New(h, k)}
		if repairs {
			c.repair = linalg.New(h, k)
		}
		t.class = append(t.class, c)
	}
	return t
}

// clear makes them sums of nothing.
func (t *targets) clear() {
	for i := range t.class {
		c := &t.class[i]
		clear(c.Sum)
		clear(c.Gram)
		clear(c.cross.Data)
		if c.repair != nil {
			clear(c.repair.Data)
		}
		c.N, c.energy, c.allEnergy = 0, 0, 0
	}
}

func (t *targets) body() *targetClass  { return &t.class[0] }
func (t *targets) first() *targetClass { return &t.class[1] }
func (t *targets) held() *targetClass  { return &t.class[2] }

// addTarget adds the given rows of x (rows of k values), t and repair (rows of h values,
// repair nil where nothing is to be) to a class, in float32 as add does. It reports whether
// all sums are finite.
func (a *adder) addTarget(to *targetClass, x, t, repair []float32, rows []int) (finite bool) {
	finite = true
	for part := range slices.Chunk(rows, chunkRows) {
		c := a.load(x, len(to.Sum), part)
		finite = a.gram(to.Moments, c) && finite
		a.turn(&a.t, t, to.cross.Rows, part)
		a.cross(to.cross, c)
		if repair != nil {
			a.turn(&a.t, repair, to.cross.Rows, part)
			a.cross(to.repair, c)
		}
	}
	return addEnergy(to, t, repair, rows) && finite
}

// cross adds the products of the targets in a.t with a chunk's neurons.
func (a *adder) cross(m *linalg.Matrix, c chunk) {
	linalg.Parallel(a.threads, units(m.Rows), func(u int) {
		buf := a.buffer(c.d)
		defer a.scratch.Put(buf)
		r0, r1 := u*unitRows, min((u+1)*unitRows, m.Rows)
		c.mul(*buf, &a.t, r0, r1-r0, c.d)
		for i := r0; i < r1; i++ {
			linalg.AddFloat32(m.Row(i), (*buf)[(i-r0)*c.d:][:c.d])
		}
	})
}

// addTargetExact is addTarget in float64, for few rows.
func (a *adder) addTargetExact(to *targetClass, x, t, repair []float32, rows []int) (finite bool) {
	finite = a.addExact(to.Moments, x, rows)
	a.crossExact(to.cross, x, t, rows)
	if repair != nil {
		a.crossExact(to.repair, x, repair, rows)
	}
	return addEnergy(to, t, repair, rows) && finite
}

// crossExact adds the products of rows of t with those of x.
func (a *adder) crossExact(m *linalg.Matrix, x, t []float32, rows []int) {
	for part, wide := range inFloat64(x, m.Cols, rows) {
		linalg.Parallel(a.threads, units(m.Rows), func(u int) {
			by := make([]float64, len(part))
			for i := u * unitRows; i < min((u+1)*unitRows, m.Rows); i++ {
				for k, r := range part {
					by[k] = float64(t[r*m.Rows+i])
				}
				linalg.AddRows(m.Row(i), wide, by)
			}
		})
	}
}

// addEnergy adds the squares of targets and reports whether their sums are finite.
func addEnergy(to *targetClass, t, repair []float32, rows []int) bool {
	h := to.cross.Rows
	for _, r := range rows {
		for i, v := range t[r*h:][:h] {
			all := float64(v)
			to.energy += all * all
			if repair != nil {
				all += float64(repair[r*h+i])
			}
			to.allEnergy += all * all
		}
	}
	return to.allEnergy-to.allEnergy == 0 && to.energy-to.energy == 0
}

// fit returns the weighted means over the tokens of score.LayerStats.Second.
func (t *targets) fit(part score.Part, limit float64, threads int) *surgery.Fit {
	weight, scale := t.stats.Weights(part, limit)
	weights := []float64{scale, weight * scale, 0}
	if part == score.AllTokens {
		weights[2] = scale
	}
	h, _ := t.stats.Second(part, limit, threads)
	return t.mean(h, weights)
}

// heldBack returns the means over the held-back tokens; nil where there are none.
func (t *targets) heldBack() *surgery.Fit {
	h := t.stats.HeldBack()
	if h == nil {
		return nil
	}
	return t.mean(h, []float64{0, 0, 1 / float64(t.stats.Held.N)})
}

// mean weights the sums of the classes.
func (t *targets) mean(h *linalg.Matrix, weights []float64) *surgery.Fit {
	f := &surgery.Fit{H: h, Cross: linalg.New(t.body().cross.Rows, t.body().cross.Cols)}
	if t.body().repair != nil {
		f.Repair = linalg.New(f.Cross.Rows, f.Cross.Cols)
	}
	for c, w := range weights {
		f.Energy += w * t.class[c].energy
		f.AllEnergy += w * t.class[c].allEnergy
		for i, v := range t.class[c].cross.Data {
			f.Cross.Data[i] += w * v
		}
		if f.Repair != nil {
			for i, v := range t.class[c].repair.Data {
				f.Repair.Data[i] += w * v
			}
		}
	}
	return f
}
