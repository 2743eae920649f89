"""Exports models and asks llama.cpp and the gguf package what is in the files.

  - keys: the gguf package reads every key, and those that matter hold what config says;
  - ids: llama.cpp tokenises text as transformers does;
  - F32: logits within 1e-3 of our engine's (of the largest), and perplexity over 4,096
    tokens of text within 1e-3, of the real model dense, pruned by 60 %, with a width a
    layer (architecture deci), with a layer dropped, and with attention, an MLP and heads
    dropped, those of layer 0 among them;
  - every other type: our perplexity for the file within 0.5 % of llama.cpp's, dense and of
    a model that is pruned by 30 % to a width a layer; where activations are rounded, over
    8,192 tokens;
  - types: each tensor has the type that llama.cpp's quantiser gives it;
  - blocks: Q8_0 to Q5_1 the bytes of the gguf package, K types at most 1.02x the squared
    error of llama.cpp's own quantiser;
  - back: import(export(x)) is x in F32, F16 and BF16, tokenizer ids included;
  - split files load; a tiny model of every family that export covers gives our logits.

--only takes words of one case: the part (keys, ids, f32, blocks, types, back, split, family
or perplexity), then a type, a model or a family, as in --only "perplexity q8_0 speaking".
"""

# Before the others: it sets the environment that they read.
from common import ROOT, MODEL_FILE, Checks, Coppice, arguments, differing, scratch, tensors

import json
import os
import shutil
import subprocess

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

from check_engine import Logits, gap
from llamacpp import FILE_TYPES, loaded, quantise_file, quantise_rows

TEXTS = ["The capital of France is Paris.", "  a\n\n b\tc ", "caf\u00e9 \u4f60\u597d \U0001f642", "it's 12,345.67 we'll THE'RE",
         "<|im_start|>user\nHi<|im_end|>\n"]  # fmt: skip
WINDOW, WINDOWS = 512, 8
# A difference in the last bit of an activation can change what it is rounded to, and from
# there all that follows. What two programs so differ by is noise in the main: at 4,096 tokens
# it has a standard error of up to 0.27 % of the perplexity, at these many of 0.18 %.
ROUNDED_WINDOWS = 16


class Models:
    """The models that are checked, made when they are first asked for."""

    def __init__(self, args, coppice, directory):
        self.coppice, self.directory = coppice, directory
        self.file = args.shared / "models" / MODEL_FILE

    def __call__(self, name):
        path = self.directory / name
        if not path.exists():
            getattr(self, "make_" + name)(path)
        return path

    def make_dense(self, path):
        self.coppice("import", self.file, "-o", path, "--dtype", "f32")

    def make_uniform(self, path):
        self.coppice("prune", self("dense"), "-o", path, "--ratio", "0.6", "--dtype", "f32")

    def make_dropped(self, path):
        self.coppice("prune", self("dense"), "-o", path, "--ratio", "0.2", "--align", "256", "--drop-layers", "17", "--dtype", "f32")

    def make_parts(self, path):
        parts = ["--drop-attention", "0,7,29", "--drop-mlp", "20", "--drop-heads", "3:0,11:1,11:2"]
        self.coppice("prune", self("dense"), "-o", path, "--ratio", "0.2", "--align", "256", *parts, "--dtype", "f32")

    def make_layers(self, path):
        """A width a layer, from 256 to all 1536."""
        widths = ",".join(str(256 * (1 + layer % 6)) for layer in range(30))
        self.coppice("prune", self("dense"), "-o", path, "--widths", widths, "--form", "transformers", "--dtype", "f32")

    def make_speaking(self, path):
        """A width a layer, in a model that still speaks: one that does not magnifies rounding."""
        self.coppice("prune", self("dense"), "-o", path, "--ratio", "0.3", "--align", "256", "--method", "best", "--tokens", "8192",
                     "--allocation", "global", "--form", "transformers", "--dtype", "f32")  # fmt: skip

    def make_random(self, path):
        """Weights with heavy tails and rows that K types divide; the tokenizer is the real model's."""
        config = transformers.LlamaConfig(
            vocab_size=49152, hidden_size=512, intermediate_size=1280, num_hidden_layers=9, num_attention_heads=8,
            num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)  # fmt: skip
        self.random_weights(config, path, lambda shape: torch.distributions.StudentT(4.0).sample(shape) * 0.02)

    def random_weights(self, config, path, draw):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(1 + 0.1 * draw(value.shape) if "norm" in name and "gemma" not in config.model_type else draw(value.shape))
        model.save_pretrained(path)
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(self("dense") / file, path)


