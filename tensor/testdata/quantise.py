#!/usr/bin/env python3
"""Records the blocks that the Python package gguf makes of random numbers.

Run:   python tensor/testdata/quantise.py > tensor/testdata/quantise.json
Made with gguf 0.19.0, numpy 2.4.6, Python 3.11.

Nine blocks a type: normal numbers of several magnitudes, all of one sign, zeros, a tie
of the greatest magnitude with either sign first, and multiples of half a step.
"""
import json
import numpy as np
import gguf
from gguf.quants import quantize

rng = np.random.default_rng(6)
x = rng.normal(size=(9, 32)).astype(np.float32)
x[1] *= 0.02
x[2] *= 3e-5
x[3] = np.abs(x[3]) + 1
x[4] = 0
x[5][[3, 20]] = [4, -4]
x[6][[3, 20]] = [-4, 4]
x[7] = np.arange(-16, 16) / np.float32(2)
x[8] = np.append(np.arange(31) / np.float32(2), np.float32(127))
out = {"float32": x.tobytes().hex()}
for name in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
    out[name] = quantize(x, gguf.GGMLQuantizationType[name]).tobytes().hex()
print(json.dumps(out, indent=0))
