"""Decoders whose layers have MLPs of different widths, for transformers.

Written by Coppice (https://github.com/coppice-lm/coppice) beside a checkpoint whose
layers it pruned to different widths. Everything but the MLPs is transformers' own Llama,
Mistral or Qwen2: the config lists the width of each layer, and each layer gets an MLP of
that width. Checked with transformers 4.46 and 5.24. Apache-2.0 like Coppice itself.

    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
"""

import copy

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)


class _Widths:
    """A config with the key intermediate_sizes: the width of each layer's MLP.
    intermediate_size, which other code may read, stays the widest."""

    def __init__(self, intermediate_sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_sizes = intermediate_sizes or [self.intermediate_size] * self.num_hidden_layers
        if len(self.intermediate_sizes) != self.num_hidden_layers:
            raise ValueError(
                f"intermediate_sizes has {len(self.intermediate_sizes)} entries for {self.num_hidden_layers} layers"
            )


class _PerLayerMLP:
    """A decoder with a language-modelling head, each layer with an MLP of its own width."""

    def __init__(self, config):
        super().__init__(config)
        for layer, width in zip(self.model.layers, config.intermediate_sizes):
            own = copy.copy(config)
            own.intermediate_size = width
            layer.mlp = type(layer.mlp)(own)
            layer.mlp.apply(self._init_weights)


class CoppiceLlamaConfig(_Widths, LlamaConfig):
    model_type = "coppice_llama"


class CoppiceLlamaForCausalLM(_PerLayerMLP, LlamaForCausalLM):
    config_class = CoppiceLlamaConfig


class CoppiceMistralConfig(_Widths, MistralConfig):
    model_type = "coppice_mistral"


class CoppiceMistralForCausalLM(_PerLayerMLP, MistralForCausalLM):
    config_class = CoppiceMistralConfig


class CoppiceQwen2Config(_Widths, Qwen2Config):
    model_type = "coppice_qwen2"


class CoppiceQwen2ForCausalLM(_PerLayerMLP, Qwen2ForCausalLM):
    config_class = CoppiceQwen2Config


class _Block(dict):
    """A block's config, whose keys are attributes too, as readers of block_configs expect."""

    def __init__(self, values=()):
        super().__init__({k: _Block(v) if isinstance(v, dict) else v for k, v in dict(values).items()})

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


class DeciLMConfig(LlamaConfig):
    """block_configs instead of intermediate_sizes: layer i has the width of
    block_configs[i].ffn.ffn_mult * 2/3 * hidden_size, rounded up to a multiple of 256, or
    without ffn_mult that of block_configs[i].ffn.intermediate_size."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        self.block_configs = [_Block(b) for b in block_configs or []]

    @property
    def intermediate_sizes(self):
        return [self._width(b.ffn) for b in self.block_configs]

    def _width(self, ffn):
        mult = ffn.get("ffn_mult")
        if mult is None:
            return ffn["intermediate_size"]
        return -(-int(2 * mult * self.hidden_size / 3) // 256) * 256


class DeciLMForCausalLM(_PerLayerMLP, LlamaForCausalLM):
    config_class = DeciLMConfig
