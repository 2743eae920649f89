"""Trains the tiny model of `coppice demo` on the texts that corpus.py makes.

    train.py --text DIR --out DIR [--minutes 55] [--tokens 16000000]

Writes DIR/hf: config.json, model.safetensors (bfloat16) and tokenizer.json, a Llama that
transformers and Coppice load. Run again on the same DIR it goes on from the last checkpoint.
The learning rate falls by steps or by the clock, whichever is further, so a run ends in its time.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SEPARATOR = "<|endoftext|>"
VOCAB, CONTEXT, BATCH = 2048, 256, 16
PEAK, FLOOR, WARMUP = 4e-3, 0.03, 60  # learning rate, the share of it that is left at the end, steps
CONFIG = dict(
    vocab_size=VOCAB, hidden_size=160, intermediate_size=448, num_hidden_layers=4,
    num_attention_heads=5, num_key_value_heads=1, head_dim=32, max_position_embeddings=CONTEXT,
    rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
)


def documents(path):
    with open(path) as f:
        return f.read().strip("\n").split(f"\n{SEPARATOR}\n")


def tokenizer(docs):
    """Byte-level BPE over the words of GPT-2's pattern, single digits (as SmolLM's)."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(docs, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[SEPARATOR], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def stream(t, docs):
    """The ids of all documents, each after the separator's id 0."""
    out = []
    for e in t.encode_batch(docs, add_special_tokens=False):
        out += [0] + e.ids
    return np.array(out, dtype=np.int16)


def batches(ids, seed):
    """Rows of CONTEXT ids for ever: each epoch cuts the stream at another offset, in another order."""
    rng = np.random.default_rng(seed)
    while True:
        cut = ids[rng.integers(CONTEXT) :]
        rows = cut[: len(cut) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
        order = rng.permutation(len(rows))
        for i in range(0, len(order) - BATCH + 1, BATCH):
            yield torch.from_numpy(rows[order[i : i + BATCH]].astype(np.int64))


def loss_of(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().reshape(-1, VOCAB), x[:, 1:].reshape(-1))


def evaluate(model, ids):
    rows = ids[: len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, torch.from_numpy(rows[i : i + BATCH].astype(np.int64))).item() for i in range(0, len(rows), BATCH)]
    model.train()
    return math.exp(sum(losses) / len(losses))


def sample(model, t, prompt, n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.tensor([[0] + t.encode(prompt, add_special_tokens=False).ids])
    model.eval()
    with torch.no_grad():
        for _ in range(n):
            p = torch.softmax(model(x[:, -CONTEXT:]).logits[0, -1].float() / 0.7, 0)
            x = torch.cat([x, torch.multinomial(p, 1, generator=g)[None]], 1)
    model.train()
    return t.decode(x[0].tolist())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--text", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=55, help="stop by then; the learning rate falls to its floor by then")
    ap.add_argument("--tokens", type=int, default=16_000_000, help="stop after these")
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    start = time.time()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    hf = os.path.join(args.out, "hf")
    os.makedirs(hf, exist_ok=True)

    docs = documents(os.path.join(args.text, "train.txt"))
    t = tokenizer(docs)
    ids = stream(t, docs)
    held = stream(t, documents(os.path.join(args.text, "heldout.txt")))
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            p.data /= math.sqrt(2 * CONFIG["num_hidden_layers"])
    # Matrices of the layers by Muon, which learns more from few steps; embeddings and norms by AdamW.
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    rest = [p for n, p in model.named_parameters() if p.dim() == 1 or "layers" not in n]
    opts = [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK, weight_decay=0.0, betas=(0.9, 0.95), foreach=True),
    ]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(ids):,} tokens a pass, {len(held):,} held out", flush=True)

    total = args.tokens // (BATCH * CONTEXT)
    step, spent = 0, 0.0
    checkpoint = os.path.join(args.out, "checkpoint.pt")
    if os.path.exists(checkpoint):
        c = torch.load(checkpoint)
        model.load_state_dict(c["model"])
        for opt, state in zip(opts, c["opts"]):
            opt.load_state_dict(state)
        step, spent = c["step"], c["spent"]
    feed = batches(ids, args.seed)
    for _ in range(step):
        next(feed)

    def save():
        torch.save({"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step, "spent": spent + time.time() - start}, checkpoint + ".part")
        os.replace(checkpoint + ".part", checkpoint)

    mean = 0.0
    while True:
        # Progress is the greater of what the steps and the clock say, so the rate always ends at the floor.
        done = max(step / total, (spent + time.time() - start) / (args.minutes * 60))
        if done >= 1:
            break
        lr = PEAK * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))) * min(1, (step + 1) / WARMUP)
        for opt in opts:
            opt.zero_grad()
            for g in opt.param_groups:
                g["lr"] = lr
        loss = loss_of(model, next(feed))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        step += 1
        mean = loss.item() if mean == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 20 == 0:
            print(f"step {step} of {total}, {100*done:.0f} % loss {mean:.3f} lr {lr:.1e} {time.time()-start:.0f} s", flush=True)
        if step % 200 == 0:
            save()
            print(f"held-out perplexity {evaluate(model, held):.2f}\n{sample(model, t, 'Once upon a time there was a little', 80, 1)}", flush=True)
    save()
    print(f"held-out perplexity {evaluate(model, held):.3f} after {step} steps, {step * BATCH * CONTEXT:,} tokens", flush=True)

    # As Llama 3's: a text begins with the separator.
    t.post_processor = processors.TemplateProcessing(single=f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, 0)])
    t.save(os.path.join(hf, "tokenizer.json"))
    model.to(torch.bfloat16).save_pretrained(hf)
    with open(os.path.join(hf, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SEPARATOR, "eos_token": SEPARATOR,
                   "add_bos_token": True, "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False}, f, indent=1)


if __name__ == "__main__":
    main()
