"""The recorded token ids of golden/eval, with the texts they were made from.

A recorded line names a task and a record; the text is built again from the
record by the task's rule (EVALUATION.md of the specification)."""

import json


def _records(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _arc(record):
    question = record["question"]
    return f"Question: {question['stem']}\nAnswer:", [" " + c["text"] for c in question["choices"]]


def _boolq(record):
    return f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:", [" no", " yes"]


def _lambada(record):
    words = record["text"].split(" ")
    return " ".join(words[:-1]), [" " + words[-1]]


def _musr(record):
    choices = "".join(f"{i} - {c}\n" for i, c in enumerate(record["choices"], 1))
    return f"{record['narrative']}\n\n{record['question']}\n\n{choices}\nAnswer:", [" " + c for c in record["choices"]]


def _tasks(data):
    musr = {f"musr_{name}": (_records(data / f"musr/{name}.jsonl"), _musr) for name in (
        "murder_mysteries", "object_placements", "team_allocation",
    )}  # fmt: skip
    with open(data / "lambada_standard/lambada_test_plain_text.txt", encoding="utf-8") as lines:
        standard = [{"text": line.rstrip("\n")} for line in lines]
    return {
        "arc_easy": (_records(data / "arc_easy/ARC-Easy-Test.jsonl"), _arc),
        "boolq": (_records(data / "boolq/superglue_val.jsonl"), _boolq),
        "lambada_openai": (_records(data / "lambada_openai/lambada_test.jsonl"), _lambada),
        "lambada_standard": (standard, _lambada),
        **musr,
    }


def requests(shared):
    """Yields (task, context text, continuation text, context ids, continuation ids)."""
    tasks = _tasks(shared / "data")
    for line in _records(shared / "golden/eval/smol.jsonl"):
        if "context" not in line:
            continue  # a task's summary
        records, build = tasks[line["task"]]
        context, continuations = build(records[line["doc"]])
        yield line["task"], context, continuations[line["choice"]], line["context"], line["continuation"]


def encode(tokenizer, context, continuation):
    """The ids of both parts as lm-eval splits them: white space that ends the
    context goes to the continuation, and the whole is cut by the context's length."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole, head = tokenizer(context + continuation)["input_ids"], tokenizer(context)["input_ids"]
    return head, whole[len(head) :]
