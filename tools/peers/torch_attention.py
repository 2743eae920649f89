"""Causal attention by torch's scaled_dot_product_attention, on the benchmark's numbers.
Keys and values shared by several query heads are either expanded beforehand, outside
the time, or left to the function (enable_gqa), whichever is faster here.

usage: torch_attention.py HEADS KV_HEADS DIM float32|bfloat16 --threads 2 --tokens 4096
"""

import time

import worker

args = worker.arguments(__doc__, "heads", "kv_heads", "dim", "dtype")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

torch.set_num_threads(args.threads)
heads, kv_heads, dim, n = int(args.heads), int(args.kv_heads), int(args.dim), args.tokens


def numbers(heads, first):
    """[1, heads, tokens, dim], laid out token by token as the benchmark makes them."""
    i = np.arange(n * heads * dim, dtype=np.uint32) + np.uint32(first)
    values = (i * np.uint32(2654435761) >> np.uint32(8)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    tensor = torch.from_numpy(values.reshape(n, heads, dim)).transpose(0, 1)[None]
    return tensor.contiguous().to(getattr(torch, args.dtype))


q, k, v = numbers(heads, 0), numbers(kv_heads, 1_000_000_007), numbers(kv_heads, 2_000_000_011)
wide_k, wide_v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))


@torch.inference_mode()
def expanded():
    return scaled_dot_product_attention(q, wide_k, wide_v, is_causal=True)


@torch.inference_mode()
def shared():
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def seconds(work):
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


work = min((expanded, shared), key=seconds)
worker.serve(work, lambda out: out.double().abs().mean().item(), variant=work.__name__)
