package report

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

//go:embed page
var files embed.FS

// templates is parsed anew by each page, which takes less than a millisecond.
func templates() (*template.Template, error) {
	return template.New("page.html").Funcs(template.FuncMap{"bytes": byteSize, "nb": nonBreaking, "breaks": breaks}).ParseFS(files, "page/*.html")
}

// nonBreaking keeps numbers and their percent signs on one line.
func nonBreaking(s string) string { return strings.ReplaceAll(s, " %", "\u00a0%") }

// breaks lets long names break after an underscore.
func breaks(s string) template.HTML {
	return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(s), "_", "_<wbr>"))
}

// page is what the template shows.
type page struct {
	*Report
	Style        template.CSS
	Script       template.JS
	Policy       string // of content: nothing comes from a network
	Lead         string
	Findings     []findings
	QualityWords string
	Figures      []figure // of the recommended variant
	Commands     []string // that make it
	Legend       []legend
	Sets         []setPage
	Datasets     []dataset
	Asked        []string
	Costs        []string // names of costs that were measured of no variant, with the reason
}

// findings are the sentences about one set, or about the study where Set is "".
type findings struct {
	Set   string
	Texts []string
}

func (r *Report) findingsBySet() []findings {
	var out []findings
	for _, f := range r.Findings {
		if n := len(out); n == 0 || out[n-1].Set != f.Set {
			out = append(out, findings{Set: f.Set})
		}
		last := &out[len(out)-1]
		last.Texts = append(last.Texts, f.Text)
	}
	return out
}

// figure is a number with its name.
type figure struct{ Value, Name, Note string }

// legend is a series with its mark.
type legend struct {
	Mark template.HTML
	Name string
}

// setPage is what the page says of a set.
type setPage struct {
	Name      string
	Many      bool // there are other sets
	Charts    []template.HTML
	Headline  table
	Rest      *table // all variants, where the headline has not all
	Tasks     []template.HTML
	MoreTasks []moreCharts
	Overflow  bool // a perplexity is no number and in no chart
	Crowded   bool // charts have no error bars
	Widths    template.HTML
	Uniform   bool
	MoreRows  int
	WidthRows []widthWords
	Curves    []captioned
	Overlaps  []overlapTable
	Tests     []table
	Seeds     *table
	Metrics   *table
	Speed     *table
	Energy    *table
	Cells     []provenance
}

// moreCharts are the charts of all tasks against one cost.
type moreCharts struct {
	Cost   string
	Charts []template.HTML
}

type captioned struct {
	Caption string
	Chart   template.HTML
}

// widthWords are a row of the widths' chart as text.
type widthWords struct{ Who, Widths string }

