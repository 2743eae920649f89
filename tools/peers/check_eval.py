"""Evaluates the real model with Coppice and with lm-eval, float32, on the same records,
and reads what Coppice wrote with lm-eval's own tools.

  - every log-likelihood within 1e-3 (a page of wikitext within 0.05), every greedy flag
    equal but where the log-likelihoods leave it open;
  - the same metrics with the same values and standard errors, groups included;
  - prompts and targets with the hashes that lm-eval gives them;
  - lm-eval's functions find the files by their names, make a table of the results,
    and save them again; the datasets library loads the samples.

Tasks whose data is not there are asked records that are written here, with the marks
that their definitions clean away.
"""

import glob
import json

import lm_eval_tasks
from common import MODEL_FILE, Checks, Coppice, arguments, scratch

import datasets
import torch
from lm_eval import simple_evaluate, utils
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM

REQUEST, PAGE = 1e-3, 0.05  # tolerances of a log-likelihood
METRIC = 1e-3  # relative, of a value that is computed from log-likelihoods
# In ascending order: lm-eval gives answers to the wrong doc_id where they are not.
RECORDS = {
    "arc_easy": [3, 7, 63, 500, 2375],
    "arc_challenge": [0, 1],
    "boolq": [0, 1, 3269],
    "lambada_openai": [0, 1, 2, 5152],
    "lambada_standard": [0, 1, 2, 5152],
    "musr_murder_mysteries": [249],
    "musr_object_placements": [0, 255],
    "musr_team_allocation": [7],
    "hellaswag": [0, 1],
    "piqa": [0, 1],
    "winogrande": [0, 1],
    "openbookqa": [0, 1],
    "wikitext": [61],
}
# Written for this check.
WRITTEN = {
    "hellaswag": [
        {
            "activity_label": "Pruning a hedge", "ctx_a": "[header] How to prune a hedge [title] Wait for dry weather.",
            "ctx_b": "the GARDENER", "label": "2",
            "endings": [
                "eats  the shears.", "[step] paints the leaves [substeps] blue.",
                "cuts the longest shoots  first [title] and sweeps up.", "sleeps on the roof.",
            ],
        },
        {
            "activity_label": "Cooking", "ctx_a": "A man stirs a pot of soup.", "ctx_b": "", "label": "0",
            "endings": ["He tastes it.", "He flies away.", "He sings to the lid.", "He buys a boat."],
        },
    ],
    "piqa": [
        {"goal": "How do you keep a cut apple from going brown?", "sol1": "Rub it with lemon juice.", "sol2": "Rub it with coal.", "label": 0},
        {"goal": "To sharpen a knife, ", "sol1": "use a sponge", "sol2": "use a whetstone", "label": 1},
    ],
    "winogrande": [
        {"sentence": "The trophy did not fit in the case because the _ was too large.", "option1": "trophy", "option2": "case", "answer": "1"},
        {"sentence": "Anna thanked Maria for the help _  had given .", "option1": "Anna", "option2": "Maria", "answer": "2"},
    ],
    "openbookqa": [
        {
            "question_stem": "Coppicing a tree makes it", "answerKey": "B",
            "choices": {"text": ["vanish", "grow new shoots", "turn to stone", "float"], "label": ["A", "B", "C", "D"]},
        },
        {
            "question_stem": "The sun warms", "answerKey": "A",
            "choices": {"text": ["the ground", "nothing", "only the moon", "the past"], "label": ["A", "B", "C", "D"]},
        },
    ],
}  # fmt: skip


def write_records(directory, shared):
    """Files of the tasks that the shared data does not hold, by task."""
    files = {"arc_challenge": shared / "data/arc_easy/ARC-Easy-Test.jsonl"}
    for task, records in WRITTEN.items():
        files[task] = directory / f"{task}.jsonl"
        files[task].write_text("".join(json.dumps(r) + "\n" for r in records))
    return files


def read_samples(path):
    """Coppice's samples file: {record: sample}."""
    with open(path, encoding="utf-8") as lines:
        return {sample["doc_id"]: sample for sample in map(json.loads, lines)}


def our_answers(sample):
    """[[log-likelihood, greedy], ...] of a sample, whose values are text, as in lm-eval's files."""
    out = []
    for resp in sample["resps"]:
        answer = resp[0] if isinstance(resp, list) else resp
        out.append([float(answer[0]), answer[1] == "True"] if isinstance(answer, list) else [float(answer), False])
    return out


def check_answers(checks, task, ours, theirs):
    tolerance = PAGE if task == "wikitext" else REQUEST
    worst, flags, shapes = 0.0, [], []
    for doc, want in theirs.items():
        got = our_answers(ours[doc])
        if len(got) != len(want):
            shapes.append(doc)
            continue
        for i, (a, b) in enumerate(zip(got, want)):
            worst = max(worst, abs(a[0] - b[0]))
            if a[1] != b[1]:
                flags.append((doc, i))
    checks.that(f"{task}: records", sorted(ours) == sorted(theirs) and not shapes, f"{len(ours)}, {shapes or 'all'} answers")
    checks.that(f"{task}: log-likelihoods", worst <= tolerance, f"largest difference {worst:.1e}")
    checks.that(f"{task}: greedy flags", not flags, f"differ at {flags}" if flags else "")


