"""Reads the cards that `coppice card` writes with huggingface_hub, as the hub's own tools do.

  - The shared model pruned by maxabs at 60 %, and with a width a layer; a few records of
    three benchmarks, of it and of the dense model.
  - ModelCard parses the front matter, and writing it again loses nothing;
  - names of models, data sets, languages and the pipeline tag have the form that the hub
    asks for (validate_repo_id; its /api/validate-yaml needs the network and is not asked);
  - the model-index becomes EvalResults, and they are the values of the results files;
  - the sections of the published card are there, and no path of this machine;
  - the card's own example for transformers runs.
"""

import contextlib
import io
import json
import os
import re

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from common import MODEL_FILE, Checks, Coppice, arguments, scratch

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
TASKS = "arc_easy,boolq,lambada_openai"
SECTIONS = [
    "Model Details", "Performance on Standard Benchmarks", "Key Findings", "Limitations",
    "Implementation Details", "Pruning Method", "Hardware Requirements", "Acknowledgments",
]
CASES = {
    "maxabs 60 %": ("--ratio", 0.6),
    "a width a layer": ("--ratio", 0.6, "--layers", "3-20"),
}
# The hub's keys that a card may have (huggingface.co/docs/hub/model-cards).
KEYS = {
    "base_model", "library_name", "pipeline_tag", "license", "license_name", "license_link", "language",
    "tags", "datasets", "metrics", "co2_eq_emissions", "model-index",
}


def measured(directory):
    """The values of a results file by task and metric."""
    path = max(directory.glob("results_*.json"))
    tasks = json.loads(path.read_text())["coppice"]["result"]["tasks"]
    return {(t["fingerprint"], m["name"]): m["value"] for t in tasks for m in t["metrics"]}


def front(checks, name, text, results):
    card = ModelCard(text)
    data = card.data.to_dict()
    checks.that(f"{name}: keys", set(data) <= KEYS, sorted(set(data) - KEYS) or "")
    again = ModelCard(card.content).data.to_dict()
    raw = yaml.safe_load(text.split("---\n")[1])
    checks.that(f"{name}: written again", again == data and _plain(data) == _plain(raw))
    bad = []
    for repo in [data["base_model"], *[r.dataset_type for r in card.data.eval_results], *data.get("datasets", [])]:
        try:
            validate_repo_id(repo)
        except ValueError as e:
            bad.append(str(e))
    checks.that(f"{name}: names", not bad and data["base_model"] == BASE, "; ".join(bad))
    checks.that(f"{name}: languages", all(re.fullmatch(r"[a-z]{2,3}", l) for l in data["language"]), data["language"])
    checks.that(f"{name}: kind", (data["library_name"], data["pipeline_tag"], data["license"]) == ("transformers", "text-generation", "apache-2.0"))
    got = {(r.dataset_revision.removeprefix("records-"), r.metric_name): r.metric_value for r in card.data.eval_results}
    checks.that(f"{name}: model-index", got == results, f"{len(got)} values" if got == results else f"{got}, results have {results}")


def _plain(x):
    """Without the order of keys and the kind of lists."""
    return json.loads(json.dumps(x, sort_keys=True))


def body(checks, name, text, directory):
    titles = set(re.findall(r"^#+ (.*)$", text, re.M))
    missing = [s for s in SECTIONS if s not in titles]
    checks.that(f"{name}: sections", not missing, missing or "")
    checks.that(f"{name}: no path", str(directory) not in text and "/tmp" not in text)
    example = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    model = re.search(r'^name = "\./(.*?)"', example, re.M).group(1)
    here = os.getcwd()
    (directory / model).symlink_to(directory / "model")
    said = io.StringIO()
    try:
        os.chdir(directory)
        with contextlib.redirect_stdout(said):
            exec(example, {})
    finally:
        os.chdir(here)
        (directory / model).unlink()
    checks.that(f"{name}: example runs", said.getvalue().strip() != "", repr(said.getvalue()[:60]))


def check(checks, coppice, name, flags, dense, data, directory):
    directory.mkdir()
    model, results = directory / "model", directory / "results"
    coppice("prune", dense, "-o", model, *flags)
    coppice("eval", model, "--baseline", dense, "--tasks", TASKS, "--data-dir", data, "--limit", 10, "-o", results)
    coppice("card", model, "--results", results, "--baseline", dense, "--base-model", BASE, "--license", "apache-2.0", "--language", "en")
    text = (model / "README.md").read_text()
    front(checks, name, text, measured(results))
    body(checks, name, text, directory)


def main():
    args = arguments(__doc__)
    checks, coppice = Checks(), Coppice(args.coppice)
    with scratch() as directory:
        dense = directory / "dense"
        coppice("import", args.shared / "models" / MODEL_FILE, "-o", dense, "--dtype", "f32")
        for i, (name, flags) in enumerate(CASES.items()):
            if args.only in name:
                with checks.case(name):
                    check(checks, coppice, name, flags, dense, args.shared / "data", directory / f"out{i}")
    checks.finish()


if __name__ == "__main__":
    main()
