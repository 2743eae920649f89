package tokenizer

import "fmt"

// newSplit compiles a Split: by one of the published patterns, if it is one, else by the
// pattern in general. The behavior says what becomes of the matches.
func newSplit(p *preTokenizerJSON) (step, error) {
	invert := p.Invert != nil && *p.Invert
	if p.Pattern != nil && p.Pattern.Regex != nil {
		// A published pattern matches all of the text, so that nothing is between the
		// matches for "Removed" and invert to drop.
		if w, ok := knownSplits[*p.Pattern.Regex]; ok && (p.Behavior == "Isolated" || p.Behavior == "Removed" && invert) {
			return wordStep(w), nil
		}
	}
	pattern, err := newPattern(p.Pattern)
	if err != nil {
		return nil, fmt.Errorf("pre-tokenizer Split: %w", err)
	}
	join, ok := map[string]func([]span) []span{
		"Isolated":           func(s []span) []span { return s },
		"Removed":            removeMatches,
		"MergedWithPrevious": mergeWithPrevious,
		"MergedWithNext":     mergeWithNext,
		"Contiguous":         mergeEqual,
	}[p.Behavior]
	if !ok {
		return nil, fmt.Errorf("pre-tokenizer Split: unknown behavior %q", p.Behavior)
	}
	return func(p piece, yield func(piece)) {
		for _, s := range join(pattern.spans(p.text, invert)) {
			if s.start < s.end {
				yield(piece{p.text[s.start:s.end], p.first && s.start == 0})
			}
		}
	}, nil
}

// A span is a byte range of a text; match says that the pattern matches it.
type span struct {
	start, end int
	match      bool
}

// spans covers s with matches and what is between them; invert swaps the two.
func (p *pattern) spans(s string, invert bool) []span {
	var list []span
	rest := 0
	p.each(s, func(start, end int) {
		if rest < start {
			list = append(list, span{rest, start, invert})
		}
		if start < end {
			list = append(list, span{start, end, !invert})
		}
		rest = end
	})
	if rest < len(s) {
		list = append(list, span{rest, len(s), invert})
	}
	return list
}

func removeMatches(list []span) (out []span) {
	for _, s := range list {
		if !s.match {
			out = append(out, s)
		}
	}
	return out
}

// mergeWithPrevious puts each match behind what stands before it, unless that is a match.
func mergeWithPrevious(list []span) (out []span) {
	previous := false
	for _, s := range list {
		if s.match && !previous && len(out) > 0 {
			out[len(out)-1].end = s.end
		} else {
			out = append(out, s)
		}
		previous = s.match
	}
	return out
}

// mergeWithNext puts each match before what follows it, unless that is a match.
func mergeWithNext(list []span) (out []span) {
	previous := false
	for _, s := range list {
		if !s.match && previous {
			out[len(out)-1].end = s.end
		} else {
			out = append(out, s)
		}
		previous = s.match
	}
	return out
}

// mergeEqual joins neighbours of one kind.
func mergeEqual(list []span) (out []span) {
	for _, s := range list {
		if n := len(out); n > 0 && out[n-1].match == s.match {
			out[n-1].end = s.end
		} else {
			out = append(out, s)
		}
	}
	return out
}
