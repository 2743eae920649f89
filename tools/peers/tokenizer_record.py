"""Records what the tokenizers package does with small tokenizers, one for each part.

    python tools/peers/tokenizer_record.py > tokenizer/testdata/recorded.jsonl

The Go tests load each tokenizer.json and compare ids and decoded text.
"""

import json

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
WORDS = ["he", "ll", "hell", "hello", "in", "ing", "▁h", "▁▁", "▁hello", "12", "Ġh", "Ġhello", "ab", "'s"]
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("i", "n"), ("in", "g"), ("▁", "h"), ("▁", "▁"),
          ("▁", "hello"), ("1", "2"), ("Ġ", "h"), ("Ġ", "hello"), ("a", "b"), ("'", "s")]
TEXTS = [
    "", " ", "  ", "hello", " hello", "hello hello", "  hello   hello  ", "helloing", "12123 4a5", "ab\n\n cab \r\n\tx",
    "it's HE'LL we'ſ", "naïve Ünï é e\u0301", "İstanbul ΑΣ ﬁ ½", "日本語 hello", "🦙 hello🦙🦙", "a.b,c!? ..hello--",
    "<s>hello</s> <s>", "x<tag> hello<tag>", "the end", "bend end ending end", "[mask] [mask]  a[mask]b", "▁hello ▁",
    "\u3000hello\u2003a\xa0b\x85c", "\x00\x1c\x7f", "hello<s>  hello", "XhelloX X hello", "aaaa ababab",
]


def bpe(extra=(), **kwargs):
    vocab = {}
    for t in ["<unk>", "<s>", "</s>", *ALPHABET, "▁", " ", "\n", *WORDS, *extra]:
        vocab.setdefault(t, len(vocab))
    return Tokenizer(models.BPE(vocab, MERGES, **kwargs))


def make():
    out = {}

    def add(name, tok=None, **parts):
        tok = tok or bpe(unk_token="<unk>")
        for k, v in parts.items():
            setattr(tok, k, v)
        out[name] = tok

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bl = decoders.ByteLevel()
    add("no pre-tokenizer, no decoder")
    add("no unk", bpe())
    add("fuse_unk", bpe(unk_token="<unk>", fuse_unk=True))
    add("byte level", pre_tokenizer=level, decoder=bl)
    add("byte level with prefix space", pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True), decoder=bl)
    add("byte level without regex", pre_tokenizer=bare, decoder=bl)
    add("ignore_merges", bpe(extra=["wholly", "▁x"], ignore_merges=True))
    add("digits", pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level]), decoder=bl)
    add("digits together", pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(False), level]), decoder=bl)
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            split = pre_tokenizers.Split(Regex(r"l|[ab](?=b)|\s"), behavior, invert)
            add(f"split {behavior} {invert}", pre_tokenizer=split)
    add("split by string", pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_next"))
    patterns = {
        "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
    for name, p in patterns.items():
        split = pre_tokenizers.Split(Regex(p), "isolated")
        add(name, pre_tokenizer=pre_tokenizers.Sequence([split, bare]), decoder=bl)
    add("whitespace", pre_tokenizer=pre_tokenizers.Whitespace())
    add("whitespace split", pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    for scheme in ["always", "first", "never"]:
        for split in [True, False]:
            add(f"metaspace {scheme} {split}", pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split),
                decoder=decoders.Metaspace(prepend_scheme=scheme, split=split))
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    sp = bpe(extra=fallback, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    sp.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    sp.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    add("sentencepiece", sp)
    few = bpe(extra=fallback[:200], unk_token="<unk>", byte_fallback=True)
    few.normalizer = normalizers.Replace(" ", "▁")
    add("some byte tokens", few)
    for n in [normalizers.NFC(), normalizers.NFD(), normalizers.NFKC(), normalizers.NFKD(), normalizers.Lowercase(), normalizers.Strip(),
              normalizers.Strip(left=False), normalizers.ByteLevel(), normalizers.Replace(Regex(r"l+(?=o)"), "L")]:
        add(f"normalizer {n!r}", normalizer=n)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for flag in [None, *flags]:
        tok = bpe(unk_token="<unk>")
        tok.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
        on = dict(flags, **({flag: True} if flag else {}))
        tok.add_special_tokens([AddedToken("<s>", special=True, **on), AddedToken("</s>", special=True, **on)])
        tok.add_tokens([AddedToken("<tag>", **on), AddedToken("end", **on), AddedToken("[mask]", **on), AddedToken("X", **on), AddedToken("ending", **on)])
        add(f"added tokens, {flag}", tok)
    template = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    add("template", post_processor=template)
    add("sequence of post-processors", post_processor=processors.Sequence([processors.ByteLevel(), template]))
    add("roberta", post_processor=processors.RobertaProcessing(("</s>", 2), ("<s>", 1)))
    return out


def main():
    cases = []
    base = bpe().get_vocab()
    for name, tok in make().items():
        encoded = [tok.encode(t).ids for t in TEXTS]
        file = json.loads(tok.to_str())
        vocab = file["model"].pop("vocab")
        del file["model"]["merges"]  # the same for all
        cases.append({
            "name": name,
            "tokenizer": file,
            "extra": [t for t in sorted(vocab, key=vocab.get) if t not in base],
            "ids": encoded,
            "decoded": [tok.decode(ids, skip_special_tokens=False) for ids in encoded],
            "skipped": [tok.decode(ids, skip_special_tokens=True) for ids in encoded],
        })
    head = {"tokenizers": tokenizers.__version__, "vocab": sorted(base, key=base.get), "merges": MERGES, "texts": TEXTS}
    lines = [json.dumps(x) for x in [head, *cases]]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
