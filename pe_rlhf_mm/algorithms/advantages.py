"""From a reward for a whole completion to a return, or an advantage, for every token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.algorithms import masked


def on_last_token(rewards: Float[Array, "*n"], mask: Bool[Array, "*n T"]) -> Float[Array, "*n T"]:
    """Puts each completion's reward on its last unmasked token; an empty completion gets none."""
    later = jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1]
    return jnp.where(mask & (later == 1), rewards[..., None], 0)


def token_rewards(
    rewards: Float[Array, "*n"],
    kl: Float[Array, "*n T"],
    mask: Bool[Array, "*n T"],
    beta: Float[Array, ""] | float,
) -> Float[Array, "*n T"]:
    """The paper's objective as a reward for every token.

        r[t] = -β · (log π(a_t) - log anchor(a_t)) + 1[t = last] · (1 - β) · R

    so that Σ_t r[t] = (1 - β) R - β KL, equation 1 of PE-RLHF (arXiv 2403.10704, A.1.3). Note the factor on the reward.
    """
    return on_last_token((1 - beta) * rewards, mask) - beta * jnp.where(mask, kl, 0)


def returns_to_go(rewards: Float[Array, "*n T"], gamma: float = 1.0) -> Float[Array, "*n T"]:
    """Z[t] = Σ_{s >= t} γ^(s-t) r[s]. The paper has γ = 1 (RLAIF, appendix F)."""
    if gamma == 1.0:
        return jnp.cumsum(rewards[..., ::-1], axis=-1)[..., ::-1]
    steps = jnp.arange(rewards.shape[-1])
    later = steps[None, :] - steps[:, None]
    return jnp.einsum("...s,ts->...t", rewards, jnp.where(later >= 0, gamma ** jnp.maximum(later, 0), 0))


def returns_within(
    rewards: Float[Array, "*n T"], scope: Int[Array, "*n T"], turn: Int[Array, "*n T"], gamma: float = 1.0
) -> Float[Array, "*n T"]:
    """Z[t] = Σ γ^(turn[s] - turn[t]) r[s] over s >= t of the same scope.

    Of one scope they are the returns to go of an episode, discounted from turn to turn and not within one: with γ < 1
    what is reached at the first try is worth more. Where every turn is a scope, every action answers for itself alone:
    for rewards that judge one action at a time, such as a 0/1 reward model of UI actions, which would pay for long
    episodes if they were summed over them.
    """
    steps = jnp.arange(rewards.shape[-1])
    own = (scope[..., :, None] == scope[..., None, :]) & (steps[None, :] >= steps[:, None])
    later = jnp.maximum(turn[..., None, :] - turn[..., :, None], 0)
    return jnp.einsum("...s,...ts->...t", rewards, jnp.where(own, jnp.asarray(gamma, rewards.dtype) ** later, 0))


def above_the_others(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"]
) -> Float[Array, "*n G T"]:
    """RLOO: how much more a completion earned than the others of its prompt did in the mean.

        A[i, t] = R[i] - 1/(G - 1) Σ_{j ≠ i} R[j],   R = the return of the whole scope that t is in

    What the others earned does not depend on what this one chose, so the gradient stays unbiased, and a prompt that is
    easy or hard for all of them weighs nothing. Of several scopes, such as turns that are rewarded one by one, R[j] is
    the mean over those of j. Of masked completions nothing is known; one without others is worth nothing.

    Kool et al. 2019 (Buy 4 REINFORCE samples, get a baseline for free); Ahmadian et al. 2024 (arXiv 2402.14740),
    equation 7.
    """
    whole = at_first(returns, scope, mask)
    earned, known = _worth(returns, scope, mask), mask.any(axis=-1)
    others = known.sum(axis=-1, keepdims=True) - known
    total = jnp.where(known, earned, 0)
    baseline = (total.sum(axis=-1, keepdims=True) - total) / jnp.maximum(others, 1)
    return jnp.where((known & (others > 0))[..., None], whole - baseline[..., None], 0)


