package eval

import (
	"fmt"
	"slices"
)

// item is one sample to be: a record, or a window of a text, with its requests as token
// ids.
type item struct {
	doc      *Doc
	id       int            // Sample.DocID
	fraction float64        // part of the document's tokens that the requests predict
	requests []TokenRequest // uncut
	answers  []TokenResult  // by request
	missing  int            // requests without an answer yet
}

// taskPlan is everything that will be asked of a model for a task.
type taskPlan struct {
	task      *Task
	items     []item
	records   int // in the file, or windows of the text
	truncated int // requests that were cut
	dropped   int // tokens that were cut off
	tokens    int64
	requests  int
}

// selectDocs returns the task with only those records that the options pick, in the order
// of the file.
func selectDocs(t *Task, opts *Options) (*Task, error) {
	picked := *t
	if t.Kind == Text {
		return &picked, nil // its records are windows, known once it is encoded
	}
	samples, listed := opts.Samples[t.Name]
	switch {
	case listed:
		if len(samples) == 0 {
			return nil, Usagef("--samples lists no record of task %s", t.Name)
		}
		ids := slices.Compact(slices.Sorted(slices.Values(samples)))
		picked.Docs = make([]Doc, 0, len(ids))
		for _, id := range ids {
			if id < 0 || id >= len(t.Docs) {
				return nil, Usagef("--samples asks for record %d of task %s, which has records 0 to %d", id, t.Name, len(t.Docs)-1)
			}
			picked.Docs = append(picked.Docs, t.Docs[id])
		}
	case opts.Limit > 0:
		picked.Docs = t.Docs[:min(opts.Limit, len(t.Docs))]
	}
	return &picked, nil
}

// encodeTask turns the records of a task into requests.
func encodeTask(lm LM, t *Task, opts *Options) (*taskPlan, error) {
	p := &taskPlan{task: t}
	for i := range t.Docs {
		d := &t.Docs[i]
		items, err := encodeDoc(lm, t, d, opts)
		if err != nil {
			return nil, t.docError(d, err)
		}
		p.items = append(p.items, items...)
	}
	if t.Kind == Text {
		p.records = len(p.items)
		if opts.Limit > 0 {
			p.items = p.items[:min(opts.Limit, len(p.items))]
		}
	}
	for i := range p.items {
		it := &p.items[i]
		it.missing = len(it.requests)
		it.answers = make([]TokenResult, len(it.requests))
		for _, r := range it.requests {
			cut, dropped, err := r.cut(opts.MaxLength)
			if err != nil {
				return nil, t.docError(it.doc, err)
			}
			if dropped > 0 {
				p.truncated++
				p.dropped += dropped
			}
			p.tokens += int64(cut.inputTokens())
			p.requests++
		}
	}
	return p, nil
}

// encodeDoc returns the samples that a record gives: one, or as many as a text has windows.
func encodeDoc(lm LM, t *Task, d *Doc, opts *Options) ([]item, error) {
	switch t.Kind {
	case Rolling:
		return encodeDocument(lm, d, opts)
	case Text:
		return encodeText(lm, t, d, opts)
	}
	it := item{doc: d, id: d.ID}
	for i, p := range d.Pairs {
		r, err := EncodePair(lm, opts.BOS, p.Context, p.Continuation)
		if err != nil {
			return nil, fmt.Errorf("choice %d: %w", i, err)
		}
		it.requests = append(it.requests, r)
	}
	return []item{it}, nil
}

func encodeDocument(lm LM, d *Doc, opts *Options) ([]item, error) {
	prefix := lm.Info().Prefix()
	if prefix == nil {
		return nil, errNoPrefix
	}
	tokens, err := encodeRolling(lm, opts.BOS, d.Text)
	if err != nil {
		return nil, err
	}
	windows := RollingWindows(tokens, prefix.ID, opts.MaxLength)
	return []item{{doc: d, id: d.ID, fraction: 1, requests: windows}}, nil
}

// encodeText encodes a text once, as the tokenizer does it by itself unless --bos none.
func encodeText(lm LM, t *Task, d *Doc, opts *Options) ([]item, error) {
	if t.Window-1 > opts.MaxLength {
		return nil, Usagef("windows of %d tokens are longer than the maximum length %d", t.Window, opts.MaxLength)
	}
	tokens, err := encode(lm, opts.BOS, d.Text)
	if err != nil {
		return nil, err
	}
	if len(tokens) < t.Window {
		return nil, Usagef("the text has %d tokens, fewer than a window of %d: choose a smaller --ctx", len(tokens), t.Window)
	}
	var items []item
	for i, w := range TextWindows(tokens, t.Window) {
		// Only some tokens are predicted, so only their share of the text's words and
		// bytes is what the log-likelihood is divided by.
		share := float64(len(w.Continuation)) / float64(len(tokens))
		items = append(items, item{doc: d, id: i, fraction: share, requests: []TokenRequest{w}})
	}
	return items, nil
}
