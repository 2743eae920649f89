package tokenizer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"slices"
)

// fingerprint hashes what decides ids, each part with its length before it.
func fingerprint(f *fileJSON, t *Tokenizer) string {
	h := sha256.New()
	for _, token := range t.tokens {
		writeString(h, token)
	}
	merges := make([]pairSlot, 0, len(f.Model.Merges))
	for _, s := range t.model.pairs.slots {
		if s.left != none {
			merges = append(merges, s)
		}
	}
	slices.SortFunc(merges, func(a, b pairSlot) int { return int(int64(a.rank) - int64(b.rank)) })
	writeInts(h, int32(len(merges)))
	for _, m := range merges {
		writeInts(h, m.left, m.right, m.whole)
	}
	added := slices.Clone(f.AddedTokens)
	slices.SortFunc(added, func(a, b addedTokenJSON) int { return int(a.ID) - int(b.ID) })
	model := f.Model
	model.Vocab, model.Merges = nil, nil
	for _, part := range []any{added, f.Normalizer, f.PreTokenizer, model} {
		b, err := json.Marshal(part)
		if err != nil { // these types hold nothing that JSON cannot
			panic(err)
		}
		writeString(h, string(b))
	}
	for _, ids := range [][]int32{t.affixes.before, t.affixes.behind, {t.bos, t.eos, t.pad}} {
		writeInts(h, int32(len(ids)))
		writeInts(h, ids...)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func writeString(h hash.Hash, s string) {
	writeInts(h, int32(len(s)))
	h.Write([]byte(s))
}

func writeInts(h hash.Hash, list ...int32) {
	var b [4]byte
	for _, n := range list {
		binary.LittleEndian.PutUint32(b[:], uint32(n))
		h.Write(b[:])
	}
}
