"""TextVQA: questions about the writing in OpenImages photographs, ten answers each.

A. Singh et al., https://arxiv.org/abs/1904.08920, https://textvqa.org. The answers of the test set are not public, so
the published validation set is the test set here, and one in ten images of the training set is held out for validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pe_rlhf_mm.data.published.description import (
    Part,
    Published,
    Record,
    SetAside,
    take,
    texts,
    train_or_validation,
)
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.pictures import Pictured, image_of, require_pictures
from pe_rlhf_mm.data.sources.source import Row

FILES = {"TextVQA_*_train.json": "train", "TextVQA_*_val.json": "validation"}


def question(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A question, its answers and its image."""
    if split == "test":
        raise SetAside("answers are not public")
    image = take(row, "image_id", str)
    return train_or_validation(f"textvqa/{image}") if split == "train" else "test", {
        "question_id": take(row, "question_id", int),
        "image_id": image,
        "question": take(row, "question", str),
        "answers": texts(take(row, "answers", list), "answers"),
        "image": image_of(row),
    }


def _image_name(row: Row) -> str:
    return f"{take(row, 'image_id', str)}.jpg"


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_list import JsonList

    parts = []
    for pattern, split in FILES.items():
        for path in found.named(pattern):
            require_pictures(found, "*.jpg", "OpenImages")
            source = Pictured(JsonList(path, "data"), found, _image_name)
            parts.append(Part(source, partial(question, split=split, subset="")))
    return parts


TEXTVQA = Published(
    name="textvqa",
    title="TextVQA: questions about the writing in photographs",
    licence="CC BY 4.0",
    where_to_get_it="Download questions and images from https://textvqa.org/dataset.",
    files=tuple(FILES),
    archives=("train_val_images.zip",),
    features={"question_id": "int", "image_id": "text", "question": "text", "answers": "texts", "image": "image"},
    prompt=("question", "image"),
    parts=_parts,
    row=question,
)
