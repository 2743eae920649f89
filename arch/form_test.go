package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

const formConfig = `{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "model_type": "llama",
  "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2,
  "intermediate_size": 1024,
  "num_hidden_layers": 3,
  "vocab_size": 32,
  "rms_norm_eps": 1e-05,
  "auto_map": {"AutoTokenizer":["a.B",null]}
}
`

// A config goes from form to form and comes back with its own bytes.
func TestFormsOfAConfig(t *testing.T) {
	c := mustConfig(t, formConfig)
	plain, err := FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	from := plain
	for _, step := range []struct {
		form   Form
		widths []int
		says   []string
	}{
		{PerLayer, []int{100, 1024, 7}, []string{`"model_type": "coppice_llama"`, `["CoppiceLlamaForCausalLM"]`, `"intermediate_sizes": [100,1024,7]`,
			`"auto_map": {"AutoTokenizer":["a.B",null],"AutoConfig":"modeling_coppice.CoppiceLlamaConfig","AutoModelForCausalLM":"modeling_coppice.CoppiceLlamaForCausalLM"}`}},
		{PerLayer, []int{90, 512, 7}, []string{`"intermediate_sizes": [90,512,7]`, `"intermediate_size": 512`}},
		{DeciLM, []int{256, 1024, 768}, []string{`"nemotron-nas"`, `["DeciLMForCausalLM"]`, `"modeling_coppice.DeciLMConfig"`,
			`{"attention":{"n_heads_in_group":3,"no_op":false,"replace_with_linear":false},"ffn":{"ffn_mult":4.0,"no_op":false,"replace_with_linear":false}}`,
			`"ffn_mult":16.0`, `"ffn_mult":12.0`}},
		{PerLayer, []int{256, 1024, 768}, nil},
		{Plain, []int{1024, 1024, 1024}, nil},
	} {
		to := from
		to.Form, to.Widths, to.Intermediate = step.form, step.widths, slices.Max(step.widths)
		if err := SetForm(c, &from, &to); err != nil {
			t.Fatal(err)
		}
		for _, want := range step.says {
			if !bytes.Contains(c.Bytes(), []byte(want)) {
				t.Errorf("%v: the config lacks %s:\n%s", step.form, want, c.Bytes())
			}
		}
		if from, err = FromConfig(c); err != nil {
			t.Fatal(err)
		}
		if from.Form != step.form || !slices.Equal(from.Widths, step.widths) || from.KVHeads != 2 || from.Family != plain.Family {
			t.Errorf("%v of %v reads back as %v of %v with %d key-value heads", step.form, step.widths, from.Form, from.Widths, from.KVHeads)
		}
	}
	want := strings.Replace(strings.Replace(formConfig, "[\n    \"LlamaForCausalLM\"\n  ]", `["LlamaForCausalLM"]`, 1), "\n  ]", "]", 1)
	if got := string(c.Bytes()); got != want {
		t.Errorf("back to plain:\n%s\nwant\n%s", got, want)
	}
}

