"""What the tasks on drawn screens share: samples, episodes, oracle and ratings."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pe_rlhf_mm.envs.actions import ActionError, Dialect, Kind, UIAction, codec
from pe_rlhf_mm.envs.canvas.environment import SIZE, CanvasEnv
from pe_rlhf_mm.envs.canvas.problem import Problem
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.tasks.canvas.choices import SPLITS, Choices, words_of
from pe_rlhf_mm.tasks.canvas.wrong_actions import elsewhere_in_its_box, wrong_actions
from pe_rlhf_mm.tasks.ui.playing import tuning
from pe_rlhf_mm.types import Image, Message, Rated, Sample

ROLE = "Reach the goal on the screen."
NEEDED: Sequence[Kind] = ("click", "type", "key", "scroll", "done")
SAMPLES = dict(zip(SPLITS, (4096, 512, 1024), strict=True))
"""Problems of a split."""


class CanvasTask:
    """Problems that are drawn, each from the number of its sample.

    `name`: what is in front of the numbers. `dialect`: what the agent speaks. `max_steps`: replies of an episode.
    """

    name: ClassVar[str]
    evaluators: Sequence[str] = ("pe/ui-success",)

    tuning = tuning(max_turns=6)  # more do not fit into the context of tiny-vlm

    def __init__(self, dialect: Dialect = "percent", max_steps: int = 8):
        self.dialect, self.max_steps = dialect, max_steps

    def build(self, choices: Choices) -> Problem:
        """A problem of this task."""
        raise NotImplementedError

    def problem(self, sample: Sample) -> Problem:
        """The problem of a sample, as it is at the start."""
        told = sample.metadata
        return self.build(Choices(told["split"], f"{told['problem']}/{told['split']}/{told['seed']}"))

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The problems of a split by number; screen and goal are seen when they are played."""
        if split not in SPLITS:
            raise UserError(f"canvas/{self.name} has no split {split!r}; it has {', '.join(SPLITS)}")
        prompt = (Message("system", f"{ROLE}\n\n{self._grammar()}"),)
        for number in range(SAMPLES[split]):
            told = {"problem": self.name, "split": split, "seed": number}
            yield Sample(f"{self.name}-{split}-{number}", prompt, metadata=told)

    def environment(self) -> CanvasEnv:
        """Plays the problems of this task."""
        return CanvasEnv(self.problem, dialect=self.dialect, max_steps=self.max_steps)

    def solve(self, sample: Sample) -> list[str] | None:
        """The replies of an oracle that reads the widgets; None where the dialect cannot say them."""
        replies = [self._said(action) for action in self.problem(sample).solution()]
        said = [reply for reply in replies if reply is not None]
        return said if len(said) == len(replies) else None

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        """Two replies to each step of the oracle's episodes, one that helps (1) and one that does not (0)."""
        rng = random.Random(seed)
        for sample in self.samples(split):
            replies = self.solve(sample)
            if replies is not None:
                yield from self._rated(sample, replies, rng)

    def _rated(self, sample: Sample, replies: Sequence[str], rng: random.Random) -> Iterator[Rated]:
        environment = CanvasEnv(self.problem, dialect=self.dialect, max_steps=len(replies))
        problem, steps = self.problem(sample), list(self.problem(sample).solution())
        seen = [*sample.messages, *map(_packed, environment.reset(sample, seed=0).observation)]
        for place, (action, reply) in enumerate(zip(steps, replies, strict=True)):
            others, word = steps[:place] + steps[place + 1 :], rng.choice(words_of(sample.metadata["split"]))
            right = "right", elsewhere_in_its_box(action, problem, rng)
            actions = itertools.chain([right], wrong_actions(action, problem, others, word, rng))
            sayable = ((sort, said) for sort, some in actions if (said := self._said(some)) is not None)
            for label, (sort, said) in zip((1.0, 0.0), sayable, strict=False):
                told = {**sample.metadata, "step": place, "sort": sort}
                yield Rated(tuple(seen), said, label, sample.id, told)
            problem.screen.act(action)
            seen += [Message("assistant", reply), *map(_packed, environment.step(reply).observation)]

    def _said(self, action: UIAction) -> str | None:
        try:
            return codec(self.dialect).render(action, SIZE)
        except ActionError:
            return None

    def _grammar(self) -> str:
        """What the dialect says of the actions that are needed here; it understands more."""
        speech: Any = codec(self.dialect)
        known = [kind for kind in NEEDED if kind in speech.kinds]
        grammar: str = dataclasses.replace(speech, kinds=known).describe()
        return grammar


def _packed(message: Message) -> Message:
    """The same with its pictures as files, since reward data are kept all at once: a kilobyte each, and not 48."""
    from pe_rlhf_mm.data.images import encode_png  # which is slow to import

    return Message(message.role, [Image(encode_png(p.source)) if isinstance(p, Image) else p for p in message.parts])
