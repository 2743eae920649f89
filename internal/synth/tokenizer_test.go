package synth

import (
	"bytes"
	"testing"

	"github.com/coppice-lm/coppice/tokenizer"
)

func TestTokenizer(t *testing.T) {
	tok, err := tokenizer.Load(Tokenizer(), TokenizerConfig())
	if err != nil {
		t.Fatal(err)
	}
	text := "Any text: tab\t, newline\n, ü, €, 🌳, and a space at the end "
	ids := tok.Encode(text, true)
	if len(ids) != len(text) {
		t.Fatalf("%d tokens for %d bytes", len(ids), len(text))
	}
	for i, id := range ids {
		if id != int32(text[i]) {
			t.Errorf("byte %d is %#x, its token %d", i, text[i], id)
		}
	}
	if got := tok.Decode(ids, false); got != text {
		t.Errorf("decoded to %q", got)
	}
	if got := tok.Encode(EndOfText, false); len(got) != 1 || got[0] != VocabSize-1 || tok.EOS() != got[0] || tok.BOS() != got[0] {
		t.Errorf("%s is %v, EOS %d, BOS %d", EndOfText, got, tok.EOS(), tok.BOS())
	}
	if tok.VocabSize() != VocabSize {
		t.Errorf("%d tokens, want %d", tok.VocabSize(), VocabSize)
	}
	if !bytes.Equal(Tokenizer(), Tokenizer()) {
		t.Error("two calls give different bytes")
	}
}
