"""RL: who moves and who does not, where it starts, what it learns, and that its loss is the printed one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from models import CONFIG, FIRST_WORD, Heard, processor, random_batch, random_roles, state

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles, fingerprint
from pe_rlhf_mm.algorithms import kl
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import OutOfRange, TrainingDiverged
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward, reinforce
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.policy_gradient import Experience
from pe_rlhf_mm.training.reinforce import Rollout
from pe_rlhf_mm.training.scorers import Asked, Scorer, Worth
from pe_rlhf_mm.training.step import train_step
from pe_rlhf_mm.types import Completions

SETTINGS = RLConfig(
    steps=2, prompts=8, group=4, learning_rate=0.02, value_learning_rate=0.05, temperature=1.0, max_tokens=4, beta=0.05
)
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Of float32 in another program: several roles in one pass, and one by itself."""
ASKED = [EncodedPrompt([FIRST_WORD + i % 5, FIRST_WORD + 1, FIRST_WORD + 2], ()) for i in range(32)]


@pytest.fixture(scope="module")
def words() -> Processor:
    return processor()


def by(rewards_of: Callable[[Completions], Array]) -> Scorer:
    """A scorer that looks at the completions and asks no role."""

    def worth(said: Mapping[str, object], asked: Asked, completions: Completions) -> Worth:
        rewards = rewards_of(completions)
        return Worth(rewards, jnp.ones_like(rewards, bool), {"reward": rewards.mean()})

    return Scorer((), worth)


LUCKY = by(lambda completions: (completions.tokens[:, :, 0] % 2 == 0).astype(jnp.float32))
"""Reward 1 for a completion that opens with an even id."""


def first_reward(reward: float) -> Scorer:
    return by(lambda completions: jnp.full(completions.tokens.shape[:2], reward))


def run(words: Processor, roles: Roles, settings: RLConfig = SETTINGS, **options: object) -> tuple[Roles, Heard]:
    heard = Heard()
    trained = reinforce.reinforce(
        roles, words, Gallery(CONFIG), ASKED, settings, observer=heard, **{"scorer": LUCKY, **options}
    )
    return trained, heard


def trained_sft() -> Roles:
    return random_roles("sft", "reward")


def fresh_sft() -> Roles:
    made = role_table.only_backbone(state())
    return role_table.new_slot_role(made, "sft", CONFIG, rank=4, alpha=16.0, targets=("q", "v"), key=jax.random.key(0))


def full_sft() -> Roles:
    return role_table.only_backbone(state()).start("sft", BACKBONE)


@pytest.mark.parametrize("start", [trained_sft, fresh_sft, full_sft])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_divergence_is_exactly_zero_before_the_first_update(
    words: Processor, start: Callable[[], Roles], temperature: float
) -> None:
    _, heard = run(words, start(), replace(SETTINGS, temperature=temperature))
    assert heard.steps[0]["kl"] == 0.0
    assert heard.steps[1]["kl"] != 0.0
    assert all(numbers["sampler_gap"] < 2e-5 for numbers in heard.steps)


