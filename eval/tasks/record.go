package tasks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/internal/parquetrows"
)

// record is a JSON object out of a file of them.
type record struct {
	line   int // from 1; of a Parquet file the row, from 1
	raw    json.RawMessage
	fields map[string]json.RawMessage
}

// errorf says where a record stands.
func (r record) errorf(path string, err error) error {
	return fmt.Errorf("%s:%d: %w", path, r.line, err)
}

// readRecords reads a file of JSON Lines or Parquet, told apart by its first bytes.
func readRecords(path string) ([]record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseRecords(path, data)
}

func parseRecords(path string, data []byte) ([]record, error) {
	if bytes.HasPrefix(data, []byte(parquetrows.Magic)) {
		return parseParquet(path, data)
	}
	return parseJSONLines(path, data)
}

// parseJSONLines reads one JSON object a line. Empty lines are skipped.
func parseJSONLines(path string, data []byte) ([]record, error) {
	var records []record
	for number, line := range lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		r, err := parseRecord(line)
		r.line = number + 1
		if err != nil {
			return nil, r.errorf(path, err)
		}
		records = append(records, r)
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("%s: it holds no record", path)
	}
	return records, nil
}

// lines splits data at line feeds; a last line may lack its own. A byte order mark before
// the first line is dropped.
func lines(data []byte) [][]byte {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	data = bytes.TrimSuffix(data, []byte("\n"))
	return bytes.Split(data, []byte("\n"))
}

func parseRecord(line []byte) (record, error) {
	r := record{raw: line}
	if !utf8.Valid(line) {
		return r, fmt.Errorf("the record is not valid UTF-8")
	}
	if err := json.Unmarshal(line, &r.fields); err != nil {
		return r, fmt.Errorf("the record is not a JSON object: %w", err)
	}
	if r.fields == nil {
		return r, fmt.Errorf("the record is null, not a JSON object")
	}
	return r, nil
}

// marshal encodes without the escapes for HTML that encoding/json adds by default: records
// are logged as they are.
func marshal(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSpace(b.Bytes()), err
}

// has reports whether the record has a field that is not null.
func (r record) has(name string) bool {
	raw, ok := r.fields[name]
	return ok && !bytes.Equal(raw, []byte("null"))
}

// decode reads a field into value.
func (r record) decode(name string, value any) error {
	if !r.has(name) {
		return fmt.Errorf("the record has no field %q", name)
	}
	if err := json.Unmarshal(r.fields[name], value); err != nil {
		return fmt.Errorf("field %q: %w", name, err)
	}
	return nil
}

// text returns a field that is a string.
func (r record) text(name string) (string, error) {
	var s string
	err := r.decode(name, &s)
	return s, err
}

// texts returns fields that are strings.
func (r record) texts(names ...string) ([]string, error) {
	values := make([]string, len(names))
	for i, name := range names {
		var err error
		if values[i], err = r.text(name); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// index returns a field that is a number from 0 on: as a number, a truth value or a string
// of digits.
func (r record) index(name string) (int, error) {
	var value any
	if err := r.decode(name, &value); err != nil {
		return 0, err
	}
	i, ok := asIndex(value)
	if !ok {
		return 0, fmt.Errorf("field %q: %s is not the index of an answer", name, r.fields[name])
	}
	return i, nil
}

// asIndex reads a decoded JSON value as an index.
func asIndex(value any) (int, bool) {
	switch v := value.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case float64:
		return int(v), v >= 0 && v < 1<<20 && v == float64(int(v))
	case string:
		var i int
		if err := json.Unmarshal([]byte(v), &i); err != nil {
			return 0, false
		}
		return i, i >= 0
	}
	return 0, false
}
