package tokenizer

import (
	"fmt"
	"slices"
)

// spacePrefix reports whether a SentencePiece tokenizer puts a space in front of text, or
// is an error where it does anything to text but that and marking spaces.
func (w *ggufWriter) spacePrefix() (bool, error) {
	if !w.file.Model.ByteFallback {
		return false, fmt.Errorf("the model %s has neither a ByteLevel pre-tokenizer nor byte_fallback; a GGUF holds byte-level BPE and SentencePiece's BPE", w.file.Model.Type)
	}
	marksSpaces, prefix := false, false
	normalizers := []normalizerJSON{}
	if n := w.file.Normalizer; n != nil {
		normalizers = append(normalizers, *n)
		if n.Type == "Sequence" {
			normalizers = n.Normalizers
		}
	}
	for _, n := range normalizers {
		switch {
		case n.Type == "Prepend" && n.Prepend != nil && *n.Prepend == space:
			prefix = true
		case n.Type == "Replace" && n.Pattern != nil && n.Pattern.String != nil && *n.Pattern.String == " " && n.Content != nil && *n.Content == space:
			marksSpaces = true
		default:
			return false, fmt.Errorf("the normalizer %q is none that a GGUF can say of SentencePiece", n.Type)
		}
	}
	steps, _, _ := preTokenizerSteps(w.file.PreTokenizer)
	for i, s := range steps {
		literalSpace := s.Pattern != nil && s.Pattern.String != nil && *s.Pattern.String == " "
		switch {
		case s.Type == "Split" && literalSpace && marksSpaces: // nothing is left to split at
		case s.Type == "Metaspace" && (s.Replacement == "" || s.Replacement == space) && s.Split != nil && !*s.Split && !marksSpaces:
			marksSpaces = true
			switch prependScheme(s.PrependScheme, s.AddPrefixSpace) {
			case "always":
				prefix = true
			case "first":
				prefix = true
				w.notes = append(w.notes, "the tokenizer puts a space in front of the text's first word only; programs that read a GGUF put one behind special tokens too")
			}
		default:
			return false, fmt.Errorf("the pre-tokenizer's step %d, %s, is none that a GGUF can say of SentencePiece", i+1, describeStep(&s))
		}
	}
	if !marksSpaces {
		return false, fmt.Errorf("nothing turns spaces to %q, which SentencePiece's vocabularies need", space)
	}
	return prefix, nil
}

// scores gives each token a score such that joining the pair of the best score does what
// the merges do: minus the rank of the first merge that makes the token. Tokens whose
// merges stand among one another's, as those of runs of spaces do, share a score. Tokens
// that no merge makes are never the result of a join, and have a score below all.
//
// Merges that were made of scores come back the same; others are an error.
func (w *ggufWriter) scores(tokens []string, types []int32) ([]float32, error) {
	merges := w.file.Model.Merges
	if len(merges) >= 1<<24 {
		return nil, fmt.Errorf("%d merges, more than a float32 can rank", len(merges))
	}
	scores := make([]float32, len(tokens))
	v := &ggufVocab{tokens: tokens, types: make([]int64, len(tokens)), scores: make([]float64, len(tokens))}
	for id, t := range types {
		v.types[id] = int64(t)
		if t == typeNormal {
			scores[id] = -float32(len(merges) + 1)
		}
	}
	var normal mergeList
	var made []int32 // by each of the normal merges
	last := make([]int, len(tokens))
	for _, m := range merges {
		id, ok := w.t.ID(m[0] + m[1])
		left, okLeft := w.t.ID(m[0])
		right, okRight := w.t.ID(m[1])
		if !ok || !okLeft || !okRight || types[id] != typeNormal || types[left] != typeNormal || types[right] != typeNormal {
			continue // of tokens that are cut out of the text before, or never made
		}
		last[id] = len(normal)
		normal, made = append(normal, m), append(made, id)
	}
	score, until := 0, -1 // of the tokens whose merges end at that rank
	for rank, id := range made {
		if rank > until {
			score = rank
		}
		until = max(until, last[id])
		scores[id] = -float32(score)
	}
	for id, s := range scores {
		v.scores[id] = float64(s)
	}
	vocab, err := v.vocab()
	if err != nil {
		return nil, err
	}
	back := v.mergesFromScores(vocab)
	if !slices.Equal(back, normal) {
		return nil, fmt.Errorf("its %d merges are not those that scores of its tokens would give (%d), so that a GGUF cannot hold them", len(normal), len(back))
	}
	return scores, nil
}
