"""A task and an environment that need no file, to try evaluators, policies and loops on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Environment, Image, Message, Outcome, Preference, Sample, Step, Text


class ToyTask:
    """Name the colour of a plain square: pictures, preferences and solutions without any file."""

    evaluators: Sequence[str] = ("pe/exact-match",)
    COLORS = ("red", "green", "blue", "yellow")
    SIZES = {"train": 32, "validation": 8, "test": 16}  # noqa: RUF012 - read only

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """Squares in turn, each of a size of its own, so that no split has a picture of another."""
        from PIL import Image as Pillow

        if split not in self.SIZES:
            raise UserError(f"the toy task has no split {split!r}; it has {', '.join(self.SIZES)}")
        splits = list(self.SIZES)
        smallest = 16 + sum(self.SIZES[other] for other in splits[: splits.index(split)])
        for number in range(self.SIZES[split]):
            color, side = self.COLORS[number % len(self.COLORS)], smallest + number
            picture = Image(Pillow.new("RGB", (side, side), color))
            yield Sample(f"{split}-{number}", (Message("user", (picture, Text("Which color is it?"))),), target=color)

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """The colour against another one."""
        rng = random.Random(seed)
        for sample in self.samples(split):
            others = [color for color in self.COLORS if color != sample.target]
            yield Preference(sample.messages, sample.target, rng.choice(others))

    def environment(self) -> Environment | None:
        """One question, one reply."""
        return None

    def solve(self, sample: Sample) -> Sequence[str] | None:
        """The colour."""
        return [sample.target]


def toy_outcomes() -> list[Outcome]:
    """Replies to the toy task: right, wrong, empty and none at all."""
    samples = itertools.islice(ToyTask().samples("test"), 4)
    replies: list[list[str]] = [["red"], ["no idea"], [""], []]
    return [Outcome(sample, said) for sample, said in zip(samples, replies, strict=True)]


class ToyEnvironment:
    """A counter to be brought to a sample's `target` by the replies "up" and "down", and then left with "done"."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        """The counter at 0."""
        self.target, self.count = int(sample.target), 0
        return Step([Message("user", f"Bring the counter from 0 to {self.target}.")])

    def step(self, reply: str) -> Step:
        """Counts, or ends the episode: with reward 1 if the counter stands where it should."""
        if reply == "done":
            return Step([], reward=float(self.count == self.target), terminated=True)
        moves = {"up": 1, "down": -1}
        if reply not in moves:
            seen = [Message("user", f"There is no action {reply!r}: say up, down or done.")]
            return Step(seen, info={"action_error": f"no action {reply!r}"})
        self.count += moves[reply]
        return Step([Message("user", f"The counter stands at {self.count}.")])

    def close(self) -> None:
        """Nothing to close."""
