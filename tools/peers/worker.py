"""How the benchmark talks to a peer that stays loaded, so that programs can be measured
in turns: a script says that it is ready, then answers each line of its standard input
by doing its work once and printing, as JSON, the seconds that it took and a value that
tells whether all programs computed the same. It ends when its input ends."""

import argparse
import json
import os
import sys
import time


def arguments(doc, *names):
    """Parses positional arguments and --threads, and limits the libraries to that many
    threads. Must be called before they are imported."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(name)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    return args


def tokens(n):
    """The ids that every program is given; the benchmark makes the same."""
    return [i * 37 % 10007 for i in range(n)]


def serve(work, check, **ready):
    """work() is what is timed; check(its result) makes the value, outside the time.
    It runs once before it is ready, so that nothing is measured cold."""
    # Libraries that print must not come between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(**message):
        print(json.dumps(message), file=out, flush=True)

    check(work())
    say(ready=True, **ready)
    for _ in sys.stdin:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        say(seconds=seconds, value=check(result))
