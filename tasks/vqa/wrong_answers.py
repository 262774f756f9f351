"""Wrong answers to questions about images, by rule: what a reward model must learn to reject."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

POOL = 2048
"""So many questions of a split, evenly spread, lend their answers."""
SORTS = {"same type": 0.6, "any type": 0.2, "no answer": 0.2}
"""Shares of the three sorts of wrong answers."""
DRAWS = 32
"""A question to which so many drawn answers are all right has none that is wrong."""


class Known(NamedTuple):
    """Answers to other questions, each as often as it was given: what is rare is not therefore wrong."""

    by_type: Mapping[str, Sequence[str]]
    every: Sequence[str]

    @classmethod
    def of(cls, answers: Sequence[str]) -> Known:
        """The answers, and the same by type."""
        by_type: dict[str, list[str]] = {}
        for answer in answers:
            by_type.setdefault(answer_type(answer), []).append(answer)
        return cls(by_type, answers)


def answer_type(answer: str) -> str:
    """yes/no, number or other: the types of VQA, by its rule."""
    said = answer.strip().lower()
    return "yes/no" if said in ("yes", "no") else "number" if said.isdigit() else "other"


def spread(count: int) -> range:
    """Places of at most POOL of so many rows: rows hold images, and are not all read for their answers."""
    return range(0, count, -(-count // POOL) or 1)


def wrong_answer(
    question: str, kind: str, known: Known, worth: Callable[[str], float], rng: random.Random
) -> str | None:
    """An answer that is worth nothing here, or None if there is none to be found.

    Six times in ten it answers another question of the same type, twice any other question, twice it is no answer at
    all: words out of the question, or an answer broken off. Without the last two a policy soon finds out that the
    reward model was never told about them, and says nothing else.
    """
    for _ in range(DRAWS):
        sort = rng.choices(tuple(SORTS), tuple(SORTS.values()))[0]
        if sort == "no answer":
            reply = _no_answer(question, rng.choice(known.every), rng)
        else:
            reply = rng.choice(known.by_type.get(kind, known.every) if sort == "same type" else known.every)
        if reply and worth(reply) == 0:
            return reply
    return None


def _no_answer(question: str, answer: str, rng: random.Random) -> str:
    words = question.rstrip("?").split()
    start = rng.randrange(max(1, len(words)))
    some = " ".join(words[start : start + rng.randint(1, 3)])
    return rng.choice([some, f" {some}", answer[: rng.randrange(max(1, len(answer))) or 1]])
