package tasks

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParsePythonStrings(t *testing.T) {
	for literal, want := range map[string][]string{
		`[]`: nil, `['a']`: {"a"}, `['a', "b's"]`: {"a", "b's"}, `("a", 'say "b"',)`: {"a", `say "b"`},
		`['it\'s', 'a\\b\n', '\xe9\u00e9\U0001f600']`: {"it's", "a\\b\n", "éé😀"}, ` [ 'a' , 'b' ] `: {"a", "b"},
	} {
		got, err := parsePythonStrings(literal)
		if err != nil {
			t.Errorf("%s: %v", literal, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", literal, diff)
		}
	}
	for _, literal := range []string{``, `a`, `[`, `['a'`, `['a)`, `[a]`, `['a' 'b']`, `['a]`, `['a\']`, `['\x4']`, `['\ud800']`, `['\q']`, `[1]`} {
		if got, err := parsePythonStrings(literal); err == nil {
			t.Errorf("%s: %q without an error", literal, got)
		}
	}
}

// A Parquet file that is damaged anywhere is an error or is read, never a panic.
func TestDamagedParquet(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "lmeval", "arc_easy.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "d.parquet")
	check := func(what string, at int, data []byte) {
		t.Helper()
		if _, err := parseRecords(path, data); err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s at %d: %v", what, at, err)
		}
	}
	for size := 4; size < len(data); size += 97 {
		if _, err := parseRecords(path, data[:size]); err == nil {
			t.Errorf("%d of %d bytes were read without an error", size, len(data))
		}
		check("cut", size, data[:size])
	}
	for at := 4; at < len(data); at += 13 {
		damaged := bytes.Clone(data)
		damaged[at] ^= 0x55
		check("changed", at, damaged)
	}
}

// Whatever the bytes of a JSON Lines file: an error that names the file, or records in the
// order of lines, each a JSON object in valid UTF-8.
func FuzzParseJSONLines(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "{}", "{}\n{}\n", "\ufeff{\"text\":\"a\"}\n\n{\"text\":\"b\"}", "{\"a\":\"\xff\"}", "[]", "null", `{"a":1}{"b":2}`,
		"{\"a\":\"\\ud800\"}\r\n", "{\"a\":1e999}", strings.Repeat("[", 100), "PAR1", `{"a":{"b":[1,2,{"c":null}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := parseJSONLines("some/file", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "some/file:") {
				t.Fatalf("the error does not name the file: %v", err)
			}
			return
		}
		line := 0
		for _, r := range records {
			if r.line <= line || !utf8.Valid(r.raw) || !json.Valid(r.raw) || r.fields == nil {
				t.Fatalf("line %d after line %d: %q", r.line, line, r.raw)
			}
			line = r.line
			for _, d := range All() {
				d.doc(r) // must not panic
			}
		}
	})
}
