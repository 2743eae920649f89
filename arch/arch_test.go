package arch

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustConfig(t testing.TB, s string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The parameter counts of the published models, from their cards: Llama-3.2-3B and 1B
// dense, and pruned by 60 %.
func TestPublishedParameterCounts(t *testing.T) {
	for _, test := range []struct {
		name, config  string
		dense, pruned int64
	}{
		{"3B", `{"model_type":"llama","hidden_size":3072,"intermediate_size":8192,"num_hidden_layers":28,"num_attention_heads":24,"num_key_value_heads":8,"head_dim":128,"vocab_size":128256,"tie_word_embeddings":true}`, 3_212_749_824, 1_944_443_904},
		{"1B", `{"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"vocab_size":128256,"tie_word_embeddings":true}`, 1_235_814_400, 752_650_240},
	} {
		s, err := FromConfig(mustConfig(t, test.config))
		if err != nil {
			t.Fatal(err)
		}
		if _, n := s.Parameters(); n != test.dense {
			t.Errorf("%s: %d parameters, want %d", test.name, n, test.dense)
		}
		widths := make([]int, s.Layers)
		for l := range widths {
			widths[l] = 3277
		}
		pruned := s.WithWidths(widths)
		if _, n := pruned.Parameters(); n != test.pruned {
			t.Errorf("%s pruned: %d parameters, want %d", test.name, n, test.pruned)
		}
	}
}

func TestFromConfigRefuses(t *testing.T) {
	ok := map[string]string{"model_type": `"llama"`, "hidden_size": "64", "intermediate_size": "128", "num_hidden_layers": "2", "num_attention_heads": "4", "vocab_size": "32"}
	for _, test := range []struct{ key, value, want string }{
		{"hidden_size", "0", `key "hidden_size" is 0`},
		{"hidden_size", `"64"`, `key "hidden_size" is "64"`},
		{"hidden_size", "1e9", "more than the"},
		{"hidden_size", "63", "head_dim"},
		{"num_hidden_layers", "1000000", "num_hidden_layers"},
		{"num_key_value_heads", "3", "num_key_value_heads"},
		{"intermediate_size", "[1,2]", "intermediate_size"},
		{"intermediate_size", "null", `key "intermediate_size"`},
		{"tie_word_embeddings", `"yes"`, "tie_word_embeddings"},
		{"model_type", `"mixtral"`, `"mixtral"`},
		{"model_type", `"gpt_neox"`, "supported: llama, mistral"},
		{"num_local_experts", "8", "mixture of experts"},
		{"quantization_config", `{"quant_method":"gptq"}`, "gptq"},
		{"quantization_config", `{"quant_method":"awq"}`, "awq"},
		{"quantization_config", `{"load_in_4bit":true}`, "quantised"},
	} {
		text := "{"
		for k, v := range ok {
			if k != test.key {
				text += `"` + k + `":` + v + ","
			}
		}
		text += `"` + test.key + `":` + test.value + "}"
		if _, err := FromConfig(mustConfig(t, text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s = %s: error %v, want one that says %q", test.key, test.value, err, test.want)
		}
	}
}

// REPORTS.md, config/shape: head_dim decides where it is given, and null is absent.
func TestHeadDim(t *testing.T) {
	const base = `"model_type":"llama","intermediate_size":96,"num_hidden_layers":1,"vocab_size":32,"hidden_size":64,`
	for _, test := range []struct {
		config string
		want   int
	}{
		{`{` + base + `"num_attention_heads":3,"num_key_value_heads":1,"head_dim":24}`, 24},
		{`{` + base + `"num_attention_heads":4,"head_dim":null}`, 16},
		{`{` + base + `"num_attention_heads":4}`, 16},
	} {
		s, err := FromConfig(mustConfig(t, test.config))
		if err != nil || s.HeadDim != test.want {
			t.Errorf("%s: head_dim %d, %v; want %d", test.config, s.HeadDim, err, test.want)
		}
	}
}

func TestConfigSetKeepsEverythingElse(t *testing.T) {
	const in = "{\n    \"b\": 1.50,\n\t\"intermediate_size\" :8192 ,\n    \"unknown\": {\"z\": [1e-05, null], \"a\": \"\\u00e9\"},\n    \"dtype\": \"float32\"\n}\n"
	c := mustConfig(t, in)
	if err := c.Set("intermediate_size", 3277); err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(in, "8192", "3277", 1); string(c.Bytes()) != want {
		t.Errorf("changed key: got\n%s\nwant\n%s", c.Bytes(), want)
	}
	if err := c.Set("new", true); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(strings.Replace(in, "8192", "3277", 1), "\"float32\"\n", "\"float32\",\n    \"new\": true\n", 1)
	if string(c.Bytes()) != want {
		t.Errorf("added key: got\n%s\nwant\n%s", c.Bytes(), want)
	}
	empty := mustConfig(t, "{}")
	if err := empty.Set("a", 1); err != nil || string(empty.Bytes()) != "{\n  \"a\": 1\n}" {
		t.Errorf("key in an empty object: %q, %v", empty.Bytes(), err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, bad := range []string{"", "[]", "{", `{"a":1}x`, `{"a":1} {}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":}`, "{\"\xff\":1}", `{"a":1,}`} {
		if _, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// REPORTS.md, prune/depth, and the lists that families leave out of their configs.
func TestCutLayers(t *testing.T) {
	const shape = `"hidden_size":8,"intermediate_size":12,"num_hidden_layers":4,"num_attention_heads":2,"num_key_value_heads":2,"vocab_size":16`
	for _, test := range []struct {
		name, config, want string
		fails              bool
	}{
		{"gemma3", `{"model_type":"gemma3_text",` + shape + `,"layer_types":["s","s","f","s"]}`,
			`{"model_type":"gemma3_text",` + strings.Replace(shape, `layers":4`, `layers":2`, 1) + `,"layer_types":["s","s"]}`, false},
		{"gemma2 without list", `{"model_type":"gemma2",` + shape + `}`,
			`{"model_type":"gemma2",` + strings.Replace(shape, `layers":4`, `layers":2`, 1) + `,"layer_types": ["sliding_attention","full_attention"]}`, false},
		{"smollm3", `{"model_type":"smollm3",` + shape + `,"no_rope_layers":[1,1,1,0]}`,
			`{"model_type":"smollm3",` + strings.Replace(shape, `layers":4`, `layers":2`, 1) + `,"no_rope_layers":[1,0]}`, false},
		{"eos list of four", `{"model_type":"llama",` + shape + `,"eos_token_id":[1,2,3,4]}`,
			`{"model_type":"llama",` + strings.Replace(shape, `layers":4`, `layers":2`, 1) + `,"eos_token_id":[1,2,3,4]}`, false},
		{"list of another length", `{"model_type":"llama",` + shape + `,"special_layers":[1]}`, "", true},
		{"qwen2 sliding by number", `{"model_type":"qwen2",` + shape + `,"use_sliding_window":true,"max_window_layers":2}`, "", true},
	} {
		c := mustConfig(t, test.config)
		s, err := FromConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		err = CutLayers(c, s, []int{0, 3})
		if test.fails {
			if err == nil {
				t.Errorf("%s: no error", test.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, string(c.Bytes())); diff != "" {
			t.Errorf("%s:\n%s", test.name, diff)
		}
		if err := CheckLayerLists(c, 2); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if strings.Contains(test.want, "_types") && CheckLayerLists(c, 3) == nil {
			t.Errorf("%s: a list that is too short is not noticed", test.name)
		}
	}
}

func TestLayerOf(t *testing.T) {
	for name, want := range map[string]int{
		"model.layers.0.mlp.up_proj.weight": 0, "model.layers.12.x": 12, "model.norm.weight": -1,
		"model.layers.-1.x": -1, "model.layers.007.x": -1, "model.layers.1": -1, "model.layers.x.y": -1,
	} {
		if got, _ := LayerOf(name); got != want {
			t.Errorf("LayerOf(%q) = %d, want %d", name, got, want)
		}
	}
}

// Every family's table must be usable: unique names, an MLP that can be cut, counts
// that add up.
func TestFamilies(t *testing.T) {
	for i := range Families {
		f := &Families[i]
		c := mustConfig(t, `{"model_type":"`+f.ModelType+`","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":32}`)
		s, err := FromConfig(c)
		if err != nil {
			t.Errorf("%s: %v", f.ModelType, err)
			continue
		}
		seen := map[string]bool{}
		units := map[Unit]int{}
		for _, tensor := range s.Tensors() {
			if seen[tensor.Name] {
				t.Errorf("%s: %s twice", f.ModelType, tensor.Name)
			}
			seen[tensor.Name] = true
			units[tensor.Unit]++
		}
		if units[HeadCols] != 2 || units[QKVRows] != 2 && (units[QueryRows] < 2 || units[KVRows] < 4) {
			t.Errorf("%s: units of attention in two layers are %v", f.ModelType, units)
		}
		if units[Cols] != 2 || units[FusedRows] != 2 && (units[GateRows] != 2 || units[UpRows] != 2) {
			t.Errorf("%s: units of two layers are %v", f.ModelType, units)
		}
		roles, total := s.Parameters()
		var sum int64
		for _, n := range roles {
			sum += n
		}
		if sum != total || roles[MLP] != 2*3*64*96 {
			t.Errorf("%s: roles %v, total %d", f.ModelType, roles, total)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"llama","hidden_size":64}`))
	f.Add([]byte("{\n \"a\" : [1,2] , \"b\":{}}"))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		FromConfig(c)
		if err := c.Set("intermediate_size", 7); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if n, err := c.Int("intermediate_size", 0); n != 7 || err != nil {
			t.Fatalf("%q: reads back %d, %v", b, n, err)
		}
	})
}
