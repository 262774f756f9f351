"""Losses, returns and log-probabilities against values and gradients worked out by hand, and against plain loops."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from pe_rlhf_mm.algorithms import advantages, kl, logprobs, losses, masked
from pe_rlhf_mm.rollout.sampling import tempered, truncated
from pe_rlhf_mm.rollout.settings import Sampling

MASK = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
"""Completions of 3, 1, 0 and 2 tokens: 6 tokens, 3 completions that are not empty."""
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""float32 has 24 bits, 6e-8 of a number; sums of a dozen numbers lose a little more."""


def numbers(seed: int, shape: tuple[int, ...] = MASK.shape) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


# Losses


def test_sft_is_the_mean_over_all_tokens_of_the_batch() -> None:
    loss, slope = jax.value_and_grad(losses.sft)(-jnp.arange(1.0, 17).reshape(4, 4), MASK)
    np.testing.assert_allclose(loss, (1 + 2 + 3 + 5 + 13 + 14) / 6, **ROUNDING)
    np.testing.assert_allclose(slope, -(MASK / 6), **ROUNDING)


@pytest.mark.parametrize("label", [1.0, 0.0, 0.7])
def test_pairwise_is_cross_entropy_of_the_margin_and_its_gradient_is_the_surprise(label: float) -> None:
    chosen, rejected, p = jnp.array([2.0, -1.0]), jnp.array([0.5, 1.0]), jnp.array([label, 1.0])
    loss, (up, down, _) = jax.value_and_grad(losses.pairwise, (0, 1, 2))(chosen, rejected, p)
    np.testing.assert_allclose(loss, reference.pairwise(chosen, rejected, p), **ROUNDING)
    surprise = np.array([label - reference.sigmoid(1.5), 1 - reference.sigmoid(-2.0)])
    np.testing.assert_allclose(up, -surprise / 2, **ROUNDING)
    np.testing.assert_allclose(down, surprise / 2, **ROUNDING)


@pytest.mark.parametrize(
    ("d", "m", "p"), [(1.5, 0.0, 1.0), (1.5, 1.0, 1.0), (-2.0, 0.5, 0.0), (0.3, 2.0, 0.7), (1.0, 1.0, 0.5)]
)
def test_a_margin_is_asked_of_the_better_reply_whichever_it_is(d: float, m: float, p: float) -> None:
    """L = -[p log σ(d - m) + (1 - p) log σ(-d - m)], so dL/dd = -p σ(m - d) + (1 - p) σ(d + m)."""
    s = reference.sigmoid
    chosen, rejected, label, margin = (jnp.array([x]) for x in (d, 0.0, p, m))
    loss, (up, down) = jax.value_and_grad(losses.pairwise, (0, 1))(chosen, rejected, label, margin)
    np.testing.assert_allclose(loss, -(p * np.log(s(d - m)) + (1 - p) * np.log(s(-d - m))), **ROUNDING)
    slope = -p * s(m - d) + (1 - p) * s(d + m)
    np.testing.assert_allclose([up[0], down[0]], [slope, -slope], **ROUNDING)


def test_margins_by_hand() -> None:
    """Won by exactly its margin, a pair costs log 2; a tie costs least at 0, where both margins are missed alike."""
    won = losses.pairwise(jnp.array([3.0]), jnp.array([1.0]), jnp.ones(1), jnp.array([2.0]))
    np.testing.assert_allclose(won, np.log(2), **ROUNDING)
    tie = functools.partial(losses.pairwise, rejected=jnp.zeros(1), probability=jnp.array([0.5]), margin=jnp.ones(1))
    np.testing.assert_allclose(tie(jnp.zeros(1)), np.log(1 + np.e), **ROUNDING)
    np.testing.assert_allclose(jax.grad(tie)(jnp.zeros(1)), 0, atol=1e-7)
    assert tie(jnp.array([0.5])) == tie(jnp.array([-0.5])) > tie(jnp.zeros(1))


def test_a_margin_of_zero_is_no_margin_to_the_last_bit() -> None:
    a, b, p = numbers(1, (64,)), numbers(2, (64,)), jax.random.uniform(jax.random.key(3), (64,))
    without = jax.value_and_grad(losses.pairwise)(a, b, p)
    np.testing.assert_array_equal(jax.value_and_grad(losses.pairwise)(a, b, p, jnp.zeros(64))[1], without[1])
    np.testing.assert_array_equal(losses.pairwise(a, b, p, jnp.zeros(64)), without[0])


