"""Makes the texts of the tiny model out of the books of sources.tsv.

    corpus.py --mirror DIR --out DIR        books from git mirrors, DIR/owner+name[/repo[/.git]]
    corpus.py --out DIR                     books from raw.githubusercontent.com

Writes train.txt, one document (a chapter or a tale) after another, separated by a line of
<|endoftext|>; heldout.txt, parts of books that train.txt has nothing of; and calib.txt, a part
of train.txt. No run of 13 words is in both train.txt and heldout.txt: a paragraph of the
training text that shares one with a held-out book is left out, and the script fails if the
texts still share one.
"""

import argparse
import csv
import os
import re
import subprocess
import unicodedata
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SEPARATOR = "<|endoftext|>"
RUN = 13  # words: the length of a run that counts as the same text
HELDOUT_BYTES = 32_000  # about, as much of each held-out book
CALIB_BYTES = 160_000

# What is not the author's: the words of Project Gutenberg and of those who transcribed.
FOREIGN = re.compile(r"gutenberg|transcriber|proofread|produced by|internet archive|https?:|www\.|e-?text|copyright|\[illustration|illustrated by", re.I)

# Tales in which these occur are left out whole: a small model repeats what it has read.
SLURS = re.compile(r"\b(nigger|negro|negress|darky|pickaninny|jew\b|jews\b|gipsy|gypsy|gipsies|gypsies)", re.I)


def book(row, mirror):
    """The bytes of a row's file at its commit."""
    repo, commit, path = row["repository"], row["commit"], row["file"]
    if mirror is None:
        with urllib.request.urlopen(f"https://raw.githubusercontent.com/{repo}/{commit}/{path}", timeout=60) as r:
            return r.read()
    git = os.path.join(mirror, repo.replace("/", "+"))
    for sub in ("repo", ".git"):
        if os.path.isdir(os.path.join(git, sub)):
            git = os.path.join(git, sub)
    return subprocess.run(["git", "-C", git, "show", f"{commit}:{path}"], capture_output=True, check=True).stdout


def decode(b):
    try:
        s = b.decode("utf-8")
    except UnicodeDecodeError:
        s = b.decode("latin-1")
    return s.replace("\r", "").replace("\ufeff", "")


def body(s):
    """The lines between Project Gutenberg's marks."""
    start = re.search(r"^(\*\*\* ?START OF TH.*|.*\*END\*? ?THE SMALL PRINT.*)$", s, re.M)
    end = re.search(r"^(\*\*\* ?END OF TH.*|End of (the )?Project Gutenberg.*)$", s, re.M | re.I)
    if not start or not end:
        raise SystemExit("a book without Project Gutenberg's marks")
    return s[start.end() : end.start()]


def plain(p):
    """A paragraph on one line, in the characters of a typewriter."""
    p = re.sub(r"\[[^\]]*\]", "", p)  # notes and pictures
    p = p.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "--", 0xA0: " "})
    p = re.sub(r"_|~|\*|=", "", p)
    p = re.sub(r"\s*-{2,}\s*", " -- ", " ".join(p.split()))
    p = unicodedata.normalize("NFKD", p).encode("ascii", "ignore").decode()
    return p.strip()


def is_prose(raw, p):
    if len(p) < 20 or FOREIGN.search(p):
        return False
    if not re.match(r"""["'(]*[A-Z]""", p) or not re.search(r"""[.!?:;,'")-]$""", p):
        return False
    letters = [c for c in p if c.isalpha()]
    if not letters or sum(c.islower() for c in letters) < 0.8 * len(letters):
        return False
    lines = [l for l in raw.split("\n") if l.strip()]
    indented = sum(l.startswith("    ") for l in lines)
    if indented * 2 > len(lines):
        return False  # verse, tables
    return not (len(lines) > 2 and max(map(len, lines)) < 50)  # verse


def documents(s):
    """The tales or chapters: the runs of paragraphs between headings."""
    docs, now = [], []
    for raw in re.split(r"\n[ \t]*\n", body(s)):
        raw = raw.strip("\n")
        p = plain(raw)
        if is_prose(raw, p):
            now.append(p)
            continue
        heading = 3 < len(p) < 70 and "\n" not in raw and p[0].isupper() and not FOREIGN.search(p) and (p.upper() == p or p[-1].isalnum())
        if heading and now:
            docs.append(now)
            now = []
    docs.append(now)
    return [d for d in docs if sum(map(len, d)) >= 800 and not any(map(SLURS.search, d))]


def runs(p):
    w = re.findall(r"[a-z0-9]+", p.lower())
    return [" ".join(w[i : i + RUN]) for i in range(len(w) - RUN + 1)]


def write(path, docs, between):
    with open(path, "w") as f:
        f.write(between.join("\n\n".join(d) for d in docs) + "\n")
    print(f"{path}: {len(docs)} documents, {os.path.getsize(path):,} bytes")


def take(books, size):
    """About size bytes, as much of each book, from its middle; a document may be cut after a paragraph."""
    out = []
    for docs in books:
        room = size // len(books)
        for d in docs[len(docs) // 3 :]:
            part = []
            for p in d:
                if room <= 0:
                    break
                part.append(p)
                room -= len(p) + 2
            if part:
                out.append(part)
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--mirror")
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)

    train, held = [], []
    with open(os.path.join(HERE, "sources.tsv")) as f:
        for row in csv.DictReader(f, delimiter="\t"):
            docs = documents(decode(book(row, args.mirror)))
            print(f"{row['use']:8} {len(docs):4} documents {sum(len(p) for d in docs for p in d):9,} bytes  {row['title']}")
            {"train": train, "heldout": held}[row["use"]].append(docs)

    seen = {r for docs in held for d in docs for p in d for r in runs(p)}
    dropped = 0
    for docs in train:
        for i, d in enumerate(docs):
            docs[i] = [p for p in d if not seen.intersection(runs(p))]
            dropped += len(d) - len(docs[i])
    print(f"{dropped} paragraphs shared a run of {RUN} words with the held-out books")
    heldout = take(held, HELDOUT_BYTES)
    flat = [d for docs in train for d in docs if d]
    check = {r for d in heldout for r in runs(" ".join(d))}
    if any(check.intersection(runs(" ".join(d))) for d in flat):
        raise SystemExit("the held-out text shares a run with the training text")
    write(os.path.join(args.out, "train.txt"), flat, f"\n{SEPARATOR}\n")
    write(os.path.join(args.out, "heldout.txt"), heldout, "\n\n")
    write(os.path.join(args.out, "calib.txt"), take(train, CALIB_BYTES), "\n\n")


if __name__ == "__main__":
    main()
