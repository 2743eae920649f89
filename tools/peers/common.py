"""What the peer checks share: arguments, running Coppice, and counting results.

A check prints one line, "ok" or "FAIL" with what was expected and found, and
the script exits 1 if any line failed. Nothing is skipped: what cannot be
checked because a program or a file is missing is an error.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Before transformers is imported: nothing may be fetched, and its warnings
# about small models would drown the results.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def arguments(doc, needs_shared=True):
    """Parses the command line that every check has, and checks it."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coppice", required=True, type=pathlib.Path, help="the coppice binary")
    parser.add_argument(
        "--shared",
        type=pathlib.Path,
        default=os.environ.get("COPPICE_SHARED") or ROOT.parent / "shared",
        help="directory of the real model and data (default $COPPICE_SHARED, else ../shared)",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--only", default="", help="run only the cases whose name contains this")
    args = parser.parse_args()
    args.coppice = args.coppice.resolve()
    args.shared = pathlib.Path(args.shared).resolve()
    if not args.coppice.is_file():
        parser.error(f"--coppice {args.coppice}: no such file; build it with go build ./cmd/coppice")
    if needs_shared and not (args.shared / "models" / MODEL_FILE).is_file():
        parser.error(f"--shared {args.shared}: holds no models/{MODEL_FILE}; set COPPICE_SHARED")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


class Checks:
    """Counts and prints the results of one script."""

    def __init__(self):
        self.passed = 0
        self.failed = []

    def that(self, name, ok, detail=""):
        """Records one result; detail says what was measured or found."""
        if ok:
            self.passed += 1
        else:
            self.failed.append(name)
        print(f"{'ok  ' if ok else 'FAIL'} {name}" + (f": {detail}" if detail else ""), flush=True)
        return ok

    @contextlib.contextmanager
    def case(self, name):
        """Turns an exception into a failed result, so that later cases still run."""
        try:
            yield
        except Exception as err:  # a peer may raise anything
            self.that(name, False, f"{type(err).__name__}: {err}")

    def finish(self):
        """Prints the totals and exits; a run that checked nothing has failed."""
        print(f"{pathlib.Path(sys.argv[0]).name}: {self.passed} passed, {len(self.failed)} failed")
        sys.exit(1 if self.failed or not self.passed else 0)


class Coppice:
    """Runs the binary."""

    def __init__(self, binary):
        self.binary = str(binary)

    def __call__(self, *args):
        """Runs one command and returns its standard output; a failure raises with
        the command line to repeat and what it printed."""
        command = [self.binary, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(
                f"exit {done.returncode} of: {' '.join(command)}\n{done.stdout}{done.stderr}".rstrip()
            )
        return done.stdout


@contextlib.contextmanager
def scratch():
    """A temporary directory, removed at the end."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="coppice-peers-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def load(directory, dtype=None, attention=None):
    """Loads a directory with transformers; returns the model and a text that is
    empty when no key was missing, unexpected or of another shape. attention names
    an implementation other than transformers' choice."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype or torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
        local_files_only=True,
    )
    wrong = []
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = info[what]
        if found:
            wrong.append(f"{what}: {sorted(map(str, found))[:4]}")
    return model.eval(), "; ".join(wrong)


def tensors(directory):
    """Every tensor of a directory's safetensors files, by name, as stored. Only
    the files that the index names are read, if there is an index."""
    import json

    from safetensors.torch import load_file

    directory = pathlib.Path(directory)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    else:
        files = ["model.safetensors"]
    out = {}
    for file in files:
        out.update(load_file(directory / file))
    return out


def bits(tensor):
    """The tensor's bits as integers, so that comparing tells -0 from 0 and holds for NaN."""
    import torch

    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(kind)


def same_bits(a, b):
    """Whether two tensors have the same type, shape and bits."""
    import torch

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def differing(got, want):
    """Compares two dictionaries of tensors; returns a text, empty when all names and bits agree."""
    wrong = []
    if missing := sorted(set(want) - set(got)):
        wrong.append(f"missing {missing[:3]}")
    if extra := sorted(set(got) - set(want)):
        wrong.append(f"extra {extra[:3]}")
    for name in sorted(set(got) & set(want)):
        a, b = got[name], want[name]
        if same_bits(a, b):
            continue
        if a.dtype != b.dtype or a.shape != b.shape:
            wrong.append(f"{name} is {a.dtype} {list(a.shape)}, want {b.dtype} {list(b.shape)}")
        else:
            n = int((bits(a) != bits(b)).sum())
            gap = (a.double() - b.double()).abs().max()
            wrong.append(f"{name}: {n} of {a.numel()} values differ, by at most {gap:.3g}")
    return "; ".join(wrong[:4])
