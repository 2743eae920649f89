package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/tensor"
)

// Mix is a named choice of element types.
type Mix struct {
	Name     string       // as the user gives it
	base     tensor.DType // of most matrices
	medium   bool         // q4_k_m, q5_k_m: some matrices in a larger type
	small    bool         // q4_k_s: few of them
	fileType uint32       // general.file_type, llama.cpp's llama_ftype
}

// mixes are what --type can name.
var mixes = []Mix{
	{Name: "f32", base: tensor.F32, fileType: 0},
	{Name: "f16", base: tensor.F16, fileType: 1},
	{Name: "bf16", base: tensor.BF16, fileType: 32},
	{Name: "q8_0", base: tensor.Q8_0, fileType: 7},
	{Name: "q6_k", base: tensor.Q6_K, fileType: 18},
	{Name: "q5_k_m", base: tensor.Q5_K, medium: true, fileType: 17},
	{Name: "q5_k_s", base: tensor.Q5_K, fileType: 16},
	{Name: "q5_1", base: tensor.Q5_1, fileType: 9},
	{Name: "q5_0", base: tensor.Q5_0, fileType: 8},
	{Name: "q4_k_m", base: tensor.Q4_K, medium: true, fileType: 15},
	{Name: "q4_k_s", base: tensor.Q4_K, small: true, fileType: 14},
	{Name: "q4_1", base: tensor.Q4_1, fileType: 3},
	{Name: "q4_0", base: tensor.Q4_0, fileType: 2},
}

// aliases are names that llama.cpp's quantiser takes for another.
var aliases = map[string]string{"q4_k": "q4_k_m", "q5_k": "q5_k_m"}

// MixNames lists the mixes, largest first.
func MixNames() []string {
	names := make([]string, len(mixes))
	for i, m := range mixes {
		names[i] = m.Name
	}
	return names
}

// ParseMix finds a mix by its name, in upper or lower case.
func ParseMix(name string) (Mix, error) {
	lower := strings.ToLower(name)
	if to, ok := aliases[lower]; ok {
		lower = to
	}
	for _, m := range mixes {
		if m.Name == lower {
			return m, nil
		}
	}
	return Mix{}, fmt.Errorf("unknown type %q; types are %s", name, strings.Join(MixNames(), ", "))
}

// fallbacks are the types of blocks of 32 that stand in for those of 256 where a row is
// no multiple of 256.
var fallbacks = map[tensor.DType]tensor.DType{
	tensor.Q4_K: tensor.Q5_0, tensor.Q5_K: tensor.Q5_1, tensor.Q6_K: tensor.Q8_0,
}

// chooseTypes gives every step its element type, as llama.cpp's llama-quantize gives them
// (src/llama-quant.cpp, llama_tensor_get_type): vectors F32; matrices the mix's base, but
// for the head (or the embedding that serves as one), and for the matrices that the mix
// puts into more bits; and where the row length does not fit, a fallback.
func (p *Program) chooseTypes() error {
	spec := &p.from.Spec
	values, downs := 0, 0
	for _, s := range p.steps {
		if isValue(s.out.Name) {
			values++
		}
	}
	var fell []string
	byWidth := false
	value := 0
	for i := range p.steps {
		s := &p.steps[i]
		name := s.out.Name
		switch {
		case len(s.out.Shape) < 2, s.values != nil:
			s.out.DType = tensor.F32
			continue
		case !p.mix.base.IsBlock():
			s.out.DType = p.mix.base
			continue
		}
		row := s.out.RowElements()
		d := p.mix.base
		switch {
		case name == "output.weight" || spec.Tied && name == "token_embd.weight":
			if row%d.BlockSize() != 0 {
				d = tensor.Q8_0
			} else if d != tensor.Q8_0 {
				d = tensor.Q6_K
			}
		case isValue(name):
			d = p.valueType(d, value, values)
			value++
		case strings.Contains(name, "ffn_down"):
			d = p.downType(d, downs, spec.Layers)
			downs++
		}
		fits, err := fit(d, row)
		if err != nil {
			return fmt.Errorf("tensor %q: %w%s", s.in.Name, err, widthAdvice(s, spec))
		}
		if fits != d {
			why := fmt.Sprintf("%v to %v (rows of %d)", d, fits, row)
			if !slices.Contains(fell, why) {
				fell = append(fell, why)
			}
			byWidth = byWidth || isWidth(s, spec)
		}
		s.out.DType = fits
	}
	if fell != nil {
		note := "rows that are no multiple of 256 take a larger type: " + strings.Join(fell, ", ")
		if byWidth {
			note += "; prune with --align 256 to avoid it in the MLP"
		}
		p.Notes = append(p.Notes, note)
	}
	return nil
}

// isValue reports whether a matrix makes values, alone or among others.
func isValue(name string) bool {
	return strings.HasSuffix(name, "attn_v.weight") || strings.HasSuffix(name, "attn_qkv.weight")
}

// moreBits is the share of layers whose matrices get a larger type: the first and last
// eighth, and every third between.
func moreBits(i, n int) bool { return i < n/8 || i >= 7*n/8 || (i-n/8)%3 == 2 }

// valueType is the type of the i-th of n value projections.
func (p *Program) valueType(d tensor.DType, i, n int) tensor.DType {
	s := &p.from.Spec
	switch {
	case p.mix.medium && moreBits(i, n):
		return tensor.Q6_K
	case p.mix.small && i < 4, d == tensor.Q4_K && s.Layers == 80 && s.Heads != s.KVHeads:
		// The second: llama.cpp's 70B, where eight heads share a value and more bits cost little.
		return tensor.Q5_K
	}
	return d
}

// downType is the type of the i-th of n down projections. With statistics llama.cpp puts
// the first eighth of the two oldest types into their larger twins.
func (p *Program) downType(d tensor.DType, i, n int) tensor.DType {
	switch {
	case p.mix.medium && moreBits(i, n):
		return tensor.Q6_K
	case p.mix.small && i < n/8:
		return tensor.Q5_K
	case p.stats != nil && i < n/8 && d == tensor.Q4_0:
		return tensor.Q4_1
	case p.stats != nil && i < n/8 && d == tensor.Q5_0:
		return tensor.Q5_1
	}
	return d
}

// fit is d or what stands in for it in rows of n elements.
func fit(d tensor.DType, n int) (tensor.DType, error) {
	if n%d.BlockSize() == 0 {
		return d, nil
	}
	to, ok := fallbacks[d]
	switch {
	case !ok:
		return d, fmt.Errorf("rows of %d elements are no multiple of the %d of a block of %v; choose f16 or a K type", n, d.BlockSize(), d)
	case n%to.BlockSize() == 0:
		return to, nil
	}
	return tensor.F16, nil
}

// isWidth reports whether a tensor's row is as long as its layer is wide.
func isWidth(s *step, spec *arch.Spec) bool {
	return strings.Contains(s.out.Name, "ffn_down") && s.out.RowElements() != spec.Hidden
}

func widthAdvice(s *step, spec *arch.Spec) string {
	if isWidth(s, spec) {
		return ", or prune with --align 256"
	}
	return ""
}
