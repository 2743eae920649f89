package arch

import "strings"

// Role says what part of a model a tensor is; parameters are counted by it.
type Role uint8

// The roles, in the order in which they are reported.
const (
	Embedding Role = iota
	Attention
	MLP
	Norm
	Head
	Other // in the file but not in the family's table: copied as it is
	NumRoles
)

// String is the role's name as reports print it.
func (r Role) String() string {
	return [...]string{"embedding", "attention", "mlp", "norm", "head", "other"}[r]
}

// Unit says how pruning a neuron, or a key-value head with the query heads that share it,
// touches a tensor.
type Unit uint8

const (
	Untouched Unit = iota
	GateRows       // one row (or bias entry) a neuron
	UpRows         // the same, of up_proj
	FusedRows      // gate half, then up half: neuron j is rows j and width+j
	Cols           // one column a neuron
	QueryRows      // head_dim rows (or bias entries) a query head
	KVRows         // the same a key-value head
	QKVRows        // all query heads, then the key heads, then the value heads
	HeadCols       // head_dim columns a query head
)

// Dim is an extent that the config decides.
type Dim uint8

// The extents: vocab_size, hidden_size, heads*head_dim, kv_heads*head_dim, both
// together as a fused projection holds them, head_dim, the layer's intermediate size
// and twice that.
const (
	Vocab Dim = iota
	Hidden
	Queries
	KeyValues
	QKV
	HeadDim
	Width
	TwoWidths
)

// when says under which setting of the config a tensor exists.
type when uint8

const (
	always when = iota
	ifAttentionBias
	ifMLPBias
	ifUntied
)

// template is a row of a family's tensor table. In a layer's tensors the name lacks
// the prefix "model.layers.N.".
type template struct {
	name string
	role Role
	unit Unit
	when when
	dims []Dim
	gguf string // name in a GGUF file, without "blk.N." and the ending
}

// of says whether a tensor of a layer belongs to its Attention or to its MLP: norms to the
// one that they come before or after.
func (t template) of(f *Family) Role {
	norms := computations[f.ModelType].norms
	switch name := strings.TrimSuffix(t.name, ".weight"); {
	case t.role == Attention, t.role == MLP:
		return t.role
	case name == norms.mlpIn, name == norms.mlpOut:
		return MLP
	}
	return Attention
}

// Family is one model family as data: its tensors, its defaults where a config is
// silent (those of transformers' configuration classes), and how a GGUF file of it
// differs from the Hugging Face layout.
type Family struct {
	ModelType    string // model_type in config.json
	Architecture string // the class that loads it
	GGUF         string // general.architecture, empty where GGUF is not covered
	Activation   string // hidden_act, where the config names none
	GGUFPermuted bool   // q and k rows are interleaved in the GGUF (llama)
	GGUFNormPlus bool   // norms are stored + 1 in the GGUF (gemma 1 to 3)

	perLayer bool // ModelingFile has classes of it, for the form PerLayer
	tied     bool // tie_word_embeddings, where the config is silent
	headDim  int  // head_dim; 0 means hidden/heads
	kvHeads  int  // num_key_value_heads; 0 means as many as heads
	attnBias when
	layer    []template
}

// GGUFPerLayer is the general.architecture of llama's computation with widths that differ
// from layer to layer (Nemotron's DeciLM, which llama.cpp runs).
const GGUFPerLayer = "deci"

// HeadsApart reports whether heads can go without changing what others compute: not where a
// norm is over all of them together.
func (f *Family) HeadsApart() bool { return computations[f.ModelType].qkNorm != QKNormWhole }

// AttentionBiasInConfig reports whether the config decides about biases of the attention;
// in other families it is fixed.
func (f *Family) AttentionBiasInConfig() bool { return f.attnBias == ifAttentionBias }

// outer are the tensors outside the layers, the same in every family.
var outer = []template{
	{"model.embed_tokens.weight", Embedding, Untouched, always, []Dim{Vocab, Hidden}, "token_embd"},
	{"model.norm.weight", Norm, Untouched, always, []Dim{Hidden}, "output_norm"},
	{"lm_head.weight", Head, Untouched, ifUntied, []Dim{Vocab, Hidden}, "output"},
}

