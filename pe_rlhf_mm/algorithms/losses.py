"""Losses: arrays in, a scalar out. The forward pass happened elsewhere; whatever is constant is stopped here, once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pe_rlhf_mm.algorithms import masked, ratios


def sft(logprobs: Float[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, ""]:
    """Negative log-likelihood of the demonstrated tokens.

        L = -(1/M) Σ_{n,t} mask[n,t] · log π(a[n,t] | s[n,t]),   M = Σ mask

    M counts the tokens of the whole batch, the stop tokens included.
    """
    return -masked.token_mean(logprobs, mask)


def pairwise(
    chosen: Float[Array, " B"],
    rejected: Float[Array, " B"],
    probability: Float[Array, " B"],
    margin: Float[Array, " B"] | float = 0.0,
) -> Float[Array, ""]:
    """Bradley-Terry loss of a reward model on pairs, with hard or soft labels, and margins to be won by.

        L = -(1/B) Σ [p · log σ(d - m) + (1 - p) · log σ(-d - m)],   d = r_c - r_r,  m >= 0

    p = 1 is the hard label of PE-RLHF (arXiv 2403.10704, A.1.2); 0 < p < 1 is the soft label of RLAIF (arXiv
    2309.00267, 2.2.1), where the pair's two scores go through a softmax; p = 0.5 is a tie, best met at d = 0. The
    margin is that of Llama 2 (arXiv 2307.09288, eq. 2), asked of whichever reply is said to be the better one.
    """
    difference = chosen - rejected
    won, lost = jax.nn.log_sigmoid(difference - margin), jax.nn.log_sigmoid(-difference - margin)
    return -jnp.mean(probability * won + (1 - probability) * lost)


def pointwise(scores: Float[Array, "*n"], labels: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Binary cross-entropy of a reward model on single replies; labels in [0, 1].

        L = -(1/M) Σ mask · [p · log σ(r) + (1 - p) · log(1 - σ(r))],   M = Σ mask

    The paper (A.1.2) prints log σ(1 - r) for the negative class, which is no cross-entropy; this is the intended one.
    """
    return -masked.token_mean(labels * jax.nn.log_sigmoid(scores) + (1 - labels) * jax.nn.log_sigmoid(-scores), mask)


def reinforce(
    logprobs: Float[Array, "*n T"], advantages: Float[Array, "*n T"], mask: Bool[Array, "*n T"]
) -> Float[Array, ""]:
    """Policy-gradient loss; the baseline has been subtracted already.

        L = -(1/N) Σ_n Σ_t mask[n,t] · log π(a[n,t] | s[n,t]) · A[n,t],   N = number of non-empty completions

    Its gradient is the REINFORCE estimate (Williams 1992) in the form of RLAIF, appendix F: a sum over an episode's
    tokens, then a mean over episodes. The advantages are constants.
    """
    if advantages.shape != logprobs.shape:
        raise ValueError(f"one advantage a token is needed: {advantages.shape} against log-probs {logprobs.shape}")
    return -masked.sequence_sum_mean(logprobs * jax.lax.stop_gradient(advantages), mask)


def value(values: Float[Array, "*n T"], returns: Float[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, ""]:
    """Squared error of the value model.

        L = (1/N) Σ_n Σ_t mask[n,t] · (Z[n,t] - V[n,t])²,   N = number of non-empty completions

    RLAIF, appendix F. The returns are constants.
    """
    if returns.shape != values.shape:
        raise ValueError(f"one return a token is needed: {returns.shape} against values {values.shape}")
    return masked.sequence_sum_mean((jax.lax.stop_gradient(returns) - values) ** 2, mask)


def ppo(
    logprobs: Float[Array, "*n T"],
    drawn: Float[Array, "*n T"],
    advantages: Float[Array, "*n T"],
    mask: Bool[Array, "*n T"],
    clip: float,
) -> Float[Array, ""]:
    """Clipped policy-gradient loss against `drawn`, the log-probabilities at the time of the rollout.

        L = -(1/N) Σ_n Σ_t mask[n,t] · min(ρ A, clip(ρ, 1 - ε, 1 + ε) A),   N = number of non-empty completions

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, but for its mean over time steps: here they are summed, as in
    `reinforce`, whose gradient it has where ρ = 1. Within a batch that is one constant factor.
    """
    return -masked.sequence_sum_mean(ratios.clipped(logprobs, drawn, advantages, mask, clip), mask)


def grpo(
    logprobs: Float[Array, "*n T"],
    drawn: Float[Array, "*n T"],
    advantages: Float[Array, "*n T"],
    mask: Bool[Array, "*n T"],
    clip: float,
) -> Float[Array, ""]:
    """The same, where every completion weighs alike, however long it is.

        L = -(1/N) Σ_n (1/|n|) Σ_t mask[n,t] · min(ρ A, clip(ρ, 1 - ε, 1 + ε) A),   |n| = Σ_t mask[n,t]

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), equation 3, without its KL term.
    """
    return -masked.sequence_mean_mean(ratios.clipped(logprobs, drawn, advantages, mask, clip), mask)


def dr_grpo(
    logprobs: Float[Array, "*n T"],
    drawn: Float[Array, "*n T"],
    advantages: Float[Array, "*n T"],
    mask: Bool[Array, "*n T"],
    clip: float,
    longest: int,
) -> Float[Array, ""]:
    """The same, divided by a constant: a long completion that fails is not let off, nor a short one that wins favoured.

        L = -(1/N) Σ_n (1/T) Σ_t mask[n,t] · min(ρ A, clip(ρ, 1 - ε, 1 + ε) A),   T = `longest`

    Liu et al. 2025 (Understanding R1-Zero-like training, arXiv 2503.20783), section 3.2.
    """
    return ppo(logprobs, drawn, advantages, mask, clip) / longest


def clipped_value(
    values: Float[Array, "*n T"],
    before: Float[Array, "*n T"],
    returns: Float[Array, "*n T"],
    mask: Bool[Array, "*n T"],
    clip: float,
) -> Float[Array, ""]:
    """Squared error of a value model that gains nothing by moving further than ε from what it said `before`.

        L = (1/N) Σ_n Σ_t mask[n,t] · max((Z - V)², (Z - V_before - clip(V - V_before, -ε, ε))²)

    As in the code of Ziegler et al. 2019 (arXiv 1909.08593), but for a factor ½. Returns and `before` are constants.
    """
    if returns.shape != values.shape:
        raise ValueError(f"one return a token is needed: {returns.shape} against values {values.shape}")
    returns, before = jax.lax.stop_gradient(returns), jax.lax.stop_gradient(before)
    near = before + jnp.clip(values - before, -clip, clip)
    return masked.sequence_sum_mean(jnp.maximum((returns - values) ** 2, (returns - near) ** 2), mask)
