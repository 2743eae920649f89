package tokenizer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/shared"
)

// Tokenizers of the shared data.

func smolLM(t testing.TB) *Tokenizer {
	return loadGGUF(t, filepath.Join(shared.Dir(t), "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
}

func gpt2(t testing.TB) *Tokenizer {
	return loadGGUF(t, filepath.Join(shared.Dir(t), "data/tokenizers/gguf/ggml-vocab-gpt-2.gguf"))
}

func llama2(t testing.TB) *Tokenizer {
	return loadGGUF(t, filepath.Join(shared.Dir(t), "data/tokenizers/gguf/ggml-vocab-llama-spm.gguf"))
}

func loadGGUF(t testing.TB, path string) *Tokenizer {
	t.Helper()
	tok, err := FromGGUF(openGGUF(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return tok
}

func openGGUF(t testing.TB, path string) *gguf.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// llama3 makes Llama 3's tokenizer.json of what Meta publishes: the ranks of the
// 128,000 tokens in base64, the 256 special tokens that follow them, the split pattern;
// and of the merges that others derived from the ranks.
func llama3(t testing.TB) *Tokenizer {
	t.Helper()
	dir := filepath.Join(shared.Dir(t), "data/tokenizers/llama3")
	f := &fileJSON{
		PreTokenizer: ggufPre{patterns: []string{patternLlama3}}.preTokenizer(),
		Decoder:      &decoderJSON{Type: "ByteLevel"},
		Model:        modelJSON{Type: "BPE", Vocab: vocabJSON{}, IgnoreMerges: true},
	}
	for _, line := range readLines(t, filepath.Join(dir, "tokenizer.model")) {
		text, rank, _ := strings.Cut(line, " ")
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		id, err := strconv.Atoi(rank)
		if err != nil {
			t.Fatal(err)
		}
		f.Model.Vocab[tokenOfBytes(string(b))] = int32(id)
	}
	for _, line := range readLines(t, filepath.Join(dir, "merges.txt.gz")) {
		if left, right, ok := cutMerge(line); ok && !strings.HasPrefix(line, "#version") {
			f.Model.Merges = append(f.Model.Merges, [2]string{left, right})
		}
	}
	for i := range int32(256) {
		content := fmt.Sprintf("<|reserved_special_token_%d|>", i)
		if i == 0 {
			content = "<|begin_of_text|>"
		}
		f.AddedTokens = append(f.AddedTokens, addedTokenJSON{ID: 128000 + i, Content: content, Special: true})
	}
	f.PostProcessor = &postProcessorJSON{
		Type:          "TemplateProcessing",
		Single:        []templatePieceJSON{{SpecialToken: &templateRefJSON{ID: "<|begin_of_text|>"}}, {Sequence: &templateRefJSON{ID: "A"}}},
		SpecialTokens: map[string]templateSpecialJSON{"<|begin_of_text|>": {IDs: []int32{128000}}},
	}
	b, err := marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Load(b, []byte(`{"bos_token": "<|begin_of_text|>"}`))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// readLines reads a text file, gzipped if its name says so.
func readLines(t testing.TB, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	scan := bufio.NewScanner(bytes.NewReader(b))
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		scan = bufio.NewScanner(z)
	}
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		lines = append(lines, scan.Text())
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// readJSONL decodes each line of a file.
func readJSONL[T any](t testing.TB, path string) []T {
	t.Helper()
	var list []T
	for i, line := range readLines(t, path) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s:%d: %v", path, i+1, err)
		}
		list = append(list, v)
	}
	return list
}

// TestGoldens compares with the ids that llama.cpp keeps for 47 strings, made with the
// models' original tokenizers.
func TestGoldens(t *testing.T) {
	for _, c := range []struct {
		file string
		load func(testing.TB) *Tokenizer
	}{{"llama-bpe", llama3}, {"llama-spm", llama2}, {"gpt-2", gpt2}} {
		t.Run(c.file, func(t *testing.T) {
			base := filepath.Join(shared.Dir(t), "data/tokenizers/llama_bpe_goldens/ggml-vocab-"+c.file+".gguf")
			in, err := os.ReadFile(base + ".inp")
			if err != nil {
				t.Fatal(err)
			}
			texts := strings.Split(string(in), "\n__ggml_vocab_test__\n")
			out, err := os.ReadFile(base + ".out")
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Split(string(out), "\n") // the last text is empty
			if len(texts) != 47 || len(want) != 47 {
				t.Fatalf("%d texts and %d lines of ids, want 47", len(texts), len(want))
			}
			tok := c.load(t)
			for i, text := range texts {
				var ids []int32
				for field := range strings.FieldsSeq(want[i]) {
					id, err := strconv.ParseInt(field, 10, 32)
					if err != nil {
						t.Fatal(err)
					}
					ids = append(ids, int32(id))
				}
				got := tok.Encode(text, false)
				if !slices.Equal(got, ids) {
					t.Errorf("%q:\n got %v\nwant %v", text, got, ids)
				}
				if s := tok.Decode(got, false); s != text {
					t.Errorf("%q decodes to %q", text, s)
				}
			}
		})
	}
}
