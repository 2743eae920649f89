package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A listScan reads the two large parts of tokenizer.json, which are a hundred thousand
// short strings and numbers, several times faster than encoding/json does. That has
// checked the syntax before it calls UnmarshalJSON, and strings with an escape are left
// to it here too.
type listScan struct {
	text string
	at   int
}

var errList = errors.New("want a string, a number or a list of strings")

// next is the next byte that is not white space or a separator, 0 at the end.
func (s *listScan) next() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\r', '\t', ',', ':':
		default:
			return c
		}
	}
	return 0
}

// open steps over a bracket, if it is next.
func (s *listScan) open(bracket byte) bool {
	if s.next() != bracket {
		return false
	}
	s.at++
	return true
}

// str reads a string. Without an escape it is a part of the text, not a copy.
func (s *listScan) str() (string, error) {
	if s.next() != '"' {
		return "", errList
	}
	start := s.at
	for i := start + 1; i < len(s.text); i++ {
		switch s.text[i] {
		case '\\':
			i++
		case '"':
			s.at = i + 1
			if part := s.text[start+1 : i]; strings.IndexByte(part, '\\') < 0 {
				return part, nil
			}
			var out string
			err := json.Unmarshal([]byte(s.text[start:s.at]), &out)
			return out, err
		}
	}
	return "", errList
}

// number reads an id.
func (s *listScan) number() (int32, error) {
	s.next()
	end := s.at
	for end < len(s.text) && strings.IndexByte("+-.0123456789eE", s.text[end]) >= 0 {
		end++
	}
	n, err := strconv.ParseInt(s.text[s.at:end], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("an id is %q, want a whole number below 2^31", s.text[s.at:end])
	}
	s.at = end
	return int32(n), nil
}

// UnmarshalJSON reads {"token": id, ...}. A token that stands twice is an error.
func (v *vocabJSON) UnmarshalJSON(b []byte) error {
	s := listScan{text: string(b)}
	if !s.open('{') {
		return errors.New("the vocabulary is not an object of tokens and ids")
	}
	*v = make(vocabJSON, len(b)/16)
	for !s.open('}') {
		token, err := s.str()
		if err != nil {
			return fmt.Errorf("vocabulary: %w", err)
		}
		id, err := s.number()
		if err != nil {
			return fmt.Errorf("token %q: %w", token, err)
		}
		if other, ok := (*v)[token]; ok {
			return fmt.Errorf("token %q stands twice in the vocabulary, with the ids %d and %d", token, other, id)
		}
		(*v)[token] = id
	}
	return nil
}

// UnmarshalJSON reads the merges in both spellings.
func (m *mergeList) UnmarshalJSON(b []byte) error {
	s := listScan{text: string(b)}
	if !s.open('[') {
		return errors.New("merges are not a list")
	}
	*m = make(mergeList, 0, len(b)/16)
	for !s.open(']') {
		pair, err := s.merge()
		if err != nil {
			return fmt.Errorf("merge %d %w", len(*m), err)
		}
		*m = append(*m, pair)
	}
	return nil
}

// merge reads "a b" or ["a", "b"].
func (s *listScan) merge() (pair [2]string, err error) {
	if s.next() == '"' {
		line, err := s.str()
		if err != nil {
			return pair, err
		}
		left, right, ok := cutMerge(line)
		if !ok {
			return pair, fmt.Errorf("is %q, want two tokens with a space between them", line)
		}
		return [2]string{left, right}, nil
	}
	if !s.open('[') {
		return pair, errors.New(`is neither "a b" nor ["a", "b"]`)
	}
	n := 0
	for ; !s.open(']'); n++ {
		token, err := s.str()
		if err != nil {
			return pair, errors.New("holds something other than tokens")
		}
		if n < 2 {
			pair[n] = token
		}
	}
	if n != 2 {
		return pair, fmt.Errorf("has %d tokens, want 2", n)
	}
	return pair, nil
}
