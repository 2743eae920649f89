"""Runs the forms of layers of different widths in transformers: the newest, and that of
two years before.

The real model is pruned to widths that differ from layer to layer, tiny models of the
other families too, and written as --form transformers, decilm and padded. In each version:

  - it loads without a missing, unexpected or mismatched key, at the widths of the plan;
  - the logits of texts are our engine's, within 1e-4 of the largest;
  - generate gives the tokens of `coppice generate`;
  - it loads in bfloat16 and float16 too, to logits near those;
  - a new model made of the config has all MLPs initialised;
  - ten AdamW steps lower the loss, every parameter with a gradient;
  - save_pretrained and from_pretrained return it bit for bit, and `coppice verify`, and our
    engine, read what they wrote.

decilm is for vLLM and llama.cpp's converter, which are not run here: of it this checks
that its own modelling file loads it, and that block_configs mean the widths of the tensors
by the rule that both programs have.
"""

import json
import os
import pathlib
import subprocess
import sys

from common import MODEL_FILE, Checks, Coppice, arguments, scratch, tensors

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from check_engine import PROMPTS, TOLERANCE, Logits, gap, log_softmax
from record_families import BASE, CASES, LENGTH, weights

NEW_TOKENS, STEPS = 16, 10
HALVES = 0.1  # logits computed in 16 bits are within this of those in float32
# Every fourth layer whole, others down to 256 of 1536.
REAL_WIDTHS = [1536 if i % 4 == 3 else 256 + (i * 389) % 1000 for i in range(30)]
TINY_WIDTHS = [48, 5, 33, 20]
# Parts of the real model that go, in the forms that can say so.
PARTS = {
    "transformers": ["--drop-attention", "7,29", "--drop-mlp", "20", "--drop-heads", "3:0,11:1,11:2"],
    "decilm": ["--drop-attention", "7,29", "--drop-mlp", "20"],
}


