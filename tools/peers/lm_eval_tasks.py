"""lm-eval's own task definitions over the local files of the data directory.

The YAML files are those of the installed lm-eval, functions included; only where a task
gets its records is replaced, so nothing is fetched. Records are brought into the form
that the data set on the hub has, which is what the definitions expect."""

import json
import logging
import os
import re

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[name] = "1"

import datasets
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.group import GroupConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

MUSR = ("murder_mysteries", "object_placements", "team_allocation")


def json_lines(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ai2(path):
    """ARC as the hub has it: the question's text, and choices as columns."""
    return [
        {
            "question": r["question"]["stem"],
            "choices": {key: [c[key] for c in r["question"]["choices"]] for key in ("text", "label")},
            "answerKey": r["answerKey"],
        }
        for r in json_lines(path)
    ]


def text_lines(path):
    with open(path, encoding="utf-8", newline="\n") as lines:
        return [{"text": line.rstrip("\n")} for line in lines]


def musr(path):
    """The hub has the list of choices as the text of a Python list."""
    return [{**r, "choices": repr(r["choices"])} for r in json_lines(path)]


def boolq(path):
    return [{**r, "label": int(r["label"])} for r in json_lines(path)]


def pages(path):
    """The pages of the raw file, as EVALUATION.md of the specification cuts them."""
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    out, page = [], []
    for line in lines:
        bare = re.sub("= =", "==", re.sub("= = =", "===", line)).strip()
        if bare.startswith("= ") and bare.endswith(" ="):
            out.append("\n".join(page))
            page = []
        page.append(line)
    out.append("\n".join(page))
    return [{"page": p} for p in out if p.strip()]


# Coppice's name -> lm-eval's, the file below the data directory, and its reader.
SOURCES = {
    "arc_easy": ("arc_easy", "arc_easy/ARC-Easy-Test.jsonl", ai2),
    "arc_challenge": ("arc_challenge", "arc_challenge/ARC-Challenge-Test.jsonl", ai2),
    "boolq": ("boolq", "boolq/superglue_val.jsonl", boolq),
    "lambada_openai": ("lambada_openai", "lambada_openai/lambada_test.jsonl", json_lines),
    "lambada_standard": ("lambada_standard", "lambada_standard/lambada_test_plain_text.txt", text_lines),
    **{f"musr_{part}": (f"leaderboard_musr_{part}", f"musr/{part}.jsonl", musr) for part in MUSR},
    "hellaswag": ("hellaswag", "hellaswag/hellaswag_val.jsonl", json_lines),
    "piqa": ("piqa", "piqa/valid.jsonl", json_lines),
    "winogrande": ("winogrande", "winogrande/dev.jsonl", json_lines),
    "openbookqa": ("openbookqa", "openbookqa/test.jsonl", json_lines),
    "wikitext": ("wikitext", "wikitext2/wiki.test.raw", pages),
}


def tasks(names, data, files=None):
    """lm-eval's Task objects, called by Coppice's names. files gives a file in place of
    the one below the directory data. All of MuSR comes with its group."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    index = TaskManager().task_index
    made = []
    for name in names:
        theirs, path, read = SOURCES[name]
        path = (files or {}).get(name) or data / path
        config = load_yaml(index[theirs].yaml_path, resolve_func=True)
        for key in ("tag", "dataset_path", "dataset_name"):
            config.pop(key, None)
        split = config.get("test_split") or config["validation_split"]
        for other in ("training_split", "validation_split", "test_split"):
            if config.get(other) != split:
                config.pop(other, None)
        config["task"] = name
        config["custom_dataset"] = lambda path=path, read=read, split=split, **_: datasets.DatasetDict(
            {split: datasets.Dataset.from_list(read(path))}
        )
        made.append(ConfigurableTask(config=config))
    parts = [t for t in made if t.config.task.startswith("musr_")]
    if len(parts) < len(MUSR):
        return made
    group = load_yaml(index["leaderboard_musr"].yaml_path, resolve_func=True)
    group = Group.from_config(GroupConfig(**{**group, "group": "musr", "task": []}))
    for task in parts:
        group.add(task)
    return [t for t in made if t not in parts] + [group]


def answers(results):
    """{task: {record: [[log-likelihood, greedy], ...]}} of what simple_evaluate returned."""
    out = {}
    for task, samples in results["samples"].items():
        out[task] = {}
        for sample in samples:
            rows = [r[0] if isinstance(r, list) else r for r in sample["resps"]]
            out[task][sample["doc_id"]] = [
                [float(r[0]), bool(r[1])] if isinstance(r, (list, tuple)) else [float(r), False] for r in rows
            ]
    return out
