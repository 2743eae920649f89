// Package report says what a study found. It turns the records of a ledger into one value,
// a Report, and that value into a web page, a table of numbers (CSV), JSON and Markdown.
// Everything in any of the four stands in the Report; writing one decides nothing.
//
// A study has one variant of a model in each of its cells: the dense model, and the same
// model with some of its MLP neurons removed by some method. The questions are what a
// smaller model still does, which method keeps most at a size, and which variant to take.
// Three ideas carry the answers:
//
//   - Quality is one number a variant: the mean, over the study's tasks, of the share of
//     the dense model's performance that is left (quality.go has the rule). What guessing
//     reaches counts as nothing, and a task that the dense model cannot do is left out.
//   - A variant is on the Pareto front of a cost (parameters, bytes, time or energy a
//     token) if no other one has at least its quality for less. Times that differ by less
//     than their repetitions do not count as different.
//   - A change counts as one only where a paired test over the same records says so. The
//     tests are the ledger's; nothing is tested here.
//
// The same records give the same bytes, whatever their order in the ledger: there is no
// clock and no map order in the output. The page needs no network and no script.
package report

import (
	"errors"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// Version is the version of the JSON form.
const Version = 1

// ErrEmpty says that a ledger has nothing to report.
var ErrEmpty = errors.New("the ledger holds no record of a cell; `coppice study FILE.yaml` fills it")

// Report is what the page, the table and the other forms say. Lists are in the order of
// the page.
type Report struct {
	Version        int            `json:"version"`
	Study          string         `json:"study"` // the name that its file gives it
	Title          string         `json:"title"`
	Findings       []Finding      `json:"findings"`
	Recommendation Recommendation `json:"recommendation"`
	Quality        Quality        `json:"quality"`
	Sets           []*Set         `json:"sets"`
	Failed         []Failure      `json:"failed,omitempty"`
	Missing        []string       `json:"missing,omitempty"` // sentences
	Hosts          []Host         `json:"hosts"`
	Notes          []string       `json:"notes,omitempty"` // sentences about how far numbers can be compared

	speed  speedKey // the measurement of throughput that charts and tables show
	failed []study.Record
	series []string // names of all series: a method with its allocation
}

// Finding is a sentence about a set, or about the study where Set is "".
type Finding struct {
	Set  string `json:"set,omitempty"`
	Text string `json:"text"`
}

// Set is a model at one precision of computation: what is compared directly.
type Set struct {
	Model     string    `json:"model"`
	BaseModel string    `json:"base_model,omitempty"`
	DType     string    `json:"dtype"`
	Columns   []Column  `json:"columns"`
	Variants  []Variant `json:"variants"` // the dense model first
	Overlaps  []Overlap `json:"overlaps,omitempty"`
}

// Column is a metric of a task or of a group of tasks.
type Column struct {
	Task   string `json:"task"`
	Metric string `json:"metric"`
	Group  string `json:"group,omitempty"` // the group that the task is a part of
	// Main metrics are the ones in the headline table; a part of a group has none.
	Main bool `json:"main"`
	// Chance is the mean of 1/choices, Majority the rate of the most frequent right answer;
	// nil where a task has no choices.
	Chance   *float64 `json:"chance,omitempty"`
	Majority *float64 `json:"majority,omitempty"`
}

// Variant is one measured cell.
type Variant struct {
	ID     string     `json:"id"`
	Label  string     `json:"label"`  // unlike that of any other variant of its set
	Series string     `json:"series"` // method and allocation: what one line of a chart joins
	Size   string     `json:"size"`   // as the study file gives it: "20 %", "width 640", ...
	Cell   study.Cell `json:"cell"`

	Parameters int64   `json:"parameters,omitempty"`
	Bytes      int64   `json:"bytes,omitempty"`
	Quality    *Amount `json:"quality,omitempty"` // nil where a task was not measured
	// Front names the costs of whose Pareto fronts the variant is a part.
	Front  []string `json:"pareto_fronts,omitempty"`
	Values []Value  `json:"values"` // one for each column of the set

	// TokensPS is the throughput that the charts show, JoulesPerToken the energy of
	// the evaluations over their input tokens, idle power included.
	TokensPS       *Amount  `json:"tokens_per_second,omitempty"`
	JoulesPerToken *float64 `json:"joules_per_token,omitempty"`
	EnergyEstimate bool     `json:"energy_is_estimate,omitempty"`

	record *study.Record
	series int // index in Report.series, -1 for the dense model
}

// Amount is a number with what is known of its error.
type Amount struct {
	Value float64 `json:"value"`
	// StdErr is a standard error; Low and High are the extremes of repetitions.
	StdErr *float64 `json:"stderr,omitempty"`
	Low    *float64 `json:"low,omitempty"`
	High   *float64 `json:"high,omitempty"`
}

// Value is what a variant reached in one column, against the dense model and, where the
// ledger has it, against the same size made by maxabs.
type Value struct {
	Metric  *eval.Metric `json:"metric"` // nil: not measured
	Records int          `json:"records,omitempty"`
	Marks   []Mark       `json:"marks,omitempty"`
	Dense   *Change      `json:"against_dense,omitempty"`
	MaxAbs  *Change      `json:"against_maxabs,omitempty"`
}

// Change is a difference to another variant of the set.
type Change struct {
	Against  string           `json:"against"` // ID
	Change   *float64         `json:"change,omitempty"`
	Relative *float64         `json:"relative_change,omitempty"`
	Test     *eval.PairedTest `json:"test,omitempty"`
}

// Mark is what must be said beside a value.
type Mark string

// A value can have several marks. Better and Worse mean that a paired test against the
// dense model finds a difference; a value that guessing reaches is never Better.
const (
	Better        Mark = "better than dense"
	Worse         Mark = "worse than dense"
	BelowMajority Mark = "below majority"
	NotAboveGuess Mark = "no better than guessing"
)

// Failure is a cell that was tried and has no result.
type Failure struct {
	ID    string `json:"id"`
	Label string `json:"label"`
	Error string `json:"error"`
}

// Host is a machine that cells were measured on, with a version of the program.
type Host struct {
	study.Host
	Coppice string `json:"coppice"`
	Cells   int    `json:"cells"`
}

// New makes the report of a ledger, which it leaves as it is. It fails with ErrEmpty where
// there is no record, and with an *UnknownTaskError where the budget names a task that no
// record has.
func New(ledger *study.Ledger, budget Budget) (*Report, error) {
	if len(ledger.Records) == 0 {
		return nil, ErrEmpty
	}
	records := slices.Clone(ledger.Records)
	slices.SortStableFunc(records, func(a, b study.Record) int { return a.Cell.Compare(&b.Cell) })
	r := &Report{Version: Version, Study: ledger.Study}
	r.group(records)
	r.series = nameSeries(r.Sets)
	for _, s := range r.Sets {
		s.addColumns()
		s.addValues(ledger.Comparisons)
		s.Overlaps = overlaps(s)
	}
	r.addCosts()
	r.addQuality()
	r.addFronts()
	r.Missing = missing(r.Sets)
	r.Hosts = hosts(records)
	r.Title = title(r.Sets)
	if err := budget.check(r.Sets); err != nil {
		return nil, err
	}
	r.Recommendation = r.recommend(budget)
	r.Findings = r.find()
	r.Notes = r.notes()
	return r, nil
}

// dense returns the set's dense variant, or nil.
func (s *Set) dense() *Variant {
	if len(s.Variants) > 0 && s.Variants[0].Cell.Method == study.Dense {
		return &s.Variants[0]
	}
	return nil
}

// name tells the set from the others of a report.
func (s *Set) name() string { return fmt.Sprintf("%s, %s", s.Model, s.DType) }