def above_the_mean(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"]
) -> Float[Array, "*n G T"]:
    """Dr. GRPO: how much more a completion earned than its whole group did in the mean.

        A[i, t] = R[i] - mean(R),   R = the return of the whole scope that t is in

    Where a completion is one scope it is `above_the_others` times (G - 1) / G. Of several scopes, the mean is over all
    of them in the group.

    Liu et al. 2025 (Understanding R1-Zero-like training, arXiv 2503.20783), section 3.2.
    """
    return _in_group(returns, scope, mask)[0]


def standardized(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"], least: float = 1e-4
) -> Float[Array, "*n G T"]:
    """GRPO: the same in deviations of the group, with n - 1 in the denominator of the variance.

        A[i, t] = (R[i] - mean(R)) / (std(R) + ε),   R = the return of the whole scope that t is in

    ε is `least`: where the rewards of a group differ by rounding alone they must not become a signal, and a model may
    score the same reply otherwise in the last bits where it stands elsewhere in a row.

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.2, outcome supervision.
    """
    above, deviation = _in_group(returns, scope, mask)
    return above / (deviation + least)


def best_and_worst(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"], least: float = 1e-4
) -> Float[Array, "*n G T"]:
    """Online DPO: which completion of a group is the better one of a pair, and which the worse one.

        A[i, t] = 1[i = argmax R] - 1[i = argmin R],   R = the return of the whole completion

    Of several that earned most, or least, it is the first. Where all earned the same, but for `least`, which may be
    rounding (see `standardized`), there is no pair: A = 0. Of several scopes, R is the mean, as in `above_the_others`.

    Guo et al. 2024 (Direct language model alignment from online AI feedback, arXiv 2402.04792), who draw two and ask
    which is better.
    """
    worth, known = _worth(returns, scope, mask), mask.any(axis=-1)
    high, low = jnp.where(known, worth, -jnp.inf), jnp.where(known, worth, jnp.inf)
    best, worst = (jax.nn.one_hot(x, mask.shape[-2]) for x in (high.argmax(axis=-1), low.argmin(axis=-1)))
    apart = high.max(axis=-1) - low.min(axis=-1) > least
    return jnp.where(mask & apart[..., None, None], (best - worst)[..., None], 0)


def best_of_group(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"], least: float = 1e-4
) -> Float[Array, "*n G T"]:
    """Best-of-n: how many times as often a completion would be taken as it was drawn, were the best of its group taken.

        A[i, t] = G / m of those m that earned most, 0 of all others,   R = the return of the whole completion

    Who is below the best by no more than `least`, which may be rounding (see `standardized`), ties with it. Where all
    tie, none is better than what is drawn anyhow: A = 0. Masked completions do not count; of several scopes, R is the
    mean, as in `above_the_others`.
    """
    worth, known = _worth(returns, scope, mask), mask.any(axis=-1)
    most = jnp.where(known, worth, -jnp.inf).max(axis=-1, keepdims=True)
    best = known & (worth >= most - least)
    count, ties = known.sum(axis=-1, keepdims=True), best.sum(axis=-1, keepdims=True)
    weight = jnp.where(best & (ties < count), count / jnp.maximum(ties, 1), 0)
    return jnp.where(mask, weight[..., None], 0)


def _worth(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"]
) -> Float[Array, "*n G"]:
    """What each completion has earned: its return, or of several scopes the mean of theirs; 0 of a masked one."""
    return masked.sequence_mean(returns, _first(scope, mask))


def _in_group(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"]
) -> tuple[Float[Array, "*n G T"], Float[Array, "*n 1 1"]]:
    """Of each scope, its return above the mean of the group's; and the deviation of all of them.

    All is measured from the best of the group first: equal returns then differ from their mean by exactly 0.
    """
    first, group = _first(scope, mask), (-2, -1)
    count = first.sum(group, keepdims=True)
    best = jnp.where(count > 0, jnp.where(first, returns, -jnp.inf).max(group, keepdims=True), 0)
    below = jnp.where(first, returns - best, 0)
    mean = below.sum(group, keepdims=True) / jnp.maximum(count, 1)
    squares = jnp.where(first, (below - mean) ** 2, 0).sum(group, keepdims=True)
    above = jnp.where(mask, at_first(returns, scope, mask) - best - mean, 0)
    return above, jnp.sqrt(squares / jnp.maximum(count - 1, 1))


