package tokenizer

// scratch is the memory of one encoder at work. Encoders take one from a pool, so that
// goroutines share nothing and a word costs no allocation.
type scratch struct {
	cache   wordCache
	symbols []int32 // the word, as tokens
	ranks   []mergeOf
	next    []int32 // for long words: the next living symbol, or len(symbols)
	prev    []int32
	heap    []candidate
}

// mergeOf is the merge of a symbol with the one behind it.
type mergeOf struct {
	rank  uint32
	whole int32
}

// shortWord is the length in symbols up to which looking at all pairs again after each
// merge is faster than keeping them in a heap.
const shortWord = 48

// merge joins s.symbols in place, lowest rank first and among equal ranks from the left,
// until no pair has a merge, and returns what is left of them.
func (s *scratch) merge(t *pairTable) []int32 {
	if len(s.symbols) > shortWord {
		return s.mergeLong(t)
	}
	symbols, ranks := s.symbols, s.ranks[:0]
	for i := 1; i < len(symbols); i++ {
		rank, whole := t.get(symbols[i-1], symbols[i])
		ranks = append(ranks, mergeOf{rank, whole})
	}
	s.ranks = ranks
	for {
		best, at := uint32(noMerge), -1
		for i := range ranks {
			if ranks[i].rank < best {
				best, at = ranks[i].rank, i
			}
		}
		if at < 0 {
			return symbols
		}
		symbols[at] = ranks[at].whole
		symbols = append(symbols[:at+1], symbols[at+2:]...)
		ranks = append(ranks[:at], ranks[at+1:]...)
		if at > 0 {
			ranks[at-1].rank, ranks[at-1].whole = t.get(symbols[at-1], symbols[at])
		}
		if at < len(ranks) {
			ranks[at].rank, ranks[at].whole = t.get(symbols[at], symbols[at+1])
		}
	}
}

// candidate is a merge that was possible when it was put on the heap: the symbols at
// index at and behind it were left and right.
type candidate struct {
	rank        uint32
	at          int32
	left, right int32
	whole       int32
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

// mergeLong is merge in n log n: a heap of candidates over a linked list of symbols.
// A candidate whose symbols have changed since is dropped when its turn comes.
func (s *scratch) mergeLong(t *pairTable) []int32 {
	symbols := s.symbols
	n := int32(len(symbols))
	s.next, s.prev, s.heap = s.next[:0], s.prev[:0], s.heap[:0]
	for i := range n {
		s.next = append(s.next, i+1)
		s.prev = append(s.prev, i-1)
	}
	for i := range n - 1 {
		s.push(t, i)
	}
	for len(s.heap) > 0 {
		c := s.pop()
		right := s.next[c.at]
		if symbols[c.at] != c.left || right >= n || symbols[right] != c.right {
			continue
		}
		symbols[c.at] = c.whole
		symbols[right] = none
		after := s.next[right]
		s.next[c.at] = after
		if after < n {
			s.prev[after] = c.at
			s.push(t, c.at)
		}
		if p := s.prev[c.at]; p >= 0 {
			s.push(t, p)
		}
	}
	out := symbols[:0]
	for _, id := range symbols {
		if id != none {
			out = append(out, id)
		}
	}
	return out
}

// push puts the merge of symbol i with the next one on the heap, if there is one.
func (s *scratch) push(t *pairTable, i int32) {
	left, right := s.symbols[i], s.symbols[s.next[i]]
	rank, whole := t.get(left, right)
	if rank == noMerge {
		return
	}
	s.heap = append(s.heap, candidate{rank, i, left, right, whole})
	h := s.heap
	for k := len(h) - 1; k > 0; {
		parent := (k - 1) / 2
		if !h[k].before(h[parent]) {
			break
		}
		h[k], h[parent] = h[parent], h[k]
		k = parent
	}
}

// pop takes the first candidate off the heap.
func (s *scratch) pop() candidate {
	h := s.heap
	top := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	for k := 0; ; {
		child := 2*k + 1
		if child >= last {
			break
		}
		if child+1 < last && h[child+1].before(h[child]) {
			child++
		}
		if !h[child].before(h[k]) {
			break
		}
		h[k], h[child] = h[child], h[k]
		k = child
	}
	s.heap = h
	return top
}
