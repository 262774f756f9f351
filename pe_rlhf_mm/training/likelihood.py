"""How likely a policy is to give the replies that somebody gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pe_rlhf_mm import hosts
from pe_rlhf_mm.data.streams import blocks
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.judged import refuse_long_replies
from pe_rlhf_mm.types import Message


class Likelihood(NamedTuple):
    """Of one reply: Σ_t log p(y_t | x, y_<t) in nats, the stop token included; nats of entropy a token; tokens."""

    logprob: float
    entropy: float
    tokens: int


def likelihoods(policy: Policy, conversations: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[Likelihood]:
    """Of each reply to its conversation, at temperature 1. Raises PromptTooLong, ImageError."""
    processor, gallery = policy.processor, policy.gallery()
    prompts, completions = processor.encode(conversations, gallery), processor.encode_replies(replies)
    refuse_long_replies(prompts, completions, processor)
    sizes = np.array([(len(p.tokens), len(c)) for p, c in zip(prompts, completions, strict=True)]).reshape(-1, 2)
    found = np.zeros((len(replies), 2))
    for block in blocks(sizes) if prompts else ():
        length, steps = block.shape
        batch = by_rows(processor.prompts([prompts[i] for i in block.filled], gallery, length=length))
        given = processor.completions([[completions[i]] for i in block.filled], length=steps)
        scored = forward.score_policy(processor.config, policy.weights, batch, given)
        sums = np.stack(
            [hosts.fetched(x).astype(float).sum(axis=(1, 2)) for x in (scored.full_logprobs, scored.entropy)], -1
        )
        found[block.indices] = sums[: len(block.indices)]
    return [
        Likelihood(float(logprob), float(entropy) / len(tokens), len(tokens))
        for (logprob, entropy), tokens in zip(found, completions, strict=True)
    ]
