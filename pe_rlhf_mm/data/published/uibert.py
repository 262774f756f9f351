"""UIBert's referring expressions: which element of an Android screen is meant, told in words (screens are RICO's).

C. Bai et al., https://arxiv.org/abs/2107.13731, https://github.com/google-research-datasets/uibert. The files have no
pixels: elements are boxes, and beside them stands the view hierarchy of the screen, with texts and boxes of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published.description import Part, Published, Record, WrongRow, take
from pe_rlhf_mm.data.published.features import floats, integer, text, texts
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.screenqa import Numbered
from pe_rlhf_mm.data.sources.source import Row

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
FOLDER = "ref_exp"
SIDES = ("xmin", "ymin", "xmax", "ymax")
WORDS = {"text": "text", "description": "description", "kind": "class/name", "name": "id/name"}
"""What a node of the view hierarchy has in words, here and as published."""
DIGITS = 6


def expression(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """An expression, the boxes of the elements it may mean, the nodes of the view hierarchy, and the element meant."""
    elements = _boxes(row, "image/object/bbox")
    meant = integer(row, "image/ref_exp/label")
    if not 0 <= meant < len(elements):
        raise WrongRow(f"the feature 'image/ref_exp/label' is {meant} of {len(elements)} elements")
    return split, {
        "id": take(row, "question_id", str),
        "screen": text(row, "image/id"),
        "expression": text(row, "image/ref_exp/text"),
        "elements": [json.dumps(box) for box in elements],
        "nodes": _nodes(row),
        "meant": meant,
    }


def _boxes(row: Row, name: str) -> list[tuple[float, ...]]:
    """Left, top, right and bottom, as fractions of the screen."""
    sides = [floats(row, f"{name}/{side}") for side in SIDES]
    if len({len(places) for places in sides}) > 1:
        raise WrongRow(f"the features '{name}/*' have {', '.join(str(len(s)) for s in sides)} values; expected as many")
    return [tuple(round(place, DIGITS) for place in box) for box in zip(*sides, strict=True)]


def _nodes(row: Row) -> list[str]:
    """The nodes of the view hierarchy as JSON: {"box": [..], "text": .., "description": .., "kind": .., "name": ..}."""
    boxes = _boxes(row, "image/view_hierarchy/bbox")
    words = [texts(row, f"image/view_hierarchy/{name}", len(boxes)) for name in WORDS.values()]
    return [
        json.dumps({"box": box, **dict(zip(WORDS, said, strict=True))}, ensure_ascii=False)
        for box, *said in zip(boxes, *words, strict=True)
    ]


def _files(found: Found, split: str) -> list[Path]:
    """ref_exp/dev.tfrecord, or ref_exp-dev.tfrecord."""
    return [
        path
        for path in found.named(f"{split}.tfrecord", f"{FOLDER}-{split}.tfrecord")
        if path.parent.name == FOLDER or path.name.startswith(FOLDER)
    ]


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.tfrecord import TFRecord

    return [
        Part(Numbered(TFRecord(path), split), partial(expression, split=split, subset=""))
        for published, split in SPLITS.items()
        for path in _files(found, published)
    ]


UIBERT = Published(
    name="uibert",
    title="UIBert RefExp: elements of Android screens told in words",
    licence="CC BY 4.0",
    where_to_get_it=(
        f"Download {FOLDER}/{{train,dev,test}}.tfrecord, which https://github.com/google-research-datasets/uibert has."
    ),
    files=tuple(f"{FOLDER}/{split}.tfrecord" for split in SPLITS),
    features={
        "id": "text",
        "screen": "text",
        "expression": "text",
        "elements": "texts",
        "nodes": "texts",
        "meant": "int",
    },
    prompt=("expression", "elements"),
    ignored=("id",),
    parts=_parts,
    row=expression,
)