class Likelihood:
    """Perplexities per token of one text, by our engine and by llama.cpp."""

    def __init__(self, args, logits, models):
        text = (args.shared / "data" / "wikitext2" / "wiki.test.raw").read_text()[:120000]
        tokenizer = transformers.AutoTokenizer.from_pretrained(models("dense"))
        ids = tokenizer(text)["input_ids"][: WINDOW * ROUNDED_WINDOWS]
        self.windows = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
        if len(ids) != WINDOW * ROUNDED_WINDOWS:
            raise RuntimeError(f"the text has {len(ids)} tokens")
        self.logits, self.threads = logits, args.threads

    def perplexity(self, sums):
        return float(np.exp(-sum(sums) / (len(sums) * (WINDOW - 1))))

    def ours(self, model, dtype, windows):
        command = [self.logits.binary, "-sum", "-dtype", dtype, "-threads", str(self.threads), str(model)]
        done = subprocess.run(command, input=json.dumps(windows), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"logits {model}: {done.stderr}")
        return self.perplexity(json.loads(done.stdout))

    def theirs(self, file, windows):
        with loaded(file, self.threads, WINDOW) as model:
            return self.perplexity([model.likelihood(ids) for ids in windows])

    def compare(self, checks, name, file, tolerance, model=None, dtype="f32"):
        """model is what the file was made of, where our engine should run that."""
        windows = self.windows[: ROUNDED_WINDOWS if dtype == "stored" else WINDOWS]
        a, b = self.ours(model or file, dtype, windows), self.theirs(file, windows)
        checks.that(f"{name}: perplexity", abs(a / b - 1) <= tolerance, f"ours {a:.4f}, llama.cpp's {b:.4f}, {abs(a / b - 1):.1e} apart, at most {tolerance:g}")


def wanted(only, name):
    """Whether every word of --only is one of the case's name."""
    return set(only.split()) <= set(name.split())


def export(coppice, model, file, kind, *more):
    coppice("export", model, "-o", file, "--type", kind, "--force", *more)
    return file


def check_keys(checks, coppice, models, directory):
    file = export(coppice, models("layers"), directory / "keys.gguf", "q8_0")
    got = {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}
    config = json.loads((models("layers") / "config.json").read_text())
    want = {
        "general.architecture": "deci", "general.file_type": 7, "deci.block_count": config["num_hidden_layers"],
        "deci.feed_forward_length": [256 * (1 + i % 6) for i in range(30)],
        "deci.attention.head_count": [config["num_attention_heads"]] * 30, "deci.attention.head_count_kv": [config["num_key_value_heads"]] * 30,
        "deci.context_length": config["max_position_embeddings"], "deci.embedding_length": config["hidden_size"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.eos_token_id": 2,
        "general.size_label": gguf.utility.model_weight_count_rounded_notation(sum(t.n_elements for t in gguf.GGUFReader(file).tensors)),
    }  # fmt: skip
    wrong = {key: (got.get(key), value) for key, value in want.items() if got.get(key) != value}
    checks.that(f"keys: {len(got)} read by the gguf package", not wrong, wrong or "")
    template = transformers.AutoTokenizer.from_pretrained(models("dense")).chat_template
    checks.that("keys: chat template", got.get("tokenizer.chat_template") == template)


def check_ids(checks, coppice, models, directory, threads):
    file = export(coppice, models("dense"), directory / "ids.gguf", "q8_0")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models("dense"))
    with loaded(file, threads) as model:
        for text in TEXTS:
            a, b = model.tokens(text, special=True), tokenizer(text)["input_ids"]
            checks.that(f"ids of {text!r}", a == b, "" if a == b else f"{a}, want {b}")


def check_f32(checks, coppice, models, directory, likelihood, logits, threads, only):
    for name in filter(lambda name: wanted(only, f"f32 {name}"), ("dense", "uniform", "layers", "dropped", "parts")):
        with checks.case(f"f32 {name}"):
            file = export(coppice, models(name), directory / "f32.gguf", "f32")
            ids = likelihood.windows[0][:64]
            with loaded(file, threads) as model:
                theirs = model.logits(ids)
            (_, _, ours), = logits(models(name), [ids], theirs.shape[1])
            worst = gap(ours, theirs)
            checks.that(f"f32 {name}: logits", worst < 1e-3, f"largest difference {worst:.1e} of the largest, {np.abs(ours - theirs).max():.1e} in all")
            likelihood.compare(checks, f"f32 {name}", file, 1e-3, models(name))
            file.unlink()