def test_only_policy_and_value_move_and_the_backbone_keeps_every_bit(words: Processor) -> None:
    before = trained_sft()
    after, _ = run(words, before)
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    for role in ("sft", "reward"):
        assert fingerprint(after.pick(role)) == fingerprint(before.pick(role))
    assert fingerprint(after.slots["anchor"]) == fingerprint(before.slots["sft"])
    for role in ("policy", "value"):
        for target, low in after.slots[role].items():
            assert (low.a != before.slots["sft"][target].a).any()
            assert (low.b != before.slots["sft"][target].b).any()
    assert after.heads["value"].weight.any()
    assert fingerprint(after.slots["policy"]) != fingerprint(after.slots["value"])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([0.1, 0.5, 0.4, 0.5], 1), ([0.6, 0.5, 0.4, 0.3], 0), ([0.1, 0.2, 0.3, 0.4], 3), ([float("nan")] * 4, 3)],
)
def test_the_policy_that_does_best_on_validation_is_kept(words: Processor, scores: list[float], kept: int) -> None:
    """Evaluated before RL and after every second of six steps; of equals the first is kept."""
    seen: list[str] = []

    def monitor(now: Roles) -> float:
        seen.append(fingerprint(now.pick("policy", "value")))
        return scores[len(seen) - 1]

    after, heard = run(words, trained_sft(), replace(SETTINGS, steps=6, evaluate_every=2), monitor=monitor)
    assert len(set(seen)) == 4
    assert fingerprint(after.pick("policy", "value")) == seen[kept]
    assert len(heard.steps) == 6


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_in_mode_full_only_the_copies_of_policy_and_value_move(words: Processor, algorithm: str) -> None:
    before, rates = full_sft(), {"learning_rate": 1e-3, "value_learning_rate": 1e-3}
    after, _ = run(words, before, replace(SETTINGS, algorithm=algorithm, **rates))
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    assert fingerprint(after.copies["sft"]) == fingerprint(after.copies["anchor"]) == fingerprint(before.copies["sft"])
    assert len({fingerprint(after.copies[role]) for role in ("sft", "policy", "value")}) == 3


@pytest.mark.parametrize(
    ("algorithm", "placement", "epochs"),
    [
        ("reinforce", "return", 1),
        ("reinforce", "loss", 1),
        ("rloo", "return", 2),
        ("rloo", "loss", 1),
        ("grpo", "k3", 1),
        ("dr-grpo", "return", 2),
        ("ppo", "return", 3),
        ("online-dpo", "return", 2),
        ("best-of-n", "loss", 1),
    ],
)
def test_a_bandit_is_solved(words: Processor, algorithm: str, placement: str, epochs: int) -> None:
    beta = 0.0 if algorithm == "online-dpo" else SETTINGS.beta  # it has one of its own
    settings = replace(SETTINGS, algorithm=algorithm, steps=60, epochs=epochs, kl=placement, beta=beta, max_tokens=2)
    _, heard = run(words, random_roles("sft"), settings)
    rewards = [numbers["reward"] for numbers in heard.steps]
    assert np.mean(rewards[:3]) < 0.75
    assert np.mean(rewards[-5 * epochs :]) > 0.9  # five rollouts


@pytest.mark.parametrize(("start", "algorithm"), [(trained_sft, "rloo"), (full_sft, "rloo"), (full_sft, "online-dpo")])
def test_without_a_value_model_the_policy_alone_moves(
    words: Processor, start: Callable[[], Roles], algorithm: str
) -> None:
    before = start()
    after, heard = run(words, before, replace(SETTINGS, algorithm=algorithm, kl="loss", learning_rate=1e-3))
    sft, anchor, policy = (fingerprint(after.weights(role)) for role in ("sft", "anchor", "policy"))
    assert anchor == sft == fingerprint(before.weights("sft")) != policy
    assert "value" not in {*after.slots, *after.copies, *after.heads}
    assert not {"value_loss", "explained_variance"} & heard.steps[0].keys()


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "online-dpo", "best-of-n"])
def test_equal_rewards_of_a_group_leave_nothing_to_learn(words: Processor, algorithm: str) -> None:
    """Every advantage is 0, from the first step on: no value model has to find out first."""
    settings = replace(SETTINGS, algorithm=algorithm, beta=0.0)
    after, _ = run(words, trained_sft(), settings, scorer=first_reward(1.0))
    assert fingerprint(after.weights("policy")) == fingerprint(after.weights("sft"))


