package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// countProgress reports how many of a long work's units are done: a bar on a terminal, a
// line every ten seconds elsewhere, nothing under --quiet.
type countProgress struct {
	w           io.Writer
	what, unit  string
	done, total int64
	first       int64 // done when the work began: an earlier run's
	bar         *progressbar.ProgressBar
	start, last time.Time
}

// tokenProgress reports tokens, whose number is known when the first are done.
func (a *app) tokenProgress(what string) *countProgress { return a.countProgress(what, "tokens", 0) }

// layerProgress reports layers.
func (a *app) layerProgress(what string, layers int) *countProgress {
	return a.countProgress(what, "layers", int64(layers))
}

func (a *app) countProgress(what, unit string, total int64) *countProgress {
	p := &countProgress{w: a.stderr, what: what, unit: unit, total: total, first: -1, start: time.Now(), last: time.Now()}
	if unit == "layers" {
		p.first = 0
	}
	if a.quiet {
		p.w = nil
	} else if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(max(1, total), progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription(what),
			progressbar.OptionSetPredictTime(false), progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

// add is show for n more units.
func (p *countProgress) add(n int64) { p.show(p.done+n, p.total) }

// show reports done of total units.
func (p *countProgress) show(done, total int64) {
	if p.w == nil {
		return
	}
	p.done, p.total = done, total
	if p.first < 0 {
		p.first = done // what the first report names was done before, or is too little to matter
		p.start = time.Now()
	}
	left := ""
	if done > p.first {
		per := time.Since(p.start) / time.Duration(done-p.first)
		left = fmt.Sprintf(", %v left", (per * time.Duration(total-done)).Round(time.Second))
	}
	text := fmt.Sprintf("%s: %s of %s %s%s", p.what, countText(done), countText(total), p.unit, left)
	if p.bar != nil {
		p.bar.ChangeMax64(total)
		p.bar.Describe(text)
		p.bar.Set64(done)
		return
	}
	if time.Since(p.last) < 10*time.Second || done == total {
		return
	}
	p.last = time.Now()
	fmt.Fprintln(p.w, text)
}

func (p *countProgress) finish() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
