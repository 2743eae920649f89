"""Evaluates a model with lm-eval: its hf model and its task definitions, over local
files. The benchmark times this process from start to end; the last line that it prints
is JSON: seconds of its phases, which tell the interpreter's imports and loading from
the work. --output takes the answers of every request and the metrics.

usage: lm_eval_run.py MODEL --data DIR --samples '{"arc_easy": [0, 1]}' --dtype float32
       --batch 8 --threads 2 --output FILE
"""

import argparse
import json
import os
import pathlib
import sys
import time

start = time.perf_counter()
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--data", required=True, type=pathlib.Path)
parser.add_argument("--samples", required=True, type=json.loads)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--output", type=pathlib.Path)
args = parser.parse_args()
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries are loaded
    os.environ[name] = str(args.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import lm_eval_tasks  # noqa: E402, first of all: nothing may be fetched

import torch  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

torch.set_num_threads(args.threads)
imported = time.perf_counter()
model = HFLM(pretrained=args.model, dtype=args.dtype, batch_size=args.batch, device="cpu")
loaded = time.perf_counter()
tasks = lm_eval_tasks.tasks(args.samples, args.data)
ready = time.perf_counter()
results = simple_evaluate(model=model, tasks=tasks, samples=args.samples, log_samples=True)
done = time.perf_counter()
if args.output:
    metrics = {name: {k: v for k, v in m.items() if isinstance(v, (int, float))} for name, m in results["results"].items()}
    args.output.write_text(json.dumps({"answers": lm_eval_tasks.answers(results), "metrics": metrics}))
sys.stderr.flush()
print(json.dumps({
    "imports_s": imported - start,
    "load_s": loaded - imported,
    "tasks_s": ready - loaded,
    "evaluate_s": done - ready,
}))  # fmt: skip
