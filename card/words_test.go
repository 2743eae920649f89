package card

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/ggufwrite"
)

func TestNumbers(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 0.12345: "0.123", 50.63: "50.6", 1253.8: "1,254", 999_999: "999,999", 3.5585e7: "3.56e+07", -12: "-12.0"} {
		if got := digits(x, 3); got != want {
			t.Errorf("digits(%v, 3) = %q, want %q", x, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{950: "950", 111_808: "111.8K", 86_770_368: "86.8M", 1_944_443_904: "1.94B"} {
		if got := short(n); got != want {
			t.Errorf("short(%d) = %q, want %q", n, got, want)
		}
	}
	if got := escape("a|b\n[c](d) <i> *x*"); got != `a\|b \[c](d) &lt;i> \*x\*` {
		t.Errorf("escape: %q", got)
	}
}

func TestLicences(t *testing.T) {
	for _, l := range []Licence{{}, {ID: "apache-2.0"}, {ID: "llama3.2"}, {"other", "be-nice", "LICENSE"}} {
		if err := l.Check(); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	for _, l := range []Licence{{ID: "gpl-5"}, {ID: "other"}, {ID: "Apache-2.0"}, {"other", "be nice", "x"}} {
		if l.Check() == nil {
			t.Errorf("%+v: no error", l)
		}
	}
	for _, test := range []struct {
		licence, name string
		want          bool
	}{
		{"llama3.2", "Llama-3.2-3B-pruned60", true}, {"llama3.2", "pruned60-Llama-3.2-3B", false}, {"llama3.1", "llama-x", true},
		{"llama3", "Llama-3-8B-x", true}, {"llama3", "Llama-x", false}, {"llama2", "anything", true}, {"mit", "anything", true},
	} {
		d := llamaDuties[test.licence]
		if got := d.named(test.name); got != test.want {
			t.Errorf("%s, %s: %v, want %v", test.licence, test.name, got, test.want)
		}
	}
	// A name that the licence would not have is made one that it has.
	for licence, want := range map[string]string{"llama3.2": "Llama-tiny-pruned50", "llama3": "Llama-3-tiny-pruned50", "mit": "tiny-pruned50"} {
		card := example(t, 48, 48, 48)
		card.Licence.ID = licence
		if err := card.nameModel(""); err != nil || card.Name != want {
			t.Errorf("%s: %q (%v), want %q", licence, card.Name, err, want)
		}
	}
}

func TestBase(t *testing.T) {
	for s, want := range map[string]Base{"org/tiny": {"org/tiny", ""}, "meta-llama/Llama-3.2-3B@main": {"meta-llama/Llama-3.2-3B", "main"}} {
		if got, err := ParseBase(s); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "tiny", "/a/b", "a/b/c", "./m", "../m", "C:\\m", "a/..", "org/tiny model", "https://huggingface.co/a/b"} {
		if got, err := ParseBase(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
	if b, ok := baseInCache("/x/hub/models--org--tiny/snapshots/abc"); !ok || b != (Base{"org/tiny", "abc"}) {
		t.Errorf("a snapshot: %v, %v", b, ok)
	}
	for _, path := range []string{"/x/org/tiny", "/x/models--tiny/snapshots/abc", "/x/models--org--tiny/blobs/abc"} {
		if b, ok := baseInCache(path); ok {
			t.Errorf("%s is taken for %v", path, b)
		}
	}
}

func TestProvenanceOfGGUF(t *testing.T) {
	for _, test := range []struct {
		keys [][2]string
		want string
	}{
		{[][2]string{{"general.repo_url", "https://huggingface.co/q/tiny-gguf"}, {"general.source.repo_url", "https://huggingface.co/org/tiny"}}, "org/tiny"},
		{[][2]string{{"general.repo_url", "https://huggingface.co/org/tiny/"}}, "org/tiny"},
		{[][2]string{{"general.source.repo_url", "https://example.com/org/tiny"}, {"general.base_model.0.repo_url", "https://huggingface.co/org/parent"}}, ""},
		{nil, ""},
	} {
		kv := []gguf.KeyValue{{Key: "general.license", Value: gguf.StringValue("mit")}, {Key: "general.languages", Value: gguf.StringsValue("en", "fr")}}
		for _, k := range test.keys {
			kv = append(kv, gguf.KeyValue{Key: k[0], Value: gguf.StringValue(k[1])})
		}
		path := filepath.Join(t.TempDir(), "m.gguf")
		if err := os.WriteFile(path, ggufwrite.Build(kv, nil, 3, 32), 0o666); err != nil {
			t.Fatal(err)
		}
		if p := provenanceOfGGUF(path); p.Name != test.want || p.License != "mit" || len(p.Languages) != 2 {
			t.Errorf("%v: %+v; want %q, mit and two languages", test.keys, p, test.want)
		}
	}
}

// Names of files and answers are what they are: quoted in commands, and no Markdown.
func TestHostileWords(t *testing.T) {
	card := example(t, 48, 48, 48)
	card.dense = nil
	text := eval.TaskResult{Name: "text", Kind: eval.Text, Source: "a `b` |*c*\n$(d)'s.txt", Records: 3, Evaluated: 3, Fingerprint: "f", Window: 8}
	text.Metrics = []eval.Metric{{Name: eval.TokenPerplexity, Value: 9}}
	mine := accuracyTask("mine", 150, 200, 0.5, 0.6)
	mine.Guessing.MajorityName, mine.Guessing.Answers[0] = "<b>*|", eval.AnswerRate{Name: "<b>*|", Gold: 0.6, Chosen: 1}
	card.pruned = result(card.Weights, 0, text, mine)
	card.judge()
	got, err := card.Markdown()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\ncoppice eval tiny-pruned50 --text 'a `b` |*c*?$(d)'\\''s.txt' --ctx 8 --dtype f32",
		"| text | `a 'b' \\|*c* $(d)'s.txt` | 3 | `f` |\n",
		` It answers "&lt;b>\*\|" in 100.00 % of the records`,
		// No benchmark of lm-eval is among them.
		"Measured by Coppice: computed in f32",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the card lacks %q", want)
		}
	}
	for _, no := range []string{"lm-eval", "evaluation-harness", "<b>"} {
		if strings.Contains(string(got), no) {
			t.Errorf("the card says %q", no)
		}
	}
	card.pruned.Tasks = append(card.pruned.Tasks, accuracyTask("arc_easy", 60, 200, 0.25, 0.27))
	if want := " zero-shot, the definitions of lm-eval 0.4.13 (but for text and mine, which it does not have),"; card.definitions() != want {
		t.Errorf("the definitions are%q", card.definitions())
	}
}

// What goes into commands as it is said is a name.
func TestParseBase(t *testing.T) {
	for s, want := range map[string]Base{"a/b": {Name: "a/b"}, "a/b@main": {"a/b", "main"}, "a/b@refs/pr/1": {"a/b", "refs/pr/1"}} {
		if got, err := ParseBase(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"a", "a/b/c", "a/b@", "a/b@x y", "a/b@x\n# hi", "a/b@$(c)", "a/b@-x", "a/b@`c`"} {
		if got, err := ParseBase(s); err == nil {
			t.Errorf("%q is taken for %+v", s, got)
		}
	}
	if err := (&Says{Datasets: []string{"a/b@main"}}).Check(); err == nil {
		t.Error("a data set may have a revision")
	}
	if got := datasetID("日本"); got != "task" {
		t.Errorf("a task that has no letter of the hub's is called %q", got)
	}
}

// Columns that were not measured alike are not said to be.
func TestUnlikeColumns(t *testing.T) {
	for dtype, alike := range map[string]bool{"f32": true, "bf16": false} {
		card := example(t, 48, 48, 48)
		card.dense.Model.DType = dtype
		card.judge()
		got, err := card.Markdown()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(got), "in the same way:") != alike || strings.Contains(string(got), "**The columns are not alike:** the original model was run in bf16, the pruned one in f32.") == alike {
			t.Errorf("the dense model in %s: the card says that they are alike, or that they are not", dtype)
		}
	}
}
