"""Writes tiny random checkpoints of every family, and what the reference (transformers with torch) makes of them.

    python tests/reference/make_fixtures.py [OUT]        # OUT is tests/fixtures unless given

needs `pip install -e '.[reference]' -c constraints.txt`. The tests read what it writes, and need neither.

Each folder is a checkpoint as Hugging Face lays it out, with weights in bfloat16. Beside it, `reference.safetensors`
holds what the reference computes in float32 on exactly these weights, as `<case>.<tensor>`:

    token_ids, attention_mask   [rows, length]           padded on the left; pictures expanded to their tokens
    logits                      [rows, length, pieces]   zero where the row is padded
    picture<i>                  [height, width, 3]       uint8, as a user gives it
    images                      [rows, n]                the pictures of each row in order, -1 for none

`plain`, `long` and `padded` are cases of text models; `two`, `several`, `text` and `answered` are those of models that
see.
`greedy.token_ids` are what `generate` adds to the first row of `plain` or `two`, and `chat.token_ids` the prompt that
the family's chat format makes of the messages in `chat.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cases
import checkpoints
import numpy as np
import torch
import transformers
from families import FAMILIES, Family
from safetensors.numpy import save_file
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel

FIXTURES = Path(__file__).parent.parent / "fixtures"
NEW_TOKENS = {"plain": 16, "two": 8}
FIRST_SEED = 200  # of these, as no continuation then hangs on a near tie
Arrays = dict[str, np.ndarray]


def main(out: Path = FIXTURES) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed, (name, family) in enumerate(FAMILIES.items(), start=FIRST_SEED):
        checkpoints.write(out / name, family, seed)
        save_file(reference(out / name, family, seed), out / name / "reference.safetensors")
        print(name)
    checkpoints.write_in_shards(out / "llama", out / "llama_sharded")


def reference(folder: Path, family: Family, seed: int) -> Arrays:
    """What the checkpoint in a folder, as read back from there, makes of all cases. Writes the chat beside it."""
    auto = checkpoints.auto_class(family)
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(seed)
    if family.inputs:
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        asked, chat = cases.picture_cases(tokenizer, image_processor, family, rng), cases.CHAT_WITH_PICTURE
    else:
        asked, chat = cases.text_cases(tokenizer, rng), cases.CHAT
    if "chat" in asked:
        (folder / "chat.json").write_text(json.dumps(chat, indent=1, ensure_ascii=False) + "\n")

    arrays: Arrays = {}
    for name, case in asked.items():
        answers = inputs_of(case) if name == "chat" else inputs_of(case) | {"logits": logits(model, case)}
        arrays |= {f"{name}.{tensor}": np.ascontiguousarray(array) for tensor, array in answers.items()}
    first = next(iter(asked))
    return arrays | {"greedy.token_ids": continuation(model, asked[first], NEW_TOKENS[first])}


def inputs_of(case: cases.Case) -> Arrays:
    arrays = {
        "token_ids": case.inputs["input_ids"].int().numpy(),
        "attention_mask": case.inputs["attention_mask"].int().numpy(),
    }
    if case.images:
        arrays["images"] = np.array(case.images, np.int32)
    return arrays | {f"picture{i}": picture for i, picture in enumerate(case.pictures)}


@torch.inference_mode()
def logits(model: PreTrainedModel, case: cases.Case) -> np.ndarray:
    kept = case.inputs["attention_mask"][..., None]
    return (model(**case.inputs).logits * kept).numpy()


@torch.inference_mode()
def continuation(model: PreTrainedModel, case: cases.Case, count: int) -> np.ndarray:
    """Of the first row. Nothing ends it early: a random model may choose any token."""
    model.generation_config.eos_token_id = None
    tokens = model.generate(**case.inputs, do_sample=False, max_new_tokens=count, pad_token_id=0)
    return tokens[0, case.inputs["input_ids"].shape[1] :].int().numpy()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
