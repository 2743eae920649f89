package tokenizer

import (
	"slices"
	"testing"
	"unicode/utf8"
)

// allBytes is a byte-level tokenizer with a token for every byte, a few merges and a
// special token.
func allBytes(t testing.TB, pattern string, ignoreMerges bool) *Tokenizer {
	t.Helper()
	f := &fileJSON{
		PreTokenizer: ggufPre{digits: true, patterns: []string{pattern}}.preTokenizer(),
		Decoder:      &decoderJSON{Type: "ByteLevel"},
		Model: modelJSON{Type: "BPE", Vocab: vocabJSON{}, IgnoreMerges: ignoreMerges, Merges: mergeList{
			{"Ġ", "t"}, {"h", "e"}, {"Ġt", "he"}, {"Ã", "©"}, {"i", "n"}, {"Ġ", "Ġ"}, {"ĠĠ", "ĠĠ"}, {"'", "s"}}},
		AddedTokens: []addedTokenJSON{{ID: 300, Content: "<|end|>", Special: true}},
	}
	for i := range 256 {
		f.Model.Vocab[tokenOfBytes(string([]byte{byte(i)}))] = int32(i)
	}
	for _, m := range f.Model.Merges {
		f.Model.Vocab[m[0]+m[1]] = int32(len(f.Model.Vocab))
	}
	b, err := marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return mustLoad(t, b, "")
}

// FuzzEncodeDecode: byte-level BPE gives every text back, streamed or not, and encodes
// it as the sum of what it is cut into.
func FuzzEncodeDecode(f *testing.F) {
	for _, s := range []string{"", "in the café's  12 ", "<|end|>x<|end|><|en", "\xff\xe2\x82", "🦙\r\n\r\n\u3000'ſ", "a\x00b"} {
		f.Add(s)
	}
	toks := []*Tokenizer{allBytes(f, patternGPT2, false), allBytes(f, patternLlama3, true), allBytes(f, patternQwen2, false), allBytes(f, patternTekken, false)}
	f.Fuzz(func(t *testing.T, s string) {
		want, _ := appendValid(nil, []byte(s), true)
		for _, tok := range toks {
			ids := tok.Encode(s, true)
			if got := tok.Decode(ids, false); got != string(want) {
				t.Errorf("%q comes back as %q", s, got)
			}
			if again := tok.Encode(string(want), true); !slices.Equal(ids, again) {
				t.Errorf("%q: %v, then %v", s, ids, again)
			}
			stream := tok.Stream(false)
			got := ""
			for _, id := range ids {
				part := stream.Add(id)
				if !utf8.ValidString(part) {
					t.Errorf("part %q is not UTF-8", part)
				}
				got += part
			}
			if got += stream.End(); got != string(want) {
				t.Errorf("%q streams back as %q", s, got)
			}
		}
	})
}

// FuzzLoad: whatever the files say, loading them and using what was loaded ends without
// a panic.
func FuzzLoad(f *testing.F) {
	f.Add(tiny(), []byte(`{"bos_token": "<s>", "add_bos_token": true}`))
	f.Add(tiny(tinyMerges, `[["a", "b"]]`), []byte(`{"chat_template": "{{ messages[0].content }}"}`))
	head, cases := readRecorded(f)
	// Fewer tokens make shorter seeds; no merge needs those of Latin-1.
	head.Vocab = slices.DeleteFunc(head.Vocab, func(s string) bool { return s > "~" && s < "ÿ" })
	for _, c := range cases {
		f.Add(c.file(f, head), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, file, config []byte) {
		tok, err := Load(file, config)
		if err != nil {
			return
		}
		ids := tok.Encode(" <s>abcd é12\xff\n </s>▁", true)
		for _, id := range ids {
			if _, ok := tok.Token(id); !ok {
				t.Errorf("id %d has no token", id)
			}
		}
		tok.Decode(append(ids, -1, 1<<30), true)
		tok.Chat([]Message{{"user", "hello"}}, true)
		if len(tok.Fingerprint()) != 64 {
			t.Errorf("fingerprint %q", tok.Fingerprint())
		}
	})
}
