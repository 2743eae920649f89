"""Decoders whose layers differ in their MLPs and their attention, for transformers.

Written by Coppice (https://github.com/coppice-lm/coppice) beside a checkpoint whose
layers it pruned to different sizes. All else is transformers' own Llama, Mistral or
Qwen2. A size of 0 is a layer without MLP or attention. Checked with transformers 4.46
and 5.24. Apache-2.0 like Coppice itself.

    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
"""

import copy
import inspect

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM


class _Lists:
    """A config with lists of what differs; intermediate_size and its like stay the most of any layer."""

    def __init__(self, intermediate_sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_sizes = intermediate_sizes or [self.intermediate_size] * self.num_hidden_layers

    def sizes(self):
        """Width of the MLP, heads, and key-value heads of each layer."""
        keys, n = ("num_attention_heads", "num_key_value_heads"), self.num_hidden_layers
        lists = [self.intermediate_sizes, *(getattr(self, f"{k}_per_layer", 0) or [getattr(self, k)] * n for k in keys)]
        if any(len(sizes) != n for sizes in lists):
            raise ValueError(f"{n} layers, but lists of {[len(sizes) for sizes in lists]} entries")
        return list(zip(*lists))


class _Nothing(torch.nn.Module):
    """In the place of an MLP or, with several results, of an attention: adds nothing."""

    results = 1

    def forward(self, hidden_states, *args, past_key_value=None, **kwargs):
        all = torch.zeros_like(hidden_states), None, past_key_value  # which old attentions return
        return all[: self.results] if self.results > 1 else all[0]


class _PerLayer:
    """A decoder with a language-modelling head, each layer of its own size."""

    def __init__(self, config):
        super().__init__(config)
        attentions = 0  # so far: caches count the layers that use them
        for layer, (width, heads, kv_heads) in zip(self.model.layers, config.sizes()):
            own, attention = copy.copy(config), layer.self_attn
            own.intermediate_size, own.head_dim = width, attention.head_dim
            own.num_attention_heads, own.num_key_value_heads = heads, kv_heads
            layer.mlp = type(layer.mlp)(own) if width else _Nothing()
            layer.post_attention_layernorm = layer.post_attention_layernorm if width else torch.nn.Identity()
            if heads:
                layer.self_attn = type(attention)(own, attentions)
                layer.self_attn.config, attentions = config, attentions + 1
            else:
                layer.self_attn, layer.input_layernorm = _Nothing(), torch.nn.Identity()
                layer.self_attn.results = 3 if "use_cache" in inspect.signature(attention.forward).parameters else 2
            layer.apply(self._init_weights)


class CoppiceLlamaConfig(_Lists, LlamaConfig):
    model_type = "coppice_llama"


class CoppiceLlamaForCausalLM(_PerLayer, LlamaForCausalLM):
    config_class = CoppiceLlamaConfig


class CoppiceMistralConfig(_Lists, MistralConfig):
    model_type = "coppice_mistral"


class CoppiceMistralForCausalLM(_PerLayer, MistralForCausalLM):
    config_class = CoppiceMistralConfig


class CoppiceQwen2Config(_Lists, Qwen2Config):
    model_type = "coppice_qwen2"


class CoppiceQwen2ForCausalLM(_PerLayer, Qwen2ForCausalLM):
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
    """block_configs instead of lists. A width is ffn_mult * 2/3 * hidden_size, up to a multiple of 256."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        self.block_configs = [_Block(b) for b in block_configs or []]

    def sizes(self):
        for b in self.block_configs:
            mult, width = b.ffn.get("ffn_mult"), b.ffn.get("intermediate_size")
            width = width if mult is None else -(-int(2 * mult * self.hidden_size / 3) // 256) * 256
            heads = 0 if b.attention.get("no_op") else self.num_attention_heads
            yield 0 if b.ffn.get("no_op") else width, heads, heads and heads // b.attention.n_heads_in_group


class DeciLMForCausalLM(_PerLayer, LlamaForCausalLM):
    config_class = DeciLMConfig
