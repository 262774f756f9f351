"""ScreenSpot: click the element that is described (Cheng et al., 2024; arXiv 2401.10935), on phones, desktops, the web.

A click inside the element's box is right. There is a test split, and nothing to train on. Results are told apart by
platform and by kind of element, six groups in all (`domain`).

    pe-rlhf data prepare screenspot --from FOLDER      screenspot_{mobile,desktop,web}.json and the images
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.envs.actions import Dialect, Point, UIAction
from pe_rlhf_mm.envs.matching import Box, ClickTarget
from pe_rlhf_mm.evaluators.click_in_box import ClickInBox
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.android.wrong_actions import DRAWS, centre
from pe_rlhf_mm.tasks.ui.replies import codec_of, is_right
from pe_rlhf_mm.types import Image, Message, Rated, Sample, Text

Record = dict[str, Any]

ROLE = "You are shown a screen and told of an element on it. Click that element."


@register_task("ui/screenspot@1")
class ScreenSpot:
    """A screen, and an element in words."""

    evaluators: Sequence[str] = ("pe/click-in-box",)

    def __init__(self, dialect: Dialect = "norm1000"):
        """`dialect`: how clicks are written, in prompts and in replies."""
        self.dialect, self.codec = dialect, codec_of(dialect, ("click",))

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The elements of a split, in the published order."""
        for record in prepared("screenspot", split):
            yield Sample(id=record["id"], messages=self._prompt(record), target=self._target(record), **_about(record))

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        """Two clicks for each element: into it (1), and outside of it (0), half the time on another of its screen."""
        rng, records = random.Random(seed), prepared("screenspot", split)
        boxes: dict[str, list[Box]] = {}
        for record in records:
            boxes.setdefault(record["image"], []).append(_box(record))
        for record in records:
            target = self._target(record)
            right, wrong = self._right(target), self._wrong(target, boxes[record["image"]], rng)
            if right is not None and wrong is not None:
                for reply, label in ((right, 1.0), (wrong, 0.0)):
                    yield Rated(self._prompt(record), reply, label, **_about(record))

    def environment(self) -> None:
        """A single click needs none."""

    def solve(self, sample: Sample) -> Sequence[str] | None:
        """The middle of the element; None where the dialect has no place inside it."""
        reply = self._right(sample.target)
        return None if reply is None else [reply]

    def _prompt(self, record: Record) -> tuple[Message, ...]:
        asked = (Image(record["image"]), Text(record["instruction"]))
        return Message("system", f"{ROLE}\n\n{self.codec.describe()}"), Message("user", asked)

    def _target(self, record: Record) -> ClickTarget:
        return ClickTarget(_box(record), self.dialect, (record["width"], record["height"]))

    def _right(self, target: ClickTarget) -> str | None:
        reply = self._click(centre(target.box), target)
        return reply if is_right(reply, target, ClickInBox()) else None

    def _wrong(self, target: ClickTarget, boxes: Sequence[Box], rng: random.Random) -> str | None:
        """A click outside of the element; `boxes`: what else is asked for on its screen."""
        others = [box for box in boxes if box != target.box]
        for _ in range(DRAWS):
            elsewhere = centre(rng.choice(others)) if others and rng.random() < 0.5 else (rng.random(), rng.random())
            reply = self._click(elsewhere, target)
            if not is_right(reply, target, ClickInBox()):
                return reply
        return None

    def _click(self, point: Point, target: ClickTarget) -> str:
        return self.codec.render(UIAction("click", point=point), target.size)


def _box(record: Record) -> Box:
    return record["left"], record["top"], record["right"], record["bottom"]


def _about(record: Record) -> dict[str, Any]:
    """What results are clustered and broken down by."""
    group = f"{record['platform']}/{record['kind']}"
    return {"cluster": record["image"].rpartition("/")[2], "metadata": {"domain": group}}
