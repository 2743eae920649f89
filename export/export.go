// Package export writes a checkpoint as a GGUF file, the form that llama.cpp and the
// programs built on it run.
//
// A GGUF file holds what a Hugging Face directory holds, in another order and spelling:
//
//   - Metadata in place of config.json. The architecture is the family's own, or "deci"
//     where a llama's widths differ from layer to layer: plain loaders read one width for
//     all layers, and that architecture, of Nemotron, a list of them.
//   - Tensors under other names. Rows of q and k of a llama are interleaved (rotary pairs
//     beside one another), gemma's norms are stored plus one, the factors of llama3 rope
//     scaling are a tensor of their own. Package checkpoint undoes all of it.
//   - Element types by tensor. A mix such as q4_k_m is a rule: most matrices in one type,
//     those that suffer most in a larger one. The rules are those of llama.cpp's quantiser,
//     so that a file has the size and the types that its users know by that name.
//   - The tokenizer: vocabulary, merges or scores, and the name of a pre-tokenizer.
//
// Compile decides all of it from headers, config and tokenizer files, without reading a
// weight, and refuses what a GGUF file cannot say. Run streams the weights, in the order
// of the file, once.
package export

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
	"github.com/coppice-lm/coppice/tokenizer"
)

// Options are what Compile can be told.
type Options struct {
	Mix       Mix
	PartBytes int64        // most bytes of tensors in one file; 0: one file
	Stats     *score.Stats // of this model, to weigh the errors of down_proj by; may be nil
	Name      string       // general.name; empty: that of the model's path
}

// Program is an export that has been decided: what the files hold, and where each tensor's
// values come from.
type Program struct {
	Architecture string
	Layout       *gguf.Layout
	Notes        []string // what the user should be told
	Card         Card
	Chat         *tokenizer.Tokenizer // nil where the model has no tokenizer

	from  *checkpoint.Checkpoint
	spec  arch.Spec // as the file says it
	stats *score.Stats
	steps []step // in the order of the file
	mix   Mix
}

// step is one tensor of the output.
type step struct {
	in      tensor.Info // zero for a tensor that is computed
	out     tensor.Info
	part    int   // which file
	begin   int64 // where in it
	headDim int   // > 0: the rows of each head are interleaved
	plusOne bool  // the file holds the values plus one
	layer   int   // >= 0: errors are weighed by the statistics of this layer
	values  []float32
}

