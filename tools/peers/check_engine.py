"""Runs models in Coppice and in transformers, float32, and compares logits.

  - a tiny random model of every family and setting that record_families.py knows,
    written by transformers, some in 16 bits and in shards: log-probabilities of the
    whole vocabulary after every position, from scoring and from decoding with a cache,
    within 1e-4 of the largest; the greedy token equal, but where the two best logits are
    closer than 1e-4;
  - the real model and its pruning by 60 %: the same over sentences of text;
  - generate: 40 tokens, greedily, the same as transformers' greedy search.

Tiny models have no tokenizer, so tools/peers/logits runs them; generate is the binary's.
"""

import json
import os
import subprocess

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from common import MODEL_FILE, ROOT, Checks, Coppice, arguments, load, scratch
from record_families import BASE, CASES, LENGTH, weights

TOLERANCE = 1e-4
CLOSE = 1e-4  # best logits that are nearer than this may change places
PROMPTS = [
    "The capital of France is",
    "Once upon a time, a small coppice of hazel and ash stood at the edge of a village.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "The three primary colours are red,",
]


class Logits:
    """Runs tools/peers/logits."""

    def __init__(self, directory):
        self.binary = directory / "logits"
        subprocess.run(
            ["go", "build", "-o", str(self.binary), "./tools/peers/logits"],
            cwd=ROOT, check=True, env={**os.environ, "CGO_ENABLED": "0"},
        )  # fmt: skip

    def __call__(self, model, sequences, vocab):
        """Returns for each sequence the scored log-probabilities, the greedy tokens
        and the decoded logits, as float64 arrays [tokens, vocab]."""
        done = subprocess.run([str(self.binary), str(model)], input=json.dumps(sequences).encode(), capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(f"logits {model}: {done.stderr.decode()}")
        at, out = 0, []

        def take(kind, *shape):
            nonlocal at
            n = int(np.prod(shape))
            values = np.frombuffer(done.stdout, kind, n, at).reshape(shape)
            at += n * 4
            return values

        for ids in sequences:
            n = len(ids)
            scored, greedy, decoded = take("<f4", n, vocab), take("<i4", n), take("<f4", n, vocab)
            out.append((scored.astype(np.float64), greedy, decoded.astype(np.float64)))
        if at != len(done.stdout):
            raise RuntimeError(f"logits {model}: {len(done.stdout)} bytes, expected {at}")
        return out


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def gap(got, want):
    """The largest difference, relative to the largest value; NaN counts as infinite."""
    worst = np.abs(got - want).max() / np.abs(want).max()
    return worst if np.isfinite(worst) else np.inf


def compare(checks, name, answers, wanted, decoded_from=0):
    """Compares answers of Logits with logits of the peer; decoding from a position on."""
    for i, ((scored, greedy, decoded), want) in enumerate(zip(answers, wanted, strict=True)):
        label = name if len(wanted) == 1 else f"{name}, text {i}"
        probabilities = log_softmax(want)
        worst = gap(scored, probabilities)
        checks.that(f"{label}: scored log-probabilities", worst <= TOLERANCE, f"{worst:.1e} of the largest")
        worst = gap(decoded[decoded_from:], want[decoded_from:])
        checks.that(f"{label}: decoded logits", worst <= TOLERANCE, f"{worst:.1e} of the largest")
        best = want.argmax(axis=-1)
        short = np.take_along_axis(want, best[:, None], 1)[:, 0] - np.take_along_axis(want, np.maximum(greedy, 0)[:, None], 1)[:, 0]
        wrong = [int(p) for p in np.nonzero((greedy < 0) | (short > CLOSE))[0]]
        checks.that(f"{label}: greedy tokens", not wrong, f"differ at {wrong[:5]}" if wrong else "")


def run(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy().astype(np.float64)


def make(config, directory, dtype, shard):
    """A tiny model with record_families' weights, as transformers saves it."""
    (directory / "plain").mkdir()
    (directory / "plain" / "config.json").write_text(json.dumps(config))
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory / "plain"), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(weights(name, parameter.shape, config["model_type"].startswith("gemma")))
    made.to(dtype).save_pretrained(directory / "model", max_shard_size=shard)
    return directory / "model"


def check_family(checks, logits, name, extra, dtype=torch.float32, shard="5GB"):
    config = {**BASE, **extra}
    with scratch() as directory:
        saved = make(config, directory, dtype, shard)
        model, wrong = load(saved, attention="eager")
        if wrong:
            raise RuntimeError(f"the made model does not load cleanly: {wrong}")
        ids = [(5 * i * i + 11 * i + len(name)) % config["vocab_size"] for i in range(LENGTH)]
        wanted = run(model, ids)
        # Frequencies that depend on the length of the sequence make shorter ones differ.
        by_length = "dynamic" in name or "longrope" in name
        compare(checks, name, logits(saved, [ids], config["vocab_size"]), [wanted], LENGTH - 1 if by_length else 0)


def check_real(checks, logits, coppice, name, directory):
    """The real model, dense or pruned: logits of texts, and greedy generation."""
    model, wrong = load(directory)
    if wrong:
        raise RuntimeError(f"does not load cleanly: {wrong}")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    sequences = [tokenizer(text)["input_ids"] for text in PROMPTS]
    compare(checks, name, logits(directory, sequences, model.config.vocab_size), [run(model, ids) for ids in sequences])
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=40, eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
    )  # fmt: skip
    for text, ids in zip(PROMPTS, sequences):
        inputs = torch.tensor([ids])
        with torch.no_grad():
            want = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=greedy)[0, len(ids) :].tolist()
        got = json.loads(coppice("generate", directory, "--prompt", text, "--max-tokens", 40, "--json"))
        same = got["tokens"] == want
        checks.that(f"{name}: generate {text[:20]!r}", same, f"{len(want)} tokens" if same else f"{got['tokens']}, want {want}")


def main():
    args = arguments(__doc__)
    checks, coppice = Checks(), Coppice(args.coppice)
    with scratch() as directory:
        logits = Logits(directory)
        for name, extra in CASES.items():
            if args.only in name:
                with checks.case(name):
                    check_family(checks, logits, name, extra)
        for name in ("llama-biases", "gemma2", "phi3", "qwen3"):
            for dtype in (torch.bfloat16, torch.float16):
                label = f"{name} {str(dtype).removeprefix('torch.')} sharded"
                if args.only in label:
                    with checks.case(label):
                        check_family(checks, logits, label, CASES[name], dtype, "10KB")
        dense, pruned = directory / "dense", directory / "pruned"
        coppice("import", args.shared / "models" / MODEL_FILE, "-o", dense, "--dtype", "f32")
        coppice("prune", dense, "-o", pruned, "--ratio", "0.6", "--method", "maxabs")
        for name, path in (("real model", dense), ("real model pruned by 60 %", pruned)):
            if args.only in name:
                with checks.case(name):
                    check_real(checks, logits, coppice, name, path)
    checks.finish()


if __name__ == "__main__":
    main()