def at_first(x: Float[Array, "*n T"], scope: Int[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, "*n T"]:
    """Of each token, `x` at the first token of the scope that it is in."""
    first = _first(scope, mask)
    places = jnp.where(first, jnp.arange(x.shape[-1]), 0)
    return jnp.take_along_axis(x, jax.lax.cummax(places, axis=places.ndim - 1), axis=-1)


def _first(scope: Int[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Bool[Array, "*n T"]:
    return mask & (scope != jnp.roll(scope, 1, axis=-1)).at[..., 0].set(True)


def discounts(
    turn: Int[Array, "*n T"], scope: Int[Array, "*n T"], mask: Bool[Array, "*n T"], gamma: float
) -> Float[Array, "*n T"]:
    """What the next token's value is worth at each token: γ a turn, 1 within a turn, and 0 in another scope.

    Behind the last token, what lies beyond is a turn away.
    """
    more = jnp.roll(mask, -1, axis=-1).at[..., -1].set(False)
    turns = jnp.where(more, jnp.roll(turn, -1, axis=-1) - turn, 1)
    own = ~more | (jnp.roll(scope, -1, axis=-1) == scope)
    return jnp.where(own, jnp.asarray(gamma, jnp.float32) ** turns, 0)


def traces(turn: Int[Array, "*n T"], mask: Bool[Array, "*n T"], decay: float) -> Float[Array, "*n T"]:
    """λ behind the last token of each turn, and 1 within: estimates are mixed from turn to turn, and not within one."""
    more = jnp.roll(mask, -1, axis=-1).at[..., -1].set(False)
    return jnp.where(more & (jnp.roll(turn, -1, axis=-1) == turn), 1.0, decay)


def generalized(
    rewards: Float[Array, "*n T"],
    values: Float[Array, "*n T"],
    beyond: Float[Array, "*n"],
    discount: Float[Array, "*n T"],
    trace: Float[Array, "*n T"] | float,
    mask: Bool[Array, "*n T"],
) -> Float[Array, "*n T"]:
    """Generalised advantage estimates.

        A[t] = δ[t] + γ[t] λ[t] A[t+1],   δ[t] = r[t] + γ[t] V[t+1] - V[t]

    V behind the last token is `beyond`: 0 of an episode that has ended, what is expected of one that was cut. λ = 1
    gives returns less values, λ = 0 the surprise of a single step. Padding gets 0.

    Schulman et al. 2016 (arXiv 1506.02438), equation 16, with a γ and a λ of every step's own.
    """
    more = jnp.roll(mask, -1, axis=-1).at[..., -1].set(False)
    following = jnp.where(more, jnp.roll(values, -1, axis=-1), beyond[..., None])
    surprise = jnp.where(mask, rewards + discount * following - values, 0)
    kept = jnp.where(mask, discount * trace, 0)

    def back(later: Float[Array, "*n"], step: tuple) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        now = step[0] + step[1] * later
        return now, now

    steps = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (surprise, kept))
    return jnp.moveaxis(jax.lax.scan(back, jnp.zeros_like(surprise[..., 0]), steps, reverse=True)[1], 0, -1)


def whitened(advantages: Float[Array, "*n"], mask: Bool[Array, "*n"], least: float = 1e-8) -> Float[Array, "*n"]:
    """Moved and scaled to mean 0 and variance 1 over the unmasked tokens; 0 where they are masked.

    `least` is added to the variance: advantages that are all equal become 0.
    """
    spread = jnp.sqrt(masked.token_variance(advantages, mask) + least)
    return jnp.where(mask, (advantages - masked.token_mean(advantages, mask)) / spread, 0)
