#!/usr/bin/env python3
"""Records what the Python package gguf makes of random blocks of every block type.

Run:   python tensor/testdata/blocks.py > tensor/testdata/blocks.json
Made with gguf 0.19.0, numpy 2.4.6, Python 3.11.

Three blocks a type: random bytes, with the F16 scales replaced by small finite
numbers, in the last block by subnormal ones.
"""
import json
import numpy as np
import gguf
from gguf.quants import dequantize

# Byte offsets of the F16 scales in a block.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
          "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

rng = np.random.default_rng(5)
out = {}
for name, offsets in SCALES.items():
    qtype = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, size=(3, size), dtype=np.uint8)
    for i, scale in enumerate([0.02, 3.0, 2e-6]):
        for o in offsets:
            half = np.array([rng.normal() * scale], dtype=np.float16)
            blocks[i, o:o + 2] = half.view(np.uint8)
    y = dequantize(blocks, qtype).astype("<f4")
    out[name] = {"blocks": blocks.tobytes().hex(), "float32": y.tobytes().hex()}
print(json.dumps(out, indent=0))
