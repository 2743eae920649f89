package safetensors

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/tensor"
)

// metadataKey is the one key of a header that is no tensor.
const metadataKey = "__metadata__"

// parse fills h.Metadata, h.Tensors and h.index from the JSON of a header. The tensors
// are in the order of the text, and their offsets count from the start of the data.
func (h *Header) parse(text []byte) error {
	if !utf8.Valid(text) {
		return fmt.Errorf("header is not valid UTF-8 at byte %d", invalidUTF8(text))
	}
	s := &scanner{text: text}
	if c := s.peek(); c != '{' {
		return fmt.Errorf("not a safetensors file: its header is %s, not a JSON object", s.kind())
	}
	h.index = make(map[string]int)
	hasMetadata := false
	err := s.object(func(key []byte) error {
		name := string(key)
		_, dup := h.index[name]
		if dup || hasMetadata && name == metadataKey {
			return fmt.Errorf("header names %q twice", name)
		}
		if name == metadataKey {
			hasMetadata = true
			return h.parseMetadata(s)
		}
		e, err := parseEntry(s, name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		h.index[name] = len(h.Tensors)
		h.Tensors = append(h.Tensors, e)
		return nil
	})
	if err != nil {
		return err
	}
	if s.peek(); s.pos < len(text) {
		return s.errorf("%s follows the object", s.kind())
	}
	return nil
}

// invalidUTF8 is the index of the first byte that is not UTF-8.
func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
}

// parseMetadata reads null or an object of strings.
func (h *Header) parseMetadata(s *scanner) error {
	switch s.peek() {
	case 'n':
		return s.word()
	case '{':
	default:
		return fmt.Errorf("%s is %s, not an object", metadataKey, s.kind())
	}
	h.Metadata = make(map[string]string)
	return s.object(func(text []byte) error {
		key := string(text)
		if _, dup := h.Metadata[key]; dup {
			return fmt.Errorf("%s has the key %q twice", metadataKey, key)
		}
		if s.peek() != '"' {
			return fmt.Errorf("%s: the value of %q is %s, not a string", metadataKey, key, s.kind())
		}
		value, err := s.string()
		h.Metadata[key] = string(value)
		return err
	})
}

// parseEntry reads the object of one tensor. Keys other than the three of the format
// are read and ignored, as the reference reader does, but no key may come twice.
func parseEntry(s *scanner, name string) (Entry, error) {
	e := Entry{Info: tensor.Info{Name: name}}
	if s.peek() != '{' {
		return e, fmt.Errorf("its description is %s, not an object", s.kind())
	}
	var hasDType, hasShape, hasOffsets bool
	var others map[string]bool
	err := s.object(func(key []byte) error {
		var err error
		dup := false
		switch string(key) {
		case "dtype":
			dup, hasDType = hasDType, true
			e.DType, err = parseDType(s)
		case "shape":
			dup, hasShape = hasShape, true
			e.Shape, err = parseShape(s)
		case "data_offsets":
			dup, hasOffsets = hasOffsets, true
			e.Begin, e.End, err = parseOffsets(s)
		default:
			dup = others[string(key)]
			if others == nil {
				others = make(map[string]bool)
			}
			others[string(key)] = true
			err = s.skip(2)
		}
		if dup {
			return fmt.Errorf("the key %q comes twice", key)
		}
		return err
	})
	switch {
	case err != nil:
		return e, err
	case !hasDType:
		return e, fmt.Errorf("dtype is missing")
	case !hasShape:
		return e, fmt.Errorf("shape is missing")
	case !hasOffsets:
		return e, fmt.Errorf("data_offsets is missing")
	}
	return e, nil
}

func parseDType(s *scanner) (tensor.DType, error) {
	if s.peek() != '"' {
		return tensor.Invalid, fmt.Errorf("dtype is %s, not a string", s.kind())
	}
	text, err := s.string()
	if err != nil {
		return tensor.Invalid, err
	}
	name := string(text)
	// ParseDType knows the block types of GGUF and takes lower case too; neither is
	// safetensors.
	d, err := tensor.ParseDType(name)
	if err != nil || d.IsBlock() || d.String() != name {
		return tensor.Invalid, fmt.Errorf("element type %q is not supported (F64, F32, F16, BF16, F8_E4M3, F8_E5M2, integers and BOOL are)", name)
	}
	return d, nil
}

func parseShape(s *scanner) (tensor.Shape, error) {
	if s.peek() != '[' {
		return nil, fmt.Errorf("shape is %s, not an array", s.kind())
	}
	shape := tensor.Shape{}
	err := s.array(func() error {
		n, err := parseCount(s, "shape", strconv.IntSize)
		shape = append(shape, int(n))
		return err
	})
	return shape, err
}

func parseOffsets(s *scanner) (begin, end int64, err error) {
	if s.peek() != '[' {
		return 0, 0, fmt.Errorf("data_offsets is %s, not an array", s.kind())
	}
	var pair [2]int64
	n := 0
	err = s.array(func() error {
		if n == len(pair) {
			return fmt.Errorf("data_offsets has more than two numbers")
		}
		v, err := parseCount(s, "data_offsets", 64)
		pair[n] = v
		n++
		return err
	})
	if err == nil && n < len(pair) {
		err = fmt.Errorf("data_offsets has %d numbers, not two", n)
	}
	return pair[0], pair[1], err
}

// parseCount reads a number that must be written as plain digits and fit a signed
// integer of that many bits.
func parseCount(s *scanner, field string, bits int) (int64, error) {
	if c := s.peek(); c != '-' && !isDigit(c) {
		return 0, fmt.Errorf("%s holds %s, not a number", field, s.kind())
	}
	text, err := s.number()
	if err != nil {
		return 0, err
	}
	for _, c := range text {
		if !isDigit(c) {
			return 0, fmt.Errorf("%s holds %.40s, not a whole number of digits alone", field, text)
		}
	}
	n, err := strconv.ParseInt(string(text), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("%s holds %.40s, which overflows %d bits", field, text, bits-1)
	}
	return n, nil
}
