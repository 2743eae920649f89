"""Tiny GGUF files of the three architectures that Coppice imports, in every
block type, with the Hugging Face tensors that must come out of them.

The blocks are random bytes, not quantised weights, so every bit pattern of the
packed fields occurs; only the scales are kept finite. What must come out is
`gguf.dequantize` of those bytes, renamed and reordered by the few rules below.
"""

import dataclasses

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

# Rows must divide into blocks of 256, so this is as small as it gets.
HIDDEN, WIDTH, LAYERS = 256, 512, 2
THETA = 500000.0

# Byte offsets of the float16 fields in a block, after gguf's own layouts.
SCALES = {
    Type.Q8_0: (0,),
    Type.Q4_0: (0,),
    Type.Q4_1: (0, 2),
    Type.Q5_0: (0,),
    Type.Q5_1: (0, 2),
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208,),
}
TYPES = [Type.F32, Type.F16, Type.BF16, *SCALES]

# GGUF name -> Hugging Face name, in a block and outside.
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA2_NAMES = {
    **BLOCK_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclasses.dataclass(frozen=True)
class Arch:
    """One way to lay out a file: the architecture and what differs within it."""

    name: str
    arch: str
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    tied: bool = True
    attention_biases: tuple = ()
    mlp_biases: tuple = ()
    rope_factor: float = 0.0  # of llama3 rope scaling; 0: none


ARCHS = [
    Arch("llama", "llama"),
    Arch("llama untied", "llama", tied=False),
    Arch(
        "llama all biases",
        "llama",
        attention_biases=("attn_q", "attn_k", "attn_v", "attn_output"),
        mlp_biases=("ffn_gate", "ffn_up", "ffn_down"),
    ),
    Arch("qwen2", "qwen2", attention_biases=("attn_q", "attn_k", "attn_v")),
    Arch("qwen2 untied", "qwen2", tied=False, attention_biases=("attn_q", "attn_k", "attn_v")),
    Arch("gemma2", "gemma2", heads=8),
]
SCALED_ARCHS = [Arch(f"llama rope factor {f:g}", "llama", rope_factor=f) for f in (8.0, 32.0)]


def random_rows(rng, kind, shape):
    """Random data of a type: an array as the GGUF writer takes it (uint8 rows of
    blocks, or the floats themselves), with no value that is not finite."""
    rows, columns = shape
    if kind == Type.F32:
        return rng.standard_normal(shape, dtype=np.float32)
    if kind in (Type.F16, Type.BF16):
        raw = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        exponent = np.uint16(0x7C00 if kind == Type.F16 else 0x7F80)
        raw = np.where(raw & exponent == exponent, raw ^ np.uint16(0x4000), raw)
        return raw.view(np.float16) if kind == Type.F16 else raw.view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for offset in SCALES[kind]:
        high = raw[:, :, offset + 1]  # sign, exponent and two bits of a little-endian float16
        high[high & 0x7C == 0x7C] ^= 0x40
    return raw.reshape(rows, -1)


def floats(data, kind):
    """The float32 values that the gguf package reads from data."""
    return gguf.dequantize(data, kind).astype(np.float32, copy=False)


def half_split(rows, heads):
    """Reorders the rows of q or k from interleaved rotary pairs, as llama GGUF
    files hold them, to the two halves of the Hugging Face order: row 2i+j of a
    head becomes row j*(head_dim/2)+i."""
    per_head = rows.reshape(heads, -1, *rows.shape[1:])
    return np.concatenate([per_head[:, 0::2], per_head[:, 1::2]], axis=1).reshape(rows.shape)


def rotary(arch):
    """The rotary frequencies of an architecture without scaling and with it, as
    transformers computes them from a config."""
    plain = {"rope_type": "default", "rope_theta": THETA}
    scaled = {
        "rope_type": "llama3",
        "rope_theta": THETA,
        "factor": arch.rope_factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    frequencies = lambda rope: LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=HIDDEN, num_attention_heads=arch.heads, head_dim=arch.head_dim,
            max_position_embeddings=131072, rope_parameters=rope,
        )
    ).inv_freq  # fmt: skip
    return frequencies(plain), frequencies(scaled)


