"""Steps of recorded demonstrations: a screen, a goal, and what was done so far; the next action is asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.data.published.recorded_steps import UNKNOWN
from pe_rlhf_mm.envs.actions import Dialect, Kind, UIAction
from pe_rlhf_mm.envs.matching import Box, StepTarget, holds, smallest_box_at
from pe_rlhf_mm.evaluators.ui_step import UIStep
from pe_rlhf_mm.tasks.android.wrong_actions import Scene, centre, wrong_reply
from pe_rlhf_mm.tasks.ui.replies import codec_of, is_right, written
from pe_rlhf_mm.tasks.vqa.questions import tuning
from pe_rlhf_mm.types import Image, Message, Rated, Sample, Text

Record = dict[str, Any]

ROLE = "You operate an Android device. You see its screen, are told a goal, and say which action comes next."
PREVIOUS = 16
"""So many actions before the step are told, the last ones."""
LARGEST = 0.5
"""Of the screen; what is larger and may be acted on is no button."""


class RecordedSteps:
    """One screen, one action; the target is what people did there.

    `data`: the name of the prepared set. `kinds`: the actions that prompts tell of, which are those of the set.
    `domain`: the field that results are broken down by.
    """

    data: ClassVar[str]
    kinds: ClassVar[Sequence[Kind]]
    domain: ClassVar[str]
    evaluators: Sequence[str] = ("pe/ui-step",)
    tuning = replace(tuning(max_tokens=48), reward=replace(tuning(max_tokens=48).reward, loss="pointwise"))

    def __init__(self, dialect: Dialect = "norm1000"):
        """`dialect`: how actions are written, in prompts and in replies."""
        self.dialect, self.codec = dialect, codec_of(dialect, self.kinds)

    def target(self, record: Record) -> StepTarget:
        """What a reply is held against."""
        raise NotImplementedError

    def ask(self, record: Record) -> list[str]:
        """What the user says beside the screen, line by line."""
        return [f"Goal: {record['goal']}"]

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The steps of a split, in the published order."""
        for record in prepared(self.data, split):
            yield Sample(
                id=f"{record['episode_id']}-{record['step']}",
                messages=self._prompt(record),
                target=self.target(record),
                **self._about(record),
            )

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        """Two actions for each step: what people did (1), and one that the rule of the data set calls wrong (0)."""
        rng = random.Random(seed)
        for record in prepared(self.data, split):
            target, about = self.target(record), self._about(record)
            right, wrong = self._right(target), self._wrong(record, target, rng)
            if right is not None and wrong is not None:
                for reply, label in ((right, 1.0), (wrong, 0.0)):
                    yield Rated(self._prompt(record), reply, label, **about)

    def environment(self) -> None:
        """A single step needs none."""

    def solve(self, sample: Sample) -> Sequence[str] | None:
        """What people did; None where the dialect cannot say it."""
        reply = self._right(sample.target)
        return None if reply is None else [reply]

    def _prompt(self, record: Record) -> tuple[Message, ...]:
        lines, before = self.ask(record), [self._told(action, record) for action in actions_of(record)]
        if record["step"]:
            lines += ["Done so far:", *before[: record["step"]][-PREVIOUS:]]
        picture, text = Image(record["image"]), Text("\n".join(lines))
        return Message("system", f"{ROLE}\n\n{self.codec.describe()}"), Message("user", (picture, text))

    def _told(self, action: UIAction | None, record: Record) -> str:
        """An action of the episode, as a reply would say it."""
        reply = None if action is None else written(action, self.codec, (record["width"], record["height"]))
        return reply or "something that is not known"

    def _about(self, record: Record) -> dict[str, Any]:
        """What results are clustered and broken down by."""
        metadata = {"action": action_of(record).kind, "domain": record[self.domain]}
        return {"cluster": record["episode_id"], "metadata": {name: value for name, value in metadata.items() if value}}

    def _right(self, target: StepTarget) -> str | None:
        """What people did as it is written, in the middle of the element where rounding takes the point out of it."""
        actions = [target.action]
        if target.action.point and len(target.boxes) == 1:
            actions.append(replace(target.action, point=centre(target.boxes[0])))
        replies = (written(action, self.codec, target.size) for action in actions)
        return next((reply for reply in replies if reply is not None and is_right(reply, target, UIStep())), None)

    def _wrong(self, record: Record, target: StepTarget, rng: random.Random) -> str | None:
        """An action that is wrong without doubt, as it is written."""
        elements = [json.loads(element) for element in record["elements"]]
        boxes = [_box(element) for element in elements if element["acted_on"]]
        others = [action for number, action in enumerate(actions_of(record)) if number != record["step"]]
        point = target.action.point
        scene = Scene(
            right=target.action,
            touched=smallest_box_at(point, target.boxes) if point else None,
            boxes=boxes,
            words=[element["text"] for element in elements if element["text"]],
            others=[action for action in others if action is not None],
        )
        around = smallest_box_at(point, [box for box in boxes if _area(box) <= LARGEST]) if point else None

        def perhaps_right(reply: str) -> bool:
            """Also beside the label that people touched, on the button that it is on, which the rule calls wrong."""
            action = self.codec.parse(reply, target.size)
            beside = around is not None and action.point is not None and holds(around, action.point)
            return is_right(reply, target, UIStep()) or (beside and action.kind == target.action.kind)

        return wrong_reply(scene, lambda action: written(action, self.codec, target.size), perhaps_right, rng)


def actions_of(record: Record) -> list[UIAction | None]:
    """The actions of the whole episode; None for one that nobody can tell."""
    return [None if action == UNKNOWN else _action(json.loads(action)) for action in record["actions"]]


def action_of(record: Record) -> UIAction:
    """What was done in the step."""
    return _action(json.loads(record["actions"][record["step"]]))


def boxes_of(record: Record) -> list[Box]:
    """The boxes of all elements on the screen."""
    return [_box(json.loads(element)) for element in record["elements"]]


def _action(fields: dict[str, Any]) -> UIAction:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return UIAction(**values)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _box(element: dict[str, Any]) -> Box:
    left, top, right, bottom = element["box"]
    return left, top, right, bottom
