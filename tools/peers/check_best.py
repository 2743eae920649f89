"""Prunes the real model by what its neurons do on a text, refits it, and runs every
output in transformers.

  - --method best at 20, 40 and 60 %, at 60 % also with the exact width, in bf16 and
    f16, and with two steps on all layers together; and fluctuation with the bias refit, which adds biases to the MLPs;
  - one width in all layers, that of config.json; no missing or unexpected key;
  - log-probabilities and logits of Coppice's engine within 1e-4 of the largest;
  - `coppice verify` makes each output again from the statistics, or from what the steps made.

The statistics are of 8,192 tokens of the built-in text.
"""

from transformers import AutoTokenizer

from check_engine import PROMPTS, Logits, compare, run
from common import MODEL_FILE, Checks, Coppice, arguments, load, scratch, tensors

BEST = ("--method", "best")
CASES = {
    "best 20 %": (*BEST, "--ratio", 0.2),
    "best 40 %": (*BEST, "--ratio", 0.4),
    "best 60 %": (*BEST, "--ratio", 0.6),
    "best 60 % exact": (*BEST, "--ratio", 0.6, "--align", 1),
    "best 60 % bf16": (*BEST, "--ratio", 0.6, "--dtype", "bf16"),
    "best 60 %, 2 steps": (*BEST, "--ratio", 0.6, "--steps", 2, "--calib", "builtin", "--tokens", 8192),
    "best 60 % f16": (*BEST, "--ratio", 0.6, "--dtype", "f16"),
    "fluctuation and bias 60 %": ("--method", "fluctuation", "--refit", "bias", "--ratio", 0.6),
}


def check(checks, coppice, logits, name, flags, dense, stats, out):
    if "--steps" in flags:
        source = out.with_suffix(".weights")
        coppice("prune", dense, "-o", out, *flags, "--weights", source)
    else:
        source = stats
        coppice("prune", dense, "-o", out, *flags, "--stats", stats)
    coppice("verify", out, "--against", dense, "--stats", source)
    checks.that(f"{name}: verify", True)
    model, wrong = load(out)
    checks.that(f"{name}: keys", not wrong, wrong)
    widths = {tuple(t.shape) for key, t in tensors(out).items() if key.endswith("gate_proj.weight")}
    want = {(model.config.intermediate_size, model.config.hidden_size)}
    checks.that(f"{name}: one width", widths == want, f"{widths}, config.json says {want}" if widths != want else str(model.config.intermediate_size))
    tokenizer = AutoTokenizer.from_pretrained(out)
    sequences = [tokenizer(text)["input_ids"] for text in PROMPTS]
    compare(checks, name, logits(out, sequences, model.config.vocab_size), [run(model, ids) for ids in sequences])


def main():
    args = arguments(__doc__)
    checks, coppice = Checks(), Coppice(args.coppice)
    with scratch() as directory:
        logits = Logits(directory)
        dense, stats = directory / "dense", directory / "stats.safetensors"
        coppice("import", args.shared / "models" / MODEL_FILE, "-o", dense, "--dtype", "f32")
        coppice("calib", dense, "--tokens", 8192, "-o", stats)
        for i, (name, flags) in enumerate(CASES.items()):
            if args.only in name:
                with checks.case(name):
                    check(checks, coppice, logits, name, flags, dense, stats, directory / f"out{i}")
    checks.finish()


if __name__ == "__main__":
    main()
