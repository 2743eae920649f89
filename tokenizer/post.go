package tokenizer

import "fmt"

// affixes are the ids that the post-processor puts before and behind a text.
type affixes struct {
	before, behind []int32
}

// newAffixes compiles a post-processor. Only its form for a single text is used, and
// only what it does to ids.
func newAffixes(p *postProcessorJSON) (affixes, error) {
	if p == nil {
		return affixes{}, nil
	}
	switch p.Type {
	case "ByteLevel":
		return affixes{}, nil
	case "Sequence":
		var all affixes
		for i := range p.Processors {
			a, err := newAffixes(&p.Processors[i])
			if err != nil {
				return affixes{}, err
			}
			all.before = append(a.before, all.before...)
			all.behind = append(all.behind, a.behind...)
		}
		return all, nil
	case "TemplateProcessing":
		return templateAffixes(p)
	case "RobertaProcessing", "BertProcessing":
		if p.Cls == nil || p.Sep == nil {
			return affixes{}, fmt.Errorf("post-processor %s needs cls and sep", p.Type)
		}
		return affixes{[]int32{p.Cls.ID}, []int32{p.Sep.ID}}, nil
	}
	return affixes{}, fmt.Errorf("post-processor %q is not supported", p.Type)
}

func templateAffixes(p *postProcessorJSON) (affixes, error) {
	var a affixes
	texts := 0
	for _, t := range p.Single {
		switch {
		case t.Sequence != nil:
			texts++
		case t.SpecialToken != nil:
			special, ok := p.SpecialTokens[t.SpecialToken.ID]
			if !ok {
				return a, fmt.Errorf("post-processor TemplateProcessing: special_tokens lacks %q", t.SpecialToken.ID)
			}
			if texts == 0 {
				a.before = append(a.before, special.IDs...)
			} else {
				a.behind = append(a.behind, special.IDs...)
			}
		}
	}
	if texts != 1 {
		return a, fmt.Errorf("post-processor TemplateProcessing: single has %d sequences, want 1", texts)
	}
	return a, nil
}
