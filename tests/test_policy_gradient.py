"""RL's algorithms as the trainer puts them together, on arrays: credit, objective, and where the KL term acts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pe_rlhf_mm.algorithms import advantages, losses
from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.training.config import RANKED, RLConfig
from pe_rlhf_mm.training.forward import PolicyStatistics
from pe_rlhf_mm.training.policy_gradient import ALGORITHMS, Earned, Experience, experience, objective

MASK = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
SETTINGS = RLConfig(group=2, max_tokens=4, beta=0.9)
"""What a nat costs a rollout says, and no longer its settings."""
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
every = pytest.mark.parametrize("name", ALGORITHMS)


def numbers(seed: int) -> jax.Array:
    return jnp.where(MASK, 0.5 * jax.random.normal(jax.random.key(seed), MASK.shape), 0)


NOW = PolicyStatistics(numbers(0), numbers(1), jnp.abs(numbers(2)))
VALUES = numbers(3)
MOVED = jnp.array([[0.5, -0.4, 0.05, 0], [-0.05, 0, 0, 0], [0, 0, 0, 0], [-0.25, 0.3, 0, 0]])
"""By how many nats tokens have become likelier since they were drawn."""
SOME = Experience(NOW.logprobs - MOVED, *(numbers(k) for k in range(5, 9)), jnp.full(MASK.shape, 0.3))


def asked(name: str, **changed: Any) -> RLConfig:
    return replace(SETTINGS, algorithm=name, **{"kl": "loss" if name in RANKED else "return", **changed})


def cost(settings: RLConfig, now: PolicyStatistics = NOW, of: Experience = SOME) -> tuple[jax.Array, dict]:
    return objective(settings, now, VALUES, of, MASK)


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        (name, placement)
        for name in ALGORITHMS
        for placement in ("return", "loss", "k3")
        if name != "online-dpo" and not (name in RANKED and placement == "return")
    ],
)
def test_the_objective_is_what_the_papers_add_up(name: str, placement: str) -> None:
    """Loss of the policy, β times the KL term in the same mean, and loss of the value model; row by row in float64."""
    rows, total = [], 0.0
    for row in (0, 1, 3):
        terms = []
        for t in range(int(MASK[row].sum())):
            now, then, gain = (float(x[row, t]) for x in (NOW.logprobs, SOME.logprobs, SOME.advantages))
            x = float(NOW.full_logprobs[row, t] - SOME.anchor_logprobs[row, t])
            rho, value, goal, before = (
                np.exp(now - then),
                *(float(x[row, t]) for x in (VALUES, SOME.returns, SOME.values)),
            )
            policy = {
                "reinforce": -now * (goal - value),
                "rloo": -now * gain,
                "best-of-n": -float(NOW.full_logprobs[row, t]) * gain,
            }.get(name, max(-rho * gain, -min(max(rho, 0.8), 1.2) * gain))
            far = before + min(max(value - before, -0.2), 0.2)
            error = {"reinforce": (goal - value) ** 2, "ppo": max((goal - value) ** 2, (goal - far) ** 2)}.get(name, 0)
            penalty = {"return": 0, "loss": 0.5 * x**2, "k3": np.exp(-x) + x - 1}[placement]
            terms.append(policy + 0.3 * penalty)
            total += error / 3
        rows.append(sum(terms) / {"grpo": len(terms), "dr-grpo": 4}.get(name, 1))
    np.testing.assert_allclose(cost(asked(name, kl=placement))[0], sum(rows) / 3 + total, **ROUNDING)


@pytest.mark.parametrize("placement", ["loss", "k3"])
def test_online_dpo_is_dpo_on_a_pair_of_the_group_and_the_kl_term(placement: str) -> None:
    """Reply 3 is better than reply 0; of reply 1 is known that it is neither, and of reply 2 nothing."""
    side = jnp.array([-1.0, 0, 0, 1])[:, None] * MASK
    x = np.where(MASK, np.asarray(NOW.full_logprobs, float) - np.asarray(SOME.anchor_logprobs, float), 0)
    h = x[3].sum() - x[0].sum()
    penalty = (0.5 * x**2 if placement == "loss" else np.exp(-x) + x - 1).sum() / 3
    settings = asked("online-dpo", kl=placement, dpo_beta=0.7)
    loss, metrics = cost(settings, of=SOME._replace(advantages=side))
    np.testing.assert_allclose(metrics["policy_loss"], np.log1p(np.exp(-0.7 * h)), **ROUNDING)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-0.7 * h)) + 0.3 * penalty, **ROUNDING)


@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_with_one_epoch_the_loss_is_the_plain_one_to_the_last_bit(name: str) -> None:
    """Whatever the sampler, or the scoring, said of the tokens: what is learned from was drawn a moment ago."""

    def plain(logprobs: jax.Array) -> jax.Array:
        gains = SOME.returns - VALUES if name == "reinforce" else SOME.advantages
        loss = losses.reinforce(logprobs, gains, MASK)
        return loss + losses.value(VALUES, SOME.returns, MASK) if name == "reinforce" else loss

    def ours(logprobs: jax.Array, epochs: int = 1) -> jax.Array:
        return cost(asked(name, epochs=epochs), NOW._replace(logprobs=logprobs))[0]

    for one, other in zip(jax.value_and_grad(plain)(NOW.logprobs), jax.value_and_grad(ours)(NOW.logprobs), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours(NOW.logprobs, 2) != ours(NOW.logprobs)


@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_with_more_epochs_tokens_weigh_by_how_much_likelier_they_are_now(name: str) -> None:
    settings = asked(name, epochs=2, truncation=1.1)
    slope = jax.grad(lambda x: cost(settings, NOW._replace(logprobs=x))[0])(NOW.logprobs)
    gains = SOME.returns - VALUES if name == "reinforce" else SOME.advantages
    weights = np.minimum(np.exp(np.asarray(NOW.logprobs - SOME.logprobs)), 1.1)
    assert (weights == np.float32(1.1)).any()
    assert (weights < 1).any()
    np.testing.assert_allclose(slope, -weights * gains * MASK / 3, **ROUNDING)


@every
def test_a_bonus_for_entropy_is_taken_off_the_loss(name: str) -> None:
    def loss(entropy: jax.Array, bonus: float) -> jax.Array:
        return cost(asked(name, entropy=bonus), NOW._replace(entropy=entropy))[0]

    mean = float(jnp.where(MASK, NOW.entropy, 0).sum()) / 6
    np.testing.assert_allclose(loss(NOW.entropy, 0.5), loss(NOW.entropy, 0.0) - 0.5 * mean, **ROUNDING)
    np.testing.assert_allclose(jax.grad(loss)(NOW.entropy, 0.5), -0.5 * MASK / 6, **ROUNDING)


def test_staleness_is_how_far_the_policy_is_from_the_one_that_drew() -> None:
    fresh = cost(asked("ppo", epochs=2), of=SOME._replace(logprobs=NOW.logprobs))[1]
    stale = cost(asked("ppo", epochs=2))[1]
    x = np.asarray(SOME.logprobs - NOW.logprobs)[np.asarray(MASK)]
    assert fresh["staleness"] == 0
    np.testing.assert_allclose(stale["staleness"], np.mean(np.exp(-x) + x - 1), **ROUNDING)
    assert "staleness" not in cost(asked("ppo"))[1]


# --- credit -----------------------------------------------------------------------------------------------------

TURN = jnp.array([[[0, 0, 1, 1], [0, 1, 1, -1]]])
KNOWN = TURN >= 0
REWARDS = jnp.where(KNOWN, jnp.arange(8.0).reshape(1, 2, 4) ** 2 / 10, 0)
WORTH = jnp.array([[[1.0, -1, 2, 0], [0.5, 0, 3, 77]]])
EARNED = Earned(
    REWARDS,
    advantages.returns_to_go(REWARDS),
    TURN,
    jnp.zeros_like(TURN),
    KNOWN,
    WORTH,
    jnp.array([[0.0, 2.0]]),
)


def made(name: str, earned: Earned = EARNED, **changed: Any) -> Experience:
    return experience(asked(name, **changed), 0.3, earned, WORTH, WORTH)


@pytest.mark.parametrize("credit", ["token", "turn"])
def test_ppo_is_given_estimates_that_are_whitened_and_returns_that_are_not(credit: str) -> None:
    found = made("ppo", credit=credit, gamma=0.9, gae_lambda=0.5)
    discount = advantages.discounts(TURN, EARNED.scope, KNOWN, 0.9)
    trace = advantages.traces(TURN, KNOWN, 0.5) if credit == "turn" else 0.5
    plain = advantages.generalized(REWARDS, WORTH, EARNED.beyond, discount, trace, KNOWN)
    np.testing.assert_allclose(jnp.where(KNOWN, found.returns, 0), jnp.where(KNOWN, plain + WORTH, 0), **ROUNDING)
    shared = np.asarray(plain).copy()
    if credit == "turn":
        shared[0, 0, 1], shared[0, 0, 3], shared[0, 1, 2] = shared[0, 0, 0], shared[0, 0, 2], shared[0, 1, 1]
    known = shared[np.asarray(KNOWN)]
    expected = (known - known.mean()) / known.std()
    np.testing.assert_allclose(np.asarray(found.advantages)[np.asarray(KNOWN)], expected, rtol=1e-4, atol=1e-5)


def test_each_algorithm_has_its_own_measure() -> None:
    """Whole returns are 1.4 and 7.7."""
    np.testing.assert_allclose(EARNED.returns[0, :, 0], [1.4, 7.7], **ROUNDING)
    assert made("best-of-n").advantages.tolist() == [[[0, 0, 0, 0], [2, 2, 2, 0]]]
    for name, gain in (("rloo", 6.3), ("dr-grpo", 3.15), ("grpo", 1 / np.sqrt(2)), ("online-dpo", 1)):
        expected = np.where(KNOWN, np.array([-gain, gain])[:, None], 0)
        np.testing.assert_allclose(np.where(KNOWN, made(name).advantages, 0), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr-grpo", *RANKED])
def test_a_group_that_earned_alike_moves_nothing(name: str) -> None:
    """0.1 each, for its last token."""
    rewards = advantages.on_last_token(jnp.full((1, 2), 0.1), KNOWN)
    alike = EARNED._replace(rewards=rewards, returns=advantages.returns_to_go(rewards))
    given = made(name, alike)

    def loss(logprobs: jax.Array) -> jax.Array:
        now = PolicyStatistics(logprobs, logprobs, WORTH)
        return objective(asked(name), now, None, given, KNOWN)[0]

    assert (jax.grad(loss)(WORTH) == 0).all()


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"algorithm": "grpo", "group": 1}, "group must be at least 2 for grpo, not 1: a completion is measured"),
        ({"algorithm": "dr-grpo", "group": 1}, "group must be at least 2 for dr-grpo, not 1"),
        (
            {"algorithm": "a2c"},
            "algorithm must be one of reinforce, rloo, grpo, dr-grpo, ppo, online-dpo, best-of-n, not 'a2c'",
        ),
        ({"algorithm": "online-dpo", "group": 1}, "group must be at least 2 for online-dpo, not 1"),
        ({"algorithm": "best-of-n", "group": 1}, "group must be at least 2 for best-of-n, not 1"),
        ({"algorithm": "best-of-n"}, "kl return is not for best-of-n"),
        ({"algorithm": "online-dpo"}, "kl return is not for online-dpo, which ranks .* kl loss or k3, or beta 0"),
        ({"kl_target": -1.0}, "kl_target must be 0 or more, not -1.0"),
        ({"kl_target": 1.0, "beta": 0.0}, "kl_target moves beta by a factor, and beta is 0"),
        ({"kl_gain": 5.0}, "kl_gain must be above 0 and below 5, not 5.0"),
        ({"dpo_beta": 0.0}, "dpo_beta must be above 0, not 0.0"),
        ({"kl": "k2"}, "kl must be one of return, loss, k3, not 'k2'"),
        ({"epochs": 0}, "epochs must be above 0, not 0"),
        ({"clip": 1.0}, "clip must be above 0 and below 1, not 1.0"),
        ({"value_clip": 0.0}, "value_clip must be above 0, not 0.0"),
        ({"truncation": 0.5}, "truncation must be at least 1, not 0.5"),
        ({"gae_lambda": 1.5}, r"gae_lambda must be in \[0, 1\], not 1.5"),
        ({"entropy": -0.1}, "entropy must be 0 or more, not -0.1"),
        ({"credit": "turn"}, "credit turn is for ppo, not for reinforce"),
        ({"credit": "move", "algorithm": "ppo"}, "credit must be one of token, turn, not 'move'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(OutOfRange, match=f"RLConfig.{said}"):
        replace(SETTINGS, **changed)
