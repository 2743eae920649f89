package calib

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/filelock"
	"github.com/coppice-lm/coppice/lm"
)

// TextOptions say which texts WriteTexts has a model write. All but Tokens, Threads and what
// follows decide about each text; Tokens decides how many there are.
type TextOptions struct {
	Model       string    // its fingerprint
	Openings    *Openings // one after another, round and round
	Length      int       // most new tokens of a text
	Seed        uint64
	Temperature float64 // above 0
	TopP        float64
	Tokens      int // at least so many in all, those of openings counted

	Threads int
	Replace bool // a file in the output's place, and unfinished texts of other options
	// Progress is called with the tokens done, those of unfinished texts counted, and Tokens;
	// may be nil, and so may Warn.
	Progress func(done, total int64)
	Warn     func(string)
}

// Texts says what WriteTexts wrote.
type Texts struct {
	File        string  `json:"file"`
	Fingerprint string  `json:"fingerprint"` // SHA-256 of the file
	Texts       int     `json:"texts"`
	Tokens      int     `json:"tokens"`
	Openings    int     `json:"openings"`
	Length      int     `json:"length"`
	Temperature float64 `json:"temperature"`
	TopP        float64 `json:"top_p"`
	Seed        uint64  `json:"seed"`
	DType       string  `json:"dtype"`
	Model       string  `json:"model"`
}

// The texts that are written side by side: with sixteen, what a token takes is hardly that
// of reading the weights any more. What the model remembers of them stays below
// textsMemory, unless that of one is more. Neither changes a text.
const (
	textsAtOnce = 16
	textsMemory = 1 << 30
)

// WriteTexts has a model write texts of its own to be calibrated on, JSON Lines into the file
// out. A text is an opening, what the model makes of it (lm.Batch) and a line end; it depends
// on nothing but the model, its number, and the options. Texts that are finished stand in a
// hidden file beside the output, from which the same call goes on. A file that is in the
// output's place, and unfinished texts of other options, are a *checkpoint.OutputError unless
// opt.Replace is set. load opens the model, once nothing is in the way. A
// *checkpoint.WriteError is a failure to write.
func WriteTexts(ctx context.Context, load func(context.Context) (*lm.Model, error), out string, opt TextOptions) (*Texts, error) {
	held, err := lock(out)
	if err != nil {
		return nil, err
	}
	defer filelock.Release(held)
	if _, err := os.Lstat(out); err == nil && !opt.Replace {
		return nil, &checkpoint.OutputError{Path: out, Reason: "exists; use --force to replace it"}
	}
	m, err := load(ctx)
	if err != nil {
		return nil, err
	}
	prompts, err := opt.Openings.encode(m)
	if err != nil {
		return nil, err
	}
	dir, base := filepath.Split(out)
	w := &textWriter{m: m, opt: &opt, prompts: prompts, out: out, kept: dir + "." + base + ".coppice-texts", done: map[int]textLine{}}
	return w.write(ctx)
}

// textWriter is one call of WriteTexts.
type textWriter struct {
	m       *lm.Model
	opt     *TextOptions
	prompts [][]int32 // of the openings
	out     string
	kept    string // the name of the file of finished texts
	done    map[int]textLine
}

// textsHead is the first line of the file of finished texts: what all of them depend on.
type textsHead struct {
	Version     int     `json:"coppice_texts"`
	Model       string  `json:"model"`
	Tokenizer   string  `json:"tokenizer"`
	Openings    string  `json:"openings"`
	Length      int     `json:"length"`
	Temperature float64 `json:"temperature"`
	TopP        float64 `json:"top_p"`
	Seed        uint64  `json:"seed"`
	DType       string  `json:"dtype"`
}

// textLine is another line: a text. They come in the order in which they were finished.
type textLine struct {
	Number int    `json:"number"`
	Tokens int    `json:"tokens"`
	Text   string `json:"text"`
}

func (w *textWriter) head() textsHead {
	info := w.m.Info()
	return textsHead{1, w.opt.Model, info.Tokenizer, w.opt.Openings.fingerprint(), w.opt.Length, w.opt.Temperature, w.opt.TopP, w.opt.Seed, info.DType}
}

