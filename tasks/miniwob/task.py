"""Tasks on pages of miniwob: `miniwob/<page>` for one of them, and mixtures of several.

    pe-rlhf tune miniwob/click-test-2           pip install 'pe-rlhf-mm[web]' first, and a browser: make browser

A page is one file whose problems are drawn from a seed (MiniWoB: Shi et al., 2017; MiniWoB++: Liu et al., 2018, arXiv
1802.08802). Neither the pages nor the browser are looked for before an episode is played.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm.envs.actions import Codec, Dialect, Kind, codec
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.tasks.miniwob.oracles import kinds_of, oracle_of
from pe_rlhf_mm.tasks.miniwob.pages import MIXTURES, MOST_STEPS, PAGES, RELOADED, WITH_MODES, file_of
from pe_rlhf_mm.tasks.ui.playing import tuning
from pe_rlhf_mm.types import Message, Outcome, Rated, Sample

if TYPE_CHECKING:
    from pe_rlhf_mm.envs.web.environment import WebEnv
    from pe_rlhf_mm.tasks.miniwob.playing import Played

ROLE = "Reach the goal on the web page."
SPLITS = {"train": (100_000, 4096), "validation": (50_000, 512), "test": (0, 1024)}
"""First seed of a split, and how many samples it has; of a mixture, over all its pages."""


class MiniWob:
    """Problems of one page, or of several in turn.

    `dialect`: what the agent speaks. `max_steps`: replies of an episode; by default 10, or more if a page needs more.
    """

    evaluators: Sequence[str] = ("pe/ui-success",)

    def __init__(self, *pages: str, dialect: Dialect = "percent", max_steps: int | None = None):
        if not pages:
            raise UserError("name one page of miniwob at least")
        self.files = {page: file_of(page) for page in pages}
        self.max_steps = max_steps or max(MOST_STEPS.get(page, 10) for page in pages)
        self.codec = _telling(codec(dialect), {kind for page in pages for kind in kinds_of(page)})
        self.tuning = tuning(max_turns=self.max_steps)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The problems of a split, seed by seed on all pages; goals and screens are seen when they are played.

        No seed is in two splits, whatever the mixture. Pages that have other problems for testing pose those there.
        """
        if split not in SPLITS:
            raise UserError(f"miniwob has no split {split!r}; it has {', '.join(SPLITS)}")
        first, count = SPLITS[split]
        prompt = (Message("system", f"{ROLE}\n{self.codec.describe()}"),)
        pages = list(self.files)
        for number in range(count):
            page, problem = pages[number % len(pages)], first + number // len(pages)
            told: dict[str, Any] = {"page": self.files[page], "seed": problem}
            if page in WITH_MODES:
                told["mode"] = "test" if split == "test" else "train"
            # What all samples share is no cluster: nothing could be said of the spread then.
            yield Sample(f"{page}-{problem}", prompt, cluster=page if len(pages) > 1 else None, metadata=told)

    def environment(self) -> WebEnv:
        """Plays the problems of any page. Raises UserError if the pages or a browser are not installed."""
        from pe_rlhf_mm.envs.web.chromium import miniwob_folder
        from pe_rlhf_mm.envs.web.environment import WebEnv

        # The oracles have seen every other page that they know again as it was; of the rest nobody knows.
        in_place = [file for page, file in self.files.items() if oracle_of(page) and page not in RELOADED]
        return WebEnv(miniwob_folder(), self.codec, in_place=in_place, max_steps=self.max_steps)

    def solve(self, sample: Sample) -> list[str] | None:
        """The replies of an oracle, which plays the sample; None where it does not win."""
        played = self._play(sample)
        return list(played.outcome.replies) if played else None

    def demonstrations(self, samples: Iterable[Sample]) -> Iterator[Outcome]:
        """Episodes that an oracle wins, with all that was seen; samples that it does not win are left out."""
        return (played.outcome for played in map(self._play, samples) if played)

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        """Two replies to each turn of the oracle's episodes, one that is right and one that is wrong by rule."""
        for sample in self.samples(split):
            played = self._play(sample)
            if played:
                yield from self._rated(played, random.Random(f"{seed}/{sample.id}"))

    def close(self) -> None:
        """Closes the page that the oracle plays on."""
        if "_stage" in vars(self):
            self._stage.close()

    @functools.cached_property
    def _stage(self) -> WebEnv:
        """One page for all that the oracle plays: an episode is played at once, and nobody else sees it."""
        return self.environment()

    def _play(self, sample: Sample) -> Played | None:
        from pe_rlhf_mm.tasks.miniwob.playing import play

        return play(self._stage, sample)

    def _rated(self, played: Played, rng: random.Random) -> Iterator[Rated]:
        from pe_rlhf_mm.tasks.miniwob.wrong_actions import right_action, wrong_action

        say = functools.partial(self.codec.render, size=self._stage.size)
        sample = played.outcome.sample
        for place, turn in enumerate(played.turns):
            others = [other.action for other in played.turns if other is not turn]
            sort, wrong = wrong_action(turn.look, others, played.words, say, rng)
            for said, action, label in (("right", right_action(turn.look, rng), 1.0), (sort, wrong, 0.0)):
                told = {**sample.metadata, "step": place, "action": said}
                yield Rated(turn.conversation, say(action), label, sample.id, told)


def _telling(speech: Codec, kinds: Iterable[Kind]) -> Codec:
    """The codec with a grammar of some kinds only, which is shorter."""
    known: Any = speech
    narrow: Codec = dataclasses.replace(known, kinds=tuple(kind for kind in known.kinds if kind in kinds))
    return narrow


def __getattr__(name: str) -> Callable[[], MiniWob]:
    """What the registry makes a task of by the name of a page or of a mixture: `...task:click-test` is a factory."""
    if name in MIXTURES:
        return functools.partial(MiniWob, *MIXTURES[name].pages, max_steps=MIXTURES[name].steps)
    if name in PAGES:
        return functools.partial(MiniWob, name)
    raise AttributeError(name)
