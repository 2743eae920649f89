package eval

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Significance is the p value below which a difference counts as one.
const Significance = 0.05

// Comparison sets results beside each other. The first is the baseline of the others.
type Comparison struct {
	Models []ModelSummary `json:"models"`
	Rows   []Row          `json:"rows"`
	Notes  []string       `json:"notes"` // sentences that belong under the table
}

// ModelSummary is what a table says about a model and its run.
type ModelSummary struct {
	Model           ModelInfo `json:"model"`
	BOS             BOSRule   `json:"bos"`
	MaxLength       int       `json:"max_length"`
	Usage           Usage     `json:"usage"`
	TokensPerSecond float64   `json:"tokens_per_second"`
}

// Row is one metric of one task or group.
type Row struct {
	Task     string   `json:"task"`
	Group    bool     `json:"group,omitempty"`
	Metric   string   `json:"metric"`
	Chance   *float64 `json:"chance,omitempty"`
	Majority *float64 `json:"majority,omitempty"`
	Cells    []Cell   `json:"cells"` // one a model
}

// Cell is the value that one model reached. Metric is nil where it was not measured.
type Cell struct {
	Metric  *Metric      `json:"metric"`
	Records int          `json:"records"`
	Answers []AnswerRate `json:"answers,omitempty"` // of the task's first metric
	// Change is the value less the baseline's, Relative that over the baseline's; nil for
	// the baseline, and where either value is no number.
	Change   *float64    `json:"change,omitempty"`
	Relative *float64    `json:"relative_change,omitempty"`
	Test     *PairedTest `json:"test,omitempty"`
}

