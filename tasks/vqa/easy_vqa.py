"""easy-VQA: 48,248 questions about 5,000 pictures of one coloured shape each (V. Zhou, MIT licence).

Read from the installed `easy-vqa` package, nothing is downloaded. The published test images stay test images; one
training image in ten, chosen by a hash of its number, is held out for validation. Preference pairs are made by rule
from the published answers: the right answer against a wrong reply (`wrong_reply`).
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
from pe_rlhf_mm.training.config import PreferenceConfig, RewardConfig, RLConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.types import Image, Message, Preference, Sample, Text

SHAPES = ("rectangle", "circle", "triangle")
COLORS = ("red", "green", "blue", "yellow", "black", "gray", "teal", "brown")
KINDS = (("yes", "no"), SHAPES, COLORS)
WRONG = (0.6, 0.2, 0.2)
"""Shares of the three sorts of wrong replies."""
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


def wrong_reply(question: str, answer: str, rng: random.Random) -> str:
    """What a reward model must learn to reject, by rule; never the published answer.

    Six times in ten another answer of the same kind, twice any other answer (now and then of the same kind again: 63 in
    100 are in all), twice no answer at all: words out of the question, or an answer broken off. Without the last two a
    policy soon finds out that the reward model was never told about "triangle" as the reply to a yes/no question, or
    about " not", and says nothing else.
    """
    kind = next(kind for kind in KINDS if answer in kind)
    sort = rng.choices(("same kind", "any answer", "no answer"), WRONG)[0]
    if sort == "no answer":
        words = question.rstrip("?").split()
        start = rng.randrange(len(words))
        some = " ".join(words[start : start + rng.randint(1, 3)])
        broken = rng.choice(ANSWERS)
        replies = [some, f" {some}", broken[: rng.randrange(1, len(broken))]]
    else:
        replies = list(kind if sort == "same kind" else ANSWERS)
    return rng.choice([reply for reply in replies if reply.strip() != answer])


@register_task("pe/easy-vqa@1")
class EasyVQA:
    """One question, one picture, an answer of one word."""

    evaluators: Sequence[str] = ("pe/exact-match",)
    tuning = TuneConfig(  # for tiny-vlm: minutes on a laptop, and an SFT policy that leaves something to learn
        sft=SFTConfig(steps=76, batch_size=32, learning_rate=1.2e-3, demonstrations=1024),
        reward=RewardConfig(steps=300, batch_size=64, learning_rate=4e-3, validate_every=50, validation_pairs=512),
        rl=RLConfig(
            steps=150,
            prompts=64,
            group=4,
            learning_rate=8e-4,
            value_learning_rate=1e-3,
            temperature=1.0,
            max_tokens=8,
            evaluate_every=25,
            evaluation_samples=512,
        ),
        preferences=PreferenceConfig(steps=300, learning_rate=2e-3, beta=0.3, evaluate_every=25),
    )

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The questions of a split, in the published order."""
        if split not in SPLITS:
            raise UserError(f"pe/easy-vqa has no split {split!r}; it has {', '.join(SPLITS)}")
        folder = data_folder() / ("test" if split == "test" else "train")
        pictures = folder / "images"
        for number, (question, answer, image) in enumerate(json.loads((folder / "questions.json").read_text())):
            if split != "test" and held_out(image) != (split == "validation"):
                continue
            picture = Image(pictures / f"{image}.png")
            yield Sample(
                id=f"{folder.name}-{number}",
                messages=(Message("user", (picture, Text(question))),),
                target=answer,
                cluster=f"{folder.name}-{image}",
                metadata={"question": question},
            )

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """One pair a question: the published answer is preferred over a wrong reply, drawn from the seed."""
        rng = random.Random(seed)
        for sample in self.samples(split):
            wrong = wrong_reply(sample.metadata["question"], sample.target, rng)
            yield Preference(sample.messages, sample.target, wrong, cluster=sample.cluster)

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str]:
        """The published answer."""
        return [sample.target]
