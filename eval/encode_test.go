package eval_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
)

// Ids of the toy tokenizer: a character alone, and one with the space before it.
func ch(r rune) int32 { return 16 + r }
func sp(r rune) int32 { return 1<<20 + r }

const abWord = 9 // "ab" at the end of a word

func TestEncodePair(t *testing.T) {
	for _, c := range []struct {
		name                  string
		rule                  eval.BOSRule
		addBOS                bool
		context, continuation string
		want                  eval.TokenRequest
	}{
		{"plain", eval.BOSTokenizer, false, "q:", " a",
			eval.TokenRequest{Context: []int32{ch('q'), ch(':')}, Continuation: []int32{sp('a')}}},
		{"trailing space moves to the continuation", eval.BOSTokenizer, false, "q: ", "a",
			eval.TokenRequest{Context: []int32{ch('q'), ch(':')}, Continuation: []int32{sp('a')}}},
		{"so does Unicode space, and U+001F", eval.BOSTokenizer, false, "q\u2003\x1f", "a",
			eval.TokenRequest{Context: []int32{ch('q')}, Continuation: []int32{ch('\u2003'), ch('\x1f'), ch('a')}}},
		// Alone x, a; together x, ab, c: the context is what it is alone, and the token
		// that holds its end and the continuation's begin is lost.
		{"a cut by length", eval.BOSTokenizer, false, "xa", "b c",
			eval.TokenRequest{Context: []int32{ch('x'), ch('a')}, Continuation: []int32{sp('c')}}},
		{"BOS by the tokenizer", eval.BOSTokenizer, true, "q", " a",
			eval.TokenRequest{Context: []int32{evaltest.BOS, ch('q')}, Continuation: []int32{sp('a')}}},
		{"BOS as lm-eval", eval.BOSLMEval, true, "q", " a",
			eval.TokenRequest{Context: []int32{evaltest.BOS, ch('q')}, Continuation: []int32{sp('a')}}},
		{"no BOS", eval.BOSNone, true, "q", " a",
			eval.TokenRequest{Context: []int32{ch('q')}, Continuation: []int32{sp('a')}}},
		{"BOS in the text stands once", eval.BOSTokenizer, true, "<s>q", " a",
			eval.TokenRequest{Context: []int32{evaltest.BOS, ch('q')}, Continuation: []int32{sp('a')}}},
		{"an empty context is the prefix", eval.BOSNone, false, "", " a",
			eval.TokenRequest{Context: []int32{evaltest.BOS}, Continuation: []int32{sp('a')}}},
		{"once, though the tokenizer adds it", eval.BOSTokenizer, true, "", " a",
			eval.TokenRequest{Context: []int32{evaltest.BOS}, Continuation: []int32{sp('a')}}},
		{"a context of spaces is empty too", eval.BOSTokenizer, true, " ", "a",
			eval.TokenRequest{Context: []int32{evaltest.BOS}, Continuation: []int32{sp('a')}}},
		{"the continuation's own prefix is the context", eval.BOSNone, false, "", "<s>a",
			eval.TokenRequest{Context: []int32{evaltest.BOS}, Continuation: []int32{ch('a')}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := evaltest.NewModel()
			m.AddBOS = c.addBOS
			got, err := eval.EncodePair(seam{m}, c.rule, c.context, c.continuation)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// seam is Model where "ab" is one token anywhere.
type seam struct{ *evaltest.Model }

func (s seam) Encode(text string, addSpecial bool) ([]int32, error) {
	before, after, found := strings.Cut(text, "ab")
	ids, err := s.Model.Encode(before, addSpecial)
	if !found || err != nil {
		return ids, err
	}
	rest, err := s.Encode(after, false)
	return append(append(ids, abWord), rest...), err
}

func TestEncodePairErrors(t *testing.T) {
	noPrefix := evaltest.NewModel()
	noPrefix.ModelInfo.BOS, noPrefix.ModelInfo.EOS = nil, nil
	for _, c := range []struct {
		name                  string
		lm                    eval.LM
		context, continuation string
		want                  string
	}{
		{"empty continuation", evaltest.NewModel(), "q", "", "no token of the continuation"},
		{"continuation merges into the context", seam{evaltest.NewModel()}, "xa", "b", "no token of the continuation"},
		{"both empty", evaltest.NewModel(), "", "", "no token of the continuation"},
		{"nothing after its own prefix", evaltest.NewModel(), "", "<s>", "no token of the continuation"},
		{"no prefix", noPrefix, "", "a", "neither a BOS nor an EOS"},
	} {
		if _, err := eval.EncodePair(c.lm, eval.BOSTokenizer, c.context, c.continuation); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestPrefixIsBOSElseEOS(t *testing.T) {
	m := evaltest.NewModel()
	m.ModelInfo.BOS = nil
	got, err := eval.EncodePair(m, eval.BOSTokenizer, "", "a")
	if err != nil || got.Context[0] != evaltest.EOS {
		t.Errorf("context %v, error %v; want EOS", got.Context, err)
	}
}

func TestParseBOSRule(t *testing.T) {
	for _, name := range []string{"tokenizer", "none", "lm-eval"} {
		if rule, err := eval.ParseBOSRule(name); err != nil || string(rule) != name {
			t.Errorf("%s: %q, %v", name, rule, err)
		}
	}
	if _, err := eval.ParseBOSRule("both"); err == nil || !strings.Contains(err.Error(), "both") {
		t.Errorf("both: error %v", err)
	}
}
