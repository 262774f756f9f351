"""Forward passes of one role over [prompt | c1 | .. | cG]: what every recipe asks of the model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.roles import Head, Weights
from pe_rlhf_mm.algorithms import logprobs
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.models.layers import Rate
from pe_rlhf_mm.rollout.sampling import tempered, truncated
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.types import Completions, Packed, Pictures, Prompts


class Pass(NamedTuple):
    """Options of a training pass: dropout on the adapters' inputs with its key, and what layers keep."""

    dropout: Rate = 0.0
    key: jax.Array | None = None
    remat: Remat = "products"


PLAIN, SCORING = Sampling(), Pass()


class Read(NamedTuple):
    """Final hidden states of every token of rows, and of a mixture of adapters how much each expert was used."""

    states: Float[Array, "B S D"]
    usage: Float[Array, " N"] | None = None


def read(config: VLMConfig, weights: Weights, prompts: Prompts, completions: Completions, how: Pass = SCORING) -> Read:
    """Reads prompts with their completions behind them."""
    return _read(config, weights, vlm.join(config, prompts, completions), prompts.images, how)


def read_packed(config: VLMConfig, weights: Weights, packed: Packed, how: Pass = SCORING) -> Read:
    """Reads packed rows."""
    return _read(config, weights, vlm.packed_rows(config, packed), packed.images, how)


def _read(config: VLMConfig, weights: Weights, rows: vlm.Rows, images: Pictures | None, how: Pass) -> Read:
    model = vlm.bind(config, weights.state)
    found = model.hidden(rows, images, weights.bank, dropout=how.dropout, key=how.key, remat=how.remat)
    return Read(found.states, found.usage)


class PolicyStatistics(NamedTuple):
    """Of every completion token, or of those that packed rows ask about, and 0 at padding.

    `logprobs`: under the distribution that was drawn from. `full_logprobs`: before top-k and top-p, for the divergence
    from the anchor. `entropy`: before top-k and top-p. `usage`: of a mixture, of all that was read.
    """

    logprobs: Float[Array, "B *n"]
    full_logprobs: Float[Array, "B *n"]
    entropy: Float[Array, "B *n"]
    usage: Float[Array, " N"] | None = None

    def of(self, mask: Bool[Array, "B *n"]) -> PolicyStatistics:
        """0 at all other tokens."""
        return self.changed(lambda x: jnp.where(mask, x, 0))

    def changed(self, change: Callable[[Array], Array]) -> PolicyStatistics:
        """What is said of tokens, put in another form."""
        return self._replace(
            logprobs=change(self.logprobs),
            full_logprobs=change(self.full_logprobs),
            entropy=change(self.entropy),
        )


def policy(
    config: VLMConfig,
    weights: Weights,
    prompts: Prompts,
    completions: Completions,
    sampling: Sampling = PLAIN,
    how: Pass = SCORING,
) -> PolicyStatistics:
    """Log-probabilities of given completions, through the same `sampling` that the sampler draws with."""
    states, usage = read(config, weights, prompts, completions, how)
    before = vlm.before_each(states, *completions.tokens.shape[1:])
    found = statistics(config, weights.state, before, completions.tokens, completions.mask, sampling)
    return found._replace(usage=usage)


def statistics(
    config: VLMConfig,
    state: nnx.State,
    before: Float[Array, "*n D"],
    tokens: Int[Array, "*n"],
    mask: Bool[Array, "*n"],
    sampling: Sampling,
) -> PolicyStatistics:
    """Of `tokens`, from the hidden states before them; `state` has the table of words."""
    model = vlm.bind(config, state)

    def full(h: Array, _: Array) -> Array:
        return tempered(model.logits(h), sampling, config.forbidden_ids)

    whole = logprobs.chunked(before, tokens, full)
    drawn = whole
    if sampling.truncates:
        drawn = logprobs.chunked(before, tokens, lambda h, keep: truncated(full(h, keep), sampling, keep))
    # The padding token can never be drawn: its log-probability is -inf, and differences of such are no numbers.
    return PolicyStatistics(drawn.logprobs, whole.logprobs, whole.entropy).of(mask)


def packed_policy(
    config: VLMConfig, weights: Weights, packed: Packed, sampling: Sampling = PLAIN, how: Pass = SCORING
) -> PolicyStatistics:
    """The same, [B, K], of the tokens that packed rows ask about; 0 where they ask about none."""
    states, usage = read_packed(config, weights, packed, how)
    tokens = jnp.take_along_axis(packed.tokens, packed.asked, axis=1)
    found = statistics(config, weights.state, vlm.at(states, packed.before), tokens, packed.mask, sampling)
    return found._replace(usage=usage)


def packed_rewards(
    config: VLMConfig, weights: Weights, head: Head, packed: Packed, how: Pass = SCORING
) -> Float[Array, "B K"]:
    """A reward model's score of every reply of packed rows, read at its last token."""
    return head(vlm.at(read_packed(config, weights, packed, how).states, packed.asked))


def rewards(
    config: VLMConfig, weights: Weights, head: Head, prompts: Prompts, completions: Completions, how: Pass = SCORING
) -> Float[Array, "B G"]:
    """A reward model's score of each completion, read at its last token."""
    return head(vlm.at_last(read(config, weights, prompts, completions, how).states, completions.mask))


score_policy = functools.partial(jax.jit, static_argnames=("config", "sampling"))(policy)
"""`policy`, compiled. Policy and anchor go through the same program, and equal weights diverge by exactly 0."""

score_rewards = functools.partial(jax.jit, static_argnames="config")(rewards)
"""`rewards`, compiled."""
