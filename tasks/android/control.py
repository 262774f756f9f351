"""AndroidControl: the next action of a demonstration (Li et al., 2024; arXiv 2406.03679), by its goal or by the step.

`android/control` tells the goal of the whole (high-level), `android/control-low` also what to do in this step. A click
or a long press is right on the element that people touched, which is the smallest visible one there; of other actions
type and arguments must agree. Results are told apart by the parts of the test split, which overlap (`domain`).

    pe-rlhf data prepare android-control --from FOLDER      android_control-*-of-00020, splits.json, test_subsplits.json
"""

from __future__ import annotations

from pe_rlhf_mm.envs.matching import Box, StepTarget, smallest_box_at
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.android.recorded import Record, RecordedSteps, action_of, boxes_of


@register_task("android/control@1")
class AndroidControl(RecordedSteps):
    """A screen and the goal of the whole episode."""

    data = "android-control"
    kinds = ("click", "long_press", "scroll", "type", "open_app", "back", "home", "wait")
    domain = "subsplits"

    def target(self, record: Record) -> StepTarget:
        """The action, and the box of the element that it touches."""
        action = action_of(record)
        box = smallest_box_at(action.point, boxes_of(record)) if action.point else None
        boxes: list[Box] = [] if box is None else [box]
        return StepTarget(action, "android_control", boxes, self.dialect, (record["width"], record["height"]))


@register_task("android/control-low@1")
class AndroidControlLow(AndroidControl):
    """A screen, the goal of the whole episode, and what to do in this step."""

    def ask(self, record: Record) -> list[str]:
        """The goal, and the instruction of the step."""
        return [*super().ask(record), f"This step: {record['instruction']}"]
