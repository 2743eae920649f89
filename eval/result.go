package eval

import (
	"encoding/json"
	"math"
)

// Result is what Run measured. Everything in it follows from the model, the records and
// the options, but Usage, which is what it took.
type Result struct {
	Model     ModelInfo     `json:"model"`
	BOS       BOSRule       `json:"bos"`
	MaxLength int           `json:"max_length"` // longest model input in tokens, as run
	Limit     int           `json:"limit,omitempty"`
	Tasks     []TaskResult  `json:"tasks"`
	Groups    []GroupResult `json:"groups,omitempty"`
	Usage     Usage         `json:"-"`
}

// Usage is what a run took. The caller may add PeakMemory.
type Usage struct {
	Seconds float64 `json:"seconds"` // of this process, encoding and scoring
	// Tokens are the model's input tokens of the requests scored by this process, a prefix
	// counted again for each choice, as lm-eval counts.
	Tokens     int64 `json:"input_tokens"`
	Requests   int   `json:"requests"` // scored by this process
	Resumed    int   `json:"requests_from_ledger"`
	PeakMemory int64 `json:"peak_memory_bytes,omitempty"`
}

// TokensPerSecond is Tokens over Seconds, 0 where nothing was scored.
func (u Usage) TokensPerSecond() float64 {
	if u.Tokens == 0 || u.Seconds <= 0 {
		return 0
	}
	return float64(u.Tokens) / u.Seconds
}

// TaskResult is the outcome of one task.
type TaskResult struct {
	Name    string  `json:"name"`
	Group   string  `json:"group,omitempty"`
	Kind    Kind    `json:"kind"`
	Version float64 `json:"version"`
	Source  string  `json:"source"` // base name of the data file
	// Records is the number in the file, Evaluated how many of them were asked.
	Records   int       `json:"records"`
	Evaluated int       `json:"evaluated"`
	Metrics   []Metric  `json:"metrics"`
	Guessing  *Guessing `json:"guessing,omitempty"` // multiple choice only
	// Truncated is the number of requests whose context was cut from the left to fit
	// MaxLength, TruncatedTokens how many tokens that took away.
	Truncated       int      `json:"truncated_requests"`
	TruncatedTokens int      `json:"truncated_tokens"`
	Fingerprint     string   `json:"fingerprint"` // of the records that were asked
	Window          int      `json:"window,omitempty"`
	Samples         []Sample `json:"-"`

	task *Task // what was asked, where this result was measured and not loaded
}

// Metric is the value of one metric.
type Metric struct {
	Name string
	// Value is +Inf where a perplexity overflows float64; Log is still finite then.
	Value float64
	// StdErr is the standard error: of the mean for accuracies, by bootstrap over records
	// for perplexities. NaN where there are fewer than two records.
	StdErr float64
	// Log is the natural logarithm of a perplexity, NaN for other metrics.
	Log float64
}

// Guessing is what one needs to judge an accuracy.
type Guessing struct {
	Chance       float64 `json:"chance"`   // mean of 1/choices
	Majority     float64 `json:"majority"` // rate of the most frequent right answer
	MajorityName string  `json:"majority_answer"`
	// Answers are the rates at which the model chose each answer by the task's first
	// metric, in the order of choices.
	Answers []AnswerRate `json:"answers"`
}

// AnswerRate is how often an answer was right, and how often it was chosen.
type AnswerRate struct {
	Name   string  `json:"name"`
	Gold   float64 `json:"gold"`
	Chosen float64 `json:"chosen"`
}

// GroupResult is the mean of a group's tasks, weighted by their number of records.
type GroupResult struct {
	Name     string   `json:"name"`
	Tasks    []string `json:"tasks"`
	Records  int      `json:"records"`
	Metrics  []Metric `json:"metrics"`
	Chance   float64  `json:"chance"`
	Majority float64  `json:"majority"`
}

// Sample is the outcome of one record, or of one window of a text.
type Sample struct {
	DocID       int
	Fingerprint string // of the record's text and right answer
	// Scores hold one number a metric, in the order of TaskResult.Metrics: 0 or 1 for an
	// accuracy, the log-likelihood for a perplexity.
	Scores []float64
	// Weights are the units that the log-likelihoods are divided by: 1 for a cloze,
	// words, bytes or tokens otherwise.
	Weights []float64
	// Answers are the requests and what the model said, where the result was measured
	// and not loaded.
	Answers []Answer
}

// Answer is a request as it was encoded, before it was cut, and the model's result.
type Answer struct {
	TokenRequest
	TokenResult
}

// Task returns the result of the task of that name, or nil.
func (r *Result) Task(name string) *TaskResult {
	for i := range r.Tasks {
		if r.Tasks[i].Name == name {
			return &r.Tasks[i]
		}
	}
	return nil
}

// Metric returns the metric of that name, or nil.
func (t *TaskResult) Metric(name string) *Metric {
	for i := range t.Metrics {
		if t.Metrics[i].Name == name {
			return &t.Metrics[i]
		}
	}
	return nil
}

// Overflow reports whether a perplexity is too large for a number; its Log is not.
func (m Metric) Overflow() bool { return math.IsInf(m.Value, 1) }

// metricJSON is the file form of Metric: strict JSON has neither Infinity nor NaN.
type metricJSON struct {
	Name     string   `json:"name"`
	Value    *float64 `json:"value"`
	StdErr   *float64 `json:"stderr"`
	Log      *float64 `json:"log,omitempty"`
	Overflow bool     `json:"overflow,omitempty"`
}

// MarshalJSON writes numbers that are not finite as null; an overflow is marked.
func (m Metric) MarshalJSON() ([]byte, error) {
	return json.Marshal(metricJSON{m.Name, finite(m.Value), finite(m.StdErr), finite(m.Log), m.Overflow()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Metric) UnmarshalJSON(data []byte) error {
	var j metricJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*m = Metric{j.Name, orNaN(j.Value), orNaN(j.StdErr), orNaN(j.Log)}
	if j.Overflow {
		m.Value = math.Inf(1)
	}
	return nil
}

// finite returns a pointer to x, or nil where JSON has no number for it.
func finite(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}

func orNaN(p *float64) float64 {
	if p == nil {
		return math.NaN()
	}
	return *p
}
