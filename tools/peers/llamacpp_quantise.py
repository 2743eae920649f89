"""Quantises a GGUF file by llama.cpp's own quantiser and prints the seconds that this took,
without Python's start, as JSON. Nothing is synced.

usage: llamacpp_quantise.py SOURCE TARGET TYPE THREADS    (TYPE: a name of llamacpp.FILE_TYPES)
"""

import json
import sys
import time

from llamacpp import quantise_file

source, target, mix, threads = sys.argv[1:]
start = time.perf_counter()
quantise_file(source, target, mix, int(threads))
print(json.dumps({"quantise_s": time.perf_counter() - start}))
