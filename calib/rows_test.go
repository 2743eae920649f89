package calib

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/score"
)

// Report calib/counts: three texts in rows of their own, which padding would fill up to 64
// tokens, give the counts and the sums of the three run alone; packed into one row, the
// start of each is set apart.
func TestPaddingNeverCounts(t *testing.T) {
	dir := tinyDir(t)
	m := openTiny(t, dir)
	texts := []string{strings.Repeat("one text. ", 4), strings.Repeat("another. ", 5), strings.Repeat("third ", 8)}
	total := 0
	var all strings.Builder
	for _, s := range texts {
		total += len(s)
		fmt.Fprintf(&all, "{\"text\": %q}\n", s)
	}
	path := filepath.Join(t.TempDir(), "three.jsonl")
	write(t, path, all.String())
	opt := options()
	opt.Context, opt.Rows = 64, Padded
	st := openStats(t, collect(t, m, path, opt))
	if st.First != 3 || st.Tokens() != int64(total) {
		t.Errorf("padded: %d first of %d tokens, want 3 of %d", st.First, st.Tokens(), total)
	}
	got, err := st.Layer(2)
	if err != nil {
		t.Fatal(err)
	}
	want := score.NewLayerStats(tinyWidth)
	for _, s := range texts {
		l, err := layRows(m, []document{{text: s}}, &opt)
		if err != nil {
			t.Fatal(err)
		}
		alone := naive(t, dir, l)[2]
		want.Body.Add(alone.Body)
		want.First.Add(alone.First)
	}
	if err := sameMoments(&got.Body, &want.Body); err != nil {
		t.Errorf("body: %v", err)
	}
	if err := sameMoments(&got.First, &want.First); err != nil {
		t.Errorf("first tokens: %v", err)
	}
	opt.Context, opt.Rows = 512, Packed
	l, err := layRows(m, []document{{text: texts[0]}, {text: texts[1]}, {text: texts[2]}}, &opt)
	if err != nil || len(l.rows) != 1 || l.first != 3 {
		t.Errorf("packed: %d rows, %d first tokens, %v", len(l.rows), l.first, err)
	}
	// A BOS in the middle of a document (256 in the tiny vocabulary) is a first token.
	if l, err = layRows(m, []document{{text: texts[0] + "<|endoftext|>" + texts[1]}}, &opt); err != nil || l.first != 2 {
		t.Errorf("a BOS inside: %d first tokens, %v", l.first, err)
	}
}

// The next token is a label where it is of the same document and in the same row, and no model wrote that.
func TestRowLabels(t *testing.T) {
	m := openTiny(t, tinyDir(t))
	opt := options()
	opt.Context, opt.Rows = 8, Packed
	l, err := layRows(m, []document{{text: "abcde"}, {text: "vwxyz", written: true}, {text: "klmno"}}, &opt)
	if err != nil {
		t.Fatal(err)
	}
	tokens, labels := 0, 0
	for _, r := range l.rows {
		for i, label := range r.labels {
			follows := i+1 < len(r.tokens) && r.tokens[i+1] == r.tokens[i]+1 && r.tokens[i] < 'v'
			if label != follows {
				t.Errorf("after token %d of %v: a label is %v", i, r.tokens, label)
			}
			tokens++
			if label {
				labels++
			}
		}
	}
	if tokens != 15 || labels < 6 {
		t.Errorf("%d labels of %d tokens", labels, tokens)
	}
}

