"""UIBert RefExp: which element of a screen is meant (Bai et al., 2021; arXiv 2107.13731), as a task in text alone.

The published files have no pixels: elements are listed, numbered from top to bottom, each with its box and with the
words of the view hierarchy there, and the reply is a number. Trap: the box of the element meant is that of a node of
the view hierarchy, the others come from a detector of objects. Whoever compares them to a thousandth of the screen
finds it 93 times in 100 without having read the expression; so boxes are told in whole percent, and those of nodes not.

    pe-rlhf data prepare uibert --from FOLDER      ref_exp/{train,dev,test}.tfrecord
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.envs.matching import Box
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.text.small import tuning
from pe_rlhf_mm.types import Message, Rated, Sample

Record = dict[str, Any]
Element = tuple[Box, str]
"""Its box, and what there is to say about it."""

OVERLAP, LARGEST = 0.5, 4.0
"""A node tells of an element if they share half of the smaller one, and it is at most four times as large."""
NO_ANSWER = 0.2
"""The share of wrong replies that are no number, but words of the list."""


@register_task("ui/uibert-refexp@1")
class UIBertRefExp:
    """The elements of a screen, and one of them in words."""

    evaluators: Sequence[str] = ("pe/exact-match",)
    tuning = replace(tuning(max_tokens=8), reward=replace(tuning(max_tokens=8).reward, loss="pointwise"))

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The expressions of a split, in the published order."""
        for record in prepared("uibert", split):
            elements, meant = listed(record)
            target, about = str(meant + 1), {"cluster": record["screen"]}
            yield Sample(id=record["id"], messages=_ask(record, elements), target=target, **about)

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        """Two replies to each expression: the number of the element meant (1), and a wrong one (0)."""
        rng = random.Random(seed)
        for record in prepared("uibert", split):
            elements, meant = listed(record)
            wrong = _wrong(elements, meant, rng)
            for reply, label in ((str(meant + 1), 1.0), (wrong, 0.0)):
                yield Rated(_ask(record, elements), reply, label, cluster=record["screen"])

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str]:
        """The number of the element meant."""
        return [sample.target]


def listed(record: Record) -> tuple[list[Element], int]:
    """The elements from top to bottom and left to right, and the place of the one meant among them, from 0."""
    boxes: list[Box] = [tuple(json.loads(box)) for box in record["elements"]]
    nodes = [json.loads(node) for node in record["nodes"]]
    order = sorted(range(len(boxes)), key=lambda number: (boxes[number][1], boxes[number][0]))
    return [(boxes[number], _words(boxes[number], nodes)) for number in order], order.index(record["meant"])


def _words(box: Box, nodes: Sequence[dict[str, Any]]) -> str:
    """What the view hierarchy says of an element: kind, text and names of the node that is there."""
    around = [node for node in nodes if _tells(node, box)]
    if not around:
        return ""
    node = max(around, key=lambda node: _shared(node["box"], box) / (_area(node["box"]) + _area(box)))
    return " ".join(
        " ".join(node[name].split()) for name in ("kind", "text", "description", "name") if node[name].strip()
    )


def _tells(node: dict[str, Any], box: Box) -> bool:
    """Whether a node has words, and lies where an element is."""
    some = any(node[name].strip() for name in ("text", "description", "name"))
    smaller = min(_area(node["box"]), _area(box))
    return some and _area(node["box"]) <= LARGEST * _area(box) and _shared(node["box"], box) >= OVERLAP * smaller > 0


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes have in common."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0.0, width) * max(0.0, height)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _ask(record: Record, elements: Sequence[Element]) -> tuple[Message]:
    """The elements, a line each, and the expression."""
    lines = ["Elements of a screen, each with its left, top, right and bottom edge in percent of the screen:"]
    for number, (box, words) in enumerate(elements, start=1):
        edges = " ".join(f"{100 * edge:.0f}" for edge in box)
        lines.append(f"{number}. [{edges}] {words}".rstrip())
    lines += [f"Which element is meant by: {record['expression']}", "Answer with its number only."]
    return (Message("user", "\n".join(lines)),)


def _wrong(elements: Sequence[Element], meant: int, rng: random.Random) -> str:
    """The number of another element, mostly; otherwise no number at all, or one that no element has."""
    others = [str(number + 1) for number in range(len(elements)) if number != meant]
    if others and rng.random() >= NO_ANSWER:
        return rng.choice(others)
    words = [words for _, words in elements if words]
    return rng.choice([*words, str(len(elements) + 1), "0"])