// Compile decides an export. An error names what of the model a GGUF file cannot say.
func Compile(c *checkpoint.Checkpoint, opt Options) (*Program, error) {
	p := &Program{from: c, stats: opt.Stats, mix: opt.Mix}
	t, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	if p.Architecture, err = p.architecture(t); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	if opt.Stats != nil {
		fingerprint, err := c.Fingerprint()
		if err == nil {
			err = opt.Stats.CheckModel(fingerprint, &c.Spec)
		}
		if err != nil {
			return nil, err
		}
	}
	p.spec = p.inFile()
	if err := p.addTensors(t); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	keys, err := p.metadata(t, opt.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	infos := make([]tensor.Info, len(p.steps))
	for i, s := range p.steps {
		infos[i] = s.out
	}
	if p.Layout, err = gguf.NewLayout(keys, infos, opt.PartBytes); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	i := 0
	for part, l := range p.Layout.Parts {
		for _, e := range l.Tensors {
			p.steps[i].part, p.steps[i].begin = part, e.Begin
			i++
		}
	}
	return p, nil
}

// Paths are the names of the program's files for the name that the user gave.
func (p *Program) Paths(path string) []string {
	paths := make([]string, len(p.Layout.Parts))
	for i := range paths {
		paths[i] = gguf.SplitName(path, i, len(paths))
	}
	return paths
}

// Bytes is the size of all files.
func (p *Program) Bytes() int64 {
	var n int64
	for _, part := range p.Layout.Parts {
		n += part.Size
	}
	return n
}

// Parameters are those of the model, by role and in all.
func (p *Program) Parameters() (byRole [arch.NumRoles]int64, total int64) {
	return p.from.Spec.Parameters()
}

// TypeCounts is how many tensors have each element type, by its name.
func (p *Program) TypeCounts() map[string]int {
	count := map[string]int{}
	for _, s := range p.steps {
		count[s.out.DType.String()]++
	}
	return count
}

// Types is TypeCounts as text: "61 F32, 29 Q6_K, 182 Q4_K".
func (p *Program) Types() string {
	count := p.TypeCounts()
	var words []string
	for _, name := range slices.Sorted(maps.Keys(count)) {
		words = append(words, fmt.Sprintf("%d %s", count[name], name))
	}
	return strings.Join(words, ", ")
}

// addTensors lists the output: the tensors that the family's table names, and the factors
// of llama3 rope scaling.
func (p *Program) addTensors(t *arch.Transformer) error {
	c, fam := p.from, p.from.Spec.Family
	known := map[string]bool{}
	for _, x := range p.spec.Tensors() {
		known[x.Name] = true
		in, ok := c.Lookup(x.Name)
		if !ok { // of those that the model must have, none is missing: it was opened
			p.steps = append(p.steps, zeros(x))
			continue
		}
		s := step{in: in, out: tensor.Info{Name: x.GGUF, Shape: in.Shape}, layer: -1}
		if fam.GGUFPermuted && (strings.Contains(x.GGUF, ".attn_q.") || strings.Contains(x.GGUF, ".attn_k.")) {
			s.headDim = c.Spec.HeadDim
			if s.headDim%2 != 0 {
				return fmt.Errorf("tensor %q: heads of %d rows have no halves to interleave", x.Name, s.headDim)
			}
		}
		s.plusOne = fam.GGUFNormPlus && x.Role == arch.Norm
		if p.stats != nil && x.Unit == arch.Cols {
			s.layer = x.Layer
		}
		p.steps = append(p.steps, s)
	}
	for _, i := range c.Tensors() {
		if !known[i.Name] {
			return fmt.Errorf("tensor %q has no name in a GGUF file of the architecture %s", i.Name, p.Architecture)
		}
	}
	if factors := llama3Factors(&t.Ropes[0]); factors != nil {
		p.steps = append(p.steps, step{out: tensor.Info{Name: "rope_freqs.weight", Shape: tensor.Shape{len(factors)}}, layer: -1, values: factors})
	}
	return p.chooseTypes()
}

// zeros is a tensor that the file needs and the model lacks: zeros, and ones in a norm.
func zeros(x arch.Tensor) step {
	s := step{out: tensor.Info{Name: x.GGUF, Shape: x.Shape}, layer: -1}
	n, _ := x.Shape.Elements() // two extents that arch bounds
	s.values = make([]float32, n)
	for i := range s.values {
		if x.Role == arch.Norm {
			s.values[i] = 1
		}
	}
	return s
}

// llama3Factors are what llama3 rope scaling divides the frequencies by; nil for other
// kinds.
func llama3Factors(r *arch.Rope) []float32 {
	if r.Type != arch.RopeLlama3 {
		return nil
	}
	plain := *r
	plain.Type = arch.RopeDefault
	want, _ := r.Frequencies(1)
	base, _ := plain.Frequencies(1)
	factors := make([]float32, len(base))
	for i := range factors {
		factors[i] = float32(float64(base[i]) / float64(want[i]))
	}
	return factors
}

// tokenizerKeys are the metadata of the tokenizer, and make p.Chat.
func (p *Program) tokenizerKeys() ([]gguf.KeyValue, error) {
	src := tokenizer.GGUFSource{Vocab: p.from.Spec.Vocab}
	for _, f := range p.from.Extra() {
		var to *[]byte
		var template []byte
		switch f.Name {
		case "tokenizer.json":
			to = &src.Tokenizer
		case "tokenizer_config.json":
			to = &src.Config
		case "chat_template.jinja":
			to = &template
		default:
			continue
		}
		b, err := f.Read(maxExtra)
		if err != nil {
			return nil, err
		}
		*to = b
		if template != nil {
			src.Template = string(template)
		}
	}
	if src.Tokenizer == nil {
		return nil, errors.New("there is no tokenizer.json, and a GGUF file without a vocabulary is of no use; convert the tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...))")
	}
	for key, to := range map[string]*int{"bos_token_id": &src.BOS, "eos_token_id": &src.EOS, "pad_token_id": &src.PAD} {
		*to = firstID(p.from.Config, key)
	}
	chat, keys, notes, err := tokenizer.GGUFKeys(src)
	p.Chat, p.Notes = chat, append(p.Notes, notes...)
	return keys, err
}

// firstID is a token id of the config, the first where it lists several, or -1.
func firstID(c *arch.Config, key string) int {
	if n, err := c.Int(key, -1); err == nil {
		return n
	}
	raw, _ := c.Raw(key)
	list, err := arch.ParseConfig([]byte(`{"id":` + strings.Trim(strings.SplitN(string(raw), ",", 2)[0], "[] \n\t") + `}`))
	if err != nil {
		return -1
	}
	n, err := list.Int("id", -1)
	if err != nil {
		return -1
	}
	return n
}

// maxExtra bounds what is read of a file beside the weights; real ones are below 40 MB.
const maxExtra = 256 << 20

// modelName is the last part of a model's path, without the ending of a file.
func modelName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return strings.TrimSuffix(filepath.Base(path), ".gguf")
}

// nearly reports whether two scales are the same but for rounding.
func nearly(a, b float64) bool { return math.Abs(a-b) <= 1e-5*math.Abs(b) }