// PairedTest is a test of the change against the baseline over the records that both
// models were asked.
type PairedTest struct {
	Name    string  `json:"name"` // "mcnemar_exact" or "paired_bootstrap"
	Records int     `json:"records"`
	P       float64 `json:"p"`
	// OnlyBaseline and OnlyOther count the records that one model alone had right
	// (McNemar).
	OnlyBaseline int `json:"only_baseline"`
	OnlyOther    int `json:"only_other"`
	// Low and High are a 95 % interval of the change in log-likelihood per unit (paired
	// bootstrap).
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Compare sets results beside the first of them. Every task of any result has a row; a
// value that was not measured is left out.
func Compare(results ...*Result) *Comparison {
	c := &Comparison{Notes: []string{}}
	for _, r := range results {
		c.Models = append(c.Models, ModelSummary{r.Model, r.BOS, r.MaxLength, r.Usage, r.Usage.TokensPerSecond()})
	}
	c.noteConditions(results)
	for _, s := range subjectNames(results) {
		subjects := make([]*subject, len(results))
		for i, r := range results {
			subjects[i] = r.subject(s)
		}
		c.addRows(s, subjects)
	}
	c.noteTruncation(results)
	return c
}

// subject is a task or a group as rows see it.
type subject struct {
	group            bool
	kind             Kind
	tokenizer        string
	records          int
	metrics          []Metric
	chance, majority *float64
	majorityName     string
	answers          []AnswerRate
	tasks            []*TaskResult // whose samples are compared
}

// subjectNames lists groups, each before its tasks, and tasks, in the order in which the
// results have them.
func subjectNames(results []*Result) []string {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range results {
		for _, t := range r.Tasks {
			if t.Group != "" {
				add(t.Group)
			}
			add(t.Name)
		}
	}
	return names
}

// subject returns the task or group of that name, nil where the result has none.
func (r *Result) subject(name string) *subject {
	for i := range r.Groups {
		if g := &r.Groups[i]; g.Name == name {
			s := &subject{
				group: true, kind: MultipleChoice, tokenizer: r.Model.Tokenizer, records: g.Records,
				metrics: g.Metrics, chance: &g.Chance, majority: &g.Majority,
			}
			for _, member := range g.Tasks {
				if t := r.Task(member); t != nil {
					s.tasks = append(s.tasks, t)
				}
			}
			return s
		}
	}
	t := r.Task(name)
	if t == nil {
		return nil
	}
	s := &subject{
		kind: t.Kind, tokenizer: r.Model.Tokenizer, records: t.Evaluated,
		metrics: t.Metrics, tasks: []*TaskResult{t},
	}
	if g := t.Guessing; g != nil {
		s.chance, s.majority, s.majorityName, s.answers = &g.Chance, &g.Majority, g.MajorityName, g.Answers
	}
	return s
}

func (s *subject) metric(name string) (int, *Metric) {
	for i := range s.metrics {
		if s.metrics[i].Name == name {
			return i, &s.metrics[i]
		}
	}
	return -1, nil
}

// addRows adds a row for each metric that any of the models has of a task.
func (c *Comparison) addRows(name string, subjects []*subject) {
	var metrics []string
	for _, s := range subjects {
		if s == nil {
			continue
		}
		for _, m := range s.metrics {
			if !slices.Contains(metrics, m.Name) {
				metrics = append(metrics, m.Name)
			}
		}
	}
	for i, metric := range metrics {
		row := Row{Task: name, Metric: metric, Cells: make([]Cell, len(subjects))}
		for j, s := range subjects {
			if s == nil {
				continue
			}
			row.Group = s.group
			if row.Chance == nil && HigherIsBetter(metric) {
				row.Chance, row.Majority = s.chance, s.majority
			}
			_, m := s.metric(metric)
			row.Cells[j] = Cell{Metric: m, Records: s.records}
			if i == 0 {
				row.Cells[j].Answers = s.answers
			}
			c.noteValue(&row, j, s)
			if j > 0 && subjects[0] != nil {
				c.compareCell(&row, j, subjects[0], s)
			}
		}
		c.Rows = append(c.Rows, row)
	}
}

// compareCell fills in change and test of model j against the baseline.
func (c *Comparison) compareCell(row *Row, j int, base, other *subject) {
	bi, b := base.metric(row.Metric)
	oi, o := other.metric(row.Metric)
	if b == nil || o == nil {
		return
	}
	cell := &row.Cells[j]
	cell.Change = finite(o.Value - b.Value)
	if cell.Change != nil && b.Value != 0 {
		cell.Relative = finite(*cell.Change / b.Value)
	}
	if base.kind == Text && base.tokenizer != other.tokenizer {
		c.note("%s %s: not tested, since the tokenizers of %s and %s differ and so do the windows", row.Task, row.Metric, c.label(0), c.label(j))
		return
	}
	cell.Test = pairedTest(row.Metric, pairSamples(base, other), bi, oi)
	c.noteTest(row, j, base, other)
}

// samplePair is a record that both models were asked.
type samplePair struct{ base, other *Sample }

// pairSamples matches the records of two subjects by task, index and text.
func pairSamples(base, other *subject) []samplePair {
	type key struct {
		task string
		doc  int
		text string
	}
	found := map[key]*Sample{}
	for _, t := range other.tasks {
		for i := range t.Samples {
			s := &t.Samples[i]
			found[key{t.Name, s.DocID, s.Fingerprint}] = s
		}
	}
	var pairs []samplePair
	for _, t := range base.tasks {
		for i := range t.Samples {
			s := &t.Samples[i]
			if o := found[key{t.Name, s.DocID, s.Fingerprint}]; o != nil {
				pairs = append(pairs, samplePair{s, o})
			}
		}
	}
	return pairs
}

// pairedTest compares metric bi of the baseline's samples with metric oi of the other's. It
// is nil where there is nothing to compare.
func pairedTest(metric string, pairs []samplePair, bi, oi int) *PairedTest {
	if len(pairs) == 0 {
		return nil
	}
	if HigherIsBetter(metric) {
		t := &PairedTest{Name: "mcnemar_exact", Records: len(pairs)}
		for _, p := range pairs {
			switch b, o := p.base.Scores[bi], p.other.Scores[oi]; {
			case b > o:
				t.OnlyBaseline++
			case o > b:
				t.OnlyOther++
			}
		}
		t.P = McNemar(t.OnlyBaseline, t.OnlyOther)
		return t
	}
	if len(pairs) < 2 {
		return nil
	}
	var a, b, wa, wb []float64
	for _, p := range pairs {
		a, wa = append(a, p.base.Scores[bi]), append(wa, p.base.Weights[bi])
		b, wb = append(b, p.other.Scores[oi]), append(wb, p.other.Weights[oi])
	}
	t := &PairedTest{Name: "paired_bootstrap", Records: len(pairs)}
	t.Low, t.High, t.P = PairedBootstrap(a, b, wa, wb)
	return t
}

// Significant reports whether the models differ by more than chance explains.
func (t *PairedTest) Significant() bool { return t.P < Significance }

// label is the letter that a table calls model i by.
func (c *Comparison) label(i int) string {
	if i < 26 {
		return string(rune('A' + i))
	}
	return fmt.Sprintf("M%d", i+1)
}

func (c *Comparison) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// noteConditions says what the models do not have in common.
func (c *Comparison) noteConditions(results []*Result) {
	for i, r := range results[min(1, len(results)):] {
		a, b := results[0], r
		la, lb := c.label(0), c.label(i+1)
		if a.Model.Tokenizer != b.Model.Tokenizer {
			c.note("%s and %s have different tokenizers: tasks are compared record by record, and perplexities per token say nothing", la, lb)
		}
		if a.BOS != b.BOS {
			c.note("%s was run with --bos %s, %s with --bos %s", la, a.BOS, lb, b.BOS)
		}
		if a.MaxLength != b.MaxLength {
			c.note("%s was run with a maximum length of %d tokens, %s with %d", la, a.MaxLength, lb, b.MaxLength)
		}
		if a.Model.DType != b.Model.DType {
			c.note("%s was run in %s, %s in %s", la, a.Model.DType, lb, b.Model.DType)
		}
	}
}

// noteValue says what the value of model j in a row cannot say for itself.
func (c *Comparison) noteValue(row *Row, j int, s *subject) {
	m := row.Cells[j].Metric
	if m == nil {
		return
	}
	if m.Overflow() {
		c.note("%s: the %s of %s is too large for a number; its natural logarithm is %.2f", row.Task, row.Metric, c.label(j), m.Log)
	}
	if s.majority != nil && HigherIsBetter(row.Metric) && m.Value < *s.majority {
		always := ""
		if s.majorityName != "" {
			always = fmt.Sprintf(" of always answering %q", s.majorityName)
		}
		c.note("%s: %s's %s of %.4f is below the majority rate of %.4f%s", row.Task, c.label(j), row.Metric, m.Value, *s.majority, always)
	}
}

// noteTest says where a change means nothing, or could not be tested.
func (c *Comparison) noteTest(row *Row, j int, base, other *subject) {
	cell := &row.Cells[j]
	test, la, lb := cell.Test, c.label(0), c.label(j)
	if test == nil {
		c.note("%s %s: %s and %s have too few records in common for a test", row.Task, row.Metric, la, lb)
		return
	}
	if test.Records < base.records || test.Records < other.records {
		c.note("%s %s: the test of %s against %s is over the %d records that both were asked", row.Task, row.Metric, lb, la, test.Records)
	}
	if !test.Significant() && !math.IsNaN(test.P) {
		c.note("%s %s: the difference between %s and %s is not significant (%s, p = %.3g)", row.Task, row.Metric, la, lb, testNames[test.Name], test.P)
	}
}

var testNames = map[string]string{"mcnemar_exact": "McNemar's exact test", "paired_bootstrap": "paired bootstrap"}

// noteTruncation says which tasks had records longer than the context, once for models that
// lost the same.
func (c *Comparison) noteTruncation(results []*Result) {
	type loss struct {
		task                        string
		maxLength, requests, tokens int
	}
	var losses []loss
	models := map[loss][]string{}
	for i, r := range results {
		for _, t := range r.Tasks {
			if t.Truncated == 0 {
				continue
			}
			l := loss{t.Name, r.MaxLength, t.Truncated, t.TruncatedTokens}
			if models[l] == nil {
				losses = append(losses, l)
			}
			models[l] = append(models[l], c.label(i))
		}
	}
	for _, l := range losses {
		c.note("%s: %d requests to %s were longer than %d tokens; %d tokens were cut from the left",
			l.task, l.requests, strings.Join(models[l], ", "), l.maxLength, l.tokens)
	}
}
