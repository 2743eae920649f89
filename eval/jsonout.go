package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/internal/filelock"
)

// object is a JSON object whose members keep their order, as the tables that lm-eval's
// tools make of it follow that order.
type object []member

type member struct {
	key   string
	value any
}

// MarshalJSON writes the members in order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := marshal(m.key, "")
		if err != nil {
			return nil, err
		}
		value, err := marshal(m.value, "")
		if err != nil {
			return nil, err
		}
		b.Write(bytes.TrimSpace(key))
		b.WriteByte(':')
		b.Write(bytes.TrimSpace(value))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal encodes without the escapes for HTML that encoding/json adds by default.
func marshal(value any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(value)
	return b.Bytes(), err
}

// pyFloat writes a finite number as Python's repr does: the shortest digits that read back
// exactly, and always as a float (1.0, not 1).
func pyFloat(x float64) string {
	if a := math.Abs(x); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(x, 'e', -1, 64)
	}
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// jsonFloat is a number for JSON in the form of pyFloat, or alt where x is not finite.
func jsonFloat(x float64, alt any) any {
	if finite(x) == nil {
		return alt
	}
	return json.RawMessage(pyFloat(x))
}

// pyBool writes a truth value as Python's str does.
func pyBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".coppice-tmp-"

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	err = filelock.Try(f)     // says that it is no leftover
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// clearLeftovers removes files that nobody writes any more: their run was killed.
func clearLeftovers(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if f, err := os.Open(filepath.Join(dir, e.Name())); err == nil {
			if filelock.Try(f) == nil {
				os.Remove(f.Name())
			}
			f.Close()
		}
	}
}
