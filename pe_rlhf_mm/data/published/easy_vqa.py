"""easy-VQA: questions about pictures of one coloured shape (V. Zhou, https://github.com/vzhou842/easy-VQA).

The published test images stay test images; one training image in ten is held out for validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published.description import Part, Published, Record, take, train_or_validation
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.pictures import image_of
from pe_rlhf_mm.data.sources.source import Row, Source
from pe_rlhf_mm.errors import UserError


class Illustrated:
    """Rows of a file of questions, with an id by their place and the image that lies beside the file."""

    def __init__(self, source: Source, folder: Path):
        self.source, self.folder = source, folder

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Row:
        row = self.source[index]
        image = self.folder / "images" / f"{take(row, 'image_id', int)}.png"
        return {**row, "question_id": f"{self.folder.name}-{index}", "image": image}

    def where(self, index: int) -> str:
        return self.source.where(index)


def question(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A question, its answer and its picture."""
    image = take(row, "image_id", int)
    return train_or_validation(f"easy-vqa/{image}") if split == "train" else "test", {
        "question_id": take(row, "question_id", str),
        "image_id": image,
        "question": take(row, "question", str),
        "answer": take(row, "answer", str),
        "image": image_of(row),
    }


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_list import JsonList

    parts = []
    for path in found.named("questions.json"):
        split = path.parent.name
        if split not in ("train", "test"):
            raise UserError(f"{path} is in no folder train or test, which says its split. Copy the data as published.")
        if not (path.parent / "images").is_dir():
            raise UserError(f"{path.parent} has no folder images; copy it beside {path.name}.")
        rows = Illustrated(JsonList(path, fields=("question", "answer", "image_id")), path.parent)
        parts.append(Part(rows, partial(question, split=split, subset="")))
    return parts


EASY_VQA = Published(
    name="easy-vqa",
    title="easy-VQA: questions about pictures of one coloured shape",
    licence="MIT",
    where_to_get_it=(
        "`pip install easy-vqa`; then the folder is what "
        '`python -c "import easy_vqa; print(easy_vqa.__path__[0])"` prints.'
    ),
    files=("train/questions.json", "test/questions.json"),
    features={"question_id": "text", "image_id": "int", "question": "text", "answer": "text", "image": "image"},
    prompt=("question", "image"),
    parts=_parts,
    row=question,
    ignored=("question_id",),
)