def test_the_loss_with_margins_has_the_gradient_of_its_differences() -> None:
    from jax.test_util import check_grads

    a, b, p, m = numbers(1, (5,)), numbers(2, (5,)), jnp.array([1.0, 0.0, 0.7, 0.2, 0.5]), jnp.arange(5.0)
    check_grads(lambda a, b: losses.pairwise(a, b, p, m), (a, b), order=1, modes="rev", atol=1e-2, rtol=1e-2)


def test_equal_scores_cost_log_two_whatever_the_label() -> None:
    same = jnp.array([3.0, -4.0, 0.0])
    np.testing.assert_allclose(losses.pairwise(same, same, jnp.array([1.0, 0.3, 0.5])), np.log(2), **ROUNDING)


def test_a_soft_label_is_met_at_its_own_log_odds() -> None:
    margin = jnp.log(jnp.array([0.7 / 0.3]))
    slope = jax.grad(losses.pairwise)(margin, jnp.zeros(1), jnp.array([0.7]))
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_swapping_a_pair_and_its_label_changes_nothing() -> None:
    a, b, p = numbers(1, (5,)), numbers(2, (5,)), jnp.array([1.0, 0.0, 0.7, 0.2, 0.5])
    np.testing.assert_allclose(losses.pairwise(a, b, p), losses.pairwise(b, a, 1 - p), **ROUNDING)


def test_pointwise_is_binary_cross_entropy_and_its_gradient_is_the_error() -> None:
    scores, labels = jnp.array([2.0, -1.0, 0.5]), jnp.array([1.0, 0.0, 0.25])
    loss, slope = jax.value_and_grad(losses.pointwise)(scores, labels, jnp.ones(scores.shape, bool))
    np.testing.assert_allclose(loss, reference.pointwise(scores, labels), **ROUNDING)
    error = [reference.sigmoid(2.0) - 1, reference.sigmoid(-1.0), reference.sigmoid(0.5) - 0.25]
    np.testing.assert_allclose(slope, np.array(error) / 3, **ROUNDING)


def test_enormous_scores_cost_what_they_should_and_not_infinity() -> None:
    """-log σ(-200) = 200 + log(1 + exp(-200)) = 200, where log(σ(-200)) in float32 is -inf."""
    far, one = jnp.array([200.0]), jnp.ones(1)
    for loss in (lambda x: losses.pairwise(jnp.zeros(1), x, one), lambda x: losses.pointwise(-x, one, one > 0)):
        cost, slope = jax.value_and_grad(loss)(far)
        assert (float(cost), float(slope[0])) == (200.0, 1.0)


def test_reinforce_sums_over_tokens_and_then_takes_the_mean_over_completions() -> None:
    said, gain = -jnp.arange(1.0, 17).reshape(4, 4), jnp.broadcast_to(jnp.array([[2.0], [-1], [9], [3]]), (4, 4))
    loss, (slope, none) = jax.value_and_grad(losses.reinforce, (0, 1))(said, gain, MASK)
    np.testing.assert_allclose(loss, (2 * (1 + 2 + 3) - 1 * 5 + 3 * (13 + 14)) / 3, **ROUNDING)
    np.testing.assert_allclose(slope, -gain * MASK / 3, **ROUNDING)
    assert (none == 0).all()


