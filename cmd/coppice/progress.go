package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/coppice-lm/coppice/eval"
)

// progress reports how much of a long work is done: a bar on a terminal, elsewhere a line
// every ten seconds (of bytes: each tenth), and nothing under --quiet.
type progress struct {
	w           io.Writer  // nil under --quiet
	terminal    *os.File   // nil where there is none
	columns     int        // of the terminal that hold text now
	what, unit  string     // no unit: bytes
	mu          sync.Mutex // add is called from many goroutines
	done, total int64
	first       int64     // done when the work began: an earlier run's
	next        int64     // bytes at which the next line is due
	start, last time.Time // of the work, and of the last line
}

func (a *app) progress(what, unit string, total int64) *progress {
	p := &progress{w: a.stderr, what: what, unit: unit, total: total, next: total / 10, start: time.Now(), last: time.Now()}
	if a.quiet {
		p.w = nil
	} else if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal = f
		a.bar = p
	}
	return p
}

// byteProgress reports bytes.
func (a *app) byteProgress(what string, total int64) *progress {
	return a.progress(what, "", total)
}

// tokenProgress reports tokens, whose number is known when the first are done.
func (a *app) tokenProgress(what string) *progress {
	p := a.progress(what, " tokens", 1)
	p.first = -1
	return p
}

// layerProgress reports layers.
func (a *app) layerProgress(what string, layers int) *progress {
	return a.progress(what, " layers", int64(layers))
}

// add is show for n more units.
func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show(p.done+n, p.total)
}

// show reports done of total units.
func (p *progress) show(done, total int64) {
	if p.w == nil {
		return
	}
	p.done, p.total = done, total
	if p.first < 0 {
		p.first, p.start = done, time.Now() // what the first report names was done before, or is too little to matter
	}
	number := countText
	if p.unit == "" {
		number = bytesText
	}
	text := fmt.Sprintf("%s: %s of %s%s", p.what, number(done), number(total), p.unit)
	if done > p.first {
		speed := float64(done-p.first) / time.Since(p.start).Seconds()
		if p.unit == "" {
			text += fmt.Sprintf(", %s/s", bytesText(int64(speed)))
		}
		text += ", " + timeLeft(float64(total-done), speed)
	}
	p.say(text)
}

// timeLeft is how long the rest takes at a speed a second.
func timeLeft(rest, speed float64) string {
	return fmt.Sprintf("%v left", time.Duration(rest/speed*float64(time.Second)).Round(time.Second))
}

// say shows the text for what is done.
func (p *progress) say(text string) {
	switch {
	case p.terminal != nil:
		if time.Since(p.last) >= 200*time.Millisecond {
			p.last = time.Now()
			p.draw(text)
		}
	case p.due():
		p.last, p.next = time.Now(), p.done+p.total/10
		fmt.Fprintln(p.w, text)
	}
}

// draw puts a bar and the text where the last ones are, as much as the terminal is wide.
func (p *progress) draw(text string) {
	const cells = 20
	full := 0
	if p.total > 0 {
		full = int(cells * min(max(p.done, 0), p.total) / p.total)
	}
	line := []rune("[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "] " + text)
	if width, _, err := term.GetSize(int(p.terminal.Fd())); err == nil && width > 0 && len(line) >= width {
		line = line[:max(width-1, 0)] // the last column would start a new line
	}
	fmt.Fprintf(p.w, "\r%s%s\r", string(line), strings.Repeat(" ", max(p.columns-len(line), 0)))
	p.columns = len(line)
}

// due reports whether it is time for a line. Short work is over before one is of use.
func (p *progress) due() bool {
	if p.unit == "" {
		return p.done >= p.next && p.done < p.total && time.Since(p.start) >= time.Second
	}
	return p.done < p.total && time.Since(p.last) >= 10*time.Second
}

// finish clears the bar away, until there is more to show.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.columns > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.columns))
		p.columns = 0
	}
}

// requestProgress reports an evaluation: requests, tokens a second, time left and the
// running accuracy.
func (a *app) requestProgress(name string) *progress {
	return a.progress(name, " requests", -1)
}

// requests reports what eval.Run says of itself.
func (p *progress) requests(s eval.Progress) {
	if p.w == nil {
		return
	}
	done := s.Tokens - s.ResumedTokens // those out of the ledger took no time
	speed := float64(done) / time.Since(p.start).Seconds()
	text := fmt.Sprintf("%s %s: %d of %d requests, %.0f tokens/s", p.what, s.Task, s.Requests, s.Total, speed)
	if s.Name != "" && s.Finished > 0 {
		text += fmt.Sprintf(", %s %.3f", s.Name, s.Metric)
	}
	if done > 0 {
		text += ", " + timeLeft(float64(s.TotalTokens-s.Tokens), speed)
	}
	p.done, p.total = s.Tokens, s.TotalTokens
	p.say(text)
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
