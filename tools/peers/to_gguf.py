"""Writes a Hugging Face directory of a Llama as a GGUF file for llama.cpp to be measured
with: matrices in one type, norms in float32, no vocabulary (token ids are all that the
benchmark gives it).

usage: to_gguf.py DIR FILE TYPE    (TYPE: f32, f16, bf16, q8_0 or q4_0)

The block types are made by llama.cpp's own quantiser from f32, with its defaults, which
keep a tied embedding in more bits. Prints the bytes of all tensors as JSON.
"""

import json
import os
import pathlib
import sys

import gguf
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open

TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16}


def read(directory):
    """Every tensor of a directory in float32, one at a time."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name).float()


def interleave(weight, heads):
    """GGUF files of Llamas have the halves of a head's rows interleaved, for the other
    layout of the rotary embedding."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write(directory, path, kind):
    config = json.loads((directory / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if config["model_type"] != "llama" or rope.get("rope_type", "default") != "default":
        raise ValueError(f"{directory}: only Llamas without a scaled rotary embedding are written")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, value in read(directory):
        if name.endswith("q_proj.weight"):
            value = interleave(value, heads)
        elif name.endswith("k_proj.weight"):
            value = interleave(value, kv_heads)
        target = Type.F32 if value.ndim == 1 else kind
        data = gguf.quants.quantize(value.numpy(), target)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, path, kind):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    params.nthread = 1
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(path), params) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {kind}")


def main():
    directory, path, kind = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    part = path.with_suffix(".part")
    if kind in TYPES:
        write(directory, part, TYPES[kind])
    else:
        whole = path.with_suffix(".f32.part")
        write(directory, whole, Type.F32)
        quantise(whole, part, kind)
        whole.unlink()
    part.rename(path)
    tensors = gguf.GGUFReader(path).tensors
    print(json.dumps({"tensor_bytes": int(sum(t.n_bytes for t in tensors)), "types": sorted({t.tensor_type.name for t in tensors})}))


if __name__ == "__main__":
    main()