def test_a_rollout_serves_as_many_steps_as_there_are_epochs(words: Processor) -> None:
    """Five steps on three rollouts; at the first step on each, the policy is still the one that drew it."""
    settings = replace(SETTINGS, algorithm="ppo", steps=5, epochs=2, learning_rate=1e-2)
    _, heard = run(words, random_roles("sft"), settings)
    drawn = [numbers["kl"] for numbers in heard.steps]
    assert drawn[0] == drawn[1] == 0
    assert drawn[2] == drawn[3] != 0
    assert len(set(drawn)) == 3
    staleness = [numbers["staleness"] for numbers in heard.steps]
    assert max(staleness[::2]) < 1e-9
    assert min(staleness[1::2]) > 1e-4


@pytest.mark.parametrize(("placement", "charged"), [("return", 0.3), ("loss", 0.0), ("k3", 0.0)])
def test_the_penalty_is_charged_to_the_return_or_left_to_the_loss(
    words: Processor, placement: str, charged: float
) -> None:
    """The first token's return is 0.7 R - 0.3 (log π - log anchor), summed over the completion, at the rollout's β."""
    roles = random_roles("policy", "value", "anchor")
    settings = replace(SETTINGS, kl=placement, beta=0.9)
    batch = words.prompts(ASKED[:4], Gallery(CONFIG), length=4)
    given = (CONFIG, roles, roles.pick("policy", "value"), Asked(batch, range(4)))
    rollout, _ = reinforce.collect(*given, settings, LUCKY, jax.random.key(0), 0.3)
    policy, anchor = (
        forward.score_policy(CONFIG, roles.weights(role), batch, rollout.completions, settings.sampling)
        for role in ("policy", "anchor")
    )
    divergence = np.asarray(policy.logprobs - anchor.logprobs).sum(axis=-1)
    expected = 0.7 * rollout.rewards - charged * divergence
    np.testing.assert_allclose(rollout.experience.returns[..., 0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rollout.experience.anchor_logprobs, anchor.logprobs, **ROUNDING)
    np.testing.assert_array_equal(rollout.experience.beta, np.float32(0.3))


def test_ppo_is_told_what_the_value_model_expects_before_it_learns(words: Processor) -> None:
    roles = random_roles("policy", "value", "anchor")
    settings = replace(SETTINGS, algorithm="ppo", gae_lambda=1.0, beta=0.0)
    batch = words.prompts(ASKED[:4], Gallery(CONFIG), length=4)
    given = (CONFIG, roles, roles.pick("policy", "value"), Asked(batch, range(4)))
    rollout, _ = reinforce.collect(*given, settings, LUCKY, jax.random.key(0), 0.0)
    found, mask = rollout.experience, rollout.completions.mask
    values = values_of(roles, rollout)
    np.testing.assert_allclose(found.values, values, **ROUNDING)
    # λ = 1 and no penalty: what V is to learn is the reward, at every token.
    np.testing.assert_allclose(np.where(mask, found.returns - rollout.rewards[..., None], 0), 0, atol=1e-5)
    score = forward.score_policy(CONFIG, roles.weights("policy"), batch, rollout.completions, settings.sampling)
    np.testing.assert_allclose(found.logprobs, score.logprobs, **ROUNDING)


@pytest.mark.parametrize(
    ("beta", "divergence", "expected"),
    [
        (0.5, 1.0, 0.5),  # on target
        (0.5, 1.1, 0.5 * 1.05),  # a tenth too far: half of it
        (0.5, 0.95, 0.5 * 0.975),
        (0.5, 9.0, 0.5 * 1.1),  # no error is above 0.2
        (0.5, -9.0, 0.5 * 0.9),
        (0.95, 9.0, 1.0),  # nothing is left of the reward then
    ],
)
def test_beta_is_moved_by_the_error_of_the_divergence(beta: float, divergence: float, expected: float) -> None:
    assert kl.adapted(beta, divergence, target=1.0, gain=0.5) == pytest.approx(expected, rel=1e-12)


def test_beta_follows_what_was_measured_and_nothing_is_compiled_anew(words: Processor) -> None:
    """From rollout to rollout, two steps on each; the first is at the anchor, too near by all of it."""
    settings = replace(SETTINGS, algorithm="rloo", steps=6, epochs=2, kl="loss", kl_target=0.2, kl_gain=2.0)
    programs = (reinforce._assess, train_step)
    before = [program._cache_size() for program in programs]
    _, heard = run(words, random_roles("sft"), settings)
    assert [program._cache_size() for program in programs] == [count + 1 for count in before]
    expected = settings.beta
    for first, second in zip(heard.steps[::2], heard.steps[1::2], strict=True):
        assert first["beta"] == second["beta"] == pytest.approx(expected, rel=1e-12)
        expected *= 1 + 2 * np.clip(first["kl"] / 0.2 - 1, -0.2, 0.2)
    assert heard.steps[2]["beta"] == pytest.approx(0.6 * settings.beta)
    assert expected > 0.6**3 * settings.beta, "in the end it was too far away"


def test_a_target_holds_the_policy_where_beta_would_let_it_go(words: Processor) -> None:
    settings = replace(SETTINGS, algorithm="rloo", steps=40, kl="loss", beta=0.02, max_tokens=2)
    free, held = (
        run(words, random_roles("sft"), replace(settings, kl_target=target, kl_gain=2.0))[1].steps
        for target in (0.0, 0.1)
    )
    far, near = (np.mean([abs(numbers["kl"]) for numbers in heard[-5:]]) for heard in (free, held))
    assert near < 0.5 * far
    assert {numbers["beta"] for numbers in free} == {0.02}


def test_a_group_of_one_has_no_others() -> None:
    with pytest.raises(OutOfRange, match="group must be at least 2 for rloo, not 1"):
        replace(SETTINGS, algorithm="rloo", group=1)


def test_a_penalty_of_everything_keeps_the_policy_near_its_anchor(words: Processor) -> None:
    """β = 1 leaves no reward; β = 0 leaves no penalty."""
    settings = replace(SETTINGS, steps=25, max_tokens=2)
    held, free = (run(words, random_roles("sft"), replace(settings, beta=beta))[1] for beta in (1.0, 0.0))
    assert abs(held.steps[-1]["kl"]) < 0.1 * free.steps[-1]["kl"]


def test_the_same_reward_for_everything_teaches_the_policy_nothing_that_lasts(words: Processor) -> None:
    """Zero variance: every number stays finite, and once V has learnt the constant there is no gradient left."""
    settings = replace(SETTINGS, steps=40, max_tokens=2, beta=0.0, value_learning_rate=0.01)  # 0.05 swings around it
    _, heard = run(words, random_roles("sft"), settings, scorer=first_reward(1.0))
    assert all(np.isfinite(list(numbers.values())).all() for numbers in heard.steps)
    pulls = [abs(numbers["policy_loss"]) for numbers in heard.steps]
    assert max(pulls[-5:]) < 0.05 * pulls[0]


def test_the_seed_decides_every_bit(words: Processor) -> None:
    one, same = (run(words, random_roles("sft"), seed=3)[0] for _ in range(2))
    other, _ = run(words, random_roles("sft"), seed=4)
    assert fingerprint(one.pick("policy", "value")) == fingerprint(same.pick("policy", "value"))
    assert fingerprint(one.pick("policy", "value")) != fingerprint(other.pick("policy", "value"))


def test_a_reward_that_is_no_number_stops_training_and_names_the_step(words: Processor) -> None:
    before = random_roles("sft")
    print_before = fingerprint(before)
    with pytest.raises(TrainingDiverged, match=r"rl: .*reward.* not finite at step 1\. .*rate"):
        run(words, before, scorer=first_reward(float("nan")))
    assert fingerprint(before) == print_before


def test_policy_and_value_model_have_rates_of_their_own(words: Processor) -> None:
    """Adam's first step is as long as its rate, for every number with a gradient."""
    roles = random_roles("policy", "value").with_head("value", jnp.zeros(CONFIG.decoder.width))
    trainable = roles.pick("policy", "value")
    optimizer = reinforce.optimizer_for(replace(SETTINGS, learning_rate=1e-3, value_learning_rate=1e-1), trainable)
    ones = jax.tree.map(jnp.ones_like, trainable)
    updates, _ = optimizer.update(ones, optimizer.init(trainable), trainable)
    np.testing.assert_allclose(updates.slots["policy"]["q"].a, -1e-3, rtol=1e-3)
    np.testing.assert_allclose(updates.slots["value"]["q"].a, -1e-1, rtol=1e-3)
    np.testing.assert_allclose(updates.heads["value"].weight, -1e-1, rtol=1e-3)


def some_rollout() -> Rollout:
    rng = np.random.default_rng(5)
    prompts, completions = random_batch(rng, rows=2, group=2, steps=5)
    shape = completions.mask.shape
    rewards, returns, anchor = (rng.normal(size=s).astype(np.float32) for s in (shape[:2], shape, shape))
    return Rollout(
        prompts,
        completions,
        rewards,
        Experience(np.zeros(shape, np.float32), anchor, returns, returns, None, np.full(shape, 0.3, np.float32)),
    )


def values_of(roles: Roles, rollout: Rollout) -> Array:
    """What V says before each token."""
    states = forward.read(CONFIG, roles.weights("value"), rollout.prompts, rollout.completions).states
    return roles.heads["value"](vlm.before_each(states, *rollout.completions.mask.shape[1:]))


def objective(settings: RLConfig, roles: Roles, rollout: Rollout) -> Callable:
    loss = functools.partial(reinforce.loss, CONFIG, settings, "products")
    return lambda trainable: loss(trainable, roles, rollout, jax.random.key(0))


@pytest.mark.parametrize("placement", ["return", "loss"])
def test_the_loss_is_the_printed_one(placement: str) -> None:
    roles, rollout = random_roles("policy", "value"), some_rollout()
    settings = replace(SETTINGS, kl=placement)
    row = (rollout.prompts, rollout.completions)
    statistics = forward.score_policy(CONFIG, roles.weights("policy"), *row, Sampling(max_tokens=4))
    values = jax.jit(values_of)(roles, rollout)
    expected, n = 0.0, 0
    for b, g in np.ndindex(rollout.completions.mask.shape[:2]):
        n += 1
        for t in range(int(rollout.completions.mask[b, g].sum())):
            logprob, value = float(statistics.logprobs[b, g, t]), float(values[b, g, t])
            error = float(rollout.experience.returns[b, g, t]) - value
            expected += -logprob * error + error**2
            if placement == "loss":
                expected += 0.3 * 0.5 * (logprob - float(rollout.experience.anchor_logprobs[b, g, t])) ** 2
    value, _ = jax.jit(objective(settings, roles, rollout))(roles.pick("policy", "value"))
    np.testing.assert_allclose(value, expected / n, rtol=1e-4)


def test_the_policy_loss_does_not_move_the_value_model() -> None:
    """Its gradient is that of the squared error alone, since the advantage is a constant."""
    roles, rollout = random_roles("policy", "value"), some_rollout()
    mask = rollout.completions.mask

    def squared_error(trainable: role_table.Trainable) -> jax.Array:
        now = roles.put(trainable)
        values = values_of(now, rollout)
        return jnp.where(mask, (rollout.experience.returns - values) ** 2, 0).sum() / 4

    trainable = roles.pick("policy", "value")
    whole = jax.jit(jax.grad(lambda t: objective(SETTINGS, roles, rollout)(t)[0]))(trainable)
    alone = jax.jit(jax.grad(squared_error))(trainable)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4),
        whole.slots["value"],
        alone.slots["value"],
    )
    np.testing.assert_allclose(whole.heads["value"].weight, alone.heads["value"].weight, rtol=1e-3, atol=1e-4)
    assert all(leaf.any() for leaf in jax.tree.leaves(whole.slots["policy"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(alone.slots["policy"]))
