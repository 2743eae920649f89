package tokenizer

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// bpe is the model: from a word to its tokens. It does not change after newBPE.
type bpe struct {
	vocab map[string]int32
	pairs pairTable

	// words maps a whole word to its token before any merge (ignore_merges); nil if
	// the model does not.
	words map[string]int32

	byteLevel bool
	bytes     [256]int32 // byte level: the token of each byte, or none
	fallback  [256]int32 // else: the tokens <0x00> to <0xFF>, or none
	fallsBack bool
	unk       int32 // for what has no token, or none: then it is dropped
	fuseUnk   bool

	// breaks: no token has U+2581 behind another rune, so that the text can be cut
	// before each such place, and the parts be merged (and cached) alone. The result is
	// the same, as no merge joins the parts.
	breaks bool
}

const none = int32(-1)

func newBPE(m *modelJSON, byteLevel bool) (*bpe, error) {
	switch {
	case m.Type != "BPE" && m.Type != "":
		return nil, fmt.Errorf("model %q is not supported: only BPE is", m.Type)
	case len(m.Vocab) == 0:
		return nil, errors.New("the vocabulary is empty")
	case m.Dropout != nil && *m.Dropout != 0:
		return nil, fmt.Errorf("dropout is %v: ids would be random; set it to null", *m.Dropout)
	case m.ContinuingSubwordPrefix != nil && *m.ContinuingSubwordPrefix != "":
		return nil, fmt.Errorf("continuing_subword_prefix %q is not supported", *m.ContinuingSubwordPrefix)
	case m.EndOfWordSuffix != nil && *m.EndOfWordSuffix != "":
		return nil, fmt.Errorf("end_of_word_suffix %q is not supported", *m.EndOfWordSuffix)
	}
	for t, id := range m.Vocab {
		if id < 0 {
			return nil, fmt.Errorf("token %q has the id %d", t, id)
		}
	}
	b := &bpe{vocab: m.Vocab, byteLevel: byteLevel, unk: none, fuseUnk: m.FuseUnk, breaks: !byteLevel}
	if m.UnkToken != nil && *m.UnkToken != "" {
		id, ok := m.Vocab[*m.UnkToken]
		if !ok {
			return nil, fmt.Errorf("unk_token %q is not in the vocabulary", *m.UnkToken)
		}
		b.unk = id
	}
	runes := byteRunes()
	for i := range b.bytes {
		b.bytes[i] = b.lookup(string(runes[i]))
		b.fallback[i] = none
		if m.ByteFallback {
			b.fallback[i] = b.lookup(fmt.Sprintf("<0x%02X>", i))
		}
		b.fallsBack = b.fallsBack || b.fallback[i] != none
	}
	if b.lookup(space) == none {
		b.breaks = false
	}
	if err := b.addMerges(m.Merges); err != nil {
		return nil, err
	}
	if m.IgnoreMerges {
		b.words = b.wholeWords()
	}
	return b, nil
}

func (b *bpe) lookup(token string) int32 {
	if id, ok := b.vocab[token]; ok {
		return id
	}
	return none
}

func (b *bpe) addMerges(merges mergeList) error {
	b.pairs = newPairTable(len(merges))
	var joined []byte
	for rank, m := range merges {
		left, right := b.lookup(m[0]), b.lookup(m[1])
		joined = append(append(joined[:0], m[0]...), m[1]...)
		whole, ok := b.vocab[string(joined)]
		for _, missing := range []struct {
			token  string
			absent bool
		}{{m[0], left == none}, {m[1], right == none}, {string(joined), !ok}} {
			if missing.absent {
				return fmt.Errorf("merge %d joins %q and %q: %q is not in the vocabulary", rank, m[0], m[1], missing.token)
			}
		}
		b.pairs.put(left, right, uint32(rank), whole)
		if b.breaks && breaksInside(string(joined)) {
			b.breaks = false
		}
	}
	return nil
}

// breaksInside reports whether a token has U+2581 behind another rune.
func breaksInside(token string) bool {
	return nextBreak(token, 0) < len(token)
}

// nextBreak is the first index from i on, behind the first rune, where U+2581 follows
// another rune; len(s) if there is none.
func nextBreak(s string, i int) int {
	for i < len(s) {
		at := strings.Index(s[i:], space)
		if at < 0 {
			return len(s)
		}
		at += i
		if at > 0 && !strings.HasSuffix(s[:at], space) {
			return at
		}
		i = at + len(space)
	}
	return len(s)
}

