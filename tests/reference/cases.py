"""What the reference is asked: token ids for text models, prompts with pictures for those that see, and a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from families import Family
from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]


class Case(NamedTuple):
    """Inputs of the reference, the pictures in them, and which of these each row holds."""

    inputs: dict[str, torch.Tensor]
    pictures: Sequence[np.ndarray] = ()
    images: Sequence[Sequence[int]] = ()


def text(content: str) -> Message:
    return {"type": "text", "text": content}


QUESTION = text("What color is the circle?")
CHAT = [
    {"role": "system", "content": [text("Answer with one word, s'il vous plaît.")]},
    {"role": "user", "content": [QUESTION]},
    {"role": "assistant", "content": [text("red")]},
    {"role": "user", "content": [text("yes, and the square?")]},
]
CHAT_WITH_PICTURE = [CHAT[0], {"role": "user", "content": [{"type": "image"}, QUESTION]}, *CHAT[2:]]


def text_cases(tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> dict[str, Case]:
    def drawn(rows: int, length: int, padding: int = 0) -> Case:
        ids = torch.from_numpy(rng.integers(5, len(tokenizer), (rows, length)))
        mask = torch.ones_like(ids)
        mask[1:, :padding] = 0
        return Case({"input_ids": ids.where(mask == 1, tokenizer.pad_token_id), "attention_mask": mask})

    chat = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    return {"plain": drawn(2, 24), "long": drawn(1, 40), "padded": drawn(2, 24, padding=9), "chat": Case(dict(chat))}


def picture_cases(
    tokenizer: PreTrainedTokenizerBase, image_processor: Any, family: Family, rng: np.random.Generator
) -> dict[str, Case]:
    """Sizes are such that Qwen rounds halves to even, and must shrink and enlarge; that SmolVLM cuts different
    numbers of tiles; and that the sides of windows do not divide those of pictures."""

    def asked(prompts: list[str], *sizes: list[tuple[int, int]]) -> Case:
        rows = [[picture(rng, *size) for size in row] for row in sizes]
        pictures = [picture for row in rows for picture in row]
        numbers = iter(range(len(pictures)))
        images = [[next(numbers) for _ in row] or [-1] for row in rows]
        return Case(family.inputs(tokenizer, image_processor, prompts, rows if pictures else None), pictures, images)

    here = family.placeholder
    short, longer = f"{here}What color?", f"{here}click the login button, the quick brown fox"
    cases = {
        "two": asked([short, longer], [(40, 56)], [(80, 32)]),
        "several": asked([f"{here}{here}Which of the two shows more?"], [(96, 120), (16, 40)]),
        "text": asked(["open the page and type the password"], []),
        "answered": answered(asked([short], [(40, 56)]), rng.integers(5, 256, 12), family.answer_type),
    }
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(CHAT_WITH_PICTURE, add_generation_prompt=True, tokenize=False)
        cases["chat"] = asked([prompt], [(40, 56)])
    return cases


def answered(question: Case, tokens: np.ndarray, token_type: int) -> Case:
    """A prompt and its answer, as they stand in training."""
    answer = torch.from_numpy(tokens)[None]
    following = dict.fromkeys(("token_type_ids", "mm_token_type_ids"), torch.full_like(answer, token_type))
    following |= {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
    inputs = {
        name: torch.cat([value, following[name]], dim=1) if name in following else value
        for name, value in question.inputs.items()
    }
    return question._replace(inputs=inputs)


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Squares of one color each, so that a patch in the wrong place shows, with a little noise."""
    colors = rng.integers(0, 240, (height // 8, width // 8, 3))
    noise = rng.integers(0, 16, (height, width, 3))
    return (colors.repeat(8, axis=0).repeat(8, axis=1) + noise).astype(np.uint8)