// HTML returns the report as one web page that needs nothing beside it.
func (r *Report) HTML() ([]byte, error) {
	style, err := files.ReadFile("page/style.css")
	if err != nil {
		return nil, err
	}
	script, err := files.ReadFile("page/sort.js")
	if err != nil {
		return nil, err
	}
	t, err := templates()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(script)
	p := page{
		Report: r, Style: template.CSS(style), Script: template.JS(script),
		Policy:       "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'",
		Lead:         r.lead(),
		Findings:     r.findingsBySet(),
		QualityWords: r.Quality.words(),
		Legend:       r.legend(),
		Datasets:     r.datasets(),
		Asked:        r.conditions(),
	}
	if s, v := r.find1(r.Recommendation.ID); v != nil {
		p.Figures, p.Commands = r.figures(s, v), v.record.Commands
	}
	for _, c := range r.costs() {
		if !r.has(c) {
			p.Costs = append(p.Costs, c.name)
		}
	}
	for _, s := range r.Sets {
		p.Sets = append(p.Sets, r.setPage(s))
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// setPage draws and writes all that the page has of a set.
func (r *Report) setPage(s *Set) setPage {
	p := setPage{Name: s.name(), Many: len(r.Sets) > 1, Crowded: len(s.Variants) >= manyPoints}
	columns := s.mainColumns()
	chosen, all := r.headline(s)
	p.Headline = r.valueTable(s, "Results of "+s.name(), chosen, columns)
	var everyone []*Variant
	for i := range s.Variants {
		everyone = append(everyone, &s.Variants[i])
	}
	if !all {
		t := r.valueTable(s, "All variants of "+s.name(), everyone, columns)
		p.Rest = &t
	}
	if len(columns) < len(s.Columns) {
		var others []int
		for j := range s.Columns {
			if !slices.Contains(columns, j) {
				others = append(others, j)
			}
		}
		t := r.valueTable(s, "Other metrics of "+s.name(), everyone, others)
		p.Metrics = &t
	}
	r.addCharts(&p, s, columns)
	addLayers(&p, s)
	for _, test := range []struct {
		caption string
		get     func(*Value) *Change
	}{
		{"Against the dense model, ", func(v *Value) *Change { return v.Dense }},
		{"Against maxabs at the same size, ", func(v *Value) *Change { return v.MaxAbs }},
	} {
		if t, ok := s.testTable(test.caption+s.name(), columns, test.get); ok {
			p.Tests = append(p.Tests, t)
		}
	}
	for _, t := range []struct {
		make func() (table, bool)
		to   **table
	}{{s.seedTable, &p.Seeds}, {s.speedTable, &p.Speed}, {s.energyTable, &p.Energy}} {
		if made, ok := t.make(); ok {
			*t.to = &made
		}
	}
	p.Cells = s.provenances()
	return p
}

// addCharts draws quality against each cost, and each task against parameters; against the
// other costs in the part of the page that is folded.
func (r *Report) addCharts(p *setPage, s *Set, columns []int) {
	for i, c := range r.costs() {
		if chart := r.qualityChart(s, c); chart != "" {
			p.Charts = append(p.Charts, chart)
		}
		var charts []template.HTML
		for _, j := range columns {
			if chart := r.taskChart(s, j, c); chart != "" {
				charts = append(charts, chart)
			}
		}
		switch {
		case i == 0:
			p.Tasks = charts
		case len(charts) > 0:
			p.MoreTasks = append(p.MoreTasks, moreCharts{c.name, charts})
		}
	}
	for _, j := range columns {
		for i := range s.Variants {
			if m := s.Variants[i].Values[j].Metric; m != nil && m.Overflow() {
				p.Overflow = true
			}
		}
	}
}

// addLayers draws what was removed where.
func addLayers(p *setPage, s *Set) {
	rows, more := s.widthRows()
	p.MoreRows = more
	p.Uniform = len(rows) > 0 && !slices.ContainsFunc(rows, func(r widthRow) bool { return !r.uniform() })
	p.Widths = widthChart(s, rows)
	for _, row := range rows {
		text := fmt.Sprintf("%d in each layer of %d", row.widths[0], row.dense)
		if !row.uniform() {
			text = strings.Trim(strings.Join(strings.Fields(fmt.Sprint(row.widths)), ", "), "[]")
		}
		p.WidthRows = append(p.WidthRows, widthWords{row.words(), text})
	}
	for _, v := range s.curveVariants() {
		if chart := curveChart(s, v); chart != "" {
			p.Curves = append(p.Curves, captioned{v.Cell.Method, chart})
		}
	}
	p.Overlaps = s.overlapTables()
}

// lead says in a sentence what was measured.
func (r *Report) lead() string {
	var methods, sizes, dtypes, tasks []string
	add := func(to *[]string, s string) {
		if s != "" && !slices.Contains(*to, s) {
			*to = append(*to, s)
		}
	}
	n := 0
	r.each(func(s *Set, v *Variant) {
		n++
		if v.Cell.Method != study.Dense {
			add(&methods, v.Series)
			add(&sizes, v.Size)
		}
		add(&dtypes, v.Cell.DType)
	})
	for _, s := range r.Sets {
		for _, c := range s.Columns {
			if c.Main {
				add(&tasks, c.Task)
			}
		}
	}
	text := fmt.Sprintf("%s measured", plural(n, "variant"))
	if len(methods) > 0 && len(methods) <= 8 && len(sizes) <= 8 {
		text += ": the dense model, and " + list(methods) + " at " + list(sizes)
	}
	if len(tasks) > 0 {
		text += fmt.Sprintf(". %s (%s), computed in %s", plural(len(tasks), "task"), strings.Join(tasks, ", "), list(dtypes))
	}
	return text + "."
}

// legend lists the dense model and all series.
func (r *Report) legend() []legend {
	out := []legend{{legendMark(-1), study.Dense}}
	for i, name := range r.series {
		out = append(out, legend{legendMark(i), name})
	}
	return out
}

// find1 returns the variant of that ID with its set, or nil.
func (r *Report) find1(id string) (*Set, *Variant) {
	for _, s := range r.Sets {
		for i := range s.Variants {
			if s.Variants[i].ID == id && id != "" {
				return s, &s.Variants[i]
			}
		}
	}
	return nil, nil
}

// has reports whether a cost was measured of any variant.
func (r *Report) has(c cost) bool {
	found := false
	r.each(func(_ *Set, v *Variant) { found = found || c.get(v) != nil })
	return found
}

// figures are the numbers that stand large beside the recommendation.
func (r *Report) figures(s *Set, v *Variant) []figure {
	d := s.dense()
	var out []figure
	if v.Quality != nil {
		f := figure{Value: fmt.Sprintf("%.0f %%", 100*v.Quality.Value), Name: "of the dense quality"}
		if v.Quality.StdErr != nil {
			f.Note = fmt.Sprintf("± %.1f", 100**v.Quality.StdErr)
		}
		out = append(out, f)
	}
	if v.Bytes > 0 {
		f := figure{Value: byteSize(v.Bytes), Name: "of weights"}
		if d != nil && d != v && d.Bytes > 0 {
			f.Note = fmt.Sprintf("%.0f %% of dense", 100*float64(v.Bytes)/float64(d.Bytes))
		}
		out = append(out, f)
	}
	if v.Parameters > 0 {
		out = append(out, figure{Value: count(v.Parameters), Name: "parameters"})
	}
	if v.TokensPS != nil {
		f := figure{Value: digits(v.TokensPS.Value), Name: r.speed.kind + " tokens/s"}
		if d != nil && d != v && d.TokensPS != nil {
			f.Note = "×" + factor(v.TokensPS.Value/d.TokensPS.Value) + " dense"
		}
		out = append(out, f)
	}
	if v.JoulesPerToken != nil {
		f := figure{Value: digits(*v.JoulesPerToken) + " J", Name: "a token"}
		if v.EnergyEstimate {
			f.Note = "estimate"
		}
		out = append(out, f)
	}
	return out
}
