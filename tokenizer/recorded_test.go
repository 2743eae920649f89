package tokenizer

import (
	"encoding/json"
	"slices"
	"testing"
)

// recordedHead and recordedCase are the lines of testdata/recorded.jsonl, which
// tools/peers/tokenizer_record.py wrote with tokenizers 0.23.3.
type recordedHead struct {
	Vocab  []string
	Merges mergeList
	Texts  []string
}

type recordedCase struct {
	Name             string
	Tokenizer        map[string]json.RawMessage
	Extra            []string // of the vocabulary, behind the head's
	IDs              [][]int32
	Decoded, Skipped []string
}

// file is the tokenizer.json of a case, with the vocabulary put back.
func (c *recordedCase) file(t testing.TB, head *recordedHead) []byte {
	t.Helper()
	var model map[string]any
	if err := json.Unmarshal(c.Tokenizer["model"], &model); err != nil {
		t.Fatal(err)
	}
	vocab := vocabJSON{}
	for i, token := range append(slices.Clone(head.Vocab), c.Extra...) {
		vocab[token] = int32(i)
	}
	model["vocab"], model["merges"] = vocab, head.Merges
	b, err := marshal(model)
	if err != nil {
		t.Fatal(err)
	}
	c.Tokenizer["model"] = b
	if b, err = marshal(c.Tokenizer); err != nil {
		t.Fatal(err)
	}
	return b
}

func readRecorded(t testing.TB) (*recordedHead, []recordedCase) {
	t.Helper()
	const path = "testdata/recorded.jsonl"
	head := readJSONL[recordedHead](t, path)[0]
	return &head, readJSONL[recordedCase](t, path)[1:]
}

// decodesOtherwise is the case of which the text differs, not the ids: tokenizers 0.23
// decodes an added token that is matched in normalized text to its normalized content
// (x for X); here it stays what the file says.
const decodesOtherwise = "added tokens, normalized"

// TestRecorded compares each part of the pipeline, in a small tokenizer, with what
// Python's tokenizers does.
func TestRecorded(t *testing.T) {
	head, cases := readRecorded(t)
	if len(cases) < 40 || len(head.Texts) < 20 {
		t.Fatalf("%d cases of %d texts, want at least 40 of 20", len(cases), len(head.Texts))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			tok, err := Load(c.file(t, head), nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range head.Texts {
				ids := tok.Encode(text, true)
				if !slices.Equal(ids, c.IDs[i]) {
					t.Errorf("%q:\n got %v\nwant %v", text, ids, c.IDs[i])
				}
				if c.Name == decodesOtherwise {
					continue
				}
				if s := tok.Decode(c.IDs[i], false); s != c.Decoded[i] {
					t.Errorf("%v decodes to %q, want %q", c.IDs[i], s, c.Decoded[i])
				}
				if s := tok.Decode(c.IDs[i], true); s != c.Skipped[i] {
					t.Errorf("%v decodes without special tokens to %q, want %q", c.IDs[i], s, c.Skipped[i])
				}
			}
		})
	}
}
