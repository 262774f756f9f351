"""Drift: how far a policy has gone from its anchor, on the replies that it gave.

    log π(y|x) - log anchor(y|x)        nats a reply; its mean over drawn replies estimates KL(π || anchor)

Replies drawn at temperature 1 make the mean an unbiased estimate; of the likeliest replies it is larger. Beside the
score of the task it tells what was paid for it: Gao et al., 2022 (arXiv 2210.10760).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pe_rlhf_mm.evaluators.turns import score_readable, turns
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.training.likelihood import Likelihood, likelihoods
from pe_rlhf_mm.types import Outcome, Score


@register_evaluator("pe/drift@1")
class Drift:
    """Nats between policy and anchor, of all replies of an outcome together.

    Parts: "tokens" of the replies, "entropy" of the policy in nats a token, "finished", the share of replies that are
    shorter than `max_tokens` with their stop token.
    """

    more_is_better = False

    def __init__(self, policy: Policy, anchor: Policy, max_tokens: int):
        self._policy, self._anchor, self._max_tokens = policy, anchor, max_tokens

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_readable(outcomes, self._score)

    def _score(self, outcomes: Sequence[Outcome]) -> list[Score]:
        conversations, replies = zip(*(turn for outcome in outcomes for turn in turns(outcome)), strict=True)
        now, then = (iter(likelihoods(policy, conversations, replies)) for policy in (self._policy, self._anchor))
        return [self._of(*(list(itertools.islice(each, len(o.replies))) for each in (now, then))) for o in outcomes]

    def _of(self, now: Sequence[Likelihood], then: Sequence[Likelihood]) -> Score:
        tokens = sum(reply.tokens for reply in now)
        parts = {
            "tokens": float(tokens),
            "entropy": sum(reply.entropy * reply.tokens for reply in now) / tokens,
            "finished": sum(reply.tokens <= self._max_tokens for reply in now) / len(now),
        }
        return Score(sum(ours.logprob - theirs.logprob for ours, theirs in zip(now, then, strict=True)), "", parts)