def check_types(checks, coppice, models, directory, likelihood, only):
    for name, kinds in (("dense", [k for k in FILE_TYPES if k != "f32"]), ("speaking", ["f16", "q8_0", "q4_0", "q4_k_m", "q6_k"])):
        for kind in kinds:
            if not wanted(only, f"perplexity {kind} {name}"):
                continue
            with checks.case(f"{kind} {name}"):
                file = export(coppice, models(name), directory / "kind.gguf", kind)
                # In products with blocks llama.cpp rounds activations to eight bits, and so does "stored".
                likelihood.compare(checks, f"{kind} {name}", file, 5e-3, dtype="f32" if kind in ("f16", "bf16") else "stored")
                file.unlink()


def check_mixes(checks, coppice, models, directory, threads, only):
    """The type of each tensor, as llama.cpp's quantiser chooses it."""
    for name in ("dense", "random", "layers"):
        if not any(wanted(only, f"types {kind} {name}") for kind in FILE_TYPES):
            continue
        whole = export(coppice, models(name), directory / "whole.gguf", "f32")
        for kind in FILE_TYPES:
            if kind == "f32" or not wanted(only, f"types {kind} {name}"):
                continue
            with checks.case(f"types {kind} {name}"):
                ours, theirs = export(coppice, models(name), directory / "ours.gguf", kind), directory / "theirs.gguf"
                quantise_file(whole, theirs, kind, threads)
                a = {t.name: t.tensor_type.name for t in gguf.GGUFReader(ours).tensors}
                b = {t.name: t.tensor_type.name for t in gguf.GGUFReader(theirs).tensors}
                wrong = {n: (a.get(n), b.get(n)) for n in a.keys() | b.keys() if a.get(n) != b.get(n)}
                checks.that(f"types {kind} {name}", not wrong, dict(list(wrong.items())[:3]) if wrong else f"{len(a)} tensors, {ours.stat().st_size} and {theirs.stat().st_size} bytes")


def check_blocks(checks, coppice, models, directory):
    whole = {t.name: t.data for t in gguf.GGUFReader(export(coppice, models("random"), directory / "whole.gguf", "f32")).tensors}
    for kind in (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K):
        mix = kind.name.lower() + ("_s" if kind in (Type.Q4_K, Type.Q5_K) else "")
        made = gguf.GGUFReader(export(coppice, models("random"), directory / "blocks.gguf", mix)).tensors
        bad, worst, n = [], 0.0, 0
        for t in made:
            if t.tensor_type != kind:
                continue
            n += 1
            x = np.asarray(whole[t.name])
            if kind.name.endswith("K"):
                theirs = dequantize(quantise_rows(x, kind, t.data.nbytes).reshape(t.data.shape), kind).astype(np.float64)
                ours = dequantize(t.data, kind).astype(np.float64)
                ratio = ((ours - x) ** 2).sum() / ((theirs - x) ** 2).sum()
                worst = max(worst, ratio)
                if ratio > 1.02:
                    bad.append(f"{t.name} {ratio:.3f}")
            elif not np.array_equal(t.data, quantize(x, kind)):
                bad.append(t.name)
        detail = "; ".join(bad[:4]) or (f"at most {worst:.4f} of llama.cpp's squared error, {n} tensors" if worst else f"{n} tensors equal")
        checks.that(f"blocks {kind.name}", not bad and n > 0, detail)


def check_back(checks, coppice, models, directory):
    for name in ("dense", "uniform", "dropped"):
        for kind in ("f32", "f16", "bf16"):
            with checks.case(f"back {kind} {name}"):
                shutil.rmtree(directory / "x", ignore_errors=True)
                coppice("prune", models(name), "-o", directory / "x", "--width", "1280", "--dtype", kind) if name == "dense" else coppice(
                    "import", export(coppice, models(name), directory / "x.gguf", kind), "-o", directory / "x", "--dtype", kind)
                back = directory / "back"
                shutil.rmtree(back, ignore_errors=True)
                coppice("import", export(coppice, directory / "x", directory / "x.gguf", kind), "-o", back, "--dtype", kind)
                wrong = differing(tensors(back), tensors(directory / "x"))
                checks.that(f"back {kind} {name}: tensors", not wrong, wrong)
                a, b = json.loads((back / "config.json").read_text()), json.loads((directory / "x" / "config.json").read_text())
                checks.that(f"back {kind} {name}: config", a == b, "" if a == b else {k: (a.get(k), b.get(k)) for k in a.keys() | b.keys() if a.get(k) != b.get(k)})
                ours, theirs = (transformers.AutoTokenizer.from_pretrained(d) for d in (back, directory / "x"))
                same = all(ours(t)["input_ids"] == theirs(t)["input_ids"] for t in TEXTS)
                same &= [ours.bos_token_id, ours.eos_token_id, ours.pad_token_id, ours.unk_token_id] == [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id]
                checks.that(f"back {kind} {name}: tokenizer", same)


