"""Prunes a tiny random model of every family and compares it with the same
model masked in memory.

For each case transformers makes the model, `coppice prune --ratio 0.5 --method
maxabs` prunes it, and this script scores the neurons again in torch, by the
published formula, and zeroes the ones that should have gone. Then:
  - transformers loads the output with no missing or unexpected key;
  - every tensor of the output holds the bits of the kept rows and columns;
  - the logits equal those of the masked model to 1e-4, relative to the largest;
  - config.json differs in intermediate_size alone.
"""

import json

# Before the others: it sets the environment that they read.
from common import Checks, Coppice, arguments, differing, load, scratch, tensors

import torch

from families import LAYERS, VOCAB, WIDTH, cases, make

RATIO = 0.5
TOLERANCE = 1e-4


def halves(weights, layer):
    """The gate and up tensors (weight, and bias if any) of a layer, each of WIDTH
    rows and as views, so that zeroing a view zeroes the model's own weight."""
    prefix = f"model.layers.{layer}.mlp."
    fused = weights.get(prefix + "gate_up_proj.weight")
    if fused is not None:
        return [fused[:WIDTH]], [fused[WIDTH:]]
    found = lambda role: [
        weights[name] for kind in ("weight", "bias") if (name := f"{prefix}{role}.{kind}") in weights
    ]
    return found("gate_proj"), found("up_proj")


def kept(weights, layer):
    """The neurons that maxabs keeps, ascending; of equal scores the lower index stays."""
    gate, up = (half[0].float() for half in halves(weights, layer))
    reach = lambda w: w.max(dim=1).values + w.min(dim=1).values.abs()
    score = reach(gate) + reach(up)
    k = WIDTH - min(int(RATIO * WIDTH), WIDTH - 1)
    return torch.sort(score, descending=True, stable=True).indices[:k].sort().values


def cut(weights, keep):
    """The tensors that the pruned directory must hold."""
    out = dict(weights)
    for name, value in weights.items():
        if ".mlp." not in name:
            continue
        rows = keep[int(name.split(".")[2])]
        if "gate_up_proj" in name:
            out[name] = value[torch.cat([rows, rows + WIDTH])]
        elif "gate_proj" in name or "up_proj" in name:
            out[name] = value[rows]
        elif name.endswith("down_proj.weight"):
            out[name] = value[:, rows]
    return out


def mask(model, keep):
    """Zeroes the neurons that are not kept, in the model itself."""
    weights = model.state_dict()
    for layer, rows in enumerate(keep):
        gone = torch.ones(WIDTH, dtype=torch.bool)
        gone[rows] = False
        for half in halves(weights, layer):
            for view in half:
                view[gone] = 0
        weights[f"model.layers.{layer}.mlp.down_proj.weight"][:, gone] = 0


def config_difference(before, after):
    """The keys of two config.json files whose values differ."""
    a, b = (json.loads((d / "config.json").read_text()) for d in (before, after))
    return {key: (a.get(key), b.get(key)) for key in {*a, *b} if a.get(key) != b.get(key)}


def check(case, coppice, checks, directory):
    dense, pruned = directory / "dense", directory / "pruned"
    make(case, dense)
    coppice("prune", dense, "-o", pruned, "--ratio", RATIO, "--method", "maxabs")

    stored = tensors(dense)
    keep = [kept(stored, layer) for layer in range(LAYERS)]
    wrong = differing(tensors(pruned), cut(stored, keep))
    checks.that(f"{case.name}: tensors", not wrong, wrong)

    wrong = config_difference(dense, pruned)
    only = {"intermediate_size": (WIDTH, len(keep[0]))}
    checks.that(f"{case.name}: config.json", wrong == only, "" if wrong == only else f"differs in {wrong}")

    reference, wrong = load(dense)
    if wrong:
        raise RuntimeError(f"the made model does not load cleanly: {wrong}")
    model, wrong = load(pruned)
    checks.that(f"{case.name}: keys", not wrong, wrong)
    with torch.no_grad():
        mask(reference, keep)
        ids = torch.arange(2 * 24).reshape(2, 24) * 7 % VOCAB
        want, got = reference(ids).logits, model(ids).logits
    gap = ((want - got).abs().max() / want.abs().max()).item()
    checks.that(f"{case.name}: logits", gap <= TOLERANCE, f"largest difference {gap:.1e} of the largest logit")


def main():
    args = arguments(__doc__, needs_shared=False)
    checks, coppice = Checks(), Coppice(args.coppice)
    for case in cases():
        if args.only in case.name:
            with scratch() as directory, checks.case(case.name):
                check(case, coppice, checks, directory)
    checks.finish()


if __name__ == "__main__":
    main()
