"""Does in torch what `coppice prune --method obs --refit least-squares --calib TEXT` does:
runs a model over text, adds up X'X of what each down_proj receives, orders the neurons by
optimal brain surgery, and refits the columns that stay.

  - sums: forward hooks, on rows of --ctx tokens, two rows at a time; products in float32,
    added up in --sums; the first token of each row apart, with at most half of the trace;
  - obs: greedy, with the inverse and the Gram matrix of down_proj updated in blocks of 64
    removals (the algorithm of score/obs.go), in --sums;
  - refit: W_K + W_P H_PK (H_KK + lI)^-1, by Cholesky, in --sums.

--compare DIR reads what Coppice made of the same model, text and ratio and compares the
squared errors of the layers' outputs under torch's H, and the neurons kept. Prints JSON:
the seconds of each part, without imports, loading and comparing.

usage: torch_calib.py MODEL TEXT.jsonl RATIO --threads 2 --tokens 65536
"""

import argparse
import json
import os
import pathlib
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("ratio", type=float)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--tokens", type=int, default=65536)
parser.add_argument("--ctx", type=int, default=512)
parser.add_argument("--damping", type=float, default=1e-3)
parser.add_argument("--refit-damping", type=float, default=1e-2)
parser.add_argument("--sums", default="float64", choices=["float32", "float64"])
parser.add_argument("--compare", type=pathlib.Path)
args = parser.parse_args()
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(args.threads)
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(args.threads)
KIND = getattr(torch, args.sums)
ROWS, BLOCK, CAP = 2, 64, 0.5


class Sums:
    """X'X of one layer, first tokens apart."""

    def __init__(self, width):
        self.body, self.first = torch.zeros(width, width, dtype=KIND), torch.zeros(width, width, dtype=KIND)
        self.tokens = [0, 0]

    def hook(self, _, inputs):
        x = inputs[0]
        for to, part, at in ((self.body, x[:, 1:], 0), (self.first, x[:, 0], 1)):
            part = part.reshape(-1, part.shape[-1])
            if at:
                part = part.to(KIND)  # few tokens with large values
            to += part.T @ part
            self.tokens[at] += len(part)

    def second(self):
        rest, first = self.body.trace(), self.first.trace()
        weight = min(1.0, float(CAP / (1 - CAP) * rest / first))
        return (self.body + weight * self.first) / (self.tokens[0] + weight * self.tokens[1])


def obs(h, w, l):
    """The neurons in the order of their removal."""
    a = torch.cholesky_inverse(torch.linalg.cholesky(h + l * torch.eye(len(h), dtype=KIND)))
    s = w.T @ w
    live, order = torch.arange(len(h)), []
    while len(live):
        m, steps = len(live), min(BLOCK, len(live))
        u, alphas, vs = (torch.zeros(m, steps, dtype=KIND) for _ in range(3))
        da, ds = a.diagonal().clone(), s.diagonal().clone()
        gone = torch.zeros(m, dtype=torch.bool)
        for t in range(steps):
            cost = (ds.clamp(min=0) / da).masked_fill(gone, torch.inf)
            p = int(cost.argmin())
            gone[p] = True
            ap = a[p] - u[:, :t] @ u[p, :t]
            sp = s[p] - vs[:, :t] @ alphas[p, :t] - alphas[:, :t] @ vs[p, :t]
            u[:, t] = ap / da[p].sqrt()
            alpha = ap / da[p]
            v = sp - alpha * (ds[p] / 2)
            alphas[:, t], vs[:, t] = alpha, v
            order.append(live[p])
            da = da - u[:, t] ** 2
            ds = ds - 2 * alpha * v
        stay = ~gone
        u, alphas, vs, live = u[stay], alphas[stay], vs[stay], live[stay]
        a = a[stay][:, stay] - u @ u.T
        s = s[stay][:, stay] - alphas @ vs.T - vs @ alphas.T
    return torch.stack(order)


def refit(h, w, keep, gone, l):
    factor = torch.linalg.cholesky(h[keep][:, keep] + l * torch.eye(len(keep), dtype=KIND))
    return w[:, keep] + torch.cholesky_solve((w[:, gone] @ h[gone][:, keep]).T, factor).T


def error(h, w, keep, refitted):
    """The mean of the squared change of the layer's output."""
    d = -w.double()
    d[:, keep] += refitted.double()
    return float(((d @ h.double()) * d).sum())


tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, local_files_only=True).eval()
layers = model.model.layers
ids = tokenizer(json.loads(pathlib.Path(args.text).read_text(encoding="utf-8"))["text"])["input_ids"][: args.tokens]
rows = torch.tensor(ids).view(-1, args.ctx)
seconds, clock = {}, time.perf_counter()


def lap(name):
    global clock
    now = time.perf_counter()
    seconds[name], clock = seconds.get(name, 0) + now - clock, now


sums = [Sums(layer.mlp.down_proj.in_features) for layer in layers]
hooks = [layer.mlp.down_proj.register_forward_pre_hook(s.hook) for layer, s in zip(layers, sums)]
with torch.inference_mode():
    for batch in rows.split(ROWS):
        model.model(batch, use_cache=False)
    lap("sums")
    made = []
    for layer, s in zip(layers, sums):
        h, w = s.second(), layer.mlp.down_proj.weight.to(KIND)
        mean = float(h.trace()) / len(h)
        order = obs(h, w, args.damping * mean)
        lap("obs")
        cut = min(int(args.ratio * len(h)), len(h) - 1)
        gone, keep = order[:cut].sort().values, order[cut:].sort().values
        made.append((h, w, keep, refit(h, w, keep, gone, args.refit_damping * mean)))
        lap("refit")
answer = {"seconds": seconds, "tokens": rows.numel(), "torch": torch.__version__}
if args.compare:
    from safetensors.torch import load_file

    state = {}
    for file in sorted(args.compare.glob("*.safetensors")):
        state.update(load_file(file))
    plan = json.loads((args.compare / "coppice_plan.json").read_text())["layers"]
    same = kept = ours = theirs = 0
    for i, (h, w, keep, refitted) in enumerate(made):
        mine = torch.tensor(plan[i]["keep"])
        same += len(set(mine.tolist()) & set(keep.tolist()))
        kept += len(keep)
        ours += error(h, w, mine, state[f"model.layers.{i}.mlp.down_proj.weight"]) / float((w.double() @ h.double() * w.double()).sum())
        theirs += error(h, w, keep, refitted) / float((w.double() @ h.double() * w.double()).sum())
    answer |= {"same_neurons": same / kept, "error_coppice": ours / len(made), "error_torch": theirs / len(made)}
print(json.dumps(answer))
