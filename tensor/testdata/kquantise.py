#!/usr/bin/env python3
"""Records the squared error of llama.cpp's own K quantisers on a few blocks.

Run:   python tensor/testdata/kquantise.py > tensor/testdata/kquantise.json
Made with llama-cpp-python 0.3.36, gguf 0.19.0, numpy 2.4.6, Python 3.11.

Two blocks each of: normal numbers, numbers with heavy tails, numbers of one sign, small
numbers with an outlier, numbers on a coarse grid, and numbers far from zero.
"""
import ctypes
import glob
import json
import os

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

rng = np.random.default_rng(8)
x = rng.normal(size=(6, 512)).astype(np.float32)
x[0] *= 0.02
x[1] = rng.standard_t(3, size=512) * 0.01
x[2] = np.abs(x[2])
x[3] *= 1e-3
x[3][::97] = 0.5
x[4] = np.round(x[4] * 4) / 16
x[5] = x[5] * 0.01 - 1
library = ctypes.CDLL(glob.glob(os.path.dirname(llama_cpp.__file__) + "/lib/libggml-base*")[0])
library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
out = {"float32": x.tobytes().hex()}
for kind in (GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q5_K, GGMLQuantizationType.Q6_K):
    size = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}[kind.name]
    made = np.zeros((6, 2 * size), np.uint8)
    library.ggml_quantize_chunk(int(kind), x.ctypes.data, made.ctypes.data, 0, 6, 512, None)
    out[kind.name] = ((dequantize(made, kind).astype(np.float64) - x) ** 2).sum(axis=1).tolist()
print(json.dumps(out, indent=0))