class Peer:
    """One version of transformers: a Python that has it."""

    def __init__(self, python):
        self.python = str(python)
        found = subprocess.run(
            [self.python, "-c", "import transformers; print(transformers.__version__)"], capture_output=True, text=True
        )
        if found.returncode != 0:
            raise SystemExit(f"{python}: has no transformers; run make peers-venv, or set PEERS_VENV and PEERS_VENV_OLD")
        self.version = found.stdout.strip()

    def __call__(self, request, scratch_dir):
        env = {**os.environ, "HF_MODULES_CACHE": str(scratch_dir / "modules")}
        done = subprocess.run(
            [self.python, str(pathlib.Path(__file__).with_name("form_run.py"))],
            input=json.dumps(request), capture_output=True, text=True, env=env,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return json.loads(done.stdout)


def check(checks, peer, logits, coppice, name, model, widths, sequences, vocab, tokens=None):
    """One model in one version; tokens are what generate must give, if known."""
    remote = (model / "modeling_coppice.py").exists()
    with scratch() as out:
        name = f"{name} in transformers {peer.version}"
        got = peer({"model": str(model), "remote": remote, "sequences": sequences, "text": PROMPTS[0], "new_tokens": NEW_TOKENS,
                    "steps": STEPS, "out": str(out)}, out)  # fmt: skip
        checks.that(f"{name}: loads", not got["wrong"], str(got["wrong"] or f"{got['class']}, {got['parameters']:,} parameters"))
        checks.that(f"{name}: widths", got["widths"] == widths, f"{min(got['widths'])} to {max(got['widths'])}")
        want, at = np.load(out / "logits.npy").astype(np.float64), 0
        worst = 0.0
        for (scored, _, decoded), ids in zip(logits(model, sequences, vocab), sequences, strict=True):
            rows = want[at : at + len(ids)]
            worst = max(worst, gap(decoded, rows), gap(scored, log_softmax(rows)))
            at += len(ids)
        checks.that(f"{name}: logits", worst <= TOLERANCE, f"{worst:.1e} of the largest")
        if tokens is not None:
            same = got["generated"] == got["by_tokenizer"] == tokens
            checks.that(f"{name}: generate", same, "" if same else f"{got['generated']}, {got['by_tokenizer']}, coppice {tokens}")
        for dtype, (types, far) in got["halves"].items():
            checks.that(f"{name}: {dtype}", types == [dtype] and far < HALVES, f"{far:.1e} of the largest logit from float32 {types if types != [dtype] else ''}")
        least, most = got["spread"]
        checks.that(f"{name}: a new model is initialised", 0.8 < least and most < 1.2, f"{least:.2f} to {most:.2f} of initializer_range")
        losses = got["losses"]
        checks.that(f"{name}: {STEPS} steps", losses[-1] < losses[0] and not got["still"], f"loss {losses[0]:.3f} -> {losses[-1]:.3f} {got['still'][:3] or ''}")
        saved = got["saved"]
        ok = not saved["wrong"] and not saved["differing"] and saved["logits"] == 0 and ("modeling_coppice.py" in saved["files"]) == remote
        checks.that(f"{name}: save_pretrained and from_pretrained", ok, "" if ok else str(saved))
        coppice("verify", out / "saved")
        again = logits(out / "saved", sequences[:1], vocab)
        first = logits(model, sequences[:1], vocab)
        checks.that(f"{name}: coppice reads what was saved", all(np.array_equal(a, b) for a, b in zip(again[0], first[0])))


def check_blocks(checks, model):
    """block_configs, read by the rule of vLLM and llama.cpp: ffn_mult * 2/3 * hidden_size,
    cut to a whole number, up to a multiple of 256."""
    config = json.loads((model / "config.json").read_text())
    stored = tensors(model)
    wrong = []
    for i, block in enumerate(config["block_configs"]):
        n = int(2 * block["ffn"]["ffn_mult"] * config["hidden_size"] / 3)
        n += -n % 256
        kv = config["num_attention_heads"] // block["attention"]["n_heads_in_group"]
        if not isinstance(block["ffn"]["ffn_mult"], float) or block["ffn"]["no_op"] or block["attention"]["no_op"]:
            wrong.append(f"layer {i}: {block}")
        for tensor, rows in (("mlp.gate_proj", n), ("mlp.up_proj", n), ("self_attn.k_proj", kv * config["head_dim"])):
            if stored[f"model.layers.{i}.{tensor}.weight"].shape[0] != rows:
                wrong.append(f"layer {i}: {tensor} has not {rows} rows")
    ok = not wrong and config["architectures"] == ["DeciLMForCausalLM"] and config["model_type"] == "nemotron-nas"
    checks.that("real model, decilm: block_configs mean the tensors' shapes", ok, "; ".join(wrong[:3]))
    # A newer spelling, which counts where ffn_mult is not said.
    blocks = [{"ffn": {"ffn_mult": 1.0}}, {"ffn": {"intermediate_size": 320}}, {"ffn": {"ffn_mult": None, "intermediate_size": 64}}]
    blocks = [block | {"attention": {"n_heads_in_group": 1}} for block in blocks]
    with_own_code = type(AutoConfig.from_pretrained(model, trust_remote_code=True))
    sizes = [width for width, _, _ in with_own_code(hidden_size=768, block_configs=blocks).sizes()]
    checks.that("real model, decilm: widths said by intermediate_size", sizes == [512, 320, 64], str(sizes))


def check_real(checks, peers, logits, coppice, args, directory):
    dense = directory / "dense"
    coppice("import", args.shared / "models" / MODEL_FILE, "-o", dense, "--dtype", "f32")
    widths = ",".join(map(str, REAL_WIDTHS))
    tokenizer = AutoTokenizer.from_pretrained(dense)
    sequences = [tokenizer(text)["input_ids"] for text in PROMPTS]
    for form in ("transformers", "padded", "decilm"):
        if args.only not in f"real model, {form}":
            continue
        made = directory / form
        coppice("prune", dense, "-o", made, "--widths", widths, "--form", form)
        coppice("verify", made, "--against", dense)
        expected = {
            "transformers": REAL_WIDTHS, "padded": [max(REAL_WIDTHS)] * 30,
            "decilm": [n + -n % 256 for n in REAL_WIDTHS],
        }[form]  # fmt: skip
        tokens = json.loads(coppice("generate", made, "--prompt", PROMPTS[0], "--max-tokens", NEW_TOKENS, "--json"))["tokens"]
        if form == "decilm":
            check_blocks(checks, made)
        for peer in peers:
            with checks.case(f"real model, {form}"):
                check(checks, peer, logits, coppice, f"real model, {form}", made, expected, sequences, 49152, tokens)


def check_parts(checks, peers, logits, coppice, args, directory):
    """Attention, MLPs and heads that go from the real model, which check_real imported."""
    tokenizer = AutoTokenizer.from_pretrained(directory / "dense")
    sequences = [tokenizer(text)["input_ids"] for text in PROMPTS]
    for form, parts in PARTS.items():
        name = f"real model, parts, {form}"
        if args.only not in name:
            continue
        made = directory / f"parts-{form}"
        coppice("prune", directory / "dense", "-o", made, "--width", "1280", "--form", form, *parts)
        coppice("verify", made, "--against", directory / "dense")
        tokens = json.loads(coppice("generate", made, "--prompt", PROMPTS[0], "--max-tokens", NEW_TOKENS, "--json"))["tokens"]
        widths = [0 if i == 20 else 1280 for i in range(30)]
        for peer in peers:
            with checks.case(name):
                check(checks, peer, logits, coppice, name, made, widths, sequences, 49152, tokens)


def check_family(checks, peers, logits, coppice, family, directory):
    """A tiny model. Its config is written here, as versions before 5 spelled it."""
    config = {**BASE, **CASES[family], "rope_theta": 10000.0, "torch_dtype": "float32"}
    plain = directory / "plain"
    plain.mkdir()
    (plain / "config.json").write_text(json.dumps(config))
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(plain), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(weights(name, parameter.shape, False))
    made.save_pretrained(plain)
    (plain / "config.json").write_text(json.dumps(config))
    uneven = directory / "uneven"
    coppice("prune", plain, "-o", uneven, "--widths", ",".join(map(str, TINY_WIDTHS)))
    ids = [[(5 * i * i + 11 * i + k) % config["vocab_size"] for i in range(LENGTH)] for k in (0, 3)]
    for peer in peers:
        check(checks, peer, logits, coppice, f"tiny {family}", uneven, TINY_WIDTHS, ids, config["vocab_size"])


def main():
    args = arguments(__doc__)
    checks, coppice = Checks(), Coppice(args.coppice)
    old = os.environ.get("PEERS_VENV_OLD") or f"{sys.prefix}-old"
    peers = [Peer(sys.executable), Peer(pathlib.Path(old) / "bin/python")]
    checks.that("versions", int(peers[0].version.split(".")[0]) >= 5 > int(peers[1].version.split(".")[0]), " and ".join(p.version for p in peers))
    with scratch() as directory:
        logits = Logits(directory)
        for family in ("llama", "llama-biases", "llama-head-dim", "mistral", "mistral-full", "qwen2"):
            if args.only in f"tiny {family}":
                with checks.case(f"tiny {family}"), scratch() as own:
                    check_family(checks, peers, logits, coppice, family, own)
        with checks.case("real model"):
            check_real(checks, peers, logits, coppice, args, directory)
            check_parts(checks, peers, logits, coppice, args, directory)
    checks.finish()


if __name__ == "__main__":
    main()