// Layers that differ in their attention, or lack it or their MLP: what the config says, which
// tensors there are, and what the engine is told.
func TestFormsOfAttention(t *testing.T) {
	c := mustConfig(t, formConfig)
	plain, err := FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	from := plain
	for _, step := range []struct {
		form      Form
		widths    []int
		attention []HeadCount
		says      []string
	}{
		{PerLayer, []int{7, 0, 5}, []HeadCount{{3, 1}, {6, 2}, {}}, []string{`"intermediate_sizes": [7,0,5]`,
			`"num_attention_heads_per_layer": [3,6,0]`, `"num_key_value_heads_per_layer": [1,2,0]`, `"num_attention_heads": 6, "num_key_value_heads": 2,`}},
		{PerLayer, []int{7, 8, 5}, []HeadCount{{6, 2}, {6, 2}, {6, 2}}, []string{`"intermediate_sizes": [7,8,5]`}},
		{DeciLM, []int{256, 0, 512}, []HeadCount{{6, 1}, {6, 2}, {}}, []string{
			`{"attention":{"n_heads_in_group":6,"no_op":false,"replace_with_linear":false},"ffn":{"ffn_mult":4.0,`,
			`{"attention":{"n_heads_in_group":3,"no_op":false,"replace_with_linear":false},"ffn":{"ffn_mult":null,"no_op":true,`,
			`{"attention":{"n_heads_in_group":null,"no_op":true,"replace_with_linear":false},"ffn":{"ffn_mult":8.0,`}},
		{PerLayer, []int{256, 0, 512}, []HeadCount{{6, 1}, {6, 2}, {}}, nil},
		{Plain, []int{1024, 1024, 1024}, []HeadCount{{6, 2}, {6, 2}, {6, 2}}, nil},
	} {
		to := from.WithLayers(step.widths, step.attention)
		to.Form = step.form
		if err := to.CanBe(to.Form); err != nil {
			t.Fatal(err)
		}
		if err := SetForm(c, &from, &to); err != nil {
			t.Fatal(err)
		}
		for _, want := range step.says {
			if !bytes.Contains(c.Bytes(), []byte(want)) {
				t.Errorf("%v: the config lacks %s:\n%s", step.form, want, c.Bytes())
			}
		}
		if from, err = FromConfig(c); err != nil {
			t.Fatal(err)
		}
		if from.Form != step.form || !slices.Equal(from.Widths, step.widths) || (from.Attention == nil) != (step.attention[0] == HeadCount{6, 2}) {
			t.Fatalf("%v of %v, %v reads back as %v of %v, %v", step.form, step.widths, step.attention, from.Form, from.Widths, from.Attention)
		}
		tr, err := from.Transformer(c)
		if err != nil {
			t.Fatal(err)
		}
		var parameters int64 = 2*32*96 + 96
		var kv int64
		for l, h := range step.attention {
			if from.AttentionAt(l) != h || tr.Layers[l].Heads != h.Queries || tr.Layers[l].KVHeads != h.KV || tr.Layers[l].Width != step.widths[l] {
				t.Errorf("layer %d of %v: %v, %+v; want %v", l, step.form, from.AttentionAt(l), tr.Layers[l], h)
			}
			if h.Queries > 0 {
				parameters += int64(96*16*(2*h.Queries+2*h.KV) + 96)
			}
			if step.widths[l] > 0 {
				parameters += int64(3*96*step.widths[l] + 96)
			}
			kv += int64(2 * 16 * h.KV)
			if (tr.Layers[l].Q.Weight == "") != (h.Queries == 0) || (tr.Layers[l].AttentionIn == "") != (h.Queries == 0) ||
				(tr.Layers[l].Down.Weight == "") != (step.widths[l] == 0) || (tr.Layers[l].MLPIn == "") != (step.widths[l] == 0) {
				t.Errorf("layer %d of %v: %+v", l, step.form, tr.Layers[l])
			}
		}
		if _, n := from.Parameters(); n != parameters || from.KVElements() != kv {
			t.Errorf("%v: %d parameters and %d cached values a token, want %d and %d", step.form, n, from.KVElements(), parameters, kv)
		}
	}
	want := strings.Replace(strings.Replace(formConfig, "[\n    \"LlamaForCausalLM\"\n  ]", `["LlamaForCausalLM"]`, 1), "\n  ]", "]", 1)
	if got := string(c.Bytes()); got != want {
		t.Errorf("back to plain:\n%s\nwant\n%s", got, want)
	}
	same := plain.WithLayers([]int{1024, 1024, 1024}, []HeadCount{{3, 1}, {3, 1}, {3, 1}})
	if err := SetForm(c, &plain, &same); err != nil || !same.Uniform() {
		t.Fatal(err, same.Attention)
	}
	if got, err := FromConfig(c); err != nil || got.Form != Plain || got.Heads != 3 || got.KVHeads != 1 || got.HeadDim != 16 || got.Attention != nil {
		t.Errorf("half the heads in all layers: %+v, %v\n%s", got, err, c.Bytes())
	}
	few := plain.WithLayers([]int{7, 7, 7}, []HeadCount{{3, 1}, {6, 2}, {}})
	for form, want := range map[Form]string{Plain: "a plain checkpoint cannot say", DeciLM: "layer 0 has 3 query heads of 6", PerLayer: ""} {
		if err := few.CanBe(form); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", form, err)
		}
	}
}

