"""Grounding: the point that a reply clicks lies in the box of what was asked for, borders included.

As ScreenSpot scores it (Cheng et al., "SeeClick", 2024): a predicted box counts by its middle, which the dialects that
know boxes click in; a reply that is no action is wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.envs.actions import ActionError, codec
from pe_rlhf_mm.envs.matching import ClickTarget, holds
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score

CLICKS = ("click", "double_click", "long_press")


@register_evaluator("pe/click-in-box@1")
class ClickInBox:
    """1 if the last reply clicks in the box of a ClickTarget, otherwise 0; None without such a target.

    Parts, 0 or 1: "unparsable"; "type", the reply clicks a point at all.
    """

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [_score(outcome) for outcome in outcomes]


def _score(outcome: Outcome) -> Score:
    target = outcome.sample.target
    if not isinstance(target, ClickTarget):
        return Score(None, "the sample's target is no ClickTarget")
    reply = outcome.replies[-1] if outcome.replies else ""
    try:
        action = codec(target.dialect).parse(reply, target.size)
    except ActionError as error:
        return Score(0.0, f"no action: {error}", {"unparsable": 1.0, "type": 0.0})
    if action.kind not in CLICKS or action.point is None:
        return Score(0.0, f"{action.kind} clicks no point", {"unparsable": 0.0, "type": 0.0})
    x, y = action.point
    where = ", ".join(f"{edge:.3f}" for edge in target.box)
    why = f"clicked ({x:.3f}, {y:.3f}), expected left, top, right, bottom {where}"
    return Score(float(holds(target.box, action.point)), why, {"unparsable": 0.0, "type": 1.0})
