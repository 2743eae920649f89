package tokenizer

// wordCache remembers the tokens of short words. Each word has one slot, which the next
// word that hashes to it takes over: no list, no eviction, no allocation after the first
// use, and a bound of 1 MiB on its size.
type wordCache struct {
	slots []cacheSlot
}

const (
	cacheBits      = 15
	maxCachedBytes = 15
	maxCachedIDs   = 3
)

// cacheSlot holds a word of at most 15 bytes in 16, with its length in the last, so that
// comparing two words is comparing two pairs of numbers. Two slots fill a cache line.
type cacheSlot struct {
	lo, hi uint64
	n      int32 // number of ids
	ids    [maxCachedIDs]int32
}

// packWord is a word of 1 to 15 bytes as two numbers; no other word has the same.
func packWord(w string) (lo, hi uint64) {
	n := len(w)
	switch {
	case n >= 8:
		lo = load64(w)
		hi = load64(w[n-8:]) >> (8 * (16 - n) & 63)
		if n == 8 {
			hi = 0
		}
	case n >= 4:
		lo = uint64(load32(w)) | uint64(load32(w[n-4:]))<<(8*(n-4))
	default:
		lo = uint64(w[0]) | uint64(w[n/2])<<(8*(n/2)) | uint64(w[n-1])<<(8*(n-1))
	}
	return lo, hi | uint64(n)<<56
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

// find returns the slot of a word (1 to 15 bytes), its key, and whether the slot holds
// the word's tokens.
func (c *wordCache) find(w string) (slot *cacheSlot, lo, hi uint64, hit bool) {
	if c.slots == nil {
		c.slots = make([]cacheSlot, 1<<cacheBits)
	}
	lo, hi = packWord(w)
	h := (lo ^ hi*0xC2B2AE3D27D4EB4F) * 0x9E3779B97F4A7C15
	slot = &c.slots[h>>(64-cacheBits)]
	return slot, lo, hi, slot.lo == lo && slot.hi == hi
}

// store keeps the tokens of the word with that key, if they are few enough.
func (s *cacheSlot) store(lo, hi uint64, ids []int32) {
	if len(ids) > maxCachedIDs {
		return
	}
	s.lo, s.hi, s.n = lo, hi, int32(copy(s.ids[:], ids))
}
