package surgery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

var opt = Options{Threads: 3, ShardBytes: checkpoint.DefaultShardBytes}

func open(t testing.TB, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// model makes a checkpoint of a family; change edits its config.
func model(t testing.TB, d tensor.DType, change map[string]any) *checkpoint.Checkpoint {
	t.Helper()
	var cfg map[string]any
	if err := json.Unmarshal(synth.Config(32, 48, 3, 4, 2, 64, true), &cfg); err != nil {
		t.Fatal(err)
	}
	for k, v := range change {
		cfg[k] = v
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "model")
	if err := synth.Write(dir, b, d, 1, 20_000); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func keepAll(t testing.TB, c *checkpoint.Checkpoint) *plan.Plan {
	t.Helper()
	f, err := c.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	return plan.KeepAll(f, &c.Spec)
}

func run(t testing.TB, c *checkpoint.Checkpoint, p *plan.Plan, to tensor.DType) *checkpoint.Checkpoint {
	t.Helper()
	prog, err := Compile(p, c, to)
	if err != nil {
		t.Fatal(err)
	}
	return written(t, c, prog)
}

// written runs a program into a new directory.
func written(t testing.TB, c *checkpoint.Checkpoint, prog *Program) *checkpoint.Checkpoint {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	sink, err := checkpoint.Create(dir, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := prog.Run(context.Background(), c, sink, nil, opt); err != nil {
		t.Fatal(err)
	}
	out := open(t, dir)
	if err := prog.Verify(context.Background(), c, out, opt); err != nil {
		t.Errorf("what was just written does not verify: %v", err)
	}
	return out
}

func values(t testing.TB, c *checkpoint.Checkpoint, name string) ([]byte, tensor.Info) {
	t.Helper()
	info, ok := c.Lookup(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	n, err := info.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if err := c.ReadRows(name, b, 0, info.Rows()); err != nil {
		t.Fatal(err)
	}
	return b, info
}

func TestKeepAllGivesTheSameBytes(t *testing.T) {
	for _, family := range []string{"llama", "phi3", "gemma2"} {
		c := model(t, tensor.BF16, map[string]any{"model_type": family})
		out := run(t, c, keepAll(t, c), tensor.Invalid)
		for _, i := range c.Tensors() {
			want, _ := values(t, c, i.Name)
			got, _ := values(t, out, i.Name)
			if !bytes.Equal(want, got) {
				t.Errorf("%s: %s differs", family, i.Name)
			}
		}
		if !bytes.Equal(c.Config.Bytes(), out.Config.Bytes()) {
			t.Errorf("%s: config.json differs", family)
		}
	}
}

// The cut is checked element by element against its definition, for split and fused
// gates, with biases, with zero neurons, in every output type.
func TestCut(t *testing.T) {
	keep := []int{0, 1, 5, 17, 18, 19, 47}
	for _, test := range []struct {
		name   string
		change map[string]any
	}{
		{"llama", map[string]any{"mlp_bias": true, "attention_bias": true}},
		{"phi3", map[string]any{"model_type": "phi3"}},
	} {
		c := model(t, tensor.F32, test.change)
		p := keepAll(t, c)
		const width = 9
		for l := range p.Layers {
			p.Layers[l].Keep, p.Layers[l].Width = keep, width
		}
		for _, to := range []tensor.DType{tensor.Invalid, tensor.F16, tensor.BF16} {
			out := run(t, c, p, to)
			if out.Spec.Intermediate != width {
				t.Errorf("intermediate_size is %d", out.Spec.Intermediate)
			}
			for _, info := range c.Tensors() {
				in, _ := values(t, c, info.Name)
				got, gotInfo := values(t, out, info.Name)
				want := cutByDefinition(in, info, keep, width)
				converted := want
				if to != tensor.Invalid {
					converted = make([]byte, len(want)/2)
					if err := tensor.Convert(converted, to, want, tensor.F32); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(got, converted) {
					t.Errorf("%s %v: %s %v is not the cut of %v", test.name, to, info.Name, gotInfo.Shape, info.Shape)
				}
			}
		}
	}
}

// cutByDefinition cuts an F32 tensor one element at a time.
func cutByDefinition(in []byte, info tensor.Info, keep []int, width int) []byte {
	row := func(r int) []byte { return in[r*int(info.RowBytes()):][:info.RowBytes()] }
	var out []byte
	half := func(first int) {
		for j := range width {
			if j < len(keep) {
				out = append(out, row(first+keep[j])...)
			} else {
				out = append(out, make([]byte, info.RowBytes())...)
			}
		}
	}
	switch name := info.Name; {
	case strings.Contains(name, "gate_proj"), strings.Contains(name, "up_proj") && !strings.Contains(name, "gate_up"):
		half(0)
	case strings.Contains(name, "gate_up_proj"):
		half(0)
		half(48)
	case strings.HasSuffix(name, "down_proj.weight"):
		for r := range info.Rows() {
			for j := range width {
				if j < len(keep) {
					out = append(out, row(r)[4*keep[j]:][:4]...)
				} else {
					out = append(out, 0, 0, 0, 0)
				}
			}
		}
	default:
		return in
	}
	return out
}

// Attention, MLPs and heads that go: what is left is checked element by element, for split
// and fused projections, with biases, in every output type.
func TestDropParts(t *testing.T) {
	const dim = 8
	rows := func(first int, heads ...int) (all []int) {
		for _, h := range heads {
			for i := range dim {
				all = append(all, first+h*dim+i)
			}
		}
		return all
	}
	q, kv := rows(0, 2, 3), rows(0, 1) // of key-value head 1
	for _, test := range []struct {
		name   string
		change map[string]any
		drop   bool // parts that only some layers have; else heads that go from all layers alike
	}{
		{"llama", map[string]any{"mlp_bias": true, "attention_bias": true}, true},
		{"qwen2", map[string]any{"model_type": "qwen2"}, true},
		{"phi3", map[string]any{"model_type": "phi3"}, false},
	} {
		c := model(t, tensor.F32, test.change)
		p := keepAll(t, c)
		for l := range p.Layers {
			if l == 0 || !test.drop {
				p.Layers[l].KeepHeads, p.Version = []int{1}, 2
			}
		}
		if test.drop {
			p.Layers[1].DropAttention = true
			p.Layers[2].Keep, p.Layers[2].Width = []int{}, 0
		}
		for _, to := range []tensor.DType{tensor.Invalid, tensor.BF16} {
			out := run(t, c, p, to)
			for _, info := range c.Tensors() {
				layer, rest := arch.LayerOf(info.Name)
				attention := strings.HasPrefix(rest, "self_attn.") || rest == "input_layernorm.weight"
				if layer == 1 && test.drop && attention || layer == 2 && test.drop && !attention {
					if _, has := out.Lookup(info.Name); has {
						t.Errorf("%s: %s is still there", test.name, info.Name)
					}
					continue
				}
				in, _ := values(t, c, info.Name)
				want := in
				if layer == 0 || layer >= 0 && !test.drop {
					switch {
					case strings.Contains(rest, "self_attn.q_proj"):
						want = take(in, info, q, false)
					case strings.Contains(rest, "self_attn.k_proj"), strings.Contains(rest, "self_attn.v_proj"):
						want = take(in, info, kv, false)
					case strings.Contains(rest, "qkv_proj"):
						want = take(in, info, slices.Concat(q, rows(4*dim, 1), rows(6*dim, 1)), false)
					case rest == "self_attn.o_proj.weight":
						want = take(in, info, q, true)
					}
				}
				if to != tensor.Invalid {
					converted := make([]byte, len(want)/2)
					if err := tensor.Convert(converted, to, want, tensor.F32); err != nil {
						t.Fatal(err)
					}
					want = converted
				}
				if got, gotInfo := values(t, out, info.Name); !bytes.Equal(got, want) {
					t.Errorf("%s %v: %s %v is not the cut of %v", test.name, to, info.Name, gotInfo.Shape, info.Shape)
				}
			}
		}
	}
}

// take returns rows, or columns, of an F32 tensor.
func take(in []byte, info tensor.Info, which []int, columns bool) []byte {
	var out []byte
	size := int(info.RowBytes())
	if columns {
		for r := range info.Rows() {
			for _, j := range which {
				out = append(out, in[r*size+4*j:][:4]...)
			}
		}
		return out
	}
	for _, r := range which {
		out = append(out, in[r*size:][:size]...)
	}
	return out
}

func TestDropLayers(t *testing.T) {
	c := model(t, tensor.F16, map[string]any{"model_type": "gemma2", "num_hidden_layers": 4,
		"layer_types": []string{"sliding_attention", "full_attention", "sliding_attention", "full_attention"}})
	p := keepAll(t, c)
	for _, l := range []int{1, 2} {
		p.Layers[l] = plan.Layer{Layer: l, Drop: true}
	}
	out := run(t, c, p, tensor.Invalid)
	if out.Spec.Layers != 2 {
		t.Fatalf("%d layers", out.Spec.Layers)
	}
	for _, name := range []string{"self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"} {
		want, _ := values(t, c, "model.layers.3."+name)
		got, _ := values(t, out, "model.layers.1."+name)
		if !bytes.Equal(want, got) {
			t.Errorf("layer 1 of the output is not layer 3 of the input: %s", name)
		}
	}
	if v, _ := out.Config.Raw("layer_types"); string(v) != `["sliding_attention","full_attention"]` {
		t.Errorf("layer_types is %s", v)
	}
}

func TestPlanForAnotherModel(t *testing.T) {
	c := model(t, tensor.BF16, nil)
	other := model(t, tensor.BF16, map[string]any{"vocab_size": 65})
	if _, err := Compile(keepAll(t, c), other, tensor.Invalid); err == nil || !strings.Contains(err.Error(), "another model") {
		t.Error(err)
	}
}

// damaged makes a model with one weight replaced.
func damaged(t *testing.T, name string, value float32) *checkpoint.Checkpoint {
	t.Helper()
	c := model(t, tensor.F32, nil)
	b, err := os.ReadFile(filepath.Join(c.Path, shardOf(t, c.Path, name)))
	if err != nil {
		t.Fatal(err)
	}
	row, _ := values(t, c, name)
	at := bytes.Index(b, row)
	if at < 0 {
		t.Fatalf("%s is not in its shard", name)
	}
	if err := tensor.Encode(b[at+8:at+12], []float32{value}, tensor.F32); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Path, shardOf(t, c.Path, name)), b, 0o666); err != nil {
		t.Fatal(err)
	}
	return open(t, c.Path)
}

func shardOf(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors.index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	return index.WeightMap[name]
}

func TestOverflowAndNonFinite(t *testing.T) {
	inf := float32(0)
	inf = 1 / inf
	for _, test := range []struct {
		tensor string
		value  float32
		to     tensor.DType
		want   string // empty: passes
	}{
		{"model.layers.1.self_attn.q_proj.weight", 1e6, tensor.F16, "beyond the range of F16"},
		{"model.layers.1.self_attn.q_proj.weight", 1e6, tensor.BF16, ""},
		{"model.layers.1.self_attn.q_proj.weight", inf, tensor.Invalid, "--allow-nonfinite"},
		{"model.layers.1.mlp.down_proj.weight", inf, tensor.Invalid, "--allow-nonfinite"},
		{"model.embed_tokens.weight", inf - inf, tensor.F16, "--allow-nonfinite"},
	} {
		c := damaged(t, test.tensor, test.value)
		p := keepAll(t, c)
		for l := range p.Layers { // neuron 2, where the value is, goes
			p.Layers[l].Keep = slices.Delete(p.Layers[l].Keep, 2, 3)
			p.Layers[l].Width--
		}
		prog, err := Compile(p, c, test.to)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "out")
		sink, err := checkpoint.Create(dir, c.Path, false)
		if err != nil {
			t.Fatal(err)
		}
		err = prog.Run(context.Background(), c, sink, nil, opt)
		sink.Abort()
		if test.want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.tensor) {
			t.Errorf("%s = %v to %v: %v", test.tensor, test.value, test.to, err)
		}
		left, err := os.ReadDir(filepath.Dir(dir))
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestVerifyNoticesAChange(t *testing.T) {
	c := model(t, tensor.F32, nil)
	p := keepAll(t, c)
	changed := damaged(t, "model.layers.2.mlp.up_proj.weight", 3)
	prog, err := Compile(p, c, tensor.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	if err := prog.Verify(context.Background(), c, changed, opt); err == nil || !strings.Contains(err.Error(), "model.layers.2.mlp.up_proj.weight") {
		t.Error(err)
	}
}

func TestCancelledRunLeavesNothing(t *testing.T) {
	c := model(t, tensor.F32, nil)
	prog, err := Compile(keepAll(t, c), c, tensor.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	sink, err := checkpoint.Create(dir, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := prog.Run(ctx, c, sink, nil, opt); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	sink.Abort()
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPermutedScoresPermutePlan(t *testing.T) {
	c := model(t, tensor.F32, nil)
	s, err := score.Compute(context.Background(), c, score.MaxAbs, score.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	ratio := 0.5
	p, err := plan.Build(s, &c.Spec, plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest})
	if err != nil {
		t.Fatal(err)
	}
	out := run(t, c, p, tensor.Invalid)
	again, err := score.Compute(context.Background(), out, score.MaxAbs, score.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	for l, layer := range p.Layers { // a neuron's score depends on the neuron alone
		for i, j := range layer.Keep {
			if again.Layers[l][i] != s.Layers[l][j] {
				t.Fatalf("layer %d: neuron %d scored %v, and %v after pruning", l, j, s.Layers[l][j], again.Layers[l][i])
			}
		}
	}
}
