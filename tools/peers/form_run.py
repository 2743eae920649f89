"""Does with a checkpoint what people do with one in transformers, and says what came of it:
loads it, computes logits, generates, makes a new model of its config, trains a few steps,
saves it and loads it again. check_forms.py starts it in the environment of each version of
transformers; it needs nothing but transformers and torch.

usage: form_run.py < request.json > answer.json

The request: "model" (a directory), "remote" (whether to trust its code), "sequences"
(lists of ids), "text" (that of the first, where there is a tokenizer), "new_tokens", "steps", and "out" (a directory to write to: logits.npy, all
sequences one below the other, and the model in saved/).
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: E402

transformers.utils.logging.disable_progress_bar()
NEW = int(transformers.__version__.split(".")[0]) >= 5


def load(directory, remote, dtype=torch.float32):
    """The model, and what did not fit."""
    kind = {"dtype" if NEW else "torch_dtype": dtype}
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=remote, output_loading_info=True, local_files_only=True, **kind
    )
    wrong = {k: sorted(map(str, info[k]))[:4] for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs") if info[k]}
    return model.eval(), wrong


@torch.no_grad()
def logits(model, sequences):
    return np.concatenate([model(torch.tensor([ids]), use_cache=False).logits[0].numpy() for ids in sequences])


@torch.no_grad()
def generate(model, ids, n):
    greedy = GenerationConfig(do_sample=False, max_new_tokens=n, eos_token_id=model.config.eos_token_id, pad_token_id=0)
    inputs = torch.tensor([ids])
    return model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=greedy)[0, len(ids) :].tolist()


@torch.no_grad()
def halves(directory, remote, ids, exact):
    """For both 16-bit types: the types of the parameters, and how far the logits are from
    those in float32, as a share of the largest."""
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        model, _ = load(directory, remote, dtype)
        gap = np.abs(model(torch.tensor([ids])).logits[0].float().numpy() - exact).max() / np.abs(exact).max()
        found[str(dtype)] = [sorted({str(p.dtype) for p in model.parameters()}), float(gap)]
    return found


def train(model, sequences, steps):
    """Losses before each step, and after the last; parameters without a finite gradient."""
    n = min(map(len, sequences))
    ids = torch.tensor([s[:n] for s in sequences])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    losses, still = [], []
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        still = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        optimizer.step()
    with torch.no_grad():
        losses.append(model(input_ids=ids, labels=ids).loss.item())
    return losses, still


def spread(config, remote):
    """Standard deviations of a new model's MLP matrices, the least and the most, as
    multiples of initializer_range: weights that nobody initialised would stand out."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
    stds = [p.std().item() / config.initializer_range for k, p in model.named_parameters() if ".mlp." in k and p.dim() == 2]
    return [min(stds), max(stds)]


def main():
    request = json.load(sys.stdin)
    directory, remote, sequences = request["model"], request["remote"], request["sequences"]
    out = pathlib.Path(request["out"])
    torch.set_num_threads(1)
    model, wrong = load(directory, remote)
    answer = {
        "version": transformers.__version__, "class": type(model).__name__, "wrong": wrong,
        "widths": [getattr(getattr(layer.mlp, "down_proj", None), "in_features", 0) for layer in model.model.layers],
        "parameters": sum(p.numel() for p in model.parameters()),
        "generated": generate(model, sequences[0], request["new_tokens"]),
    }  # fmt: skip
    if (pathlib.Path(directory) / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=remote)
        inputs = tokenizer(request["text"], return_tensors="pt")
        made = model.generate(**inputs, do_sample=False, max_new_tokens=request["new_tokens"])
        answer["by_tokenizer"] = made[0, inputs["input_ids"].shape[1] :].tolist()
    before = logits(model, sequences)
    np.save(out / "logits.npy", before)

    answer["halves"] = halves(directory, remote, sequences[0], before[: len(sequences[0])])
    model.save_pretrained(out / "saved")
    again, wrong = load(out / "saved", remote)
    answer["saved"] = {
        "wrong": wrong,
        "differing": [k for k, p in model.state_dict().items() if not torch.equal(p, again.state_dict()[k])],
        "logits": float(np.abs(logits(again, sequences) - before).max()),
        "files": sorted(p.name for p in (out / "saved").iterdir()),
    }
    del again
    config = AutoConfig.from_pretrained(directory, trust_remote_code=remote)
    answer["spread"] = spread(config, remote)
    answer["losses"], answer["still"] = train(model.train(), sequences, request["steps"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
