package tokenizer

import (
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"
)

// space is U+2581, which stands for a space in SentencePiece vocabularies.
const space = "▁"

// sentencePieceFile is the tokenizer.json of a GGUF vocabulary of model "llama":
// SentencePiece's BPE with scores in place of merges. Text that follows the start or a
// special token gets a space in front, unless add_space_prefix is false (Gemma).
func (v *ggufVocab) sentencePieceFile() (*fileJSON, error) {
	if v.scores == nil {
		return nil, fmt.Errorf(`the vocabulary has no scores (tokenizer.ggml.scores), which model "llama" needs`)
	}
	if v.removeExtraSpaces {
		return nil, fmt.Errorf("tokenizer.ggml.remove_extra_whitespaces is true, which no model of the known families needs")
	}
	vocab, err := v.vocab()
	if err != nil {
		return nil, err
	}
	post, err := v.postProcessor(true)
	if err != nil {
		return nil, err
	}
	f := &fileJSON{
		Version:       "1.0",
		AddedTokens:   v.addedTokens(),
		PostProcessor: post,
		Model: modelJSON{Type: "BPE", Vocab: vocab, Merges: v.mergesFromScores(vocab),
			FuseUnk: true, ByteFallback: v.hasByteTokens()},
	}
	if v.unk >= 0 {
		f.Model.UnkToken = ptr(v.token(v.unk))
	}
	toSpace := normalizerJSON{Type: "Replace", Pattern: &patternJSON{String: ptr(" ")}, Content: ptr(space)}
	fromSpace := decoderJSON{Type: "Replace", Pattern: &patternJSON{String: ptr(space)}, Content: ptr(" ")}
	decoders := []decoderJSON{fromSpace, {Type: "ByteFallback"}, {Type: "Fuse"}}
	if v.addSpacePrefix == nil || *v.addSpacePrefix {
		f.Normalizer = &normalizerJSON{Type: "Sequence", Normalizers: []normalizerJSON{
			{Type: "Prepend", Prepend: ptr(space)}, toSpace}}
		decoders = append(decoders, decoderJSON{Type: "Strip", Content: ptr(" "), Start: ptr(1), Stop: ptr(0)})
	} else {
		f.Normalizer = &toSpace
	}
	f.Decoder = &decoderJSON{Type: "Sequence", Decoders: decoders}
	return f, nil
}

// hasByteTokens reports whether characters outside the vocabulary fall back to bytes.
func (v *ggufVocab) hasByteTokens() bool {
	if v.types == nil {
		return slices.Contains(v.tokens, "<0x00>")
	}
	return slices.Contains(v.types, typeByte)
}

// mergesFromScores lists the merges that act as the scores do. SentencePiece joins the
// adjacent pair whose union is the piece of the best score, so every way to cut a piece
// in two pieces is a merge, ranked by the score of the whole. Pairs of one piece, and
// pieces of one score, are ranked by the longer left part, then the longer right part,
// as transformers' converter ranks them.
//
// Only normal pieces are joined: text never becomes a control or unused token, and
// user-defined ones are cut out before.
func (v *ggufVocab) mergesFromScores(vocab vocabJSON) mergeList {
	type merge struct {
		left, right int32
		score       float64
		ll, lr      int
	}
	normal := func(t string) (int32, bool) {
		id, ok := vocab[t]
		return id, ok && v.typeOf(int(id)) == typeNormal
	}
	var list []merge
	for id, piece := range v.tokens {
		if v.typeOf(id) != typeNormal {
			continue
		}
		for i := range piece {
			if i == 0 {
				continue
			}
			left, ok := normal(piece[:i])
			if !ok {
				continue
			}
			if right, ok := normal(piece[i:]); ok {
				list = append(list, merge{left, right, v.scores[id],
					utf8.RuneCountInString(piece[:i]), utf8.RuneCountInString(piece[i:])})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b merge) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(b.ll, a.ll), cmp.Compare(b.lr, a.lr))
	})
	merges := make(mergeList, len(list))
	for i, m := range list {
		merges[i] = [2]string{v.tokens[m.left], v.tokens[m.right]}
	}
	return merges
}
