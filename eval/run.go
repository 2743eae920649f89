package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"
)

// Options say how tasks are run. The zero value asks every record, with the model's own
// maximum length, and keeps no ledger.
type Options struct {
	BOS       BOSRule          // "" means BOSTokenizer
	MaxLength int              // longest model input in tokens; 0 means the model's own
	Limit     int              // only the first records of each task; 0 means all
	Samples   map[string][]int // only these records of a task; excludes Limit
	Dir       string           // where the ledger is kept; "" keeps none
	Force     bool             // start afresh where Dir holds the ledger of another run

	// Progress, if not nil, is called after each finished request, never concurrently.
	Progress func(Progress)
	// Warn, if not nil, is told what the user should know though the run goes on.
	Warn func(message string)
}

// Progress says how far a run is.
type Progress struct {
	Task            string
	Requests, Total int // finished, those from the ledger included, and all
	// Tokens are the input tokens of the finished requests, ResumedTokens those of them that
	// the ledger held, TotalTokens those of all requests.
	Tokens, ResumedTokens, TotalTokens int64
	// Metric is the running value of the task's accuracy over its Finished records; Name
	// is empty where it has none.
	Name     string
	Metric   float64
	Finished int
}

// Run puts the tasks to the model and returns what came out. A killed run that kept a
// ledger is continued by the same call, and gives the same Result but for its Usage.
//
// Errors name task, record and file. A log-likelihood that is not finite is an error. When
// ctx ends Run returns its error, with every finished request in the ledger.
func Run(ctx context.Context, lm LM, tasks []*Task, opts Options) (*Result, error) {
	start := time.Now()
	if err := opts.complete(lm.Info(), tasks); err != nil {
		return nil, err
	}
	plans := make([]*taskPlan, len(tasks))
	for i, t := range tasks {
		if err := t.validate(); err != nil {
			return nil, err
		}
		picked, err := selectDocs(t, &opts)
		if err != nil {
			return nil, err
		}
		if plans[i], err = encodeTask(lm, picked, &opts); err != nil {
			return nil, err
		}
		if t.Kind != Text {
			plans[i].records = len(t.Docs)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	r := &runner{lm: lm, opts: &opts, plans: plans}
	if err := r.ask(ctx); err != nil {
		return nil, err
	}
	result := r.result()
	r.usage.Seconds = time.Since(start).Seconds()
	result.Usage = r.usage
	return result, nil
}

// complete fills in what the options leave to the model and reports what cannot be.
func (o *Options) complete(info ModelInfo, tasks []*Task) error {
	if o.BOS == "" {
		o.BOS = BOSTokenizer
	}
	if _, err := ParseBOSRule(string(o.BOS)); err != nil {
		return &UsageError{err}
	}
	switch {
	case o.MaxLength == 0:
		o.MaxLength = info.MaxLength
	case o.MaxLength < 1 || o.MaxLength > info.MaxLength:
		return Usagef("the maximum length is %d; it must be from 1 to the model's own, %d", o.MaxLength, info.MaxLength)
	}
	if o.Limit < 0 {
		return Usagef("a limit of %d records", o.Limit)
	}
	if o.Limit > 0 && len(o.Samples) > 0 {
		return Usagef("--limit and --samples exclude each other")
	}
	if len(tasks) == 0 {
		return Usagef("no task to run")
	}
	names := map[string]bool{}
	for _, t := range tasks {
		if names[t.Name] {
			return Usagef("task %s is listed twice", t.Name)
		}
		names[t.Name] = true
	}
	for name := range o.Samples {
		if !names[name] {
			return Usagef("--samples names task %s, which is not among the tasks to run", name)
		}
	}
	return checkGroups(tasks)
}

// runner is a run under way.
type runner struct {
	lm       LM
	opts     *Options
	plans    []*taskPlan
	ledger   *ledger
	progress Progress
	usage    Usage
}

// ask has every request answered, by the ledger or by the model.
func (r *runner) ask(ctx context.Context) (err error) {
	var done map[ledgerKey]TokenResult
	if r.opts.Dir != "" {
		warn := r.opts.Warn
		if warn == nil {
			warn = func(string) {}
		}
		r.ledger, done, err = openLedger(r.opts.Dir, r.header(), r.opts.Force, warn)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.ledger.close()) }()
	}
	for _, p := range r.plans {
		r.progress.Total += p.requests
		r.progress.TotalTokens += p.tokens
	}
	pending := make([][]request, len(r.plans))
	for i, p := range r.plans {
		pending[i] = r.resume(p, done)
	}
	r.progress.ResumedTokens = r.progress.Tokens
	for i, p := range r.plans {
		if err := r.askTask(ctx, p, pending[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) header() ledgerHeader {
	info := r.lm.Info()
	h := ledgerHeader{
		Format: ledgerFormat, Version: ledgerVersion,
		Weights: info.Weights, Tokenizer: info.Tokenizer, DType: info.DType,
		BOS: r.opts.BOS, MaxLength: r.opts.MaxLength, Tasks: map[string]string{},
	}
	for _, p := range r.plans {
		h.Tasks[p.task.Name] = p.fingerprint()
	}
	return h
}

// fingerprint is the digest of the records asked; of a text also how many windows.
func (p *taskPlan) fingerprint() string {
	f := p.task.fingerprint()
	if p.task.Kind == Text {
		f = fmt.Sprintf("%s-%d", f, len(p.items))
	}
	return f
}

// request is one that the model has to answer.
type request struct {
	TokenRequest
	item   *item
	choice int
}

// resume takes over the answers that the ledger holds and returns the requests that are
// left, those with a common prefix side by side.
func (r *runner) resume(p *taskPlan, done map[ledgerKey]TokenResult) []request {
	var left []request
	for i := range p.items {
		it := &p.items[i]
		for j, uncut := range it.requests {
			cut, _, _ := uncut.cut(r.opts.MaxLength) // encodeTask saw its error
			if result, ok := done[ledgerKey{p.task.Name, it.id, j}]; ok {
				it.answers[j] = result
				it.missing--
				r.usage.Resumed++
				r.progress.Requests++
				r.progress.Tokens += int64(cut.inputTokens())
				continue
			}
			left = append(left, request{cut, it, j})
		}
	}
	slices.SortStableFunc(left, func(a, b request) int { return compareTokens(a.TokenRequest, b.TokenRequest) })
	return left
}

// compareTokens orders requests by the ids of context and continuation as one sequence.
func compareTokens(a, b TokenRequest) int {
	n, m := len(a.Context)+len(a.Continuation), len(b.Context)+len(b.Continuation)
	for i := range min(n, m) {
		if c := cmp.Compare(a.at(i), b.at(i)); c != 0 {
			return c
		}
	}
	return cmp.Compare(n, m)
}

func (r *TokenRequest) at(i int) int32 {
	if i < len(r.Context) {
		return r.Context[i]
	}
	return r.Continuation[i-len(r.Context)]
}

// askTask has the model answer the pending requests of a task.
func (r *runner) askTask(ctx context.Context, p *taskPlan, pending []request) error {
	running := p.running()
	r.progress.Task, r.progress.Name = p.task.Name, running.name
	if len(pending) == 0 {
		r.report(running)
		return nil
	}
	requests := make([]TokenRequest, len(pending))
	for i := range pending {
		requests[i] = pending[i].TokenRequest
	}
	answered := 0
	err := r.lm.Score(ctx, requests, func(i int, result TokenResult) error {
		q := &pending[i]
		if ll := result.LogLikelihood; math.IsNaN(ll) || math.IsInf(ll, 0) {
			return p.requestError(q, fmt.Errorf("the log-likelihood is %v: the model's logits are not finite", ll))
		}
		key := ledgerKey{p.task.Name, q.item.id, q.choice}
		if err := r.ledger.add(key, result); err != nil {
			return err
		}
		q.item.answers[q.choice] = result
		answered++
		r.usage.Requests++
		r.usage.Tokens += int64(q.inputTokens())
		r.progress.Requests++
		r.progress.Tokens += int64(q.inputTokens())
		if q.item.missing--; q.item.missing == 0 {
			running.add(q.item)
		}
		r.report(running)
		return nil
	})
	var failed *RequestError
	switch {
	case errors.As(err, &failed) && failed.Index >= 0 && failed.Index < len(pending):
		return p.requestError(&pending[failed.Index], failed.Err)
	case err != nil:
		return err
	case answered != len(pending):
		return fmt.Errorf("task %s: the model answered %d of %d requests", p.task.Name, answered, len(pending))
	}
	return nil
}

func (r *runner) report(running *running) {
	r.progress.Finished, r.progress.Metric = running.n, running.value()
	if r.opts.Progress != nil {
		r.opts.Progress(r.progress)
	}
}

// requestError says which request of which record an error is about.
func (p *taskPlan) requestError(q *request, err error) error {
	what := "choice"
	if p.task.Kind == Rolling {
		what = "window"
	}
	return p.task.docError(&Doc{ID: q.item.id, Line: q.item.doc.Line}, fmt.Errorf("%s %d: %w", what, q.choice, err))
}

// running is the accuracy of a task over the records that are finished so far.
type running struct {
	task  *Task
	name  string
	index int // of the metric
	n     int
	sum   float64
}

func (p *taskPlan) running() *running {
	r := &running{task: p.task}
	r.index = slices.IndexFunc(p.task.Metrics, HigherIsBetter)
	if r.index >= 0 {
		r.name = p.task.Metrics[r.index]
	}
	for i := range p.items {
		if p.items[i].missing == 0 {
			r.add(&p.items[i])
		}
	}
	return r
}

func (r *running) add(it *item) {
	r.n++
	if r.index >= 0 {
		r.sum += it.sample(r.task).Scores[r.index]
	}
}

func (r *running) value() float64 {
	if r.n == 0 {
		return 0
	}
	return r.sum / float64(r.n)
}

// sample makes a sample of an item that is answered.
func (it *item) sample(t *Task) Sample {
	s := Sample{DocID: it.id, Answers: make([]Answer, len(it.requests))}
	for i, r := range it.requests {
		s.Answers[i] = Answer{r, it.answers[i]}
	}
	t.score(it.doc, it.fraction, &s)
	return s
}

// result aggregates the answers.
func (r *runner) result() *Result {
	result := &Result{
		Model: r.lm.Info(), BOS: r.opts.BOS, MaxLength: r.opts.MaxLength, Limit: r.opts.Limit,
		Tasks: make([]TaskResult, len(r.plans)),
	}
	for i, p := range r.plans {
		t := p.task
		tr := TaskResult{
			Name: t.Name, Group: t.Group, Kind: t.Kind, Version: t.Version, Source: filepath.Base(t.Source),
			Records: p.records, Evaluated: len(p.items),
			Truncated: p.truncated, TruncatedTokens: p.dropped,
			Fingerprint: p.fingerprint(), Window: t.Window, task: t,
		}
		docs := make([]*Doc, len(p.items))
		for j := range p.items {
			docs[j] = p.items[j].doc
			s := p.items[j].sample(t)
			if j > 0 && docs[j] == docs[j-1] { // the windows of a text
				s.Fingerprint = tr.Samples[j-1].Fingerprint
			} else {
				s.Fingerprint = t.docFingerprint(docs[j])
			}
			tr.Samples = append(tr.Samples, s)
		}
		tr.aggregate(t.Metrics)
		if t.Kind == MultipleChoice {
			tr.Guessing = t.guessing(tr.Samples, docs)
		}
		result.Tasks[i] = tr
	}
	result.Groups = groups(result.Tasks)
	return result
}
