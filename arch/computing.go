package arch

// computing is a family's row of switches: the part of its definition that only an
// engine needs. Each is what the family's modelling file in transformers 5.24 computes,
// each default what its configuration class assumes where the config is silent.
type computing struct {
	norms    normNames
	plusOne  bool // norms multiply by 1 + weight
	qkNorm   QKNorm
	embedBy  scaleRule
	attendBy scaleRule
	window   windowRule
	caps     bool // attn_logit_softcapping and final_logit_softcapping count
	scales   bool // residual_multiplier and logits_scaling count
	noRope   bool // no_rope_layers counts
	dualRope bool // sliding layers have a rotary embedding of their own
	suIsLong bool // the rope types "su" and "yarn" of old configs mean "longrope"

	eps          float64 // rms_norm_eps
	theta        float64 // rope_theta
	localTheta   float64 // rope_local_base_freq
	positions    int     // max_position_embeddings
	windowSize   int     // sliding_window, where the key is absent; null means none
	windowEvery  int     // every n-th layer is without a window (sliding_window_pattern)
	attentionCap float64
	logitCap     float64
}

// normNames are the tensors of a layer's norms, without prefix and ".weight".
type normNames struct{ attentionIn, attentionOut, mlpIn, mlpOut string }

// scaleRule says where a factor comes from.
type scaleRule uint8

const (
	scaleDefault       scaleRule = iota // 1 for embeddings, 1/sqrt(head_dim) for attention
	scaleSqrtHidden                     // sqrt(hidden_size)
	scaleByConfig                       // embedding_multiplier, attention_multiplier
	scalePreAttnScalar                  // 1/sqrt(query_pre_attn_scalar)
)

// windowRule says which layers attend within sliding_window. Where the rule looks at
// layers one by one, a list layer_types in the config takes its place.
type windowRule uint8

const (
	windowNever     windowRule = iota
	windowAll                  // every layer
	windowFromLayer            // from max_window_layers on, if use_sliding_window (qwen)
	windowAlternate            // all but every n-th layer (gemma)
	windowNoRope               // layers without RoPE, if use_sliding_window (smollm3)
)

var (
	preNormNames      = normNames{attentionIn: "input_layernorm", mlpIn: "post_attention_layernorm"}
	postNormNames     = normNames{attentionOut: "post_attention_layernorm", mlpOut: "post_feedforward_layernorm"}
	sandwichNormNames = normNames{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
)

// computations holds each family's row, by model_type.
var computations = map[string]computing{
	"llama": {norms: preNormNames, eps: 1e-6, theta: 1e4, positions: 2048},
	"mistral": {norms: preNormNames, eps: 1e-6, theta: 1e4, positions: 131072,
		window: windowAll, windowSize: 4096},
	"qwen2": {norms: preNormNames, eps: 1e-6, theta: 1e4, positions: 32768,
		window: windowFromLayer, windowSize: 4096},
	"qwen3": {norms: preNormNames, eps: 1e-6, theta: 1e4, positions: 32768,
		window: windowFromLayer, windowSize: 4096, qkNorm: QKNormPerHead},
	"gemma": {norms: preNormNames, eps: 1e-6, theta: 1e4, positions: 8192,
		plusOne: true, embedBy: scaleSqrtHidden},
	"gemma2": {norms: sandwichNormNames, eps: 1e-6, theta: 1e4, positions: 8192,
		plusOne: true, embedBy: scaleSqrtHidden, attendBy: scalePreAttnScalar,
		window: windowAlternate, windowSize: 4096, windowEvery: 2,
		caps: true, attentionCap: 50, logitCap: 30},
	"gemma3_text": {norms: sandwichNormNames, eps: 1e-6, theta: 1e6, positions: 131072,
		plusOne: true, embedBy: scaleSqrtHidden, attendBy: scalePreAttnScalar,
		window: windowAlternate, windowSize: 4096, windowEvery: 6,
		caps: true, qkNorm: QKNormPerHead, dualRope: true, localTheta: 1e4},
	"phi3": {norms: preNormNames, eps: 1e-5, theta: 1e4, positions: 4096,
		window: windowAll, suIsLong: true},
	"olmo2": {norms: postNormNames, eps: 1e-5, theta: 1e4, positions: 2048,
		qkNorm: QKNormWhole},
	"smollm3": {norms: preNormNames, eps: 1e-6, theta: 2e6, positions: 32768,
		window: windowNoRope, noRope: true},
	"granite": {norms: preNormNames, eps: 1e-6, theta: 1e4, positions: 2048,
		embedBy: scaleByConfig, attendBy: scaleByConfig, scales: true},
}