def check_split(checks, coppice, models, directory, threads):
    whole = export(coppice, models("dense"), directory / "whole.gguf", "q8_0")
    export(coppice, models("dense"), directory / "part.gguf", "q8_0", "--split-max-size", "40MB")
    parts = sorted(directory.glob("part-*-of-*.gguf"))
    ids = list(range(100, 140))
    with loaded(whole, threads) as a, loaded(parts[0], threads) as b:
        checks.that(f"split in {len(parts)}", len(parts) > 2 and np.array_equal(a.logits(ids), b.logits(ids)))


FAMILIES = {
    "llama": dict(attention_bias=True, mlp_bias=True, head_dim=32),
    "llama rope": dict(rope_theta=500000.0, rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)),
    "llama linear": dict(rope_scaling=dict(rope_type="linear", factor=4.0)),
    "mistral": dict(sliding_window=None, head_dim=16),
    "qwen2": dict(),
    "qwen3": dict(head_dim=32),
    "gemma2": dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=16, num_hidden_layers=4),
    "gemma3_text": dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=16, num_hidden_layers=7),
    "phi3": dict(num_key_value_heads=4, sliding_window=None, pad_token_id=2),
}


def check_families(checks, coppice, models, directory, logits, threads, only):
    for name, more in FAMILIES.items():
        if not wanted(only, f"family {name}"):
            continue
        with checks.case(f"family {name}"):
            keys = dict(
                vocab_size=49152, hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=8,
                num_key_value_heads=2, max_position_embeddings=16384, bos_token_id=1, eos_token_id=2)  # fmt: skip
            config = transformers.AutoConfig.for_model(name.split()[0], **{**keys, **more})
            # Not by the family: llama.cpp asks a model named phi3 for phi3's tokens.
            path = directory / f"tiny-{len(list(directory.glob('tiny-*')))}"
            models.random_weights(config, path, lambda shape: torch.randn(shape) * 0.08)
            ids = [i * 37 % 10007 for i in range(64)]
            file = export(coppice, path, directory / "family.gguf", "f32")
            with loaded(file, threads) as model:
                theirs = model.logits(ids)
            (_, _, ours), = logits(path, [ids], theirs.shape[1])
            checks.that(f"family {name}: logits", gap(ours, theirs) < 1e-3, f"largest difference {gap(ours, theirs):.1e} of the largest")
            back = directory / "back"
            shutil.rmtree(back, ignore_errors=True)
            coppice("import", file, "-o", back, "--dtype", "f32")
            wrong = differing(tensors(back), tensors(path)) if "gemma" not in name else ""
            checks.that(f"family {name}: back", not wrong, wrong)
            (_, _, again), = logits(back, [ids], theirs.shape[1])
            checks.that(f"family {name}: logits of what comes back", gap(again, ours) < 1e-5, f"{gap(again, ours):.1e}")


def main():
    args = arguments(__doc__)
    checks, coppice = Checks(), Coppice(args.coppice)
    with scratch() as directory:
        models, logits = Models(args, coppice, directory), Logits(directory)
        likelihood = Likelihood(args, logits, models)
        for name, check, more in (
            ("keys", check_keys, ()),
            ("ids", check_ids, (args.threads,)),
            ("f32", check_f32, (likelihood, logits, args.threads, args.only)),
            ("blocks", check_blocks, ()),
            ("types", check_mixes, (args.threads, args.only)),
            ("back", check_back, ()),
            ("split", check_split, (args.threads,)),
            ("family", check_families, (logits, args.threads, args.only)),
            ("perplexity", check_types, (likelihood, args.only)),
        ):
            if not args.only or name == args.only.split()[0]:
                with checks.case(name):
                    check(checks, coppice, models, directory, *more)
    checks.finish()


if __name__ == "__main__":
    main()
