"""Step accuracy: the action of a reply is the one that was demonstrated, by the published rule of its data set.

The rules are in `envs/matching.py`; their average over steps, with episodes as clusters, is what AndroidControl and
Android in the Wild report. A reply that is no action is wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.envs.actions import ActionError, UIAction, codec
from pe_rlhf_mm.envs.matching import StepTarget, aitw_match, aitw_match_directed, aitw_type, android_control_match
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score


@register_evaluator("pe/ui-step@1")
class UIStep:
    """1 if the last reply says the action of a StepTarget, otherwise 0; None without such a target.

    Parts, 0 or 1: "unparsable"; "type", the kind of action is right (a tap and a swipe are two); "directed", the score
    by a rule where swipes that go opposite ways differ, as they do not in AitW's.
    """

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [_score(outcome) for outcome in outcomes]


def _score(outcome: Outcome) -> Score:
    target = outcome.sample.target
    if not isinstance(target, StepTarget):
        return Score(None, "the sample's target is no StepTarget")
    reply = outcome.replies[-1] if outcome.replies else ""
    try:
        action = codec(target.dialect).parse(reply, target.size)
    except ActionError as error:
        return Score(0.0, f"no action: {error}", {"unparsable": 1.0, "type": 0.0, "directed": 0.0})
    right, kind, directed = _judged(action, target)
    parts = {"unparsable": 0.0, "type": float(kind), "directed": float(directed)}
    return Score(float(right), f"did {_brief(action)}, expected {_brief(target.action)}", parts)


def _judged(action: UIAction, target: StepTarget) -> tuple[bool, bool, bool]:
    """Whether the step is right, its type is, and the step is if directions count."""
    gold, boxes = target.action, target.boxes
    if target.rule == "aitw":
        kind = aitw_type(action) == aitw_type(gold) != ""
        return aitw_match(action, gold, boxes), kind, aitw_match_directed(action, gold, boxes)
    right = android_control_match(action, gold, boxes[0] if boxes else None)
    return right, action.kind == gold.kind, right


def _brief(action: UIAction) -> str:
    """An action in one short line."""
    words: list[str] = [action.kind, action.direction, action.element, f"{action.text!r:.40}" if action.text else ""]
    words += [f"({point[0]:.3f}, {point[1]:.3f})" for point in (action.point, action.to) if point is not None]
    return " ".join(filter(None, words))
