package tokenizer

import "fmt"

// byteLevelFile is the tokenizer.json of a GGUF vocabulary of model "gpt2".
func (v *ggufVocab) byteLevelFile() (*fileJSON, error) {
	pre, err := findGGUFPre(v.pre)
	if err != nil {
		return nil, err
	}
	vocab, err := v.vocab()
	if err != nil {
		return nil, err
	}
	if v.merges == nil {
		return nil, fmt.Errorf(`the vocabulary has no merges (tokenizer.ggml.merges), which model "gpt2" needs`)
	}
	merges := make(mergeList, len(v.merges))
	for i, line := range v.merges {
		left, right, ok := cutMerge(line)
		if !ok {
			return nil, fmt.Errorf("tokenizer.ggml.merges: merge %d is %q, want two tokens with a space between them", i, line)
		}
		merges[i] = [2]string{left, right}
	}
	byteLevel := postProcessorJSON{Type: "ByteLevel", AddPrefixSpace: ptr(true), TrimOffsets: ptr(false), UseRegex: ptr(true)}
	post, err := v.postProcessor(pre.bos)
	if err != nil {
		return nil, err
	}
	if post == nil {
		post = &byteLevel
	} else {
		post = &postProcessorJSON{Type: "Sequence", Processors: []postProcessorJSON{byteLevel, *post}}
	}
	f := &fileJSON{
		Version:       "1.0",
		AddedTokens:   v.addedTokens(),
		PreTokenizer:  pre.preTokenizer(),
		PostProcessor: post,
		Decoder:       &decoderJSON{Type: "ByteLevel", AddPrefixSpace: ptr(true), TrimOffsets: ptr(true), UseRegex: ptr(true)},
		Model:         modelJSON{Type: "BPE", Vocab: vocab, Merges: merges, IgnoreMerges: pre.ignoreMerges},
	}
	if pre.nfc {
		f.Normalizer = &normalizerJSON{Type: "NFC"}
	}
	return f, nil
}

// postProcessor adds BOS and EOS as the file says, or as byDefault says for BOS where it
// says nothing; nil if nothing is added.
func (v *ggufVocab) postProcessor(byDefault bool) (*postProcessorJSON, error) {
	addBOS := byDefault && v.bos >= 0
	if v.addBOS != nil {
		addBOS = *v.addBOS
	}
	addEOS := v.addEOS != nil && *v.addEOS
	if addBOS && v.bos < 0 {
		return nil, fmt.Errorf("tokenizer.ggml.add_bos_token is true, and tokenizer.ggml.bos_token_id is missing")
	}
	if addEOS && v.eos < 0 {
		return nil, fmt.Errorf("tokenizer.ggml.add_eos_token is true, and tokenizer.ggml.eos_token_id is missing")
	}
	if !addBOS && !addEOS {
		return nil, nil
	}
	post := &postProcessorJSON{Type: "TemplateProcessing", SpecialTokens: map[string]templateSpecialJSON{}}
	special := func(id int32, typeID int) templatePieceJSON {
		t := v.token(id)
		post.SpecialTokens[t] = templateSpecialJSON{ID: t, IDs: []int32{id}, Tokens: []string{t}}
		return templatePieceJSON{SpecialToken: &templateRefJSON{ID: t, TypeID: typeID}}
	}
	sequence := func(name string, typeID int) (list []templatePieceJSON) {
		if addBOS {
			list = append(list, special(v.bos, typeID))
		}
		list = append(list, templatePieceJSON{Sequence: &templateRefJSON{ID: name, TypeID: typeID}})
		if addEOS {
			list = append(list, special(v.eos, typeID))
		}
		return list
	}
	post.Single = sequence("A", 0)
	post.Pair = append(sequence("A", 0), sequence("B", 1)...)
	return post, nil
}
