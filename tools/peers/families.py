"""Tiny random models of every family, made by transformers."""

import dataclasses

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

HIDDEN, WIDTH, LAYERS, VOCAB = 32, 44, 3, 96

CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3_text": Gemma3TextConfig,
    "phi3": Phi3Config,
    "olmo2": Olmo2Config,
    "smollm3": SmolLM3Config,
    "granite": GraniteConfig,
}

# Three heads would not divide HIDDEN, which transformers 5 refuses.
WIDE_HEADS = {"num_attention_heads": 2, "head_dim": 24, "num_key_value_heads": 1}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model: a family, what differs from its plain config, and how it is stored."""

    family: str
    name: str
    config: dict = dataclasses.field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard: str = "5GB"


def cases():
    """Every family tied and untied and in every 16-bit type, and the variants in
    which the tensors of the MLP or the files differ."""
    out = []
    for family in CONFIGS:
        for tied in (True, False):
            out.append(Case(family, f"{family} {'tied' if tied else 'untied'}", {"tie_word_embeddings": tied}))
        out.append(Case(family, f"{family} f16", dtype=torch.float16))
        out.append(Case(family, f"{family} bf16 sharded", dtype=torch.bfloat16, shard="10KB"))
    biases = {"mlp_bias": True, "attention_bias": True}
    out += [
        Case("llama", "llama all biases", biases),
        Case("llama", "llama all biases bf16 sharded", biases, torch.bfloat16, "10KB"),
        Case("llama", "llama mlp bias alone", {"mlp_bias": True}),
        Case("llama", "llama head_dim apart from hidden/heads", WIDE_HEADS),
        Case("granite", "granite all biases", biases),
        Case("mistral", "mistral no window", {"sliding_window": None}),
    ]
    return out


def make(case, directory):
    """Writes the model to directory. The checks read it back, so that what they
    compare went through the files."""
    config = CONFIGS[case.family](
        **{
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": case.dtype,
            **case.config,
        }
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(sum(case.name.encode()))
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and biases too: what is one or zero at the start hides mistakes.
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.to(case.dtype).save_pretrained(directory, max_shard_size=case.shard)