// The pieces that layers are made of. Biases follow their weights.
var (
	attention = []template{
		{"self_attn.q_proj.weight", Attention, QueryRows, always, []Dim{Queries, Hidden}, "attn_q"},
		{"self_attn.k_proj.weight", Attention, KVRows, always, []Dim{KeyValues, Hidden}, "attn_k"},
		{"self_attn.v_proj.weight", Attention, KVRows, always, []Dim{KeyValues, Hidden}, "attn_v"},
		{"self_attn.o_proj.weight", Attention, HeadCols, always, []Dim{Hidden, Queries}, "attn_output"},
	}
	qkvBias = []template{
		{"self_attn.q_proj.bias", Attention, QueryRows, ifAttentionBias, []Dim{Queries}, "attn_q"},
		{"self_attn.k_proj.bias", Attention, KVRows, ifAttentionBias, []Dim{KeyValues}, "attn_k"},
		{"self_attn.v_proj.bias", Attention, KVRows, ifAttentionBias, []Dim{KeyValues}, "attn_v"},
	}
	outBias = []template{
		{"self_attn.o_proj.bias", Attention, Untouched, ifAttentionBias, []Dim{Hidden}, "attn_output"},
	}
	fusedAttention = []template{
		{"self_attn.qkv_proj.weight", Attention, QKVRows, always, []Dim{QKV, Hidden}, "attn_qkv"},
		{"self_attn.o_proj.weight", Attention, HeadCols, always, []Dim{Hidden, Queries}, "attn_output"},
	}
	headNorms = []template{
		{"self_attn.q_norm.weight", Norm, Untouched, always, []Dim{HeadDim}, "attn_q_norm"},
		{"self_attn.k_norm.weight", Norm, Untouched, always, []Dim{HeadDim}, "attn_k_norm"},
	}
	wholeNorms = []template{
		{"self_attn.q_norm.weight", Norm, Untouched, always, []Dim{Queries}, "attn_q_norm"},
		{"self_attn.k_norm.weight", Norm, Untouched, always, []Dim{KeyValues}, "attn_k_norm"},
	}
	glu = []template{
		{"mlp.gate_proj.weight", MLP, GateRows, always, []Dim{Width, Hidden}, "ffn_gate"},
		{"mlp.up_proj.weight", MLP, UpRows, always, []Dim{Width, Hidden}, "ffn_up"},
		{"mlp.down_proj.weight", MLP, Cols, always, []Dim{Hidden, Width}, "ffn_down"},
	}
	gluBias = []template{
		{"mlp.gate_proj.bias", MLP, GateRows, ifMLPBias, []Dim{Width}, "ffn_gate"},
		{"mlp.up_proj.bias", MLP, UpRows, ifMLPBias, []Dim{Width}, "ffn_up"},
		{"mlp.down_proj.bias", MLP, Untouched, ifMLPBias, []Dim{Hidden}, "ffn_down"},
	}
	fusedGLU = []template{
		{"mlp.gate_up_proj.weight", MLP, FusedRows, always, []Dim{TwoWidths, Hidden}, "ffn_up"},
		{"mlp.down_proj.weight", MLP, Cols, always, []Dim{Hidden, Width}, "ffn_down"},
	}
	preNorms = []template{
		{"input_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "attn_norm"},
		{"post_attention_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "ffn_norm"},
	}
	sandwichNorms = []template{
		{"input_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "attn_norm"},
		{"post_attention_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "post_attention_norm"},
		{"pre_feedforward_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "ffn_norm"},
		{"post_feedforward_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "post_ffw_norm"},
	}
	postNorms = []template{
		{"post_attention_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "post_attention_norm"},
		{"post_feedforward_layernorm.weight", Norm, Untouched, always, []Dim{Hidden}, "post_ffw_norm"},
	}
)

func join(parts ...[]template) []template {
	var all []template
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// Families are the supported model families.
var Families = []Family{
	{ModelType: "llama", Architecture: "LlamaForCausalLM", GGUF: "llama", GGUFPermuted: true, Activation: "silu", perLayer: true,
		attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, glu, gluBias, preNorms)},
	{ModelType: "mistral", Architecture: "MistralForCausalLM", GGUF: "llama", GGUFPermuted: true, Activation: "silu", perLayer: true,
		kvHeads: 8, layer: join(attention, glu, preNorms)},
	{ModelType: "qwen2", Architecture: "Qwen2ForCausalLM", GGUF: "qwen2", Activation: "silu", perLayer: true,
		attnBias: always, layer: join(attention, qkvBias, glu, preNorms)},
	{ModelType: "qwen3", Architecture: "Qwen3ForCausalLM", GGUF: "qwen3", Activation: "silu",
		headDim: 128, attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, headNorms, glu, preNorms)},
	{ModelType: "gemma", Architecture: "GemmaForCausalLM", Activation: "gelu_pytorch_tanh", GGUFNormPlus: true,
		tied: true, headDim: 256, attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, glu, preNorms)},
	{ModelType: "gemma2", Architecture: "Gemma2ForCausalLM", GGUF: "gemma2", Activation: "gelu_pytorch_tanh", GGUFNormPlus: true,
		tied: true, headDim: 256, attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, glu, sandwichNorms)},
	{ModelType: "gemma3_text", Architecture: "Gemma3ForCausalLM", GGUF: "gemma3", Activation: "gelu_pytorch_tanh", GGUFNormPlus: true,
		tied: true, headDim: 256, attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, headNorms, glu, sandwichNorms)},
	{ModelType: "phi3", Architecture: "Phi3ForCausalLM", GGUF: "phi3", Activation: "silu",
		layer: join(fusedAttention, fusedGLU, preNorms)},
	{ModelType: "olmo2", Architecture: "Olmo2ForCausalLM", Activation: "silu",
		attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, wholeNorms, glu, postNorms)},
	{ModelType: "smollm3", Architecture: "SmolLM3ForCausalLM", Activation: "silu",
		tied: true, kvHeads: 4, attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, glu, gluBias, preNorms)},
	{ModelType: "granite", Architecture: "GraniteForCausalLM", Activation: "silu",
		attnBias: ifAttentionBias, layer: join(attention, qkvBias, outBias, glu, gluBias, preNorms)},
}
