"""easy-VQA (V. Zhou, MIT licence) as VQAv2: its questions with ten equal answers, its pictures under COCO's names.

Training images get the numbers from 1 on and become train2014, test images those from 100,001 on and become val2014; a
question's id is its image's number times 1000, and its place among the image's questions.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pe_rlhf_mm.data.sources.json_list import JsonList
from pe_rlhf_mm.data.standins.files import rows_of, write_json

SPLITS = {"train": ("train2014", 1), "test": ("val2014", 100_001)}
QUALITY = 95

Question = tuple[str, str, int]
"""The question, its answer, and the number of its image in the package."""


def fill(source: Path, folder: Path) -> dict[str, int]:
    """Writes questions, annotations and images out of the package's `data/{train,test}`."""
    counts = {}
    for name, (split, first) in SPLITS.items():
        rows = rows_of(JsonList(source / "data" / name / "questions.json", fields=("question", "answer", "image")))
        asked = [(row["question"], row["answer"], first + row["image"]) for row in rows]
        head = {"info": {"version": "2.0"}, "license": {"name": "MIT"}, "data_type": "mscoco", "data_subtype": split}
        questions, annotations = zip(*_numbered(asked), strict=True)
        document = {**head, "task_type": "Open-Ended", "questions": questions}
        write_json(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", document)
        write_json(folder / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": annotations})
        counts[f"questions ({split})"] = len(questions)
        counts[f"images ({split})"] = _images(source / "data" / name / "images", folder / split, asked, first)
    return counts


def _numbered(asked: Sequence[Question]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every question in the two files it is published in."""
    of_image = Counter[int]()
    for question, answer, image in asked:
        ids = {"question_id": image * 1000 + of_image[image], "image_id": image}
        of_image[image] += 1
        people = [{"answer": answer, "answer_confidence": "yes", "answer_id": person} for person in range(1, 11)]
        yield (
            {**ids, "question": question},
            {
                **ids,
                "question_type": " ".join(question.split()[:2]),
                "answer_type": "yes/no" if answer in ("yes", "no") else "other",
                "multiple_choice_answer": answer,
                "answers": people,
            },
        )


def _images(source: Path, folder: Path, asked: Sequence[Question], first: int) -> int:
    """Copies every picture that is asked about, as JPEG: COCO has no other kind."""
    from pe_rlhf_mm.data.images import open_image
    from pe_rlhf_mm.types import Image

    folder.mkdir()
    numbers = sorted({image for _, _, image in asked})
    for image in numbers:
        buffer = io.BytesIO()
        open_image(Image(source / f"{image - first}.png")).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        (folder / f"COCO_{folder.name}_{image:012d}.jpg").write_bytes(buffer.getvalue())
    return len(numbers)
