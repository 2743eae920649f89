package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

// maxAbs is the method of the published recipe, with which others are compared.
const maxAbs = "maxabs"

// group makes sets of the finished cells, and names those that failed.
func (r *Report) group(records []study.Record) {
	names := labels(records)
	for i := range records {
		rec := &records[i]
		c := rec.Cell
		if rec.Status != study.Done {
			text := rec.Error
			if text == "" {
				text = "no reason was recorded"
			}
			r.failed = append(r.failed, *rec)
			r.Failed = append(r.Failed, Failure{c.ID, fmt.Sprintf("%s, %s: %s", c.Model, c.DType, names[i]), text})
			continue
		}
		if n := len(r.Sets); n == 0 || r.Sets[n-1].Model != c.Model || r.Sets[n-1].DType != c.DType {
			r.Sets = append(r.Sets, &Set{Model: c.Model, BaseModel: c.BaseModel, DType: c.DType})
		}
		v := Variant{ID: c.ID, Label: names[i], Size: c.Size(), Cell: c, record: rec}
		if v.Series = seriesName(&c); c.Method == study.Dense {
			v.Series = study.Dense
		}
		if rec.Shape != nil {
			v.Parameters, v.Bytes = rec.Shape.Parameters, rec.Shape.Bytes
		}
		s := r.Sets[len(r.Sets)-1]
		s.Variants = append(s.Variants, v)
	}
}

// labels names the cells so that within a model and precision no two are called alike:
// method and size first, then whatever more tells them apart.
func labels(records []study.Record) []string {
	out := make([]string, len(records))
	key := func(i int) string { // what must be unlike
		c := &records[i].Cell
		return c.Model + "\x00" + c.DType + "\x00" + out[i]
	}
	for i := range records {
		c := &records[i].Cell
		out[i] = study.Dense
		if c.Method != study.Dense {
			out[i] = strings.TrimSpace(seriesName(c) + " " + c.Size())
		}
	}
	for _, more := range []func(*study.Cell) string{
		func(c *study.Cell) string { return "aligned to " + strconv.Itoa(c.Align) },
		func(c *study.Cell) string { return "text " + c.Calibration[:min(6, len(c.Calibration))] },
		func(c *study.Cell) string { return fmt.Sprintf("seed %d", c.Seed) },
		func(c *study.Cell) string { return c.ID },
	} {
		alike := map[string][]int{}
		for i := range records {
			alike[key(i)] = append(alike[key(i)], i)
		}
		for _, is := range alike {
			differ := slices.ContainsFunc(is, func(i int) bool { return more(&records[i].Cell) != more(&records[is[0]].Cell) })
			for _, i := range is {
				if differ {
					out[i] += ", " + more(&records[i].Cell)
				}
			}
		}
	}
	return out
}

func allocation(c *study.Cell) string {
	if c.Allocation == "" {
		return "uniform"
	}
	return c.Allocation
}

// seriesName names what cells of several sizes have in common.
func seriesName(c *study.Cell) string {
	if a := allocation(c); a != "uniform" {
		return c.Method + " (" + a + ")"
	}
	return c.Method
}

// nameSeries lists the series of all sets, maxabs first, and numbers them in the variants,
// so that a method looks the same in every chart.
func nameSeries(sets []*Set) []string {
	var names []string
	for _, s := range sets {
		for i := range s.Variants {
			if v := &s.Variants[i]; v.Cell.Method != study.Dense && !slices.Contains(names, v.Series) {
				names = append(names, v.Series)
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		rank := func(s string) int {
			if strings.HasPrefix(s, maxAbs) {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	for _, s := range sets {
		for i := range s.Variants {
			s.Variants[i].series = slices.Index(names, s.Variants[i].Series)
		}
	}
	return names
}

// missing says what a full grid of the models, methods and sizes that were measured would
// have beside them, and which tasks were not measured of a cell.
func missing(sets []*Set) []string {
	var out []string
	for _, s := range sets {
		if s.dense() == nil {
			out = append(out, fmt.Sprintf("%s: the dense model was not measured, so nothing can be compared with it", s.name()))
		}
		out = append(out, s.holes()...)
		for i := range s.Variants {
			v := &s.Variants[i]
			var tasks []string
			for j, c := range s.Columns {
				if v.Values[j].Metric == nil && !slices.Contains(tasks, c.Task) {
					tasks = append(tasks, c.Task)
				}
			}
			if len(tasks) > 0 {
				out = append(out, fmt.Sprintf("%s: %s has no result for %s", s.name(), v.Label, list(tasks)))
			}
		}
	}
	return out
}

// holes names the combinations of a set's series and sizes that were not measured.
func (s *Set) holes() []string {
	var series, sizes, out []string
	have := map[[2]string]bool{}
	for i := range s.Variants {
		v := &s.Variants[i]
		if v.Cell.Method == study.Dense {
			continue
		}
		if !slices.Contains(series, v.Series) {
			series = append(series, v.Series)
		}
		if !slices.Contains(sizes, v.Size) {
			sizes = append(sizes, v.Size)
		}
		have[[2]string{v.Series, v.Size}] = true
	}
	for _, name := range series {
		var not []string
		for _, size := range sizes {
			if !have[[2]string{name, size}] {
				not = append(not, size)
			}
		}
		if len(not) > 0 {
			out = append(out, fmt.Sprintf("%s: %s was not measured at %s", s.name(), name, list(not)))
		}
	}
	return out
}

// hosts lists machines and versions, with the number of cells measured on each.
func hosts(records []study.Record) []Host {
	out := []Host{}
	for _, r := range records {
		if r.Run == nil || r.Status != study.Done {
			continue
		}
		h := Host{Host: r.Run.Host, Coppice: r.Run.Coppice}
		i := slices.IndexFunc(out, func(o Host) bool { return o.Host == h.Host && o.Coppice == h.Coppice })
		if i < 0 {
			i, out = len(out), append(out, h)
		}
		out[i].Cells++
	}
	return out
}

func title(sets []*Set) string {
	var models []string
	for _, s := range sets {
		name := s.BaseModel
		if name == "" {
			name = s.Model
		}
		if !slices.Contains(models, name) {
			models = append(models, name)
		}
	}
	switch {
	case len(models) == 0:
		return "Pruning study"
	case len(models) > 3:
		return fmt.Sprintf("Pruning study of %d models", len(models))
	}
	return "Pruning " + list(models)
}

// list joins words as a sentence does.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
