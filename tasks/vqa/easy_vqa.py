"""easy-VQA: 48,248 questions about 5,000 pictures of one coloured shape each (V. Zhou, MIT licence).

Read from the installed `easy-vqa` package, nothing is downloaded. The published test images stay test images; one
training image in ten, chosen by a hash of its number, is held out for validation. Preference pairs are made by rule
from the published answers: the right answer against a wrong one (`wrong_answer`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.types import Image, Message, Preference, Sample, Text

SHAPES = ("rectangle", "circle", "triangle")
COLORS = ("red", "green", "blue", "yellow", "black", "gray", "teal", "brown")
KINDS = (("yes", "no"), SHAPES, COLORS)
SAME_KIND = 0.75
ANSWERS = tuple(answer for kind in KINDS for answer in kind)
SPLITS = ("train", "validation", "test")


def data_folder() -> Path:
    """Where the installed `easy-vqa` package keeps its data. Raises UserError if it is not installed."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the data of pe/easy-vqa come from a package that is not installed: pip install easy-vqa")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def held_out(image: int) -> bool:
    """Whether a training image belongs to the validation split."""
    return hashlib.sha256(f"easy-vqa/{image}".encode()).digest()[0] < 256 // 10


def wrong_answer(answer: str, rng: random.Random) -> str:
    """Three times in four an answer of the same kind as the right one, otherwise any; never the right one.

    Without the others a reward model never learns that "triangle" is no answer to a yes/no question, and a policy that
    is trained against it soon says nothing else.
    """
    kind = next(kind for kind in KINDS if answer in kind) if rng.random() < SAME_KIND else ANSWERS
    return rng.choice([other for other in kind if other != answer])


@register_task("pe/easy-vqa@1")
class EasyVQA:
    """One question, one picture, an answer of one word."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The questions of a split, in the published order."""
        if split not in SPLITS:
            raise UserError(f"pe/easy-vqa has no split {split!r}; it has {', '.join(SPLITS)}")
        folder = data_folder() / ("test" if split == "test" else "train")
        for number, (question, answer, image) in enumerate(json.loads((folder / "questions.json").read_text())):
            if split != "test" and held_out(image) != (split == "validation"):
                continue
            picture = Image(folder / "images" / f"{image}.png")
            yield Sample(
                id=f"{folder.name}-{number}",
                messages=(Message("user", (picture, Text(question))),),
                target=answer,
                cluster=f"{folder.name}-{image}",
            )

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """One pair a question: the published answer is preferred over a wrong one of its kind, drawn from the seed."""
        rng = random.Random(seed)
        for sample in self.samples(split):
            wrong = wrong_answer(sample.target, rng)
            yield Preference(sample.messages, sample.target, wrong, cluster=sample.cluster)

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str]:
        """The published answer."""
        return [sample.target]