func (w *textWriter) write(ctx context.Context) (*Texts, error) {
	f, err := w.open()
	if err != nil {
		return nil, err
	}
	err = w.all(ctx, f)
	if e := writeError(f.Close()); err == nil {
		err = e
	}
	if err == nil {
		var t *Texts
		if t, err = w.publish(); err == nil {
			os.Remove(w.kept)
			return t, nil
		}
	}
	if len(w.done) == 0 || ctx.Err() == nil && !errors.As(err, new(*checkpoint.WriteError)) {
		os.Remove(w.kept) // there is nothing in it, or the same call would fail again
	}
	return nil, err
}

// open opens the file of finished texts, to which more can be appended, and reads those that
// are there. What a kill cut off is removed.
func (w *textWriter) open() (*os.File, error) {
	f, err := os.OpenFile(w.kept, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, writeError(err)
	}
	valid, err := w.read(f)
	if err == nil {
		err = writeError(f.Truncate(valid))
	}
	if err == nil {
		_, err = f.Seek(valid, io.SeekStart)
		err = writeError(err)
	}
	if err == nil && valid == 0 {
		err = appendLine(f, w.head())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// read reads finished texts, and returns how many bytes of the file are whole lines of this
// call's options: 0 where it is begun anew.
func (w *textWriter) read(f *os.File) (valid int64, err error) {
	data, err := io.ReadAll(f)
	if err != nil {
		return 0, writeError(err) // what cannot be read cannot be gone on from
	}
	for number := 1; ; number++ {
		line, rest, whole := bytes.Cut(data[valid:], []byte("\n"))
		if !whole {
			return valid, nil
		}
		if number == 1 {
			if err := w.sameHead(line); err != nil && w.opt.Replace {
				return 0, nil
			} else if err != nil {
				return 0, err
			}
		} else if err := w.readText(line); err != nil && len(rest) > 0 {
			return 0, fmt.Errorf("%s: line %d: %w; remove the file to begin anew", w.kept, number, err)
		} else if err != nil {
			return valid, nil // the last line, torn though it has its end
		}
		valid += int64(len(line)) + 1
	}
}

// sameHead refuses texts of other options.
func (w *textWriter) sameHead(line []byte) error {
	var old textsHead
	difference := "is no file of texts"
	if json.Unmarshal(line, &old) == nil && old.Version > 0 {
		if old == w.head() {
			return nil
		}
		difference = "holds unfinished texts of another run: " + w.head().difference(&old)
	}
	return &checkpoint.OutputError{Path: w.out, Reason: fmt.Sprintf("%s beside it %s; choose another output, or --force to give them up", filepath.Base(w.kept), difference)}
}

// difference says in words in what two heads differ.
func (h textsHead) difference(old *textsHead) string {
	for _, f := range []struct {
		name     string
		old, now any
	}{
		{"model is", old.Model, h.Model},
		{"tokenizer is", old.Tokenizer, h.Tokenizer},
		{"openings are", old.Openings, h.Openings},
		{"length is", old.Length, h.Length},
		{"temperature is", old.Temperature, h.Temperature},
		{"top-p is", old.TopP, h.TopP},
		{"seed is", old.Seed, h.Seed},
		{"dtype is", old.DType, h.DType},
	} {
		if f.old != f.now {
			return fmt.Sprintf("its %s %v, this run's %v", f.name, f.old, f.now)
		}
	}
	return "its form is another version's"
}

func (w *textWriter) readText(line []byte) error {
	var t textLine
	if err := json.Unmarshal(line, &t); err != nil {
		return err
	}
	if t.Number < 0 || t.Tokens < 1 || t.Text == "" {
		return errors.New("a text needs number, tokens and text")
	}
	w.done[t.Number] = t
	return nil
}

// appendLine writes a value as a line of JSON.
func appendLine(to io.Writer, v any) error {
	b, err := jsonLine(v)
	if err == nil {
		_, err = to.Write(b)
	}
	return writeError(err)
}

func jsonLine(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// all makes the texts that are not there yet, and appends each to f as it is finished. A text
// is begun when those before it would be too few even at their longest, so that none is made
// in vain.
func (w *textWriter) all(ctx context.Context, f *os.File) error {
	batch := w.m.NewBatch(w.opt.Threads)
	finished, most, next := 0, 0, 0 // tokens of finished texts; the most of all begun; the text to begin
	for {
		for most < w.opt.Tokens {
			if t, ok := w.done[next]; ok {
				finished, most = finished+t.Tokens, most+t.Tokens
			} else if batch.Len() == w.width() {
				break
			} else if err := batch.Add(next, w.prompt(next), w.generate(next)); err != nil {
				return fmt.Errorf("text %d: %w", next, err)
			} else {
				most += w.longest(next)
			}
			next++
		}
		if w.opt.Progress != nil {
			w.opt.Progress(int64(min(finished+batch.Tokens(), w.opt.Tokens)), int64(w.opt.Tokens))
		}
		if batch.Len() == 0 {
			return nil
		}
		ended, err := batch.Step(ctx)
		for _, e := range ended {
			text := w.opening(e.ID).text + e.Text + "\n"
			t := textLine{e.ID, len(w.m.Tokenizer().Encode(text, true)), text}
			if err := appendLine(f, t); err != nil {
				return err
			}
			w.done[e.ID] = t
			finished, most = finished+t.Tokens, most+t.Tokens-w.longest(e.ID)
		}
		if err != nil {
			return err
		}
	}
}

func (w *textWriter) opening(n int) document { return w.opt.Openings.lines[n%len(w.prompts)] }
func (w *textWriter) prompt(n int) []int32   { return w.prompts[n%len(w.prompts)] }

// longest is how many tokens a text has that is not cut short, its line end counted.
func (w *textWriter) longest(n int) int { return len(w.prompt(n)) + w.opt.Length + 1 }

// generate says how a text is made. Below a million texts no two seeds have one in common.
func (w *textWriter) generate(n int) lm.GenerateOptions {
	return lm.GenerateOptions{MaxTokens: w.opt.Length, Sampling: lm.Sampling{
		Temperature: w.opt.Temperature, TopP: w.opt.TopP, Seed: w.opt.Seed*1_000_000 + 1000 + uint64(n)}}
}

// width is how many texts are made side by side.
func (w *textWriter) width() int {
	longest := 0
	for n := range w.prompts {
		longest = max(longest, min(w.longest(n), w.m.Info().MaxLength))
	}
	return int(min(max(textsMemory/(cacheBytes(w.m.Engine().Model())*int64(longest)), 1), textsAtOnce))
}

// cacheBytes is about what a cache holds of a token.
func cacheBytes(m *arch.Transformer) int64 {
	n := int64(1)
	for _, l := range m.Layers {
		n += 8 * int64(l.KVHeads) * int64(m.HeadDim)
	}
	return n
}

// publish writes the first texts that have enough tokens together.
func (w *textWriter) publish() (*Texts, error) {
	o := w.opt
	t := &Texts{File: w.out, Openings: o.Openings.Len(), Length: o.Length, Temperature: o.Temperature, TopP: o.TopP, Seed: o.Seed,
		DType: w.m.Info().DType, Model: o.Model}
	part := w.kept + "-part"
	f, err := os.Create(part)
	if err != nil {
		return nil, writeError(err)
	}
	sum := sha256.New()
	to := bufio.NewWriter(io.MultiWriter(f, sum))
	seen := map[string]bool{}
	for ; t.Tokens < o.Tokens && err == nil; t.Texts++ {
		line := w.done[t.Texts]
		t.Tokens += line.Tokens
		seen[line.Text] = true
		err = appendLine(to, struct {
			Text      string `json:"text"`
			WrittenBy string `json:"written_by"`
		}{line.Text, o.Model})
	}
	if err == nil {
		err = writeError(errors.Join(to.Flush(), f.Sync()))
	}
	if e := writeError(f.Close()); err == nil {
		err = e
	}
	if err == nil {
		err = writeError(os.Rename(part, w.out))
	}
	if err != nil {
		os.Remove(part)
		return nil, err
	}
	if again := t.Texts - len(seen); again > 0 && o.Warn != nil {
		o.Warn(fmt.Sprintf("%d of %d texts say what another says, and calibration would count them twice: the model ends them early, or samples too little; give it more --openings or a higher --temperature", again, t.Texts))
	}
	t.Fingerprint = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return t, nil
}
