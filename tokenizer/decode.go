package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoder says how tokens become text: each token is rewritten alone, the results are
// joined, and the start of the whole may lose a space.
type decoder struct {
	steps    []tokenStep
	sep      string // between tokens
	trim     string // what may be cut off the start of the text
	trimMost int    // how many times
}

// A tokenStep rewrites a token; first says that no other came before it. The result is
// bytes: several tokens may make up one character.
type tokenStep func(token string, first bool) string

func newDecoder(d *decoderJSON) (decoder, error) {
	var out decoder
	if d == nil {
		out.sep = " "
		return out, nil
	}
	list := []decoderJSON{*d}
	if d.Type == "Sequence" {
		list = d.Decoders
	}
	fused := false
	for i := range list {
		d := &list[i]
		switch {
		case d.Type == "Fuse":
			fused = true
		case d.Type == "Strip" && fused && out.trim == "":
			if d.Content == nil || *d.Content == "" || d.Stop != nil && *d.Stop != 0 {
				return out, fmt.Errorf("decoder Strip: only content at the start is supported")
			}
			out.trim, out.trimMost = *d.Content, 1
			if d.Start != nil {
				out.trimMost = *d.Start
			}
		case fused:
			return out, fmt.Errorf("decoder %q behind Fuse is not supported", d.Type)
		default:
			s, err := newTokenStep(d)
			if err != nil {
				return out, err
			}
			out.steps = append(out.steps, s)
		}
	}
	return out, nil
}

func newTokenStep(d *decoderJSON) (tokenStep, error) {
	switch d.Type {
	case "ByteLevel":
		return func(token string, _ bool) string {
			if s, ok := bytesOfToken(token); ok {
				return s
			}
			return token
		}, nil
	case "ByteFallback":
		return func(token string, _ bool) string {
			if b, ok := byteOfFallback(token); ok {
				return string([]byte{b})
			}
			return token
		}, nil
	case "Replace":
		p, err := newPattern(d.Pattern)
		if err != nil {
			return nil, fmt.Errorf("decoder Replace: %w", err)
		}
		if d.Content == nil {
			return nil, fmt.Errorf("decoder Replace has no content")
		}
		return func(token string, _ bool) string { return p.replace(token, *d.Content) }, nil
	case "Metaspace":
		mark := d.Replacement
		if mark == "" {
			mark = space
		}
		drop := prependScheme(d.PrependScheme, d.AddPrefixSpace) != "never"
		return func(token string, first bool) string {
			if first && drop {
				return strings.ReplaceAll(token, mark, "")
			}
			return strings.ReplaceAll(token, mark, " ")
		}, nil
	}
	return nil, fmt.Errorf("decoder %q is not supported", d.Type)
}

// byteOfFallback is the byte of a token such as <0xE2>.
func byteOfFallback(token string) (byte, bool) {
	if len(token) != 6 || !strings.HasPrefix(token, "<0x") || token[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(b), err == nil
}

// A Stream decodes ids as they come. The parts it returns, joined, are what Decode
// returns for all of them.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	started     bool
	trimLeft    int    // how many times trim may still be cut off
	pending     []byte // the start of a character
}

// Stream returns a decoder for the ids of one text; skipSpecial leaves special tokens out.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	return &Stream{t: t, skipSpecial: skipSpecial, trimLeft: t.decoder.trimMost}
}

// Add returns the text that becomes certain with the next id. It is always whole
// characters, and may be empty.
func (s *Stream) Add(id int32) string { return string(s.add(nil, id)) }

// End returns what is left: U+FFFD for the start of a character that never ended.
func (s *Stream) End() string { return string(s.end(nil)) }

func (s *Stream) add(out []byte, id int32) []byte {
	token, ok := s.t.Token(id)
	if !ok || s.skipSpecial && s.t.special[id] {
		return out
	}
	if s.started {
		s.pending = append(s.pending, s.t.decoder.sep...)
	}
	for _, step := range s.t.decoder.steps {
		token = step(token, !s.started)
	}
	s.started = true
	s.pending = append(s.pending, token...)
	return s.flush(out, false)
}

func (s *Stream) end(out []byte) []byte { return s.flush(out, true) }

// flush moves whole characters from pending to out.
func (s *Stream) flush(out []byte, final bool) []byte {
	start := len(out)
	out, rest := appendValid(out, s.pending, final)
	s.pending = append(s.pending[:0], rest...)
	if s.trimLeft == 0 || len(out) == start {
		return out
	}
	text := string(out[start:])
	for s.trimLeft > 0 && strings.HasPrefix(text, s.t.decoder.trim) {
		text = text[len(s.t.decoder.trim):]
		s.trimLeft--
	}
	if text != "" {
		s.trimLeft = 0
	}
	return append(out[:start], text...)
}

// appendValid appends src to dst with U+FFFD for each maximal part of a character that
// is broken off (the practice that Unicode recommends, chapter 3.9, and that Python and
// Rust follow). Unless final is set, the start of a character at the end of src is not
// appended but returned.
func appendValid(dst, src []byte, final bool) (out, rest []byte) {
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		if r == utf8.RuneError && n == 1 {
			if !final && !utf8.FullRune(src) {
				return dst, src
			}
			n = brokenPart(src)
			dst = utf8.AppendRune(dst, utf8.RuneError)
		} else {
			dst = append(dst, src[:n]...)
		}
		src = src[n:]
	}
	return dst, nil
}

// brokenPart is the number of bytes at the start of src, which holds no whole character
// there, that could have started one; at least 1.
func brokenPart(src []byte) int {
	n := 1
	for n < len(src) && n < utf8.UTFMax && !utf8.FullRune(src[:n]) {
		n++
	}
	if utf8.FullRune(src[:n]) && n > 1 {
		n-- // the byte that broke it
	}
	return n
}
