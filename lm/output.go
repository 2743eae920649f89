package lm

import (
	"strings"

	"github.com/coppice-lm/coppice/tokenizer"
)

// output turns tokens into text, hands it on, and looks for stop strings. Text that may
// be the beginning of a stop string is held back until it is clear.
type output struct {
	stream *tokenizer.Stream
	stop   []string
	emit   func(string) error
	all    strings.Builder // handed on
	held   string
}

func newOutput(stream *tokenizer.Stream, stop []string, emit func(string) error) *output {
	return &output{stream: stream, stop: stop, emit: emit}
}

// add takes a token; it reports whether a stop string is complete.
func (o *output) add(token int32) (stopped bool, err error) {
	return o.take(o.stream.Add(token))
}

func (o *output) take(text string) (stopped bool, err error) {
	o.held += text
	at := -1
	for _, s := range o.stop {
		if i := strings.Index(o.held, s); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		text := o.held[:at]
		o.held = ""
		return true, o.pass(text)
	}
	keep := 0
	for _, s := range o.stop {
		for n := min(len(s)-1, len(o.held)); n > keep; n-- {
			if strings.HasSuffix(o.held, s[:n]) {
				keep = n
			}
		}
	}
	pass := o.held[:len(o.held)-keep]
	o.held = o.held[len(pass):]
	return false, o.pass(pass)
}

// flush ends the text; with rest, what is held back or incomplete belongs to it.
func (o *output) flush(rest bool) error {
	if !rest {
		return nil
	}
	if stopped, err := o.take(o.stream.End()); stopped || err != nil {
		return err
	}
	text := o.held
	o.held = ""
	return o.pass(text)
}

func (o *output) pass(text string) error {
	if text == "" {
		return nil
	}
	o.all.WriteString(text)
	if o.emit == nil {
		return nil
	}
	return o.emit(text)
}

func (o *output) text() string { return o.all.String() }
