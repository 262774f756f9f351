"""Inputs of the reference for prompts with pictures, as the processor of each family makes them for inference.

The processors of Gemma 3 and PaliGemma are used as they are. Those of SmolVLM and Qwen also handle videos, and cannot
be built without torchvision: here their image processors are used, and their expansion of placeholders is written out.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from transformers import Gemma3Processor, PaliGemmaProcessor, PreTrainedTokenizerBase
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

Tokens = PreTrainedTokenizerBase
Pictures = list[list[Any]] | None
Inputs = dict[str, Any]


def gemma3(tokens: Tokens, image_processor: Any, texts: list[str], pictures: Pictures) -> Inputs:
    processor = Gemma3Processor(image_processor, tokens, image_seq_length=image_processor.image_seq_length)
    return dict(processor(text=texts, images=pictures, **padded(tokens, texts)))


def paligemma(tokens: Tokens, image_processor: Any, texts: list[str], pictures: Pictures) -> Inputs:
    """The processor refuses prompts without pictures; for these it would write no more than the text."""
    tokens = copy.deepcopy(tokens)  # the processor adds a thousand tokens for places
    processor = PaliGemmaProcessor(image_processor, tokens)
    if pictures:
        inputs = processor(text=texts, images=pictures, **padded(tokens, texts))
        return {name: value for name, value in inputs.items() if name != "labels"}
    texts = [f"{tokens.bos_token}{text}\n" for text in texts]
    return dict(tokens(texts, return_token_type_ids=True, **padded(tokens, texts)))


def smolvlm(tokens: Tokens, image_processor: Any, texts: list[str], pictures: Pictures) -> Inputs:
    tiles: Inputs = {"rows": [], "cols": []}
    if pictures:
        tiles = dict(image_processor(pictures, return_row_col_info=True, return_tensors="pt"))
    rows, columns = chain(*tiles.pop("rows")), chain(*tiles.pop("cols"))
    expansions = [
        get_image_prompt_string(*grid, 4, "<fake_token_around_image>", "<image>", "<global-img>")
        for grid in zip(rows, columns, strict=True)
    ]
    return {**tokenized(tokens, expanded(texts, "<image>", expansions)), **tiles}


def qwen(tokens: Tokens, image_processor: Any, texts: list[str], pictures: Pictures) -> Inputs:
    patches = dict(image_processor(pictures, return_tensors="pt")) if pictures else {}
    grids = patches.get("image_grid_thw", [])
    expansions = ["<|image_pad|>" * (int(grid.prod()) // image_processor.merge_size**2) for grid in grids]
    inputs = tokenized(tokens, expanded(texts, "<|image_pad|>", expansions))
    of_picture = inputs["input_ids"] == tokens.convert_tokens_to_ids("<|image_pad|>")
    return {**inputs, **patches, "mm_token_type_ids": of_picture.long()}


def expanded(texts: list[str], placeholder: str, expansions: list[str]) -> list[str]:
    """Every placeholder gives way to the next expansion."""
    left = iter(expansions)
    pieces = [text.split(placeholder) for text in texts]
    return [first + "".join(next(left) + piece for piece in rest) for first, *rest in pieces]


def tokenized(tokens: Tokens, texts: list[str]) -> Inputs:
    return dict(tokens(texts, **padded(tokens, texts)))


def padded(tokens: Tokens, texts: list[str]) -> Inputs:
    """Options of tokenizers and processors. A chat template may have written the first token already."""
    starts = tokens.bos_token is not None and texts[0].startswith(tokens.bos_token)
    return {"padding": True, "padding_side": "left", "return_tensors": "pt", "add_special_tokens": not starts}