def test_value_sums_squares_over_tokens_and_then_takes_the_mean_over_completions() -> None:
    guess, truth = numbers(3), numbers(4)
    loss, (slope, none) = jax.value_and_grad(losses.value, (0, 1))(guess, truth, MASK)
    np.testing.assert_allclose(loss, reference.value(guess, truth, MASK), **ROUNDING)
    np.testing.assert_allclose(slope, 2 * (guess - truth) * MASK / 3, **ROUNDING)
    assert (none == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_losses_equal_plain_loops(seed: int) -> None:
    a, b = numbers(seed), numbers(seed + 100)
    mask = MASK.at[3].set(jax.random.bernoulli(jax.random.key(seed), 0.5, (4,)))
    np.testing.assert_allclose(losses.sft(a, mask), reference.sft(a, mask), **ROUNDING)
    np.testing.assert_allclose(losses.reinforce(a, b, mask), reference.reinforce(a, b, mask), **ROUNDING)
    np.testing.assert_allclose(losses.value(a, b, mask), reference.value(a, b, mask), **ROUNDING)


WITH_MASK: dict[str, Callable] = {
    "sft": losses.sft,
    "reinforce": lambda x, mask: losses.reinforce(x, jnp.ones(x.shape), mask),
    "value": lambda x, mask: losses.value(x, jnp.ones(x.shape), mask),
    "variance": masked.token_variance,
}


@pytest.mark.parametrize("loss", WITH_MASK.values(), ids=WITH_MASK.keys())
def test_a_batch_of_empty_completions_costs_nothing_and_moves_nothing(loss: Callable) -> None:
    cost, slope = jax.value_and_grad(loss)(numbers(5), jnp.zeros(MASK.shape, bool))
    assert cost == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("loss", WITH_MASK.values(), ids=WITH_MASK.keys())
def test_more_padding_changes_neither_loss_nor_gradient(loss: Callable) -> None:
    wide, junk = jnp.pad(MASK, ((0, 2), (0, 3))), jnp.full((6, 7), 1e6).at[:4, :4].set(numbers(6))
    cost, slope = jax.value_and_grad(loss)(numbers(6), MASK)
    padded_cost, padded_slope = jax.value_and_grad(loss)(junk, wide)
    np.testing.assert_allclose(padded_cost, cost, **ROUNDING)
    np.testing.assert_allclose(padded_slope, jnp.pad(slope, ((0, 2), (0, 3))), **ROUNDING)


@pytest.mark.parametrize("name", ["sft", "reinforce"])
def test_impossible_tokens_under_the_mask_cost_nothing(name: str) -> None:
    cost, slope = jax.value_and_grad(WITH_MASK[name])(jnp.where(MASK, numbers(7), -jnp.inf), MASK)
    assert cost == WITH_MASK[name](numbers(7), MASK)
    assert jnp.isfinite(slope).all()


def test_equal_values_have_variance_zero_and_a_gradient_of_zero() -> None:
    spread, slope = jax.value_and_grad(masked.token_variance)(jnp.full(MASK.shape, 0.5), MASK)
    assert spread == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("loss", [losses.reinforce, losses.value])
def test_one_number_for_a_whole_completion_is_refused(loss: Callable) -> None:
    with pytest.raises(ValueError, match="token is needed"):
        loss(numbers(8), jnp.ones((4, 1)), MASK)


# Rewards, divergence, returns


def test_the_reward_sits_on_the_stop_token_and_an_empty_completion_has_none() -> None:
    placed = advantages.on_last_token(jnp.array([5.0, 6, 7, 8]), MASK)
    assert placed.tolist() == [[0, 0, 5, 0], [6, 0, 0, 0], [0, 0, 0, 0], [0, 8, 0, 0]]


@pytest.mark.parametrize("beta", [0.0, 0.05, 1.0])
def test_token_rewards_add_up_to_the_objective(beta: float) -> None:
    reward, penalty = numbers(9, (4,)), numbers(10)
    made = advantages.token_rewards(reward, penalty, MASK, beta)
    np.testing.assert_allclose(made, reference.token_rewards(reward, penalty, MASK, beta), **ROUNDING)
    expected = [(1 - beta) * reward[i] * (i != 2) - beta * penalty[i][MASK[i]].sum() for i in range(4)]
    np.testing.assert_allclose(made.sum(axis=-1), expected, **ROUNDING)


def test_an_infinite_divergence_under_the_mask_does_not_reach_the_rewards() -> None:
    made = advantages.token_rewards(jnp.ones(4), jnp.where(MASK, 0.0, jnp.nan), MASK, 0.1)
    assert jnp.isfinite(made).all()


def test_returns_by_hand() -> None:
    rewards = jnp.array([[1.0, 2, 4]])
    assert advantages.returns_to_go(rewards).tolist() == [[7, 6, 4]]
    assert advantages.returns_to_go(rewards, 0.5).tolist() == [[1 + 1 + 1, 2 + 2, 4]]
    assert advantages.returns_to_go(rewards, 0.0).tolist() == [[1, 2, 4]]


def test_what_was_earned_above_the_others_by_hand() -> None:
    """Returns 3, 0 and 6: the others of each earned 3, 4.5 and 1.5 in the mean."""
    mask = jnp.array([[True, True], [True, False], [True, True]])
    returns = jnp.array([[3.0, 2], [0, 0], [6, 5]])
    above = advantages.above_the_others(returns, jnp.zeros((3, 2), int), mask)
    assert above.tolist() == [[0, 0], [-4.5, -4.5], [4.5, 4.5]]


def test_turns_are_measured_one_by_one_against_the_mean_turn_of_the_others() -> None:
    """Two episodes, of two turns and of one: 1 and 5 against 2; then 2 against the mean of 1 and 5."""
    mask = jnp.array([[True, True, True], [True, True, False]])
    scope, returns = jnp.array([[0, 0, 1], [0, 0, -1]]), jnp.array([[1.0, 1, 5], [2, 2, 0]])
    assert advantages.above_the_others(returns, scope, mask).tolist() == [[-1, -1, 3], [-1, -1, -1]]


def test_what_is_masked_is_nobodys_baseline_and_one_alone_learns_nothing() -> None:
    mask = jnp.array([[[True], [False], [True]], [[True], [False], [False]]])
    returns = jnp.array([[[1.0], [jnp.nan], [3]], [[7], [8], [9]]])
    above = advantages.above_the_others(returns, jnp.zeros((2, 3, 1), int), mask)
    assert above.tolist() == [[[-2], [0], [2]], [[0], [0], [0]]]


def test_above_the_others_is_the_same_in_any_order_and_with_anything_added() -> None:
    returns, mask, scope = numbers(15, (5, 4, 3)), jnp.ones((5, 4, 3), bool), jnp.zeros((5, 4, 3), int)
    above = advantages.above_the_others(returns, scope, mask)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(advantages.above_the_others(returns[:, order], scope, mask), above[:, order], **ROUNDING)
    np.testing.assert_allclose(advantages.above_the_others(returns + 100, scope, mask), above, atol=1e-4)
    np.testing.assert_allclose(above.sum(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.999, 0.9])
def test_returns_equal_plain_loops(gamma: float) -> None:
    rewards = numbers(11, (3, 12))
    returns = advantages.returns_to_go(rewards, gamma)
    np.testing.assert_allclose(returns, reference.returns_to_go(rewards, gamma), **ROUNDING)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_padding_more_steps_leaves_the_returns_alone(gamma: float) -> None:
    rewards = jnp.where(MASK, numbers(12), 0)
    padded = advantages.returns_to_go(jnp.pad(rewards, ((0, 0), (0, 3))), gamma)
    np.testing.assert_allclose(padded[:, :4], advantages.returns_to_go(rewards, gamma), **ROUNDING)


def test_k1_is_the_difference_and_k3_its_convex_relative() -> None:
    """log π - log anchor is log 2: k1 = log 2, k3 = 1/2 + log 2 - 1."""
    policy, anchor = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
    np.testing.assert_allclose(kl.k1(policy, anchor), np.log(2), **ROUNDING)
    np.testing.assert_allclose(kl.k3(policy, anchor), 0.5 + np.log(2) - 1, **ROUNDING)


def test_equal_distributions_diverge_by_exactly_nothing() -> None:
    same = -jnp.abs(numbers(13))
    assert (kl.k1(same, same) == 0).all()
    assert (kl.k3(same, same) == 0).all()


def test_k3_is_never_negative() -> None:
    assert (kl.k3(numbers(14, (1000,)) * 1e-3 - 1, -jnp.ones(1000)) >= 0).all()


@pytest.mark.parametrize("estimate", [kl.k1, kl.k3])
def test_both_estimates_have_the_divergence_as_their_expectation(estimate: Callable) -> None:
    """Over all four tokens, weighted by their probabilities: no sampling, no noise."""
    policy, anchor = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    expected = sum(p * np.log(p / q) for p, q in zip(policy, anchor, strict=True))
    np.testing.assert_allclose((policy * estimate(jnp.log(policy), jnp.log(anchor))).sum(), expected, **ROUNDING)


# Log-probabilities

WIDTH, WORDS, TOKENS = 4, 11, jnp.array([[3, 0, 7, 10, 2], [7, 7, 1, 5, 9]])
FORBIDDEN = 4


def head(matrix: jax.Array) -> Callable:
    """Logits with one impossible token, and a bonus for the token asked about, so that mixing up positions shows."""

    def logits(hidden: jax.Array, tokens: jax.Array) -> jax.Array:
        return (hidden @ matrix + jax.nn.one_hot(tokens, WORDS)).at[..., FORBIDDEN].set(-jnp.inf)

    return logits


def statistics(hidden: jax.Array, matrix: jax.Array, chunk: int | None) -> logprobs.TokenStatistics:
    if chunk is not None:
        return logprobs.chunked(hidden, TOKENS, head(matrix), chunk=chunk)
    flat = head(matrix)(hidden.reshape(-1, WIDTH), TOKENS.reshape(-1))
    return logprobs.of_tokens(flat.reshape(*TOKENS.shape, WORDS), TOKENS)


def total(hidden: jax.Array, matrix: jax.Array, chunk: int | None) -> jax.Array:
    """Every entry with a weight of its own."""
    made, weights = statistics(hidden, matrix, chunk), jnp.arange(1.0, 11).reshape(2, 5)
    return (made.logprobs * weights + made.entropy * weights[::-1]).sum()


def test_log_probabilities_and_entropies_equal_plain_loops() -> None:
    logits = numbers(15, (2, 5, WORDS)).at[..., FORBIDDEN].set(-jnp.inf)
    made = logprobs.of_tokens(logits, TOKENS)
    for place in np.ndindex(2, 5):
        expected = np.log(reference.probabilities(logits[place])[int(TOKENS[place])])
        np.testing.assert_allclose(made.logprobs[place], expected, **ROUNDING)
        np.testing.assert_allclose(made.entropy[place], reference.entropy(logits[place]), **ROUNDING)


@pytest.mark.parametrize("chunk", [1, 3, 5, 10, 64])
def test_chunks_of_any_size_change_neither_values_nor_gradients(chunk: int) -> None:
    hidden, matrix = numbers(16, (2, 5, WIDTH)), numbers(17, (WIDTH, WORDS))
    for one, other in zip(statistics(hidden, matrix, chunk), statistics(hidden, matrix, None), strict=True):
        np.testing.assert_allclose(one, other, **ROUNDING)
    slopes = jax.grad(total, (0, 1))(hidden, matrix, chunk)
    for one, other in zip(slopes, jax.grad(total, (0, 1))(hidden, matrix, None), strict=True):
        assert jnp.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_no_array_holds_the_logits_of_more_than_one_chunk() -> None:
    hidden, matrix = numbers(16, (2, 5, WIDTH)), numbers(17, (WIDTH, WORDS))
    program = str(jax.make_jaxpr(jax.grad(lambda h: total(h, matrix, 2)))(hidden))
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"\[([\d,]+)\]", program)}
    assert max(np.prod(s) for s in shapes if s[-1] == WORDS and s != (WIDTH, WORDS)) == 2 * WORDS


