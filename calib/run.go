package calib

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/score"
)

// run is what all work on a text has in common: one layer after another, batch after
// batch, saved now and then.
type run struct {
	ctx     context.Context
	model   *lm.Layerwise
	text    *layout
	opt     Options
	files   files
	adder   *adder
	batches []batch

	dirty  bool // whether something was computed since the last save
	saved  time.Time
	saving time.Duration // that the last save took
}

// begin reads the text and decides how the work is cut: layer is the most memory that a
// layer takes, models how many residual streams of each token are kept, and others how
// many vectors as long as those.
func begin(ctx context.Context, m *lm.Layerwise, sources []string, out string, opt Options, layer int64, models, others int) (*run, error) {
	if err := opt.check(m.Info().MaxLength); err != nil {
		return nil, err
	}
	documents, err := readSources(sources)
	if err != nil {
		return nil, err
	}
	text, err := layRows(m, documents, &opt)
	if err != nil {
		return nil, err
	}
	r := &run{ctx: ctx, model: m, text: text, opt: opt, files: filesFor(out, models), adder: &adder{threads: opt.Threads},
		batches: text.batches(), saved: time.Now()}
	if r.opt.Memory == 0 {
		r.opt.Memory = DefaultMemory
	}
	r.files.spill = layer+int64(models+others)*streamBytes(m.Engine().Model(), text.tokens()) > r.opt.Memory
	return r, r.judge()
}

// widths are those of the model's layers.
func widths(m *lm.Layerwise) []int {
	var all []int
	for _, l := range m.Engine().Model().Layers {
		all = append(all, l.Width)
	}
	return all
}

// end publishes the output of work that ended with err, or cleans up where the same call
// would fail again.
func (r *run) end(err error) error {
	if err != nil {
		if r.ctx.Err() == nil && !errors.As(err, new(*checkpoint.WriteError)) {
			r.files.remove()
		}
		return err
	}
	if err := os.Rename(r.files.part, r.files.out); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	r.files.remove()
	return nil
}

// progress reports that all before a place is done.
func (r *run) progress(at *place) {
	if r.opt.Progress == nil {
		return
	}
	done := r.text.tokens()
	if at.Batch < len(r.batches) {
		done = r.batches[at.Batch].first
	}
	r.opt.Progress(int64(at.Layer)*r.text.tokens()+done, int64(len(r.model.Engine().Model().Layers))*r.text.tokens())
}

// due reports whether there is something to save and it is time to.
func (r *run) due() bool {
	return r.dirty && (r.ctx.Err() != nil || time.Since(r.saved) >= r.saveEvery())
}

// saveEvery is how long work goes unsaved: a second at least, a minute at most, and in
// between so long that saving takes a fiftieth of the time. It decides nothing about the
// result.
func (r *run) saveEvery() time.Duration {
	if r.opt.Save > 0 {
		return r.opt.Save
	}
	return min(max(50*r.saving, time.Second), time.Minute)
}

// keep makes what was computed durable: first what sync does, then the streams that layer
// made has made, then the place.
func (r *run) keep(at place, made int, sync func() error, stats *score.LayerStats, streams ...*streams) error {
	begin := time.Now()
	if err := sync(); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	for _, s := range streams {
		if err := s.sync(made); err != nil {
			return err
		}
	}
	if err := r.files.save(at, stats, streams); err != nil {
		return err
	}
	r.saved, r.dirty = time.Now(), false
	r.saving = r.saved.Sub(begin)
	return nil
}

// judge says whether there is enough text.
func (r *run) judge() error {
	width, tokens := int64(slices.Max(widths(r.model))), r.text.tokens()
	switch {
	case tokens < width || r.text.body == 0:
		return fmt.Errorf("the calibration text has %d tokens (%d asked for); the model's MLPs are %d wide, and fewer tokens than that say too little: give more text or ask for more, best %d or more", tokens, r.opt.Tokens, width, 4*width)
	case tokens < 4*width:
		r.warn("%d calibration tokens are fewer than 4 x the width of the MLPs, %d: scores and refits will be poor; give more text or ask for more tokens", tokens, 4*width)
	}
	if tokens < int64(r.opt.Tokens) {
		r.warn("the text gives %d tokens, fewer than the %d asked for; it is used once", tokens, r.opt.Tokens)
	}
	if r.text.held == 0 {
		r.warn("the text has fewer than %d documents, so none is held back to choose a damping by", heldBack)
	}
	// English has about 4.5 bytes a token, and most languages that a tokenizer was made for
	// above 2; a vocabulary of bytes is not meant.
	if r.model.Tokenizer().VocabSize() > 1000 && r.text.bytes > 0 && float64(r.text.bytes)/float64(tokens) < 1.5 {
		r.warn("the text has %.1f bytes a token: it may be in a language, or not text at all, that the model was not trained on", float64(r.text.bytes)/float64(tokens))
	}
	return nil
}

func (r *run) warn(format string, args ...any) {
	if r.opt.Warn != nil {
		r.opt.Warn(fmt.Sprintf(format, args...))
	}
}
