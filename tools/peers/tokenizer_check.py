"""Compares the ids of Coppice's tokenizer with those of the tokenizers package.

Four tokenizers are built here, by this script alone, with the tokenizers package: of
the GGUF vocabularies of SmolLM2, GPT-2 and Llama 2, and of the published ranks, merges
and pattern of Llama 3. Coppice reads the same GGUF files (for Llama 3, the tokenizer.json
made here). Both encode every text file of the data, each whole, and a text that puts
every code point between letters, digits, spaces and symbols. Every id must be equal.
With --coppice also a directory made by `coppice import` is loaded with transformers.

The chat template of SmolLM2 and those that the Jinja library keeps for its own tests
(Llama 3.2, Qwen, Mistral, Gemma and others) are rendered by both.

    python tools/peers/tokenizer_check.py --shared DIR --work DIR [--coppice BIN]
"""

import argparse
import array
import base64
import gzip
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode, generate_merges

REPO = pathlib.Path(__file__).resolve().parents[2]
NOT_TEXT = {".gguf", ".bin", ".gz"}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def field(reader, key):
    return reader.fields[key].contents()


def add_specials(tok, reader):
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    special = [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k in (2, 3)]
    tok.add_special_tokens(special)
    return tok


def byte_level(path, digits):
    reader = gguf.GGUFReader(path)
    vocab = {t: i for i, t in enumerate(field(reader, "tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    tok = Tokenizer(models.BPE(vocab, merges))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), split]) if digits else split
    tok.decoder = decoders.ByteLevel()
    return add_specials(tok, reader)


def sentence_piece(path):
    reader = gguf.GGUFReader(path)
    tokens = field(reader, "tokenizer.ggml.tokens")
    vocab = {t: i for i, t in enumerate(tokens)}
    scores = dict(zip(tokens, field(reader, "tokenizer.ggml.scores")))
    tok = Tokenizer(models.BPE(vocab, generate_merges(vocab, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return add_specials(tok, reader)


def llama3(directory):
    alphabet = bytes_to_unicode()
    vocab = {}
    for line in (directory / "tokenizer.model").read_bytes().splitlines():
        text, rank = line.split()
        vocab["".join(alphabet[b] for b in base64.b64decode(text))] = int(rank)
    with gzip.open(directory / "merges.txt.gz", "rt", encoding="utf-8") as f:
        merges = [tuple(m.rstrip("\n").split(" ")) for m in f if not m.startswith("#version")]
    tok = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tok.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    return tok


def every_code_point():
    """Every assigned or reserved code point of the planes that have letters, in context."""
    points = [c for c in [*range(0x33480), *range(0xE0000, 0xE0200)] if not 0xD800 <= c < 0xE000]
    return "".join(f"a{c}b1{c}2 {c}x  {c} .{c}'{c}" for c in map(chr, points))


def ours(model, work, files):
    run = subprocess.run(
        ["go", "run", "./tools/peers/tokenize", str(model), str(work), *map(str, files)],
        cwd=REPO, check=True, capture_output=True, text=True,
    )
    size, seconds = run.stdout.split()
    ids = []
    for n in range(len(files)):
        a = array.array("i")
        a.frombytes((work / f"{n}.ids").read_bytes())
        ids.append(a.tolist())
    return ids, int(size) / float(seconds) / 1e6


def compare(name, tok, model, work, files):
    mine, my_speed = ours(model, work, files)
    total = wrong = size = 0
    seconds = 0.0
    for path, ids in zip(files, mine):
        raw = path.read_bytes()
        text = raw.decode("utf-8", errors="replace")
        start = time.perf_counter()
        want = tok.encode(text, add_special_tokens=False)
        seconds += time.perf_counter() - start
        want = want.ids
        size += len(raw)
        total += len(want)
        if ids != want:
            at = next((i for i, (a, b) in enumerate(zip(ids, want)) if a != b), min(len(ids), len(want)))
            bad = sum(a != b for a, b in zip(ids, want)) + abs(len(ids) - len(want))
            wrong += bad
            print(f"  {path}: {bad} ids differ, the first at {at}: {ids[at - 3 : at + 5]}, want {want[at - 3 : at + 5]}")
    speed = size / seconds / 1e6
    print(
        f"{name}: {len(files)} files, {size} bytes, {total} ids, {wrong} differ; "
        f"MB/s on one thread: {my_speed:.1f}, tokenizers {speed:.2f} ({my_speed / speed:.1f}x)",
        flush=True,
    )
    return wrong


def speed(name, tok, model, path):
    """Both on the lines of one file, on one thread, the best of five rounds."""
    run = subprocess.run(
        ["go", "run", "./tools/peers/tokenize", "-lines", str(model), str(path)], cwd=REPO, check=True, capture_output=True, text=True
    )
    size, mine = run.stdout.split()
    lines = path.read_bytes().decode("utf-8").split("\n")
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for line in lines:
            tok.encode(line, add_special_tokens=False)
        best = min(best, time.perf_counter() - start)
    mine, theirs = int(size) / float(mine) / 1e6, int(size) / best / 1e6
    print(f"{name}, line by line: MB/s {mine:.1f}, tokenizers {theirs:.2f} ({mine / theirs:.1f}x)", flush=True)


def imported(binary, smol, model, work, files):
    """The tokenizer of an imported directory, as transformers loads it."""
    out = work / "imported"
    subprocess.run([binary, "import", str(model), "-o", str(out), "--force"], check=True)
    auto = AutoTokenizer.from_pretrained(out)
    wrong = 0
    for path in files:
        text = path.read_bytes().decode("utf-8", errors="replace")
        wrong += auto.encode(text, add_special_tokens=False) != smol.encode(text, add_special_tokens=False).ids
    print(f"imported directory in transformers: {len(files)} files, {wrong} differ")
    return wrong


CHATS = [
    [("user", "Hello!")],
    [("system", "  Be brief. "), ("user", "What's <b>2</b> + 2?\n"), ("assistant", " 4 \n"), ("user", "\"Why\" & é 🦙?")],
    [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c\n\n")],
    [("assistant", "I begin.")],
]


def white_space():
    """One template of all rows of three parts whose white space Jinja may cut."""
    parts = ["a: ", "\n  b", " ", "\n\n", "{{ x }}", "{{- x }}", "{{ x -}}", "{% if x %}c{% endif %}", "{%- if x %} d {%- endif %}",
             "{%+ if x -%} e {% endif +%}", "{# k #}", "{#- k -#}", "{%- set y = 1 %}", "{% set y = 1 -%}", "{{ {'k': x}['k'] }}"]
    rows = ["".join(p) for n in (1, 2, 3) for p in itertools.product(parts, repeat=n)]
    return "{% set x = 'X\\\\' %}" + "|\n".join(rows) + "\n"


def chat(third_dir, smol, work):
    """The chat templates, as transformers renders them."""
    module = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/ardanlabs/jinja"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout.strip()
    templates = {p.stem: p.read_text() for p in sorted((pathlib.Path(module) / "testdata" / "templates").glob("*.jinja"))}
    templates["SmolLM2"] = field(gguf.GGUFReader(smol), "tokenizer.chat_template")
    templates["white space"] = white_space()
    dirs = []
    for name, text in templates.items():
        d = work / "chat" / name
        d.mkdir(parents=True, exist_ok=True)
        (d / "tokenizer.json").write_bytes((third_dir / "tokenizer.json").read_bytes())
        (d / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}'
        )
        (d / "chat_template.jinja").write_text(text)
        dirs.append(d)
    chats = [[{"role": r, "content": c} for r, c in chat] for chat in CHATS]
    run = subprocess.run(
        ["go", "run", "./tools/peers/chat", *map(str, dirs)], cwd=REPO, check=True, capture_output=True, text=True, input=json.dumps(chats)
    )
    mine = iter(json.loads(line) for line in run.stdout.splitlines())
    wrong = total = 0
    for name, d in zip(templates, dirs):
        tok = PreTrainedTokenizerFast.from_pretrained(d)
        for chat in chats:
            for generate in [False, True]:
                try:
                    want = tok.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate)
                except Exception:
                    want = None
                got = next(mine)
                total += 1
                if got != want:
                    wrong += 1
                    print(f"  chat template {name}, generate {generate}: {got!r}, want {want!r}")
    print(f"chat templates: {len(dirs)} templates, {total} prompts, {wrong} differ")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--coppice")
    args = parser.parse_args()
    data, work = args.shared.resolve() / "data", args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)

    files = sorted(p for p in data.rglob("*") if p.is_file() and p.suffix not in NOT_TEXT)
    points = work / "code_points.txt"
    points.write_text(every_code_point(), encoding="utf-8", newline="")
    llama3_dir = work / "llama3"
    llama3_dir.mkdir(exist_ok=True)

    smol_file = args.shared.resolve() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    vocabs = data / "tokenizers" / "gguf"
    smol = byte_level(smol_file, digits=True)
    third = llama3(data / "tokenizers" / "llama3")
    third.save(str(llama3_dir / "tokenizer.json"))
    print(f"tokenizers {tokenizers.__version__}")
    wrong = 0
    for name, tok, model in [
        ("SmolLM2", smol, smol_file),
        ("GPT-2", byte_level(vocabs / "ggml-vocab-gpt-2.gguf", digits=False), vocabs / "ggml-vocab-gpt-2.gguf"),
        ("Llama 2", sentence_piece(vocabs / "ggml-vocab-llama-spm.gguf"), vocabs / "ggml-vocab-llama-spm.gguf"),
        ("Llama 3", third, llama3_dir),
    ]:
        wrong += compare(name, tok, model, work, files)
        wrong += compare(name + ", code points", tok, model, work, [points])
        speed(name, tok, model, data / "wikitext2" / "wiki.test.raw")
    wrong += chat(llama3_dir, smol_file, work)
    if args.coppice:
        wrong += imported(args.coppice, smol, smol_file, work, [data / "wikitext2" / "wiki.test.raw", points])
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