def byte_characters():
    """The 256 characters by which byte-level BPE vocabularies spell bytes:
    printable Latin-1 as itself, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def add_vocabulary(writer, arch):
    """Writes a vocabulary of its kind and returns its size."""
    normal, control, byte, unknown = (int(t) for t in (
        gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.UNKNOWN,
    ))
    if arch == "gemma2":
        specials = [("<pad>", control), ("<eos>", control), ("<bos>", control), ("<unk>", unknown)]
        pieces = ["\u2581t", "he", "\u2581the", "in", "re", "er", "\u2581a"]
        letters = ["\u2581", *map(chr, range(0x21, 0x7F)), "\u00e9"]
        tokens = [
            *specials,
            *((f"<0x{b:02X}>", byte) for b in range(256)),
            *((text, normal) for text in pieces + letters),
        ]
        first = len(tokens) - len(pieces) - len(letters)
        scores = [0.0] * first + [-float(i) for i in range(len(tokens) - first)]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores)
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(3)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(False)
    else:
        merges = ["h e", "\u0120 t", "\u0120t he", "i n", "r e", "e r", "\u0120 a"]
        tokens = [("<|endoftext|>", control), ("<|im_start|>", control), ("<|im_end|>", control)]
        tokens += [(c, normal) for c in byte_characters()]
        tokens += [(m.replace(" ", ""), normal) for m in merges]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2" if arch == "qwen2" else "llama-bpe")
        writer.add_token_merges(merges)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(False)
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    return len(tokens)


def write(path, arch, kind, seed):
    """Writes the file and returns the Hugging Face tensors, float32, by name."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch.arch)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(131072)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(arch.heads)
    writer.add_head_count_kv(arch.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(THETA)
    if arch.arch == "gemma2":
        writer.add_key_length(arch.head_dim)
        writer.add_value_length(arch.head_dim)
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
        writer.add_sliding_window(64)
    else:
        writer.add_rope_dimension_count(arch.head_dim)
    vocab = add_vocabulary(writer, arch.arch)
    if arch.arch != "gemma2":
        writer.add_vocab_size(vocab)

    expected = {}

    def put(gguf_name, hf_name, data, data_type, role):
        writer.add_tensor(gguf_name, data, raw_dtype=data_type)
        value = floats(data, data_type)
        if arch.arch == "llama" and role in ("attn_q", "attn_k"):
            value = half_split(value, arch.heads if role == "attn_q" else arch.kv_heads)
        if arch.arch == "gemma2" and role.endswith("norm"):
            value = value - np.float32(1)
        expected[hf_name] = torch.from_numpy(np.ascontiguousarray(value))

    def vector(gguf_name, hf_name, size, role):
        put(gguf_name, hf_name, 1 + rng.standard_normal(size, dtype=np.float32) / 8, Type.F32, role)

    q, kv = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    shapes = {
        "attn_q": (q, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, q),
        "ffn_gate": (WIDTH, HIDDEN),
        "ffn_up": (WIDTH, HIDDEN),
        "ffn_down": (HIDDEN, WIDTH),
    }
    names = GEMMA2_NAMES if arch.arch == "gemma2" else BLOCK_NAMES
    put("token_embd.weight", "model.embed_tokens.weight", random_rows(rng, kind, (vocab, HIDDEN)), kind, "")
    for layer in range(LAYERS):
        for role, hf_role in names.items():
            source, target = f"blk.{layer}.{role}", f"model.layers.{layer}.{hf_role}"
            if role in shapes:
                put(source + ".weight", target + ".weight", random_rows(rng, kind, shapes[role]), kind, role)
            else:
                vector(source + ".weight", target + ".weight", HIDDEN, role)
            if role in arch.attention_biases + arch.mlp_biases:
                vector(source + ".bias", target + ".bias", shapes[role][0], role)
    if arch.rope_factor:
        plain, scaled = rotary(arch)
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy())
    vector("output_norm.weight", "model.norm.weight", HIDDEN, "output_norm")
    if not arch.tied:
        put("output.weight", "lm_head.weight", random_rows(rng, kind, (vocab, HIDDEN)), kind, "")

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected
