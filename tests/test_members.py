"""Several reward models at once: each learns what it would learn by itself, and what they make together."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, Heard, processor, random_roles, random_slot

from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.averages import averaged, with_average
from pe_rlhf_mm.adapters.roles import Roles, Trainable, fingerprint
from pe_rlhf_mm.algorithms.ensembles import ENSEMBLES
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.data.streams import bucketed, bucketed_for_each
from pe_rlhf_mm.errors import OutOfRange, TrainingDiverged, UserError
from pe_rlhf_mm.training import members, reward
from pe_rlhf_mm.training.accumulation import Parts
from pe_rlhf_mm.training.alarms import Alarms
from pe_rlhf_mm.training.config import RewardConfig, RLConfig
from pe_rlhf_mm.training.jury import Jury, jury_of, made_by, members_of
from pe_rlhf_mm.training.members import train_members
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.reinforce import reinforce
from pe_rlhf_mm.training.reward import Judged, Row, score_each, score_judged
from pe_rlhf_mm.training.scorers import learned_by
from pe_rlhf_mm.training.step import new_state, train_step

WORDS, GALLERY = processor(), Gallery(CONFIG)
GOOD, BAD, STOP = FIRST_WORD + 1, FIRST_WORD + 2, CONFIG.stop_id
ASKED = [EncodedPrompt([FIRST_WORD + i % 7, FIRST_WORD + i % 5], ()) for i in range(32)]
PAIRS = [Judged([Row(prompt, [[GOOD, STOP], [BAD, STOP]])], (1.0, 0.0)) for prompt in ASKED]
TWO = RewardConfig(
    steps=3, batch_size=8, members=2, learning_rates=(0.02, 0.005), dropouts=(0.3, 0.1), validate_every=3,
)  # fmt: skip
NAMES = ("reward-1", "reward-2")


def several(count: int = 2) -> Roles:
    """Members of one rank and one scale, each with factors and a head of its own."""
    roles = random_roles(*(f"reward-{number}" for number in range(1, count + 1)))
    return roles._replace(scales=dict.fromkeys(roles.scales, jnp.float32(0.5)))


# --- training ---------------------------------------------------------------------------------------------------


def at_once(settings: RewardConfig, parts: int = 1) -> Trainable:
    """All members after some steps."""
    roles = several()
    trainable = roles.pick(*NAMES)
    loss = functools.partial(members.loss, CONFIG, settings, "products")
    optimizer = members.optimizer_for(settings, trainable)
    state = new_state(trainable, roles, optimizer, jax.random.key(1))
    with reward.feed_each(2, WORDS, GALLERY, PAIRS, batch_size=8, seed=0).batches(0) as stream:
        for _ in range(settings.steps):
            batches, how = next(stream), Parts(parts, reward.share)
            state, _ = train_step(state, roles, batches, loss=loss, optimizer=optimizer, parts=how)
    return state.trainable


@functools.cache
def by_itself(number: int) -> Trainable:
    """One member after the same steps without the other: by the loss and the optimizer of a single reward model."""
    roles, name = several(), NAMES[number]
    alone = roles._replace(
        slots={"reward": roles.slots[name]}, scales={"reward": roles.scales[name]}, heads={"reward": roles.heads[name]}
    )
    single = functools.partial(reward.pairwise, CONFIG, TWO.dropouts[number], "products")

    def loss(trainable: Trainable, roles: Roles, batches: tuple, key: jax.Array) -> tuple[jax.Array, dict]:
        return single(trainable, roles, batches[number], jax.random.fold_in(key, number))

    optimizer = adam(TWO.learning_rates[number], TWO.steps, warmup=0, decay=True)
    state = new_state(alone.pick("reward"), alone, optimizer, jax.random.key(1))
    with reward.feed_each(2, WORDS, GALLERY, PAIRS, batch_size=8, seed=0).batches(0) as stream:
        for _ in range(TWO.steps):
            state, _ = train_step(state, alone, next(stream), loss=loss, optimizer=optimizer)
    return state.trainable


@pytest.mark.parametrize("passes", ["together", "apart"])
def test_members_that_are_trained_at_once_learn_what_each_learns_by_itself(passes: str) -> None:
    """With its own batches, dropout, rate and norm: nothing of the other reaches it."""
    both, before = at_once(replace(TWO, passes=passes)), several()
    for number, name in enumerate(NAMES):
        own = by_itself(number)
        for target, low in own.slots["reward"].items():
            np.testing.assert_allclose(both.slots[name][target].a, low.a, atol=2e-5)
            np.testing.assert_allclose(both.slots[name][target].b, low.b, atol=2e-5)
        np.testing.assert_allclose(both.heads[name].weight, own.heads["reward"].weight, atol=2e-5)
        assert np.abs(own.heads["reward"].weight - before.heads[name].weight).max() > 1e-3, "more than rounding"


def test_a_step_in_parts_is_the_step() -> None:
    """Parts are of every member's batch."""
    plain = replace(TWO, dropouts=(), dropout=0.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), at_once(plain), at_once(plain, parts=2))


def test_each_learner_meets_every_example_once_an_epoch_in_an_order_of_its_own() -> None:
    sizes = np.array([[10], [100]] * 12)
    examples, how = list(range(24)), {"batch_size": 4, "seed": 3, "what": "numbers"}

    def told(numbers: list[int], shape: list[int]) -> tuple[list[int], int]:
        return numbers, shape[0]

    with bucketed_for_each(3, examples, sizes, told, **how).batches(0) as stream:
        batches = [next(stream) for _ in range(6)]
    with bucketed(examples, sizes, told, **how).batches(0) as stream:
        assert [first for first, *_ in batches] == [next(stream) for _ in range(6)]
    orders = [[n for batch in batches for n in batch[learner][0]] for learner in range(3)]
    assert all(sorted(order) == examples for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    for batch in batches:
        assert len({shape for _, shape in batch}) == 1, "one program reads them all"
        assert all(sizes[n, 0] <= shape for numbers, shape in batch for n in numbers)


def test_the_recipe_leaves_members_and_their_average_behind() -> None:
    settings = replace(TWO, steps=12, batch_size=16, learning_rates=(), learning_rate=0.02, control=True, members=3)
    before, heard = several(3), Heard()
    after = train_members(before, WORDS, GALLERY, PAIRS, PAIRS, settings, observer=heard)
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    assert made_by(settings) == ("reward", "reward-1", "reward-2", "reward-3")
    assert jury_of(settings) == Jury(("reward",), control="reward-3")
    judged = score_each(after, made_by(settings), WORDS, GALLERY, [e.rows for e in PAIRS])
    for said in judged.values():
        np.testing.assert_allclose([said.mean(), said.std()], [0, 1], atol=1e-4)
        assert (said[:, 0] > said[:, 1]).all()
    assert after.slots["reward"]["q"].a.shape[-1] == 2 * 3, "two of rank 3; the control is left out"
    assert 0.6 < heard.steps[0]["loss"] < 3, "of a member, and not of all"


# --- the average ------------------------------------------------------------------------------------------------


def test_the_update_of_an_average_is_the_average_of_the_updates() -> None:
    """Of any ranks and scales, and in any shares; the averages of the factors would be something else."""
    slots, scales, shares = [random_slot(1, rank=3), random_slot(2, rank=5)], [0.5, 2.0], [0.25, 0.75]
    made, scale = averaged(slots, scales, shares)
    each = [lora.merged(slot, scale) for slot, scale in zip(slots, scales, strict=True)]
    for target, update in lora.merged(made, scale).items():
        np.testing.assert_allclose(update, 0.25 * each[0][target] + 0.75 * each[1][target], atol=1e-5)
    assert made["q"].a.shape[-1] == 8


def test_an_average_of_equals_holds_their_factors_as_they_are() -> None:
    slots = [random_slot(seed) for seed in (1, 2, 3)]
    made, scale = averaged(slots, [0.5] * 3)
    for target, low in made.items():
        np.testing.assert_array_equal(low.a, np.concatenate([slot[target].a for slot in slots], axis=-1))
        np.testing.assert_array_equal(low.b, np.concatenate([slot[target].b for slot in slots], axis=-2))
    assert scale == np.float32(0.5) / 3


def test_interpolation_begins_at_one_member_and_ends_at_the_other() -> None:
    roles = several()
    for share, name in ((0.0, "reward-1"), (1.0, "reward-2")):
        between = with_average(roles, "reward", NAMES, (1 - share, share))
        said = score_each(between, ("reward", name), WORDS, GALLERY, [e.rows for e in PAIRS])
        np.testing.assert_allclose(said["reward"], said[name], atol=1e-4)


def test_members_of_different_shapes_have_no_average() -> None:
    with pytest.raises(UserError, match=r"number 1 has k 2x32x16, .* and number 2 down 2x48x32"):
        averaged([random_slot(1), random_slot(2, targets=("down",))], [1.0, 1.0])
    with pytest.raises(OutOfRange, match="add up to 1"):
        averaged([random_slot(1), random_slot(2)], [1.0, 1.0], [0.5, 0.6])


# --- ensembles --------------------------------------------------------------------------------------------------


def test_what_an_ensemble_says() -> None:
    rewards = np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])  # the mean 1, the variance 8/3; and full agreement
    said = {name: combine(rewards, 0.3).tolist() for name, combine in ENSEMBLES.items()}
    assert said["mean"] == [1.0, 0.0]
    assert said["worst"] == [-1.0, 0.0]
    np.testing.assert_allclose(said["uncertainty"], [1 - 0.3 * 8 / 3, 0.0])


def test_a_jury_asks_its_members_and_only_hears_its_control() -> None:
    settings = RewardConfig(members=3, combine="worst", control=True)
    assert members_of(settings) == ("reward-1", "reward-2", "reward-3") == made_by(settings)
    jury = jury_of(settings)
    assert jury.readers == ("reward-1", "reward-2", "reward-3")
    said = {name: np.array([value, 0.0]) for name, value in zip(jury.readers, (2.0, 4.0, -9.0), strict=True)}
    assert jury.verdict(said).tolist() == [2.0, 0.0]
    aside = jury.aside(said)
    assert aside["disagreement"].tolist() == [1.0, 0.0]
    assert aside["control"].tolist() == [-9.0, 0.0]
    assert jury_of(RewardConfig()) == Jury()


def test_the_verdict_on_examples_is_made_of_what_each_member_says() -> None:
    roles, jury = several(), Jury(NAMES, "worst")
    said = score_each(roles, NAMES, WORDS, GALLERY, [e.rows for e in PAIRS])
    assert np.abs(said["reward-1"] - said["reward-2"]).max() > 0.1
    found = score_judged(roles, WORDS, GALLERY, PAIRS, jury).scores
    np.testing.assert_allclose(found, np.minimum(said["reward-1"], said["reward-2"]), atol=1e-6)


# --- RL ---------------------------------------------------------------------------------------------------------

HACKED = RLConfig(
    steps=45, prompts=8, group=2, algorithm="rloo", learning_rate=0.02, temperature=1.0, max_tokens=3, beta=0.0
)


def learned_from(control: float) -> tuple[list[str], Heard]:
    """RL against one reward model; the control says the same, or the contrary, of everything, and then some."""
    roles = random_roles("sft", "reward-1", "reward-2")
    head = roles.heads["reward-1"]
    heads = {"reward-1": head, "reward-2": head._replace(weight=control * head.weight, bias=control * head.bias)}
    roles = roles.start("reward-2", "reward-1")._replace(heads=heads)
    heard, told = Heard(), list[str]()
    alarms = Alarms(told.append)
    jury = Jury(("reward-1",), control="reward-2")
    reinforce(roles, WORDS, GALLERY, ASKED, HACKED, scorer=learned_by(jury), observer=heard)
    for step, metrics in enumerate(heard.steps, start=1):
        alarms.step("rl", step, metrics)
    return told, heard


def test_the_alarm_tells_of_a_reward_that_only_the_policy_believes_in() -> None:
    told, heard = learned_from(-1.0)
    assert heard.steps[-1]["reward"] > heard.steps[0]["reward"] + 0.5
    assert [line for line in told if "while the control reward" in line]


def test_the_alarm_is_silent_where_the_control_agrees() -> None:
    told, heard = learned_from(1.0)
    assert heard.steps[-1]["control"] > heard.steps[0]["control"] + 0.5
    assert not [line for line in told if "control" in line]


@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
def test_one_member_whose_words_are_no_numbers_ends_rl_with_a_reason(combine: str) -> None:
    roles = random_roles("sft", *NAMES)
    broken = roles.heads["reward-2"]._replace(bias=jnp.float32(np.nan))
    roles = roles._replace(heads={**roles.heads, "reward-2": broken})
    scorer = learned_by(Jury(NAMES, combine, 0.5))
    with pytest.raises(TrainingDiverged, match=r"rl: .*disagreement.*reward not finite at step 1"):
        reinforce(roles, WORDS, GALLERY, ASKED, replace(HACKED, steps=1), scorer=scorer)