// In every family, a layer without attention has none of its tensors and norms, one without
// MLP none of its own, and together they are all of the layer.
func TestTensorsOfHalves(t *testing.T) {
	for i := range Families {
		c := mustConfig(t, fmt.Sprintf(`{"model_type":%q,"hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"intermediate_size":48,
			"num_hidden_layers":3,"vocab_size":32,"attention_bias":true,"mlp_bias":true}`, Families[i].ModelType))
		s, err := FromConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		of := [3]map[string]bool{{}, {}, {}}
		s = s.WithLayers([]int{0, 48, 48}, []HeadCount{{4, 2}, {}, {4, 2}})
		for _, x := range s.Tensors() {
			if x.Layer >= 0 {
				_, rest := LayerOf(x.Name)
				of[x.Layer][rest] = true
			}
		}
		for rest := range of[2] {
			mlp := strings.HasPrefix(rest, "mlp.") || strings.Contains(rest, "feedforward") ||
				strings.HasPrefix(rest, "post_attention_layernorm") && !of[2]["pre_feedforward_layernorm.weight"] && !of[2]["post_feedforward_layernorm.weight"]
			if of[0][rest] == mlp || of[1][rest] != mlp {
				t.Errorf("%s: %s is of the MLP: %v, but a layer without MLP has it: %v, one without attention: %v", s.Family.ModelType, rest, mlp, of[0][rest], of[1][rest])
			}
		}
		if len(of[0])+len(of[1]) != len(of[2]) {
			t.Errorf("%s: %d and %d tensors of %d", s.Family.ModelType, len(of[0]), len(of[1]), len(of[2]))
		}
	}
}

// A list that stays as it is keeps its spelling.
func TestFormKeepsSpelling(t *testing.T) {
	text := strings.Replace(formConfig, `"llama"`, `"coppice_llama"`, 1)
	text = strings.Replace(text, `"rms_norm_eps"`, "\"intermediate_sizes\": [\n    3,\n    1024,\n    5 ],\n  \"rms_norm_eps\"", 1)
	text = strings.Replace(text, `["a.B",null]`, `["a.B",null], "AutoConfig":  "modeling_coppice.CoppiceLlamaConfig", "AutoModelForCausalLM":"modeling_coppice.CoppiceLlamaForCausalLM"`, 1)
	c := mustConfig(t, text)
	s, err := FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetForm(c, &s, &s); err != nil || string(c.Bytes()) != text {
		t.Errorf("%v\n%s\nwant\n%s", err, c.Bytes(), text)
	}
}

// NVIDIA's own configs leave to their blocks what Llama's say, and hold keys of their own.
func TestDeciLMOfOthers(t *testing.T) {
	c := mustConfig(t, `{"architectures":["DeciLMForCausalLM"],"model_type":"nemotron-nas","hidden_size":8192,"num_attention_heads":64,
		"intermediate_size":null,"num_key_value_heads":null,"num_hidden_layers":2,"vocab_size":32,
		"auto_map":{"AutoConfig":"configuration_decilm.DeciLMConfig","AutoModelForCausalLM":"modeling_decilm.DeciLMForCausalLM"},
		"block_configs":[
		{"attention":{"n_heads_in_group":8,"no_op":false,"num_sink_tokens":null,"replace_with_linear":false,"sparsify":null,"unshifted_sink":false,"window_length":null},
		 "ffn":{"ffn_mult":5.25,"no_op":false,"replace_with_linear":false,"sparsify":null}},
		{"attention":{"n_heads_in_group":8},"ffn":{"ffn_mult":1.3125}}]}`)
	s, err := FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Widths, []int{28672, 7168}) || s.KVHeads != 8 || s.Intermediate != 28672 {
		t.Errorf("widths %v, %d key-value heads, widest %d", s.Widths, s.KVHeads, s.Intermediate)
	}
	plain := s.WithWidths([]int{7168, 7168})
	plain.Form = Plain
	if err := SetForm(c, &s, &plain); err != nil {
		t.Fatal(err)
	}
	got, err := FromConfig(c)
	if err != nil || got.KVHeads != 8 || got.Intermediate != 7168 || got.Form != Plain || c.Has("auto_map") || c.Has("block_configs") {
		t.Errorf("made plain: %+v, %v\n%s", got, err, c.Bytes())
	}
}

