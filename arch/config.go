package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Config is a config.json that remembers its own bytes: values are read by key, and
// Set changes one value and leaves every other byte as it was, so that the keys of a
// program this one has never heard of survive pruning with their order and spelling.
type Config struct {
	raw    []byte
	fields []field
}

// field is a top-level key and the span of its value in raw.
type field struct {
	key        string
	begin, end int
}

// ParseConfig reads a JSON object. Bytes after it, a key that appears twice, and
// invalid UTF-8 are errors.
func ParseConfig(raw []byte) (*Config, error) {
	if !utf8.Valid(raw) {
		return nil, fmt.Errorf("not valid UTF-8")
	}
	c := &Config{raw: bytes.Clone(raw)}
	dec := json.NewDecoder(bytes.NewReader(c.raw))
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if tok != json.Delim('{') {
		return nil, fmt.Errorf("not a JSON object")
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		key, ok := tok.(string)
		if !ok {
			return nil, fmt.Errorf("not JSON: a key is missing at byte %d", dec.InputOffset())
		}
		if c.find(key) != nil {
			return nil, fmt.Errorf("the key %q appears twice", key)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("key %q: not JSON: %w", key, err)
		}
		end := int(dec.InputOffset())
		c.fields = append(c.fields, field{key, end - len(v), end})
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("more bytes follow the JSON object")
	}
	return c, nil
}

func (c *Config) find(key string) *field {
	for i := range c.fields {
		if c.fields[i].key == key {
			return &c.fields[i]
		}
	}
	return nil
}

// Bytes returns the whole text.
func (c *Config) Bytes() []byte { return bytes.Clone(c.raw) }

// Clone returns a copy that Set may change.
func (c *Config) Clone() *Config {
	return &Config{bytes.Clone(c.raw), append([]field(nil), c.fields...)}
}

// Raw returns the spelling of a value. A key that is absent or null is not there.
func (c *Config) Raw(key string) (json.RawMessage, bool) {
	f := c.find(key)
	if f == nil {
		return nil, false
	}
	v := c.raw[f.begin:f.end]
	if string(v) == "null" {
		return nil, false
	}
	return bytes.Clone(v), true
}

// Has reports whether the key is present, null included.
func (c *Config) Has(key string) bool { return c.find(key) != nil }

// Int returns the whole number of a key, or def where it is absent or null. A number
// like 4.0 counts as whole, as Python's readers treat it.
func (c *Config) Int(key string, def int) (int, error) {
	v, ok := c.Raw(key)
	if !ok {
		return def, nil
	}
	if n, err := strconv.ParseInt(string(v), 10, 32); err == nil {
		return int(n), nil
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		return 0, fmt.Errorf("key %q is %s, not a whole number of at most 31 bits", key, short(v))
	}
	return int(f), nil
}

// Float returns the number of a key, or def where it is absent or null.
func (c *Config) Float(key string, def float64) (float64, error) {
	v, ok := c.Raw(key)
	if !ok {
		return def, nil
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		return 0, fmt.Errorf("key %q is %s, not a number", key, short(v))
	}
	return f, nil
}

// Bool returns the truth value of a key, or def where it is absent or null.
func (c *Config) Bool(key string, def bool) (bool, error) {
	v, ok := c.Raw(key)
	if !ok {
		return def, nil
	}
	switch string(v) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("key %q is %s, not true or false", key, short(v))
}

// Text returns the string of a key, or def where it is absent or null.
func (c *Config) Text(key, def string) (string, error) {
	v, ok := c.Raw(key)
	if !ok {
		return def, nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", fmt.Errorf("key %q is %s, not a string", key, short(v))
	}
	return s, nil
}

// Set gives a key the JSON encoding of v: in place where the key exists, else as a
// new last key indented like the first. All other bytes stay.
func (c *Config) Set(key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var out []byte
	if f := c.find(key); f != nil {
		out = append(append(append(out, c.raw[:f.begin]...), text...), c.raw[f.end:]...)
	} else {
		at, lead := bytes.IndexByte(c.raw, '{')+1, "\n  "
		if n := len(c.fields); n > 0 {
			at = c.fields[n-1].end
			first := c.raw[bytes.IndexByte(c.raw, '{')+1:]
			lead = "," + string(first[:len(first)-len(bytes.TrimLeft(first, " \t\r\n"))])
		}
		name, err := json.Marshal(key)
		if err != nil {
			return err
		}
		out = append(append(out, c.raw[:at]...), lead...)
		out = append(append(append(out, name...), ": "...), text...)
		if len(c.fields) == 0 {
			out = append(out, '\n')
		}
		out = append(out, c.raw[at:]...)
	}
	changed, err := ParseConfig(out)
	if err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	*c = *changed
	return nil
}

// Delete removes a key, and its comma, if it is there. All other bytes stay.
func (c *Config) Delete(key string) error {
	i := slices.IndexFunc(c.fields, func(f field) bool { return f.key == key })
	if i < 0 {
		return nil
	}
	from, to := bytes.IndexByte(c.raw, '{')+1, c.fields[i].end
	switch {
	case i > 0:
		from = c.fields[i-1].end
	case len(c.fields) > 1:
		to += bytes.IndexByte(c.raw[to:], ',') + 1
	}
	changed, err := ParseConfig(slices.Concat(c.raw[:from], c.raw[to:]))
	if err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	*c = *changed
	return nil
}

// short is a value cut to what fits in a message.
func short(v []byte) string {
	if len(v) > 40 {
		return string(v[:40]) + "..."
	}
	return string(v)
}

func parseStrings(v json.RawMessage) ([]string, error) {
	var s []string
	if err := json.Unmarshal(v, &s); err != nil {
		return nil, fmt.Errorf("%s is not a list of strings", short(v))
	}
	return s, nil
}
