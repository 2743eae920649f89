package tokenizer

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites a piece of text that holds no added token.
type normalizer func(string) string

// newNormalizer compiles a normalizer; nil for none.
//
// The normal forms are those of a newer Unicode than the tokenizers package's, which
// orders 59 combining marks (added since Unicode 10) as if they were letters. They are
// kept as Unicode has them: the package catches up when it is updated.
func newNormalizer(n *normalizerJSON) (normalizer, error) {
	if n == nil {
		return nil, nil
	}
	switch n.Type {
	case "Sequence":
		return newNormalizers(n.Normalizers)
	case "NFC":
		return norm.NFC.String, nil
	case "NFD":
		return norm.NFD.String, nil
	case "NFKC":
		return norm.NFKC.String, nil
	case "NFKD":
		return norm.NFKD.String, nil
	case "Lowercase":
		return lowercase, nil
	case "ByteLevel":
		return tokenOfBytes, nil
	case "Prepend":
		if n.Prepend == nil {
			return nil, fmt.Errorf("normalizer Prepend has no prepend")
		}
		return func(s string) string {
			if s == "" {
				return s
			}
			return *n.Prepend + s
		}, nil
	case "Replace":
		p, err := newPattern(n.Pattern)
		if err != nil {
			return nil, fmt.Errorf("normalizer Replace: %w", err)
		}
		if n.Content == nil {
			return nil, fmt.Errorf("normalizer Replace has no content")
		}
		return func(s string) string { return p.replace(s, *n.Content) }, nil
	case "Strip":
		left, right := n.StripLeft == nil || *n.StripLeft, n.StripRight == nil || *n.StripRight
		return func(s string) string {
			if left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}, nil
	}
	return nil, fmt.Errorf("normalizer %q is not supported", n.Type)
}

func newNormalizers(list []normalizerJSON) (normalizer, error) {
	steps := make([]normalizer, len(list))
	for i := range list {
		step, err := newNormalizer(&list[i])
		if err != nil {
			return nil, err
		}
		steps[i] = step
	}
	return func(s string) string {
		for _, step := range steps {
			s = step(s)
		}
		return s
	}, nil
}

// lowercase maps each rune by itself: no final sigma, and İ becomes two runes.
func lowercase(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, "İ", "i̇"))
}
