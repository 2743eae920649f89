package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress reports how much of a long work is done: a bar with bytes and time left on
// a terminal, a plain line each tenth elsewhere. It is nil, and
// silent, under --quiet.
type progress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar
	what  string
	total int64
	done  atomic.Int64
	next  atomic.Int64 // bytes at which the next line is due
	start time.Time
}

func (a *app) progress(what string, total int64) *progress {
	if a.quiet || total <= 0 {
		return nil
	}
	p := &progress{w: a.stderr, what: what, total: total, start: time.Now()}
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetDescription(what),
			progressbar.OptionSetWriter(a.stderr),
			progressbar.OptionShowBytes(true),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
		)
	}
	p.next.Store(total / 10)
	return p
}

// add is called from many goroutines.
func (p *progress) add(n int64) {
	if p == nil {
		return
	}
	if p.bar != nil {
		p.bar.Add64(n)
		return
	}
	done := p.done.Add(n)
	due := p.next.Load()
	// Short work is over before a line about it is of use.
	if done < due || done >= p.total || time.Since(p.start) < time.Second || !p.next.CompareAndSwap(due, done+p.total/10) {
		return
	}
	left := time.Duration(float64(time.Since(p.start)) * float64(p.total-done) / float64(done))
	fmt.Fprintf(p.w, "%s: %s of %s, %v left\n", p.what, bytesText(done), bytesText(p.total), left.Round(time.Second))
}

func (p *progress) finish() {
	if p != nil && p.bar != nil {
		p.bar.Finish()
	}
}

// callback is add as a function value, nil where nothing is reported.
func (p *progress) callback() func(int64) {
	if p == nil {
		return nil
	}
	return p.add
}

// bytesText is a size as people read it, in decimal units.
func bytesText(n int64) string {
	const units = "kMGTP"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n), -1
	for v >= 999.5 && u < len(units)-1 {
		v /= 1000
		u++
	}
	if v < 10 {
		return fmt.Sprintf("%.2f %cB", v, units[u])
	}
	return fmt.Sprintf("%.4g %cB", v, units[u])
}

// countText is a number with thousands separated.
func countText(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
