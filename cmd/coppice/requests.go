package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/coppice-lm/coppice/eval"
)

// requestProgress reports an evaluation: requests, tokens a second, time left and the
// running accuracy; a bar on a terminal, a line every ten seconds elsewhere.
type requestProgress struct {
	w           io.Writer
	name        string
	bar         *progressbar.ProgressBar
	start, last time.Time
	quiet       bool
}

func (a *app) requestProgress(name string) *requestProgress {
	p := &requestProgress{w: a.stderr, name: name, quiet: a.quiet, start: time.Now(), last: time.Now()}
	if f, ok := a.stderr.(*os.File); ok && !a.quiet && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetPredictTime(false),
			progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

func (p *requestProgress) show(s eval.Progress) {
	if p.quiet {
		return
	}
	elapsed := time.Since(p.start)
	done := s.Tokens - s.ResumedTokens
	speed := float64(done) / elapsed.Seconds()
	what := fmt.Sprintf("%s %s: %d of %d requests, %.0f tokens/s", p.name, s.Task, s.Requests, s.Total, speed)
	if s.Name != "" && s.Finished > 0 {
		what += fmt.Sprintf(", %s %.3f", s.Name, s.Metric)
	}
	// Requests out of the ledger took no time, so the bar's own guess would be wrong.
	left := time.Duration(float64(s.TotalTokens-s.Tokens) / max(speed, 1e-9) * float64(time.Second))
	if done > 0 {
		what += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	if p.bar != nil {
		p.bar.ChangeMax64(s.TotalTokens)
		p.bar.Describe(what)
		p.bar.Set64(s.Tokens)
		return
	}
	if time.Since(p.last) < 10*time.Second || s.Requests == s.Total {
		return
	}
	p.last = time.Now()
	fmt.Fprintln(p.w, what)
}

func (p *requestProgress) finish() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
