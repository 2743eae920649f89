package tokenizer

// An encoder runs the pipeline on one text at a time.
type encoder struct {
	t       *Tokenizer
	scratch scratch
	out     []int32
	yields  []func(piece) // yields[k] takes the pieces that step k-1 makes
}

func newEncoder(t *Tokenizer) *encoder {
	e := &encoder{t: t, yields: make([]func(piece), len(t.steps)+1)}
	e.yields[len(t.steps)] = func(p piece) {
		e.out = t.model.encode(&e.scratch, p.text, e.out)
	}
	for k := len(t.steps) - 1; k >= 0; k-- {
		e.yields[k] = func(p piece) { t.steps[k](p, e.yields[k+1]) }
	}
	return e
}

// encode appends the ids of a text: added tokens are cut out before it is normalized,
// and once more after it.
func (e *encoder) encode(text string, out []int32) []int32 {
	e.out = out
	e.t.raw.split(text, func(token *addedTokenJSON, part string, start int) {
		if token != nil {
			e.out = append(e.out, token.ID)
			return
		}
		first := start == 0
		if e.t.normalizer != nil {
			part = e.t.normalizer(part)
		}
		e.t.normalized.split(part, func(token *addedTokenJSON, part string, start int) {
			if token != nil {
				e.out = append(e.out, token.ID)
			} else {
				e.yields[0](piece{part, first && start == 0})
			}
		})
	})
	out, e.out = e.out, nil
	return out
}
