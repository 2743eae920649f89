package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// TestMergeLong compares the two ways of merging on words of few letters, where many
// merges overlap.
func TestMergeLong(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	vocab := vocabJSON{"a": 0, "b": 1, "c": 2}
	names := []string{"a", "b", "c"}
	var merges mergeList
	for len(names) < 60 {
		left, right := names[rng.IntN(len(names))], names[rng.IntN(len(names))]
		if _, ok := vocab[left+right]; !ok {
			vocab[left+right] = int32(len(names))
			names = append(names, left+right)
			merges = append(merges, [2]string{left, right})
		}
	}
	b, err := newBPE(&modelJSON{Type: "BPE", Vocab: vocab, Merges: merges}, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		n := 1 + rng.IntN(shortWord)
		var word strings.Builder
		for range n {
			word.WriteByte("abc"[rng.IntN(3)])
		}
		var short, long scratch
		short.symbols = b.symbols(word.String(), nil)
		long.symbols = slices.Clone(short.symbols)
		s, l := short.merge(&b.pairs), long.mergeLong(&b.pairs)
		if !slices.Equal(s, l) {
			t.Fatalf("%q: %v in short, %v in long words", word.String(), s, l)
		}
	}
}

// TestLongWord has a word without an end, which must not take quadratic time.
func TestLongWord(t *testing.T) {
	tok := mustLoad(t, tiny(), "")
	const n = 1 << 20
	if ids := tok.Encode(strings.Repeat("abcd", n/4), false); len(ids) != n/4 {
		t.Errorf("%d ids, want %d", len(ids), n/4)
	}
}

// TestPackWord checks that no two words share a key.
func TestPackWord(t *testing.T) {
	seen := map[wordKey]string{}
	var words []string
	for n := 1; n <= maxCachedBytes; n++ {
		base := strings.Repeat("\x00", n)
		words = append(words, base)
		for i := range n {
			for _, c := range []string{"\x01", "\x80", "\xff"} {
				words = append(words, base[:i]+c+base[i+1:])
			}
		}
	}
	for _, w := range words {
		key := packWord(w)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same key", other, w)
		}
		seen[key] = w
	}
}

// FuzzSplit compares the splits that are written by hand with a regular expression
// engine on the pattern they stand for.
func FuzzSplit(f *testing.F) {
	type known struct {
		split wordSplit
		re    *regexp2.Regexp
	}
	var all []known
	for pattern, w := range knownSplits {
		all = append(all, known{w, regexp2.MustCompile(pattern)})
	}
	for _, s := range []string{"it's WE'LL 'Tis", " \t\n a \r\n\r\n b", "1234 567 ½x", "a\u3000b", "!? ,a 'ſ", "日本 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		for _, r := range s {
			// The engine has Go's older tables.
			if unicode.In(r, newLetters, newNumbers) {
				return
			}
		}
		for _, k := range all {
			// .NET does not fold ſ to s, as the reference does.
			if k.split.foldCase && strings.ContainsRune(s, 'ſ') {
				continue
			}
			var want []string
			m, err := k.re.FindStringMatch(s)
			for ; m != nil && err == nil; m, err = k.re.FindNextMatch(m) {
				want = append(want, m.String())
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			wordStep(k.split)(piece{text: s}, func(p piece) { got = append(got, p.text) })
			if !slices.Equal(got, want) {
				t.Errorf("%q with %+v:\n got %q\nwant %q", s, k.split, got, want)
			}
		}
	})
}

// TestSplitFoldsLongS has what FuzzSplit leaves out; the words are tokenizers'.
func TestSplitFoldsLongS(t *testing.T) {
	var got []string
	wordStep(knownSplits[patternLlama3])(piece{text: "a'ſt"}, func(p piece) { got = append(got, p.text) })
	if want := []string{"a", "'ſ", "t"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
