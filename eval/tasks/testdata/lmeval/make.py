"""Records the texts that lm-eval 0.4.13 makes of random records.

Needs lm-eval 0.4.13 and its data-set library; writes beside itself, with a fixed seed:

    python make.py

TASK.jsonl and TASK.parquet hold the records in the data-set library's schema, expected.json
for each record the context and continuation of every choice and the right one; of wikitext
the detokenised page, and words and bytes.
"""

import importlib.util
import json
import os
import random

import datasets
import lm_eval
from lm_eval.utils import apply_template

HERE = os.path.dirname(os.path.abspath(__file__))
RECORDS = 24
PIECES = [
    "a", "b", "C", "É", "ß", " ", "  ", "\n", " . ", " , ", " = = ", " [title] ", "[x]", "(", "  ( a )", " ) ",
    "{ b }", '"', "'", " 's", "s '", " @-@ ", " @,@ ", " @.@ ", "\u00a0", "\u2003", "\x1f", "\u0085", " N ", " ° ",
    "_", "日本", " ; ", " : ", " ! ", " ? ", "/' 5/", "= = = =", "]",
]  # fmt: skip

rng = random.Random(2026)
records, expected = {}, {}


def module(path):
    """A Python file of lm-eval's tasks."""
    full = os.path.join(os.path.dirname(lm_eval.__file__), "tasks", path)
    spec = importlib.util.spec_from_file_location("task", full)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def text(most):
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, most)))


def add(task, record, pairs, gold):
    records.setdefault(task, []).append(record)
    expected.setdefault(task, []).append({"pairs": pairs, "gold": gold})


def template(task, record, source, choices, gold):
    context = apply_template(source, record)
    add(task, record, [[context, " " + c] for c in choices], gold)


class One:
    """A data set of one record, as far as lm-eval's functions look."""

    def __init__(self, record):
        self.record = record

    def map(self, function):
        return function(self.record)


hellaswag = module("hellaswag/utils.py")
winogrande = module("winogrande/preprocess_winogrande.py")
musr = module("leaderboard/musr/utils.py")
wikitext = module("wikitext/preprocess_wikitext.py")

for _ in range(RECORDS):
    choices = [text(6) + str(k) for k in range(rng.randint(3, 5))]
    labels = list(rng.choice(["ABCDE", "12345"]))[: len(choices)]
    gold = rng.randrange(len(choices))
    lists = {"text": choices, "label": labels}

    r = {"id": "x", "question": text(12), "choices": lists, "answerKey": labels[gold]}
    template("arc_easy", r, "Question: {{question}}\nAnswer:", choices, gold)
    r = {"id": "x", "question_stem": text(12), "choices": lists, "answerKey": " " + labels[gold]}
    template("openbookqa", r, "{{question_stem}}", choices, gold)
    r = {"question": text(9), "passage": text(30), "label": rng.randrange(2)}
    template("boolq", r, "{{passage}}\nQuestion: {{question}}?\nAnswer:", ["no", "yes"], r["label"])
    r = {"goal": text(9), "sol1": text(9), "sol2": text(9), "label": rng.randrange(2)}
    template("piqa", r, "Question: {{goal}}\nAnswer:", [r["sol1"], r["sol2"]], r["label"])

    r = {"text": text(20)}
    context = apply_template("{{text.split(' ')[:-1]|join(' ')}}", r)
    add("lambada_openai", r, [[context, apply_template("{{' '+text.split(' ')[-1]}}", r)]], 0)

    r = {"narrative": text(20), "question": text(9), "choices": str(choices), "answer_choice": choices[gold]}
    context = musr.doc_to_text(r)
    add("musr_team_allocation", r, [[context, " " + c] for c in musr.doc_to_choice(r)], gold)

    r = {"activity_label": text(5), "ctx_a": text(9), "ctx_b": text(9), "label": str(rng.randrange(4))}
    r["endings"] = [text(9) for _ in range(4)]
    d = hellaswag.process_docs(One(r))
    add("hellaswag", r, [[d["query"], " " + c] for c in d["choices"]], d["gold"])

    r = {"sentence": text(9) + "_" + text(9), "option1": text(2), "option2": text(2), "answer": rng.choice("12")}
    rest = " " + winogrande.doc_to_target(r)
    add("winogrande", r, [[c, rest] for c in winogrande.doc_to_choice(r)], winogrande.doc_to_text(r))

    r = {"page": text(120)}
    sizes = wikitext.process_results(r, (0.0,))
    page = wikitext.wikitext_detokenizer(r)
    add("wikitext", r, [[page, ""]], [sizes["word_perplexity"][1], sizes["byte_perplexity"][1]])

for task, rows in records.items():
    with open(os.path.join(HERE, task + ".jsonl"), "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n")
    datasets.Dataset.from_list(rows).to_parquet(os.path.join(HERE, task + ".parquet"))
with open(os.path.join(HERE, "expected.json"), "w", encoding="utf-8") as f:
    json.dump(expected, f, ensure_ascii=False, indent=0)
    f.write("\n")
