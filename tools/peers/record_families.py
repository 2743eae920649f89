"""Records the logits of tiny models of every family, as transformers computes them.

    python tools/peers/record_families.py > engine/enginetest/testdata/families.json

Needs transformers (recorded with 5.24.0) and torch (2.9.1, CPU, float32). Weights are
not stored: they follow from each parameter's name by the formula in weights(), which
engine/enginetest computes too. Logits are stored for a few positions of one sequence.
"""

import json
import os
import sys
import tempfile

import numpy as np
import torch
import transformers

BASE = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LENGTH = 24
POSITIONS = [0, 1, 7, 15, 23]
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)

# name -> what its config says besides BASE
CASES = {
    "llama": dict(model_type="llama"),
    "llama-biases": dict(model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama-head-dim": dict(model_type="llama", head_dim=16, num_key_value_heads=1),
    "llama-head-dim-null": dict(model_type="llama", head_dim=None, num_key_value_heads=None),
    "llama-gelu": dict(model_type="llama", hidden_act="gelu"),
    "llama-theta-old": dict(model_type="llama", rope_theta=500.0),
    "llama-theta-new": dict(model_type="llama", rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "llama-linear": dict(model_type="llama", rope_scaling=dict(type="linear", factor=4.0)),
    "llama-dynamic": dict(model_type="llama", max_position_embeddings=16, rope_scaling=dict(rope_type="dynamic", factor=2.0)),
    "llama-llama3": dict(model_type="llama", rope_theta=10000.0, head_dim=16, rope_scaling=dict(rope_type="llama3", **LLAMA3)),
    "llama-llama3-new": dict(model_type="llama", head_dim=16, rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, **LLAMA3)),
    "llama-yarn": dict(model_type="llama", head_dim=16, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama-yarn-mscale": dict(
        model_type="llama", head_dim=16, rope_theta=100.0,
        rope_scaling=dict(rope_type="yarn", factor=4.0, beta_fast=8, beta_slow=0.5, mscale=0.7, mscale_all_dim=0.4,
                          truncate=False, original_max_position_embeddings=16)),
    "mistral": dict(model_type="mistral", sliding_window=8),
    "mistral-full": dict(model_type="mistral", sliding_window=None, head_dim=16),
    "qwen2": dict(model_type="qwen2"),
    "qwen2-window": dict(model_type="qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=2),
    "qwen3": dict(model_type="qwen3", head_dim=16),
    "qwen3-types": dict(
        model_type="qwen3", head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=5,
        layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"]),
    "gemma": dict(model_type="gemma", head_dim=8, hidden_act="gelu"),
    "gemma2": dict(
        model_type="gemma2", head_dim=8, sliding_window=6, query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma2-defaults": dict(model_type="gemma2", head_dim=8, sliding_window=6),
    "gemma3": dict(
        model_type="gemma3_text", head_dim=8, sliding_window=6, sliding_window_pattern=3, query_pre_attn_scalar=12,
        rope_theta=5000.0, rope_local_base_freq=100.0, rope_scaling=dict(rope_type="linear", factor=8.0)),
    "gemma3-new": dict(
        model_type="gemma3_text", head_dim=8, sliding_window=6, query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=5000.0),
            sliding_attention=dict(rope_type="default", rope_theta=100.0))),
    "phi3": dict(model_type="phi3", sliding_window=9),
    "phi3-partial": dict(model_type="phi3", hidden_size=64, partial_rotary_factor=0.5),
    "phi3-longrope-short": dict(
        model_type="phi3", original_max_position_embeddings=32,
        rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.3, 1.6], long_factor=[1.5, 2.5, 4.0, 6.0])),
    "phi3-longrope-long": dict(
        model_type="phi3", original_max_position_embeddings=16,
        rope_scaling=dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.6], long_factor=[1.5, 2.5, 4.0, 6.0])),
    "olmo2": dict(model_type="olmo2"),
    "smollm3": dict(model_type="smollm3", tie_word_embeddings=True),
    "smollm3-list": dict(
        model_type="smollm3", tie_word_embeddings=False, no_rope_layers=[1, 0, 0, 1], mlp_bias=True,
        use_sliding_window=True, sliding_window=5),
    "granite": dict(
        model_type="granite", attention_multiplier=0.3, embedding_multiplier=3.0, residual_multiplier=0.4, logits_scaling=2.5),
}


def fnv1a(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    return h


def weights(name, shape, plus_one):
    """Multiples of 2^-25 or 2^-23 from splitmix64 of the name's hash plus the index."""
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)
    if "norm" in name:
        w = unit * np.float32(0.25) + np.float32(0 if plus_one else 1)
    elif "embed_tokens" in name:
        w = unit
    else:
        w = unit * np.float32(0.25)
    return torch.from_numpy(w.reshape(shape))


def record(name, extra):
    config = {**BASE, **extra}
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "config.json"), "w") as f:
            json.dump(config, f)
        cfg = transformers.AutoConfig.from_pretrained(d)
    model = transformers.AutoModelForCausalLM.from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for p, param in model.named_parameters():
            param.copy_(weights(p, param.shape, config["model_type"].startswith("gemma")))
    tokens = [(7 * i * i + 3 * i + len(name)) % config["vocab_size"] for i in range(LENGTH)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return dict(
        name=name, config=config, tokens=tokens, positions=POSITIONS,
        logits=[[float(f"{v:.8g}") for v in logits[p].tolist()] for p in POSITIONS],
    )


def main():
    cases = [record(name, extra) for name, extra in CASES.items()]
    head = dict(transformers=transformers.__version__, torch=torch.__version__)
    sys.stdout.write('{"peer": %s, "cases": [\n' % json.dumps(head))
    sys.stdout.write(",\n".join(json.dumps(c) for c in cases))
    sys.stdout.write("\n]}\n")


if __name__ == "__main__":
    main()
