"""Records greedy answers of SmolLM2-135M-Instruct, as transformers generates them.

    python tools/peers/record_generation.py ../shared/models > lm/testdata/generation.json

Needs transformers (recorded with 5.24.0), torch (2.9.1, CPU, float32) and gguf. Prompts
hold no digits: transformers splits those differently from the GGUF's own tokenizer.
"""

import json
import sys

import torch
import transformers

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHATS = ["What is the capital of France?", "Write a haiku about trees.", "Why is the sky blue?"]
TOKENS = 40


def main():
    tok = transformers.AutoTokenizer.from_pretrained(sys.argv[1], gguf_file=FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], gguf_file=FILE, dtype=torch.float32).eval()
    cases = []
    for text in CHATS:
        chat = tok.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        ids = tok(chat, add_special_tokens=False, return_tensors="pt").input_ids
        for penalty in (1.0, 1.3):
            with torch.no_grad():
                out = model.generate(ids, do_sample=False, max_new_tokens=TOKENS, repetition_penalty=penalty)
            cases.append(dict(user=text, repetition_penalty=penalty, prompt=ids[0].tolist(), tokens=out[0, ids.shape[1]:].tolist()))
    head = dict(transformers=transformers.__version__, torch=torch.__version__)
    print('{"peer": %s, "cases": [' % json.dumps(head))
    print(",\n".join(json.dumps(c) for c in cases))
    print("]}")


main()
