"""ScreenQA: questions about screens of Android apps, with short answers (the screens are those of RICO).

Y.-C. Hsiao et al., https://arxiv.org/abs/2209.08199, https://github.com/google-research-datasets/screen_qa. Where only
the long answers are in the folder (answers_and_bboxes), those are taken. Without RICO's screens there are no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published.description import SPLITS, Part, Published, Record, take, texts
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.pictures import Pictured, image_of, some_pictures
from pe_rlhf_mm.data.sources.source import Row, Source

SHORT, LONG = "short_answers", "answers_and_bboxes"
SCREENS = "[0-9]*.jpg"


class Numbered:
    """Rows that are told apart by nothing but their place: `question_id` is the split and a number."""

    def __init__(self, source: Source, split: str):
        self.source, self.split = source, split

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Row:
        return {**self.source[index], "question_id": f"{self.split}-{index}"}

    def where(self, index: int) -> str:
        return self.source.where(index)


def question(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A question, its answers and its screen."""
    truths = take(row, "ground_truth", list)
    answers = [take(truth, "full_answer", str) if isinstance(truth, dict) else truth for truth in truths]
    return split, {
        "question_id": take(row, "question_id", str),
        "image_id": take(row, "image_id", int),
        "question": take(row, "question", str),
        "answers": texts(answers, "ground_truth"),
        "image": image_of(row) if "image" in row else None,
    }


def _image_name(row: Row) -> str:
    return f"{take(row, 'image_id', int)}.jpg"


def _files(found: Found, kind: str) -> list[tuple[Path, str]]:
    """The files of one kind and their splits: kind/split.json or kind-split.json."""
    return [
        (path, split)
        for split in SPLITS
        for path in found.named(f"{split}.json", f"{kind}-{split}.json")
        if path.parent.name == kind or path.name.startswith(kind)
    ]


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_list import JsonList

    screens, parts = some_pictures(found, SCREENS), []
    for path, split in _files(found, SHORT) or _files(found, LONG):
        rows = Numbered(JsonList(path), split)
        source = Pictured(rows, found, _image_name) if screens else rows
        parts.append(Part(source, partial(question, split=split, subset=""), lacks=() if screens else ("image",)))
    return parts


SCREENQA = Published(
    name="screenqa",
    title="ScreenQA: questions about screens of Android apps",
    licence="CC BY 4.0; RICO's screens under their own terms",
    where_to_get_it=(
        "Download short_answers/*.json from https://github.com/google-research-datasets/screen_qa, and for the images "
        "the screens (combined/*.jpg) of RICO, http://www.interactionmining.org/rico."
    ),
    files=tuple(f"{kind}/{split}.json" for kind in (SHORT, LONG) for split in SPLITS),
    features={"question_id": "text", "image_id": "int", "question": "text", "answers": "texts", "image": "image"},
    prompt=("question", "image_id"),
    ignored=("question_id",),
    parts=_parts,
    row=question,
)
