"""Scores or decodes tokens with llama.cpp, through the C interface of llama-cpp-python.

  score: one llama_decode of all tokens with the logits of every position. The softmax
         is not in the time: llama.cpp leaves it to its caller.
  decode: the tokens one by one, with a cache, and the logits after each.

usage: llamacpp_run.py FILE.gguf score|decode --threads 2 --tokens 512
"""

import worker

args = worker.arguments(__doc__, "model", "job")

import llama_cpp as ll  # noqa: E402
import numpy as np  # noqa: E402

ids, n = worker.tokens(args.tokens), args.tokens
ll.llama_backend_init()
model_parameters = ll.llama_model_default_params()
model_parameters.n_gpu_layers = 0
model = ll.llama_model_load_from_file(args.model.encode(), model_parameters)
parameters = ll.llama_context_default_params()
parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = n, n, n
parameters.n_threads = parameters.n_threads_batch = args.threads
context = ll.llama_init_from_model(model, parameters)
if not model or not context:
    raise SystemExit(f"llama.cpp could not load {args.model}")
vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))


def batch_of(count):
    batch = ll.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i in range(count):
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
    return batch


def decode(batch):
    if ll.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")


def clear():
    ll.llama_memory_clear(ll.llama_get_memory(context), False)


whole, one = batch_of(n), batch_of(1)


def score():
    clear()
    for i in range(n):
        whole.token[i], whole.pos[i] = ids[i], i
    decode(whole)
    return np.ctypeslib.as_array(ll.llama_get_logits(context), (n, vocab))


def step():
    clear()
    for i in range(n):
        one.token[0], one.pos[0] = ids[i], i
        decode(one)
        logits = ll.llama_get_logits(context)
    return np.ctypeslib.as_array(logits, (1, vocab))


def scores(logits):
    """The sum of the log-probabilities of the next tokens; after the last, of token 0."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    if len(rows) == 1:
        return float(rows[0, 0])
    return float(rows[np.arange(n - 1), ids[1:]].sum())


worker.serve({"score": score, "decode": step}[args.job], scores)
