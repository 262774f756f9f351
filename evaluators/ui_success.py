"""Success of an episode: the environment gave a reward for it, and it ended by itself."""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score


@register_evaluator("pe/ui-success@1")
class UISuccess:
    """1 if the rewards of the episode sum to more than 0 and the task ended it before a budget did, otherwise 0.

    None for an episode that was lost to a fault, and for an outcome without an episode. Parts: "steps", replies that
    were answered; "invalid", the share of them that were no action or could not be carried out; "truncated", 1 if a
    budget ended the episode; "reward", their sum.
    """

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [_score(outcome) for outcome in outcomes]


def _score(outcome: Outcome) -> Score:
    if not outcome.steps:
        return Score(None, "it was not played: there are no steps")
    lost = [str(step.info["lost"]) for step in outcome.steps if "lost" in step.info]
    if lost:
        return Score(None, f"the episode was lost: {lost[0]}")
    acted, last = outcome.steps[1:], outcome.steps[-1]  # the first one is the reset
    reward = sum(step.reward for step in outcome.steps)
    invalid = sum("action_error" in step.info for step in acted)
    cut = last.truncated or "out_of_steps" in last.info
    parts = {
        "steps": float(len(acted)),
        "invalid": invalid / len(acted) if acted else 0.0,
        "truncated": float(cut),
        "reward": reward,
    }
    end = "was cut off" if cut else "ended" if last.terminated else "goes on"
    why = f"reward {reward:g}; the episode {end} after {len(acted)} steps, {invalid} of them invalid"
    return Score(float(reward > 0 and last.terminated and not cut), why, parts)
