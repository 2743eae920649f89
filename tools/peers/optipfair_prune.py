"""Prunes a checkpoint with transformers and optipfair, as its users do: load,
prune, save. The benchmark times this process from start to end; the phases it
prints, in seconds, tell the interpreter's imports from the work.

usage: optipfair_prune.py MODEL OUT PERCENT
"""

import json
import sys
import time

start = time.perf_counter()
from optipfair.pruning.mlp_glu import prune_model_mlp_glu  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

imported = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto", local_files_only=True)
loaded = time.perf_counter()
model = prune_model_mlp_glu(model, "MAW", pruning_percentage=float(sys.argv[3]), show_progress=False)
model.config.intermediate_size = model.model.layers[0].mlp.gate_proj.out_features
pruned = time.perf_counter()
model.save_pretrained(sys.argv[2])
saved = time.perf_counter()
print(json.dumps({
    "imports_s": imported - start,
    "load_s": loaded - imported,
    "prune_s": pruned - loaded,
    "save_s": saved - pruned,
}))  # fmt: skip
