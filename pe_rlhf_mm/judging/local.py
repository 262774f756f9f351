"""A judge that is a model in this process: how likely each choice is as its whole reply.

    P(c) = exp l(c) / Σ_c' exp l(c')        l(c) = Σ_t log p(c_t | prompt, c_<t), the stop token included

With the stop token the replies "1" and "10" share nothing, into however many tokens they are cut. Source: Lee et al.,
2023 (arXiv 2309.00267), section 2.1, where each choice is one token.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pe_rlhf_mm.data.cache import processor_fingerprint
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.data.streams import blocks
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.types import Message, Verdict


class LocalJudge:
    """A Policy, asked how likely it is to reply with each choice."""

    def __init__(self, policy: Policy):
        self._policy = policy

    def __repr__(self) -> str:
        return f"LocalJudge({self._policy!r})"

    @functools.cached_property
    def id(self) -> str:
        """Its name, and a hash of its weights, adapters, tokenizer and template."""
        # A policy's fingerprint survives rounding, as that of the weights an adapter is for must; verdicts do not.
        sizes = jax.tree.leaves(_sizes(jax.tree.leaves(self._policy.weights.state)))
        decides = (self._policy.fingerprint(), processor_fingerprint(self._policy.processor), list(map(float, sizes)))
        return f"{self._policy.name} {hashlib.sha256(repr(decides).encode()).hexdigest()[:16]}"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """The probabilities of the choices; None for a conversation that the model cannot read."""
        completions = self._policy.processor.encode_replies(choices)
        gallery = self._policy.gallery()
        prompts = [self._prompt(conversation, completions, gallery) for conversation in conversations]
        readable = [prompt for prompt in prompts if not isinstance(prompt, str)]
        likely = iter(self._log_likelihoods(readable, completions, gallery))
        return [
            Verdict(None, prompt) if isinstance(prompt, str) else _verdict(next(likely), choices) for prompt in prompts
        ]

    def _prompt(
        self, conversation: Sequence[Message], completions: Sequence[Sequence[int]], gallery: Gallery
    ) -> EncodedPrompt | str:
        """By itself, so that one that is too long or has a broken picture says so alone."""
        try:
            return self._policy.processor.encode([conversation], gallery, room=max(map(len, completions)))[0]
        except UserError as error:
            return f"it could not be asked: {error}"

    def _log_likelihoods(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[int]], gallery: Gallery
    ) -> Float[np.ndarray, "n c"]:
        """Each prompt is read once, whatever the number of choices."""
        processor, steps = self._policy.processor, max(map(len, completions))
        found = np.zeros((len(prompts), len(completions)))
        sizes = np.array([(len(p.tokens), len(completions) * steps) for p in prompts])
        for block in blocks(sizes) if prompts else ():
            batch = processor.prompts([prompts[i] for i in block.filled], gallery, length=block.shape[0])
            groups = processor.completions([completions] * block.rows, length=steps)
            scored = forward.score_policy(processor.config, self._policy.weights, batch, groups)
            found[block.indices] = np.asarray(scored.logprobs, float).sum(-1)[: len(block.indices)]
        return found


@jax.jit
def _sizes(weights: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.abs(weight.astype(jnp.float32)).sum() for weight in weights]


def _verdict(log_likelihoods: Float[np.ndarray, " c"], choices: Sequence[str]) -> Verdict:
    if not np.isfinite(log_likelihoods).any():
        return Verdict(None, f"it can reply with none of {', '.join(choices)}: their likelihoods are no numbers")
    weights = np.exp(log_likelihoods - log_likelihoods.max())
    return Verdict(dict(zip(choices, (weights / weights.sum()).tolist(), strict=True)))
