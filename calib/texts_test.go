package calib

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
)

func openings(t *testing.T, text string) *Openings {
	t.Helper()
	o, err := parseOpenings("openings.txt", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// textOptions asks for about 25 texts of three openings.
func textOptions(t *testing.T) TextOptions {
	return TextOptions{Model: "tiny", Openings: openings(t, "Once upon a time\nThe end of\nShe said"), Length: 12, Temperature: 0.8, TopP: 0.95, Tokens: 1000}
}

// writeTexts has the tiny model write, on so many threads.
func writeTexts(ctx context.Context, dir, out string, threads int, opt TextOptions) (*Texts, error) {
	opt.Threads = threads
	return WriteTexts(ctx, func(ctx context.Context) (*lm.Model, error) {
		return lm.Open(ctx, dir, lm.Options{Threads: threads})
	}, out, opt)
}

// lines reads the texts of an output, beside which nothing may be left.
func lines(t *testing.T, out string) []string {
	t.Helper()
	var texts []string
	documents, err := readSources([]string{out})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents {
		texts = append(texts, d.text)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".*")); left != nil {
		t.Errorf("left behind: %q", left)
	}
	return texts
}

// A text is an opening and what a session makes of it by itself, and there are as few as
// have the tokens; threads change no byte, and more tokens add texts.
func TestWriteTexts(t *testing.T) {
	dir, opt := tinyDir(t), textOptions(t)
	opt.Seed = 3
	out := filepath.Join(t.TempDir(), "texts.jsonl")
	var last int64
	opt.Progress = func(done, total int64) { last = done }
	texts, err := writeTexts(context.Background(), dir, out, 2, opt)
	if err != nil {
		t.Fatal(err)
	}
	m, err := lm.Open(context.Background(), dir, lm.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	got, tokens := lines(t, out), 0
	for n, text := range got {
		if tokens >= opt.Tokens {
			t.Errorf("text %d is one too many", n)
		}
		opening := opt.Openings.lines[n%3].text
		g, err := m.NewSession().Complete(context.Background(), opening, lm.GenerateOptions{MaxTokens: 12,
			Sampling: lm.Sampling{Temperature: 0.8, TopP: 0.95, Seed: 3_001_000 + uint64(n)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := opening + g.Text + "\n"; text != want {
			t.Errorf("text %d is %q, want %q", n, text, want)
		}
		tokens += len(m.Tokenizer().Encode(text, true))
	}
	if texts.Texts != len(got) || texts.Tokens != tokens || tokens < opt.Tokens || last != int64(opt.Tokens) {
		t.Errorf("%d texts of %d tokens, counted %+v; progress came to %d", len(got), tokens, texts, last)
	}
	whole, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	opt.Tokens += 300
	more := filepath.Join(t.TempDir(), "more.jsonl")
	if _, err := writeTexts(context.Background(), dir, more, 1, opt); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(more); err != nil || !bytes.HasPrefix(b, whole) || len(b) == len(whole) {
		t.Errorf("more texts on one thread do not begin with the same: %v", err)
	}
}

// Cancelled at any time, the same call ends with the same bytes, and does not make finished
// texts again; a torn line counts for nothing.
func TestWriteTextsResumes(t *testing.T) {
	dir, opt := tinyDir(t), textOptions(t)
	whole := filepath.Join(t.TempDir(), "whole.jsonl")
	if _, err := writeTexts(context.Background(), dir, whole, 2, opt); err != nil {
		t.Fatal(err)
	}
	want := lines(t, whole)
	out := filepath.Join(t.TempDir(), "texts.jsonl")
	kept := filepath.Join(filepath.Dir(out), ".texts.jsonl.coppice-texts")
	stopped := opt
	ctx, cancel := context.WithCancel(context.Background())
	steps := 0
	stopped.Progress = func(int64, int64) {
		if steps++; steps == 16 { // sixteen texts have ended, and others are begun
			cancel()
		}
	}
	if _, err := writeTexts(ctx, dir, out, 2, stopped); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	b, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	// The text of one is changed, so that the output shows that it was not made again.
	all := bytes.SplitAfter(b, []byte("\n"))
	if len(all) < 10 {
		t.Fatalf("%d lines are kept", len(all))
	}
	var marked textLine
	if err := json.Unmarshal(all[5], &marked); err != nil {
		t.Fatal(err)
	}
	marked.Text = "marked"
	want[marked.Number] = marked.Text
	if all[5], err = jsonLine(marked); err != nil {
		t.Fatal(err)
	}
	for i, torn := range []string{"", `{"number":20,"tok`, `{"number":20,"tok` + "\n", `{"number":20}` + "\n"} {
		if err := os.WriteFile(kept, append(bytes.Join(all, nil), torn...), 0o666); err != nil {
			t.Fatal(err)
		}
		opt.Replace = i > 0
		if _, err := writeTexts(context.Background(), dir, out, 1+i%2, opt); err != nil {
			t.Fatal(err)
		}
		if got := lines(t, out); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("after %q: %q, want %q", torn, got, want)
		}
	}
	// A head that is torn is no head.
	if err := os.WriteFile(kept, all[0][:20], 0o666); err != nil {
		t.Fatal(err)
	}
	want[marked.Number] = lines(t, whole)[marked.Number]
	if _, err := writeTexts(context.Background(), dir, out, 2, opt); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, out); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("after a torn head: %q, want %q", got, want)
	}
	// A line before the last cannot be torn: what says so is left as it is.
	damaged := append(bytes.Join(all[:3], nil), "{}\n"+string(all[3])...)
	if err := os.WriteFile(kept, damaged, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := writeTexts(context.Background(), dir, out, 2, opt); err == nil || !strings.Contains(err.Error(), "line 4: a text needs number") {
		t.Errorf("a damaged line: %v", err)
	}
	if b, err := os.ReadFile(kept); err != nil || !bytes.Equal(b, damaged) {
		t.Errorf("the damaged file is another: %v", err)
	}
}

// Unfinished texts of another model or other options are never mixed in: they are refused,
// or given up for Replace.
func TestWriteTextsOfAnother(t *testing.T) {
	dir, opt := tinyDir(t), textOptions(t)
	out := filepath.Join(t.TempDir(), "texts.jsonl")
	kept := filepath.Join(filepath.Dir(out), ".texts.jsonl.coppice-texts")
	want, err := writeTexts(context.Background(), dir, filepath.Join(t.TempDir(), "whole.jsonl"), 2, opt)
	if err != nil {
		t.Fatal(err)
	}
	m, err := lm.Open(context.Background(), dir, lm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*textsHead){
		"model is other":         func(h *textsHead) { h.Model = "other" },
		"tokenizer is other":     func(h *textsHead) { h.Tokenizer = "other" },
		"openings are other":     func(h *textsHead) { h.Openings = "other" },
		"length is 13, this run": func(h *textsHead) { h.Length = 13 },
		"temperature is 1":       func(h *textsHead) { h.Temperature = 1 },
		"top-p is 0":             func(h *textsHead) { h.TopP = 0 },
		"seed is 1":              func(h *textsHead) { h.Seed = 1 },
		"dtype is q4_0":          func(h *textsHead) { h.DType = "q4_0" },
		"another version":        func(h *textsHead) { h.Version = 2 },
		"no file of texts":       func(h *textsHead) { h.Version = 0 },
	} {
		head := (&textWriter{m: m, opt: &opt}).head()
		change(&head)
		var b bytes.Buffer
		if err := errors.Join(appendLine(&b, head), appendLine(&b, textLine{0, 900, "foreign"}), os.WriteFile(kept, b.Bytes(), 0o666)); err != nil {
			t.Fatal(err)
		}
		opt.Replace = false
		if _, err := writeTexts(context.Background(), dir, out, 2, opt); !errors.As(err, new(*checkpoint.OutputError)) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(kept); err != nil || !bytes.Equal(now, b.Bytes()) {
			t.Errorf("%s: the texts of the other run are changed: %v", name, err)
		}
		opt.Replace = true
		got, err := writeTexts(context.Background(), dir, out, 2, opt)
		if err != nil || got.Fingerprint != want.Fingerprint {
			t.Errorf("%s: replaced by %+v, %v", name, got, err)
		}
		os.Remove(out)
	}
}

// A model that ends each text at once repeats its openings, and the caller is told.
func TestWriteTextsTwice(t *testing.T) {
	opt := textOptions(t)
	opt.Length, opt.TopP, opt.Tokens = 1, 1e-9, 100
	said := ""
	opt.Warn = func(s string) { said += s }
	out := filepath.Join(t.TempDir(), "texts.jsonl")
	texts, err := writeTexts(context.Background(), tinyDir(t), out, 1, opt)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d of %d texts say what another says", texts.Texts-3, texts.Texts); !strings.Contains(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

func TestOpenings(t *testing.T) {
	if n := BuiltInOpenings().Len(); n != 40 {
		t.Errorf("%d built-in openings", n)
	}
	o := openings(t, "\ufeffOne \r\n\n \t\nTwo, and\n  three")
	if len(o.lines) != 3 || o.lines[0].text != "One " || o.lines[1].text != "Two, and" || o.lines[2] != (document{name: "openings.txt:5", text: "  three"}) {
		t.Errorf("openings %+v", o.lines)
	}
	for text, want := range map[string]string{
		"":              "holds no opening",
		"\n  \n":        "holds no opening",
		"good\n\xff\n":  "openings.txt:2: is not text in UTF-8",
		"a\x00b":        "openings.txt:1: is not text",
		"\xef\xbb\xbf ": "holds no opening",
	} {
		if _, err := parseOpenings("openings.txt", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
