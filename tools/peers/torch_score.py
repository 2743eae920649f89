"""Scores tokens with transformers on torch: the log-probability of each next token,
from the logits of all positions. Its own choice of attention, no cache.

usage: torch_score.py DIR float32|bfloat16 --threads 2 --tokens 512
"""

import worker

args = worker.arguments(__doc__, "model", "dtype")

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

torch.set_num_threads(args.threads)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), local_files_only=True).eval()
ids = torch.tensor([worker.tokens(args.tokens)])


@torch.inference_mode()
def work():
    # As lm-eval does it: log-softmax in the type of the logits, then the tokens' values.
    logits = model(ids, use_cache=False).logits
    return torch.log_softmax(logits, dim=-1)[0, :-1].gather(-1, ids[0, 1:, None])


worker.serve(work, lambda scores: scores.double().sum().item())
