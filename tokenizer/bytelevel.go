package tokenizer

import (
	"sync"
	"unicode/utf8"
)

// byteRunes is the alphabet of byte-level BPE (Radford et al. 2019, GPT-2): a printable
// rune for each byte. Bytes that Latin-1 prints stand for themselves, the others are
// numbered from U+0100 on in their own order.
var byteRunes = sync.OnceValue(func() (runes [256]rune) {
	next := rune(256)
	for b := range runes {
		switch {
		case b >= '!' && b <= '~', b >= '¡' && b <= '¬', b >= '®' && b <= 'ÿ':
			runes[b] = rune(b)
		default:
			runes[b] = next
			next++
		}
	}
	return runes
})

// runeBytes is the inverse of byteRunes.
var runeBytes = sync.OnceValue(func() map[rune]byte {
	m := make(map[rune]byte, 256)
	for b, r := range byteRunes() {
		m[r] = byte(b)
	}
	return m
})

// bytesOfToken spells a token of a byte-level vocabulary in bytes; ok is false if a rune
// of it is not of the alphabet, as in special tokens with a space.
func bytesOfToken(token string) (string, bool) {
	table := runeBytes()
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := table[r]
		if !ok {
			return "", false
		}
		out = append(out, b)
	}
	return string(out), true
}

// tokenOfBytes spells bytes in the byte-level alphabet.
func tokenOfBytes(s string) string {
	table := byteRunes()
	out := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		out = utf8.AppendRune(out, table[s[i]])
	}
	return string(out)
}