def test_an_impossible_token_has_minus_infinity_and_finite_gradients_around_it() -> None:
    logits, tokens = numbers(18, (2, 4)).at[:, 1].set(-jnp.inf), jnp.array([1, 2])

    def loss(x: jax.Array) -> jax.Array:
        made = logprobs.of_tokens(x, tokens)
        return losses.sft(made.logprobs[None], jnp.array([[False, True]])) + made.entropy.sum()

    assert logprobs.of_tokens(logits, tokens).logprobs[0] == -jnp.inf
    assert jnp.isfinite(jax.grad(loss)(logits)).all()


# The distribution that is drawn from


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.05])
@pytest.mark.parametrize("top_k", [0, 1, 5, 19])
def test_kept_tokens_and_their_probabilities_equal_plain_loops(top_k: int, top_p: float) -> None:
    sampling = Sampling(temperature=0.8, top_k=top_k, top_p=top_p)
    logits = 2 * numbers(19, (6, 20))
    made = truncated(tempered(logits, sampling, (3, 8)), sampling)
    for row in range(6):
        hot = np.asarray(logits[row], np.float64) / 0.8
        hot[[3, 8]] = -np.inf
        stay = reference.kept(hot, top_k, top_p)
        assert set(np.flatnonzero(np.isfinite(made[row]))) == stay
        expected = reference.probabilities([hot[i] if i in stay else -np.inf for i in range(20)])
        np.testing.assert_allclose(jax.nn.softmax(made[row]), expected, **ROUNDING)
