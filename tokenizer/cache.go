package tokenizer

// wordCache remembers the tokens of short words. Each word has one slot, which the next
// word that hashes to it takes over: no list, no eviction, no allocation after the first
// use, and a bound of 2 MiB on its size.
type wordCache struct {
	slots []cacheSlot
}

const (
	cacheBits      = 15
	maxCachedBytes = 23
	maxCachedIDs   = 9
)

// cacheSlot holds a word of at most 23 bytes and its tokens: a cache line.
type cacheSlot struct {
	key wordKey
	n   int32 // number of ids
	ids [maxCachedIDs]int32
}

// wordKey is a word of at most 23 bytes in 24, with its length in the last, so that
// comparing two words is comparing three numbers.
type wordKey [3]uint64

// packWord is the key of a word of 1 to 23 bytes.
func packWord(w string) (k wordKey) {
	n := len(w)
	switch {
	case n >= 16:
		k = wordKey{load64(w), load64(w[8:]), load64(w[n-8:]) >> (8 * (24 - n))}
	case n >= 8:
		k = wordKey{load64(w), load64(w[n-8:]) >> (8 * (16 - n))}
	case n >= 4:
		k[0] = uint64(load32(w)) | uint64(load32(w[n-4:]))<<(8*(n-4))
	default:
		k[0] = uint64(w[0]) | uint64(w[n/2])<<(8*(n/2)) | uint64(w[n-1])<<(8*(n-1))
	}
	k[2] |= uint64(n) << 56
	return k
}

func load64(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func load32(s string) uint32 {
	_ = s[3]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

// find returns the slot of a word of 1 to 23 bytes, its key, and whether the slot holds
// the word's tokens.
func (c *wordCache) find(w string) (slot *cacheSlot, key wordKey, hit bool) {
	if c.slots == nil {
		c.slots = make([]cacheSlot, 1<<cacheBits)
	}
	key = packWord(w)
	h := (key[0] ^ key[1]*0xC2B2AE3D27D4EB4F ^ key[2]*0x165667B19E3779F9) * 0x9E3779B97F4A7C15
	slot = &c.slots[h>>(64-cacheBits)]
	return slot, key, slot.key == key
}

// store keeps the tokens of the word with that key, if they are few enough.
func (s *cacheSlot) store(key wordKey, ids []int32) {
	if len(ids) > maxCachedIDs {
		return
	}
	s.key, s.n = key, int32(copy(s.ids[:], ids))
}
