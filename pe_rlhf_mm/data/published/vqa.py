"""VQAv2 and OK-VQA: questions about COCO images, ten answers each.

Y. Goyal et al., https://arxiv.org/abs/1612.00837, https://visualqa.org; K. Marino et al., https://okvqa.allenai.org.
Questions and annotations are two files of one JSON document each. The answers of the test sets are not public, so the
published validation set is the test set here, and one in ten images of the training set is held out for validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from pe_rlhf_mm.data.published.description import (
    Kind,
    Part,
    Published,
    Record,
    SetAside,
    WrongRow,
    take,
    texts,
    train_or_validation,
)
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.pictures import Pictured, image_of, require_pictures
from pe_rlhf_mm.data.sources.source import Row, Source
from pe_rlhf_mm.errors import UserError

COCO = {"train2014": "train", "val2014": "validation"}
"""The image sets with public answers, and what their publishers call them."""


class Joined:
    """Questions, each with the fields of its annotation."""

    def __init__(self, questions: Source, annotations: Source):
        self.questions, self.annotations = questions, annotations

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Row:
        question = self.questions[index]
        number = take(question, "question_id", int)
        if number not in self._places:
            raise WrongRow(f"question {number} has no annotation. Are both files of the same release?")
        return {**self.annotations[self._places[number]], **question}

    def where(self, index: int) -> str:
        return self.questions.where(index)

    @cached_property
    def _places(self) -> dict[int, int]:
        """Where the annotation of each question is."""
        return {take(self.annotations[i], "question_id", int): i for i in range(len(self.annotations))}


def question(row: Row, split: str, subset: str, *, name: str) -> tuple[str, Record]:
    """A question, its answers and its image."""
    if split == "test":
        raise SetAside("answers are not public")
    image, answers = take(row, "image_id", int), _answers(row)
    return train_or_validation(f"{name}/{image}") if split == "train" else "test", {
        "question_id": take(row, "question_id", int),
        "image_id": image,
        "question": take(row, "question", str),
        "question_type": take(row, "question_type", str),
        "answer_type": take(row, "answer_type", str),
        "answer": row.get("multiple_choice_answer") or Counter(answers).most_common(1)[0][0],
        "answers": answers,
        "image": image_of(row),
    }


def _answers(row: Row) -> list[str]:
    return texts([take(answer, "answer", str) for answer in take(row, "answers", list)], "answers")


def _image_name(row: Row, images: str) -> str:
    return f"COCO_{images}_{take(row, 'image_id', int):012d}.jpg"


def _parts(found: Found, names: tuple[str, str], row: Any) -> Sequence[Part]:
    """One part for each image set whose two files are there."""
    from pe_rlhf_mm.data.sources.json_list import JsonList

    parts = []
    for images, split in COCO.items():
        asked, answered = (found.named(name.format(images)) for name in names)
        if bool(asked) != bool(answered):
            there, missing = (names[0], names[1]) if asked else (names[1], names[0])
            raise UserError(
                f"{found.folder} has {there.format(images)} and no {missing.format(images)}; both are needed. "
                "Copy the other one too, or take this one away."
            )
        if asked:
            require_pictures(found, f"COCO_{images}_*.jpg", images)
            joined = Joined(JsonList(asked[0], "questions"), JsonList(answered[0], "annotations"))
            source = Pictured(joined, found, partial(_image_name, images=images))
            parts.append(Part(source, partial(row, split=split, subset="")))
    return parts


FEATURES: dict[str, Kind] = {
    "question_id": "int",
    "image_id": "int",
    "question": "text",
    "question_type": "text",
    "answer_type": "text",
    "answer": "text",
    "answers": "texts",
    "image": "image",
}
IMAGES = ("train2014.zip", "val2014.zip")


def _published(name: str, title: str, where: str, files: tuple[str, str], archives: Sequence[str]) -> Published:
    row = partial(question, name=name)
    return Published(
        name=name,
        title=title,
        licence="annotations CC BY 4.0; images under the terms of COCO and Flickr",
        where_to_get_it=f"{where} The images are train2014.zip and val2014.zip of https://cocodataset.org.",
        files=tuple(file.format(images) for images in COCO for file in files),
        archives=(*archives, *IMAGES),
        features=FEATURES,
        prompt=("question", "image"),
        parts=partial(_parts, names=files, row=row),
        row=row,
    )


VQAV2 = _published(
    "vqav2",
    "VQAv2: questions about COCO images",
    "Download questions and annotations from https://visualqa.org/download.html.",
    ("v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"),
    ("v2_Questions_*.zip", "v2_Annotations_*.zip"),
)
OKVQA = _published(
    "okvqa",
    "OK-VQA: questions about COCO images that ask for outside knowledge",
    "Download questions and annotations from https://okvqa.allenai.org/download.html.",
    ("OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json"),
    ("OpenEnded_mscoco_*_questions.json.zip", "mscoco_*_annotations.json.zip"),
)