// ffn_mult means the width that it was made of, for every width that the form has, even
// where a reader rounds it to six digits.
func TestDeciWidth(t *testing.T) {
	for _, hidden := range []int{64, 576, 960, 2048, 3072, 4096, 5120, 8192} {
		for width := DeciMultiple; width <= 1<<16; width += DeciMultiple {
			s := Spec{Hidden: hidden, Heads: 4, KVHeads: 1, Widths: []int{width}}
			var b []struct {
				FFN struct {
					Mult float64 `json:"ffn_mult"`
				} `json:"ffn"`
			}
			if err := json.Unmarshal(s.blocks(), &b); err != nil {
				t.Fatal(err)
			}
			rounded := math.Round(b[0].FFN.Mult*1e6) / 1e6
			if got, six := deciWidth(b[0].FFN.Mult, hidden), deciWidth(rounded, hidden); got != width || six != width {
				t.Fatalf("width %d of hidden size %d reads back as %d, rounded as %d", width, hidden, got, six)
			}
		}
	}
}

func TestFormsRefused(t *testing.T) {
	deci := func(attention, ffn string) string {
		return fmt.Sprintf(`"model_type":"nemotron-nas","block_configs":[{"attention":{"n_heads_in_group":3},"ffn":{"ffn_mult":4.0}},{"attention":{%s},"ffn":{%s}}]`, attention, ffn)
	}
	heads := func(queries, kvs string) string {
		return fmt.Sprintf(`"model_type":"coppice_llama","intermediate_sizes":[5,6],"num_attention_heads_per_layer":%s,"num_key_value_heads_per_layer":%s`, queries, kvs)
	}
	const group = `"n_heads_in_group":3`
	for _, test := range []struct{ keys, want string }{
		{`"model_type":"coppice_llama"`, `"intermediate_sizes" is missing`},
		{`"model_type":"coppice_llama","intermediate_sizes":[5]`, "has 1 entries, but num_hidden_layers is 2"},
		{`"model_type":"coppice_llama","intermediate_sizes":[5,6,7]`, "has 3 entries"},
		{`"model_type":"coppice_llama","intermediate_sizes":48`, "not a list of numbers"},
		{`"model_type":"coppice_llama","intermediate_sizes":[5,"6"]`, "not a list of numbers"},
		{`"model_type":"coppice_llama","intermediate_sizes":[0,0]`, "no layer has an MLP"},
		{`"model_type":"coppice_llama","intermediate_sizes":[5,6],"num_attention_heads_per_layer":[6,6]`, `"num_key_value_heads_per_layer" belong together`},
		{heads("[6]", "[2,2]"), `"num_attention_heads_per_layer" has 1 entries`},
		{heads("[6,6]", "[2,2,2]"), `"num_key_value_heads_per_layer" has 3 entries`},
		{heads(`["6",6]`, "[2,2]"), "not a list of numbers"},
		{heads("[0,0]", "[0,0]"), "no layer has attention"},
		{heads("[6,0]", "[2,2]"), "layer 1 would have 0 heads and 2 key-value heads"},
		{heads("[6,6]", "[2,0]"), "layer 1 would have 6 heads and 0 key-value heads"},
		{heads("[6,12]", "[2,2]"), "layer 1 would have 12 heads"},
		{heads("[6,6]", "[2,3]"), "layer 1 would have 6 heads and 3 key-value heads"},
		{heads("[6,3]", "[2,2]"), "layer 1 would have 3 heads and 2 key-value heads"},
		{heads("[6,-3]", "[2,-1]"), "layer 1 would have -3 heads"},
		{`"model_type":"coppice_llama","intermediate_sizes":[5,-3]`, "layer 1 would be -3"},
		{`"model_type":"coppice_llama","intermediate_sizes":[5,99999999]`, "layer 1 would be 99999999"},
		{`"model_type":"coppice_gpt2","intermediate_sizes":[5,6]`, `"coppice_gpt2"`},
		{`"model_type":"nemotron-nas"`, `"block_configs" is missing`},
		{`"model_type":"deci","architectures":["DeciLMForCausalLM"],"num_key_value_heads_per_layer":[2,2]`, `"block_configs" is missing`},
		{`"model_type":"nemotron-nas","block_configs":[]`, "has 0 entries, but num_hidden_layers is 2"},
		{`"model_type":"nemotron-nas","block_configs":{}`, "block_configs"},
		{deci(`"replace_with_linear":true`, `"ffn_mult":4.0`), "replace_with_linear"},
		{deci(group+`,"window_length":1024`, `"ffn_mult":4.0`), "window_length"},
		{deci(group, `"replace_with_linear":true`), "ffn.replace_with_linear"},
		{deci(group, `"ffn_mult":4.0,"moe":{"num_local_experts":8}`), "mixture of experts (ffn.moe)"},
		{deci(group, `"ffn_mult":4.0,"gated":false`), "without a gate"},
		{deci(group, `"ffn_mult":0`), "ffn_mult must be a positive number"},
		{deci(group, `"ffn_mult":-4.0`), "ffn_mult must be a positive number"},
		{deci(group, `"ffn_mult":1e300`), "ffn_mult must be a positive number"},
		{deci(group, `"ffn_mult":16000000`), "neurons wide, expected 0 to"},
		{deci(group, ``), "ffn_mult must be a positive number"},
		{deci(`"n_heads_in_group":null`, `"ffn_mult":4.0`), "n_heads_in_group must divide the 6 heads"},
		{deci(`"n_heads_in_group":4`, `"ffn_mult":4.0`), "n_heads_in_group must divide the 6 heads"},
		{deci(group, `"intermediate_size":-5`), "ffn_mult must be a positive number"},
	} {
		text := `{"hidden_size":96,"num_attention_heads":6,"num_key_value_heads":2,"intermediate_size":48,"num_hidden_layers":2,"vocab_size":32,` + test.keys + "}"
		if _, err := FromConfig(mustConfig(t, text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one that says %q", test.keys, err, test.want)
		}
	}
}

func TestConfigDelete(t *testing.T) {
	const text = "{\n  \"a\": 1,\n  \"b\" : [2, 3] ,\n  \"c\": {}\n}\n"
	for key, want := range map[string]string{
		"a": "{\n  \"b\" : [2, 3] ,\n  \"c\": {}\n}\n", "b": "{\n  \"a\": 1 ,\n  \"c\": {}\n}\n",
		"c": "{\n  \"a\": 1,\n  \"b\" : [2, 3]\n}\n", "d": text,
	} {
		c := mustConfig(t, text)
		if err := c.Delete(key); err != nil || string(c.Bytes()) != want {
			t.Errorf("without %s: %q, %v; want %q", key, c.Bytes(), err, want)
		}
	}
	c := mustConfig(t, `{"a":1}`)
	if err := c.Delete("a"); err != nil || string(c.Bytes()) != "{}" {
		t.Errorf("the only key: %q, %v", c.Bytes(), err)
	}
}

// The modelling file has the classes that configs name, and stays small.
func TestModelingFile(t *testing.T) {
	text := string(ModelingFile)
	if n := strings.Count(text, "\n"); n >= 120 {
		t.Errorf("%d lines; expected fewer than 120", n)
	}
	if !IsModelingFile(ModelingFile) || IsModelingFile([]byte("import torch\n")) || IsModelingFile(nil) {
		t.Error("IsModelingFile does not tell it apart")
	}
	for _, f := range Families {
		class := strings.TrimSuffix(f.Architecture, "ForCausalLM")
		for _, want := range []string{
			fmt.Sprintf("class Coppice%sConfig(_Lists, %[1]sConfig):\n    model_type = \"coppice_%s\"\n", class, f.ModelType),
			fmt.Sprintf("class Coppice%sForCausalLM(_PerLayer, %[1]sForCausalLM):\n    config_class = Coppice%[1]sConfig\n", class),
		} {
			if has := strings.Contains(text, want); has != f.perLayer {
				t.Errorf("%s: perLayer is %v, but that the file has its classes is %v:\n%s", f.ModelType, f.perLayer, has, want)
			}
		}
	}
}
