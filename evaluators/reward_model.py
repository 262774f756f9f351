"""The learned reward: what a reward model says of a reply.

How often it is right is another question: `pe-rlhf eval reward` tests it on labels.
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.evaluators.turns import score_readable, turns
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Rewards, Score


@register_evaluator("pe/reward-model@1")
class LearnedReward:
    """The reward of the last reply, in standard deviations of the replies that the reward model was validated on."""

    def __init__(self, reward: Rewards):
        self._reward = reward

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_readable(outcomes, self._score)

    def _score(self, outcomes: Sequence[Outcome]) -> list[Score]:
        conversations, replies = zip(*(turns(outcome)[-1] for outcome in outcomes), strict=True)
        return [Score(float(reward)) for reward in self._reward.score(conversations, replies)]
