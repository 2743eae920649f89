"""Imports tiny GGUF files of every architecture and block type and compares
them with the gguf package and with transformers' own GGUF loader.

For each file, `coppice import --dtype f32` must give:
  - bit for bit the tensors that `gguf.dequantize` reads, under the Hugging Face
    names, in its row order, with gemma's norms less one;
  - bit for bit what transformers loads from the GGUF file itself;
  - a directory that transformers loads with no missing or unexpected key;
  - a tokenizer with the ids of the one transformers makes from the file, and the
    settings of its config; for llama3 rope scaling, which transformers does not
    read from a GGUF, the frequencies of the config that was meant.
"""

# Before the others: it sets the environment that they read.
from common import Checks, Coppice, arguments, differing, load, scratch, tensors

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_gguf import ARCHS, SCALED_ARCHS, TYPES, rotary, write

TEXTS = ["the other in there", "  a\n\n b\tc ", "caf\u00e9 \u4f60\u597d \U0001f642", "it's 12,345.67 we'll THE'RE"]


def reference(path):
    """The tensors that transformers reads from the GGUF file. It knows no biases
    in llama files, so it is not asked about those."""
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def check_tensors(arch, kind, coppice, checks, directory):
    name = f"{arch.name} {kind.name}"
    path, out = directory / "tiny.gguf", directory / "out"
    expected = write(path, arch, kind, seed=int(kind))
    coppice("import", path, "-o", out, "--dtype", "f32")
    got = tensors(out)
    wrong = differing(got, expected)
    checks.that(f"{name}: as gguf dequantises", not wrong, wrong)
    if arch.name != "llama all biases":
        wrong = differing(got, reference(path))
        checks.that(f"{name}: as transformers loads it", not wrong, wrong)
    _, wrong = load(out)
    checks.that(f"{name}: keys", not wrong, wrong)


def check_config(arch, coppice, checks, directory):
    """The architecture's settings, which decide the logits as the weights do."""
    path, out = directory / "tiny.gguf", directory / "out"
    write(path, arch, TYPES[0], seed=0)
    coppice("import", path, "-o", out, "--dtype", "f32")
    got, _ = load(out)
    want = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).config
    keys = [
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
        "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id", "hidden_act", "hidden_activation",
        "sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
    ]  # fmt: skip
    pairs = {key: (getattr(got.config, key, None), getattr(want, key)) for key in keys if hasattr(want, key)}
    pairs["rope_theta"] = (got.config.rope_parameters["rope_theta"], want.rope_parameters["rope_theta"])
    # GGUF floats are float32: transformers writes all digits, Coppice the shortest
    # decimal that reads back as the same float32. No head_dim means hidden/heads.
    same = lambda a, b: np.float32(a) == np.float32(b) if isinstance(b, float) else a == b
    if getattr(want, "head_dim", None) is None:
        pairs["head_dim"] = (got.config.head_dim, want.hidden_size // want.num_attention_heads)
    wrong = {key: pair for key, pair in pairs.items() if not same(*pair)}
    checks.that(f"{arch.name}: config", not wrong, f"(ours, transformers'): {wrong}" if wrong else "")

    ours, theirs = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        a, b = ours(text)["input_ids"], theirs(text)["input_ids"]
        checks.that(f"{arch.name}: ids of {text!r}", a == b, "" if a == b else f"{a}, want {b}")


def check_scaling(arch, coppice, checks, directory):
    """Llama 3's rope scaling, which a GGUF holds as a tensor of divisors."""
    path, out = directory / "tiny.gguf", directory / "out"
    write(path, arch, TYPES[0], seed=0)
    coppice("import", path, "-o", out, "--dtype", "f32")
    model, wrong = load(out)
    checks.that(f"{arch.name}: keys", not wrong, wrong)
    got, (_, want) = model.model.rotary_emb.inv_freq, rotary(arch)
    gap = ((got - want).abs() / want).max().item()
    checks.that(f"{arch.name}: frequencies", gap < 1e-6, f"largest relative difference {gap:.1e}")


def main():
    args = arguments(__doc__, needs_shared=False)
    checks, coppice = Checks(), Coppice(args.coppice)
    for arch in ARCHS:
        for kind in TYPES:
            if args.only in f"{arch.name} {kind.name}":
                with scratch() as directory, checks.case(f"{arch.name} {kind.name}"):
                    check_tensors(arch, kind, coppice, checks, directory)
    for arch in ARCHS:
        if args.only in f"{arch.name} config":
            with scratch() as directory, checks.case(f"{arch.name} config"):
                check_config(arch, coppice, checks, directory)
    for arch in SCALED_ARCHS:
        if args.only in arch.name:
            with scratch() as directory, checks.case(arch.name):
                check_scaling(arch, coppice, checks, directory)
    checks.finish()


if __name__ == "__main__":
    main()
