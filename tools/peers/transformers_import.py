"""Turns a GGUF file into a float32 Hugging Face directory with transformers' own
loader. The benchmark times this process from start to end; the phases it prints,
in seconds, tell the interpreter's imports from the work.

usage: transformers_import.py FILE.gguf OUT
"""

import json
import pathlib
import sys
import time

start = time.perf_counter()
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

imported = time.perf_counter()
path = pathlib.Path(sys.argv[1])
where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
loaded = time.perf_counter()
# The weights are plain floats by now, but transformers 5.24 still takes the model for
# a quantised one and refuses to save it.
model.hf_quantizer = None
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
tokenizer = AutoTokenizer.from_pretrained(**where)
tokenized = time.perf_counter()
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
saved = time.perf_counter()
print(json.dumps({
    "imports_s": imported - start,
    "load_s": loaded - imported,
    "tokenizer_s": tokenized - loaded,
    "save_s": saved - tokenized,
}))  # fmt: skip