def check_metrics(checks, name, got, want):
    """Every number that lm-eval has under a task or a group must be there, and equal.
    A bootstrapped error depends on the random numbers."""
    wrong = []
    for key, value in want.items():
        if key in ("name", "alias"):
            continue
        mine = got.get(key)
        if isinstance(value, (int, float)) and isinstance(mine, (int, float)):
            loose = "perplexity_stderr" in key or "bits_per_byte_stderr" in key
            if abs(mine - value) <= (0.3 if loose else METRIC) * max(abs(value), 1e-9):
                continue
        elif mine == value:
            continue
        wrong.append(f"{key} {mine}, want {value}")
    checks.that(f"{name}: metrics", not wrong, "; ".join(wrong))


def check_hashes(checks, task, ours, samples):
    wrong = [
        f"record {s['doc_id']}: {key}" for s in samples for key in ("prompt_hash", "target_hash", "filter")
        if ours[s["doc_id"]][key] != s[key]
    ]  # fmt: skip
    checks.that(f"{task}: hashes of prompts and targets", not wrong, "; ".join(wrong[:4]))


def check_tools(checks, output, results, theirs, directory):
    """lm-eval's tools on Coppice's files."""
    names = glob.glob(f"{output}/*")
    found = utils.get_results_filenames(names)
    checks.that("get_results_filenames", len(found) == 1, str(found))
    samples = utils.get_sample_results_filenames(names)
    tasks = sorted(utils.get_file_task_name(name.rsplit("/", 1)[1]) for name in samples)
    checks.that("get_file_task_name", tasks == sorted(theirs["samples"]), str(tasks))
    checks.that("get_latest_filename", utils.get_latest_filename(samples) in samples)
    for column in ("results", "groups"):
        if column not in theirs:
            continue
        cells = lambda r: [[c.strip() for c in row.split("|")[1:7]] for row in utils.make_table(r, column).splitlines()[2:]]
        got, want = cells(results), cells(theirs)
        same = sorted(map(str, got)) == sorted(map(str, want))
        checks.that(f"make_table, {column}", same, "" if same else f"rows {got}, want {want}")
    tracker = EvaluationTracker(output_path=str(directory / "again"))
    tracker.general_config_tracker.model_name_sanitized = results["model_name_sanitized"]
    tracker.save_results_aggregated(results, {})
    again = glob.glob(f"{directory}/again/*/results_*.json")
    checks.that("EvaluationTracker saves them again", len(again) == 1)
    for name in samples:
        task = utils.get_file_task_name(name.rsplit("/", 1)[1])
        rows = datasets.load_dataset("json", data_files=name, split="train", cache_dir=str(directory / "cache"))
        checks.that(f"{task}: the datasets library loads the samples", len(rows) == len(theirs["samples"][task]))


def main():
    args = arguments(__doc__)
    checks, coppice = Checks(), Coppice(args.coppice)
    records = {task: docs for task, docs in RECORDS.items() if args.only in task}
    torch.set_num_threads(args.threads)
    with scratch() as directory:
        model, output = directory / "model", directory / "ours"
        coppice("import", args.shared / "models" / MODEL_FILE, "-o", model, "--dtype", "f32")
        files = write_records(directory, args.shared)
        lm = HFLM(pretrained=str(model), dtype="float32", batch_size=1, max_length=1024, device="cpu")
        theirs = simple_evaluate(
            model=lm, tasks=lm_eval_tasks.tasks(records, args.shared / "data", files), samples=records, log_samples=True
        )
        parts = [task for task in records if task.startswith("musr_")]
        names = [task for task in records if task not in parts]
        # All parts are asked for as a group, as lm_eval_tasks does it.
        names += ["musr"] if len(parts) == len(lm_eval_tasks.MUSR) else parts
        given = [f"--data={task}={path}" for task, path in files.items() if task in records]
        coppice(
            "eval", model, "--tasks", ",".join(names), "--data-dir", args.shared / "data", *given, "--max-length", 1024,
            "--samples", json.dumps(records), "-o", output, "--log-samples", "--threads", args.threads,
        )  # fmt: skip
        results = json.loads(open(utils.get_latest_filename(glob.glob(f"{output}/results_*.json"))).read())
        for task, answers in lm_eval_tasks.answers(theirs).items():
            with checks.case(task):
                ours = read_samples(glob.glob(f"{output}/samples_{task}_*.jsonl")[0])
                check_answers(checks, task, ours, answers)
                check_hashes(checks, task, ours, theirs["samples"][task])
        for name, want in theirs["results"].items():
            check_metrics(checks, name, results["results"].get(name, {}), want)
        with checks.case("lm-eval's tools"):
            check_tools(checks, output, results, theirs, directory)
    checks.finish()


if __name__ == "__main__":
    main()
