package calib

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/internal/parquetrows"
)

const (
	// maxText bounds the text that is held in memory to be shuffled: far more than any
	// calibration uses.
	maxText = 512 << 20
	// pieceBytes is the size from which a plain text is cut at the next line end, so that
	// it has pieces to shuffle and to hold back.
	pieceBytes = 8 << 10
)

// document is a text and where it is from, for messages.
type document struct {
	name, text string
	written    bool // by a model, as WriteTexts says of its texts
}

// readSources reads the files that Files finds, and after them the built-in text where
// paths use it.
func readSources(paths []string) ([]document, error) {
	r := &reader{}
	if err := Files(paths, r.file); err != nil {
		return nil, err
	}
	if UsesBuiltIn(paths) {
		r.documents = append(r.documents, builtInDocuments()...)
	}
	if len(r.documents) == 0 {
		return nil, fmt.Errorf("%s: holds no text", strings.Join(paths, ", "))
	}
	return r.documents, nil
}

// Files calls do with each file that a calibration text is read from: those of paths, and
// those of directories and their directories in the order of their names, hidden ones left
// out. A file that is named in several ways comes once, lest what is held back be fitted to
// as well. In directories links are followed to files, never to directories. BuiltInName is
// no file.
func Files(paths []string, do func(path string, st fs.FileInfo) error) error {
	var found []fs.FileInfo
	for _, path := range paths {
		if path == BuiltInName {
			continue
		}
		root := path
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			root = filepath.Clean(path) + string(filepath.Separator) // of a link, what it leads to
		}
		if err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			hidden := p != root && strings.HasPrefix(filepath.Base(p), ".")
			switch {
			case err != nil:
				return err
			case d.IsDir() && hidden:
				return fs.SkipDir
			case d.IsDir() || hidden:
				return nil
			}
			st, err := os.Stat(p)
			if err != nil {
				return err
			}
			same := func(other fs.FileInfo) bool { return os.SameFile(st, other) }
			if slices.ContainsFunc(found, same) || p != root && !st.Mode().IsRegular() {
				return nil
			}
			found = append(found, st)
			return do(p, st)
		}); err != nil {
			return err
		}
	}
	if len(found) == 0 && !UsesBuiltIn(paths) {
		return fmt.Errorf("%s: holds no file of text", strings.Join(paths, ", "))
	}
	return nil
}

type reader struct {
	documents []document
	bytes     int64
}

func (r *reader) file(path string, st fs.FileInfo) error {
	if r.bytes += st.Size(); r.bytes > maxText {
		return fmt.Errorf("%s: the calibration text is larger than %d MiB; name fewer files", path, maxText>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	switch ext := strings.ToLower(filepath.Ext(path)); {
	case bytes.HasPrefix(data, []byte(parquetrows.Magic)):
		return r.parquet(path, data)
	case ext == ".jsonl" || ext == ".ndjson":
		return r.jsonLines(path, data)
	case ext == ".json":
		return r.jsonArray(path, data)
	}
	return r.plain(path, data)
}

func (r *reader) add(name, text string, written bool) {
	if strings.TrimSpace(text) != "" {
		r.documents = append(r.documents, document{name, text, written})
	}
}

// plain cuts a text into pieces that end with a line.
func (r *reader) plain(path string, data []byte) error {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for at, rest := 0, data; len(rest) > 0; {
		c, n := utf8.DecodeRune(rest)
		if c == utf8.RuneError && n == 1 || c == 0 {
			return fmt.Errorf("%s: byte %d is not text in UTF-8; calibration takes JSON Lines, Parquet and UTF-8 text", path, at)
		}
		at, rest = at+n, rest[n:]
	}
	for i := 1; len(data) > 0; i++ {
		end := len(data)
		if end > pieceBytes {
			if line := bytes.IndexByte(data[pieceBytes:], '\n'); line >= 0 {
				end = pieceBytes + line + 1
			}
		}
		r.add(fmt.Sprintf("%s, piece %d", path, i), string(data[:end]), false)
		data = data[end:]
	}
	return nil
}

func (r *reader) jsonLines(path string, data []byte) error {
	number := 0
	for line := range bytes.SplitSeq(bytes.TrimPrefix(data, []byte("\ufeff")), []byte("\n")) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := r.record(fmt.Sprintf("%s:%d", path, number), line); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) jsonArray(path string, data []byte) error {
	var records []json.RawMessage
	if err := json.Unmarshal(data, &records); err != nil {
		return fmt.Errorf("%s: expected a JSON array of objects: %w", path, err)
	}
	for i, raw := range records {
		if err := r.record(fmt.Sprintf("%s, record %d", path, i+1), raw); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) parquet(path string, data []byte) error {
	return parquetrows.Each(path, data, func(row int, fields map[string]any) error {
		for k, v := range fields {
			if b, ok := v.([]byte); ok {
				fields[k] = string(b)
			}
		}
		name := fmt.Sprintf("%s, row %d", path, row)
		raw, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return r.record(name, raw)
	})
}

// recordFields are the ways in which data sets name the text of a record: the fields of
// the first row that are there are joined by empty lines.
var recordFields = [][]string{
	{"text"},
	{"content"},
	{"instruction", "input", "output"},
	{"prompt", "completion"},
	{"prompt", "response"},
	{"question", "answer"},
}

// writtenBy is the field of a record whose text a model wrote, with the model's fingerprint.
const writtenBy = "written_by"

// record reads the text of one JSON object.
func (r *reader) record(name string, raw []byte) error {
	if !utf8.Valid(raw) {
		return fmt.Errorf("%s: is not UTF-8", name)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return fmt.Errorf("%s: expected a JSON object: %w", name, err)
	}
	_, written := fields[writtenBy].(string)
	if messages, ok := fields["messages"].([]any); ok {
		var parts []string
		for _, m := range messages {
			if m, ok := m.(map[string]any); ok {
				if s, ok := m["content"].(string); ok {
					parts = append(parts, s)
				}
			}
		}
		r.add(name, strings.Join(parts, "\n\n"), written)
		return nil
	}
	for _, keys := range recordFields {
		if _, ok := fields[keys[0]].(string); !ok {
			continue
		}
		if _, ok := fields[keys[len(keys)-1]].(string); !ok {
			continue
		}
		var parts []string
		for _, k := range keys {
			if s, ok := fields[k].(string); ok && s != "" {
				parts = append(parts, s)
			}
		}
		r.add(name, strings.Join(parts, "\n\n"), written)
		return nil
	}
	return fmt.Errorf("%s: has none of the fields text, content, messages, instruction and output, prompt and completion or response, question and answer", name)
}