func TestRowsLaw(t *testing.T) {
	m := openTiny(t, tinyDir(t))
	var documents []document
	for i := range 40 {
		documents = append(documents, document{name: fmt.Sprint("d", i), text: strings.Repeat(fmt.Sprint(i, " "), 30)})
	}
	opt := options()
	opt.Tokens = 2000
	a, err := layRows(m, documents, &opt)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := layRows(m, documents, &opt)
	opt.Seed = 1
	c, _ := layRows(m, documents, &opt)
	if a.fingerprint() != b.fingerprint() || a.fingerprint() == c.fingerprint() {
		t.Error("the seed does not decide the rows")
	}
	held := map[string]bool{}
	for _, r := range a.rows {
		for _, s := range r.spans {
			name := a.names[s.document]
			if was, seen := held[name]; seen && was != r.held {
				t.Errorf("%s is held back in part", name)
			}
			held[name] = r.held
		}
		if len(r.tokens) > opt.Context {
			t.Errorf("a row of %d tokens", len(r.tokens))
		}
	}
	opt.Tokens = 1 << 20 // more than there is: each document once
	d, err := layRows(m, documents, &opt)
	if err != nil {
		t.Fatal(err)
	}
	bytes := 0
	for _, x := range documents {
		bytes += len(x.text)
	}
	if d.tokens() != int64(bytes) || d.documents != 40 {
		t.Errorf("%d tokens of %d documents, want %d of 40", d.tokens(), d.documents, bytes)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("a.jsonl"), `{"text": "plain"}`+"\n\n"+`{"instruction": "do", "input": "", "output": "done"}`+"\n"+`{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}`)
	write(t, path("b.json"), `[{"question": "q", "answer": "a"}]`)
	type record struct {
		Text string `parquet:"text"`
	}
	if err := parquet.WriteFile(path("c.parquet"), []record{{"from parquet"}}); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat(strings.Repeat("x", 99)+"\n", 200)
	write(t, path("d.md"), "\ufeff"+long)
	write(t, path(".hidden"), "\x00")
	got, err := readSources([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, d := range got[:5] {
		texts = append(texts, d.text)
	}
	if want := []string{"plain", "do\n\ndone", "hi\n\nho", "q\n\na", "from parquet"}; !slices.Equal(texts, want) {
		t.Errorf("got %q", texts)
	}
	joined := ""
	for _, d := range got[5:] {
		joined += d.text
		if !strings.HasSuffix(d.text, "\n") {
			t.Errorf("a piece of %d bytes does not end with a line", len(d.text))
		}
	}
	if joined != long || len(got) < 7 {
		t.Errorf("the plain text came in %d pieces, %d bytes of %d", len(got)-5, len(joined), len(long))
	}

	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Symlink(dir, link), os.Symlink(dir, path("loop"))); err != nil {
		t.Fatal(err)
	}
	again, err := readSources([]string{path("a.jsonl"), link, dir, path("a.jsonl")})
	if err != nil || len(again) != len(got) {
		t.Errorf("by several names: %d documents, %v, want %d", len(again), err, len(got))
	}

	beside, err := readSources([]string{BuiltInName, dir, BuiltInName})
	if own := builtInDocuments(); err != nil || len(beside) != len(got)+len(own) || beside[len(got)] != own[0] {
		t.Errorf("beside the built-in text: %d documents, %v, want %d and %d", len(beside), err, len(got), len(own))
	}

	for name, bad := range map[string]struct{ text, want string }{
		"binary":      {"text\x00more", "byte 4 is not text"},
		"latin1.txt":  {"caf\xe9", "byte 3 is not text"},
		"bad.jsonl":   {"{\"text\": \"a\"}\n[1]\n", "bad.jsonl:2: expected a JSON object"},
		"none.jsonl":  {`{"other": "a"}`, "has none of the fields"},
		"bad.json":    {`{"text": "a"}`, "JSON array"},
		"bad.parquet": {"PAR1 and no more", "bad.parquet"},
		"empty.txt":   {" \n", "holds no text"},
	} {
		file := filepath.Join(t.TempDir(), name)
		write(t, file, bad.text)
		if _, err := readSources([]string{file}); err == nil || !strings.Contains(err.Error(), bad.want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readSources([]string{path("missing")}); err == nil {
		t.Error("a missing source is no error")
	}
}

func TestTooLittleText(t *testing.T) {
	m := openTiny(t, tinyDir(t))
	out := filepath.Join(t.TempDir(), "stats")
	text := filepath.Join(t.TempDir(), "t.txt")
	write(t, text, strings.Repeat("x", tinyWidth-1))
	_, err := Collect(context.Background(), m, []string{text}, out, options())
	if err == nil || !strings.Contains(err.Error(), "39 tokens") || !strings.Contains(err.Error(), "160 or more") {
		t.Errorf("fewer tokens than neurons: %v", err)
	}
	write(t, text, strings.Repeat("x", 4*tinyWidth-1))
	var warned []string
	opt := options()
	opt.Warn = func(s string) { warned = append(warned, s) }
	st, err := Collect(context.Background(), m, []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if all := strings.Join(warned, "\n"); st.Tokens() != 159 || !strings.Contains(all, "159 calibration tokens") || !strings.Contains(all, "gives 159 tokens") || !strings.Contains(all, "none is held back") {
		t.Errorf("%d tokens; warned %q", st.Tokens(), warned)
	}
}

// A neuron whose values overflow is found by layer and document.
func TestActivationsThatAreNotFinite(t *testing.T) {
	dir := tinyDir(t)
	path := filepath.Join(dir, "model.safetensors")
	b := read(t, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := safetensors.ReadHeader(f, int64(len(b)))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	e, ok := h.Lookup("model.layers.1.mlp.up_proj.weight")
	if !ok {
		t.Fatal("no up_proj")
	}
	for i := range 32 { // row 7 becomes huge: 1e25 squared is beyond float32
		copy(b[e.Begin+int64(7*32+i)*4:], []byte{0x95, 0x45, 0x04, 0x69})
	}
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	m, text := openTiny(t, dir), writeText(t, 60)
	out := filepath.Join(t.TempDir(), "stats")
	_, err = Collect(context.Background(), m, []string{text}, out, options())
	if err == nil || !strings.Contains(err.Error(), "layer 1: activations are not finite") || !strings.Contains(err.Error(), "text.jsonl:") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("an output was left")
	}
}

func TestWriteFailure(t *testing.T) {
	m, text := openTiny(t, tinyDir(t)), writeText(t, 60)
	_, err := Collect(context.Background(), m, []string{text}, filepath.Join(t.TempDir(), "missing", "stats"), options())
	if _, ok := err.(*checkpoint.WriteError); !ok {
		t.Errorf("got %v", err)
	}
}