// wholeWords is the vocabulary as words of text see it.
func (b *bpe) wholeWords() map[string]int32 {
	if !b.byteLevel {
		return b.vocab
	}
	words := make(map[string]int32, len(b.vocab))
	for t, id := range b.vocab {
		if s, ok := bytesOfToken(t); ok {
			words[s] = id
		}
	}
	return words
}

// encode appends the tokens of a word.
func (b *bpe) encode(s *scratch, word string, out []int32) []int32 {
	if !b.breaks {
		return b.encodePart(s, word, out)
	}
	if id, ok := b.words[word]; ok {
		return append(out, id)
	}
	for start := 0; start < len(word); {
		end := start + nextBreak(word[start:], 0)
		out = b.encodePart(s, word[start:end], out)
		start = end
	}
	return out
}

// encodePart is encode for a word without breaks. The cache has most words of a text.
func (b *bpe) encodePart(s *scratch, word string, out []int32) []int32 {
	if len(word) == 0 {
		return out
	}
	if len(word) > maxCachedBytes {
		return b.encodeUncached(s, word, out)
	}
	slot, key, hit := s.cache.find(word)
	if hit {
		return append(out, slot.ids[:slot.n]...)
	}
	start := len(out)
	out = b.encodeUncached(s, word, out)
	slot.store(key, out[start:])
	return out
}

func (b *bpe) encodeUncached(s *scratch, word string, out []int32) []int32 {
	if id, ok := b.words[word]; ok {
		return append(out, id)
	}
	s.symbols = b.symbols(word, s.symbols[:0])
	return append(out, s.merge(&b.pairs)...)
}

// symbols appends the tokens a word starts from: of its bytes, or of its runes.
func (b *bpe) symbols(word string, out []int32) []int32 {
	unknown := false // whether the last symbol is unk
	miss := func() {
		if b.unk != none && !(unknown && b.fuseUnk) {
			out = append(out, b.unk)
		}
		unknown = true
	}
	if b.byteLevel {
		for i := range len(word) {
			if id := b.bytes[word[i]]; id != none {
				out, unknown = append(out, id), false
			} else {
				miss()
			}
		}
		return out
	}
	for i := 0; i < len(word); {
		_, n := utf8.DecodeRuneInString(word[i:])
		char := word[i : i+n]
		i += n
		if id, ok := b.vocab[char]; ok {
			out, unknown = append(out, id), false
		} else if b.canFallBack(char) {
			for j := range len(char) {
				out = append(out, b.fallback[char[j]])
			}
			unknown = false
		} else {
			miss()
		}
	}
	return out
}

// canFallBack reports whether every byte of a rune has a token of its own.
func (b *bpe) canFallBack(char string) bool {
	for i := range len(char) {
		if !b.fallsBack || b.fallback[char[i]] == none {
			return false
		}
	}
	return true
}

// pairTable maps a pair of adjacent tokens to the rank of their merge and its result: a
// hash table with open addressing, half empty, because it is read a few times for each
// byte of an unseen word.
type pairTable struct {
	slots []pairSlot
	shift uint
}

type pairSlot struct {
	left, right int32 // left is none in an empty slot
	rank        uint32
	whole       int32
}

// noMerge is the rank of a pair that has none.
const noMerge = math.MaxUint32

func newPairTable(n int) pairTable {
	bits := uint(4)
	for 1<<bits < 2*n {
		bits++
	}
	t := pairTable{make([]pairSlot, 1<<bits), 64 - bits}
	for i := range t.slots {
		t.slots[i].left = none
	}
	return t
}

// find is the slot of the pair, or the empty slot where it would be.
func (t *pairTable) find(left, right int32) *pairSlot {
	h := (uint64(uint32(left))<<32 | uint64(uint32(right))) * 0x9E3779B97F4A7C15
	for i := h >> t.shift; ; i++ {
		s := &t.slots[i&uint64(len(t.slots)-1)]
		if s.left == none || s.left == left && s.right == right {
			return s
		}
	}
}

func (t *pairTable) put(left, right int32, rank uint32, whole int32) {
	*t.find(left, right) = pairSlot{left, right, rank, whole}
}

// get is the rank and result of a pair's merge; noMerge if it has none.
func (t *pairTable) get(left, right int32) (rank uint32, whole int32) {
	if s := t.find(left, right); s.left != none {
		return s.rank, s.whole
	}
	return noMerge, none
}
