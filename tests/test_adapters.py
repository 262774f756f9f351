"""Low-rank adapters: nothing at the start, each row its own, and gradients where they belong."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, Batch, random_batch, random_roles, random_slot, state

from pe_rlhf_mm.adapters import lora, roles
from pe_rlhf_mm.adapters.lora import Bank, LowRank, Slot
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.training import forward, policy_gradient
from pe_rlhf_mm.training.config import RLConfig, TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.lora_config import LoraConfig

BACKBONE = state()
EVERY = ("q", "k", "v", "o", "gate", "up", "down")


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(np.random.default_rng(0), rows=3, group=2)


def forward_with(bank: Bank | None, batch: Batch) -> jax.Array:
    return forward.read(CONFIG, roles.Weights(BACKBONE, bank), *batch).states


hidden = jax.jit(forward_with)


def fresh_slot(seed: int = 0, targets: tuple[str, ...] = EVERY, **sizes: int) -> Slot:
    return lora.new_slot(jax.random.key(seed), adapted(CONFIG, targets), **{"rank": 4, **sizes})


def test_a_fresh_slot_changes_not_one_bit(batch: Batch) -> None:
    """In one program. Without a bank XLA compiles another one, which rounds elsewhere."""
    slots = [fresh_slot(0), fresh_slot(1)]
    fresh, none = (hidden(lora.stack(slots, [1.0, 1.0], jnp.full(3, i)), batch) for i in (1, lora.BACKBONE))
    np.testing.assert_array_equal(fresh, none)
    np.testing.assert_allclose(hidden(lora.only(slots[0], 1.0), batch), hidden(None, batch), rtol=0, atol=2e-6)


def test_a_trained_slot_changes_every_row(batch: Batch) -> None:
    changed = hidden(lora.only(random_slot(1), 1.0), batch) != hidden(None, batch)
    assert changed.any(axis=(1, 2)).all()


def test_one_layers_part_is_the_printed_formula() -> None:
    """in 2, rank 1, out 2: x a = 1·3 + 2·4 = 11, times b = (5, 6) and scale 16/4: (220, 264)."""
    low = LowRank(jnp.array([[[3.0], [4.0]]]), jnp.array([[[5.0, 6.0]]]))
    out = lora.delta(jnp.array([[1.0, 2.0]]), low, jnp.array([16 / 4]), None)
    np.testing.assert_array_equal(out, [[220.0, 264.0]])


@pytest.mark.parametrize(("scaling", "scale"), [("lora", 16 / 4), ("rslora", 16 / 2)])
def test_a_role_scales_by_alpha_over_rank_or_over_its_root(scaling: str, scale: float) -> None:
    start, key = roles.only_backbone(BACKBONE), jax.random.key(0)
    made = roles.new_slot_role(start, "sft", CONFIG, rank=4, alpha=16.0, targets=("q",), key=key, scaling=scaling)
    assert made.scales["sft"] == scale


def test_a_role_has_factors_of_its_rank() -> None:
    made = roles.new_slot_role(
        roles.only_backbone(BACKBONE), "sft", CONFIG, rank=8, alpha=16.0, targets=("q",), key=jax.random.key(0)
    )
    assert made.slots["sft"]["q"].a.shape == (CONFIG.decoder.layers, CONFIG.decoder.width, 8)


def test_each_row_of_a_mixed_batch_uses_its_own_slot(batch: Batch) -> None:
    slots, scales = [random_slot(1), random_slot(2)], [0.5, 2.0]
    mixed = hidden(lora.stack(slots, scales, jnp.array([1, lora.BACKBONE, 0])), batch)
    alone = [
        hidden(lora.only(slots[1], scales[1]), batch),
        hidden(None, batch),
        hidden(lora.only(slots[0], 0.5), batch),
    ]
    for row in range(3):
        np.testing.assert_allclose(mixed[row], alone[row][row], rtol=1e-4, atol=1e-5)
    assert not np.allclose(alone[0][0], alone[1][0], atol=1e-2)


def test_gradients_reach_only_the_slots_that_rows_used(batch: Batch) -> None:
    slots = [random_slot(1), random_slot(2), random_slot(3)]

    def loss(bank_slots: list[Slot]) -> jax.Array:
        return forward_with(lora.stack(bank_slots, [1.0] * 3, jnp.array([1, 1, lora.BACKBONE])), batch).sum()

    unused, used, also_unused = jax.jit(jax.grad(loss))(slots)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(used))
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves((unused, also_unused)))


def test_slots_of_any_ranks_and_targets_stand_side_by_side(batch: Batch) -> None:
    """What one lacks is zeros: a column adds nothing to x a b, and neither does a target."""
    slots = [random_slot(1, rank=3), random_slot(2, rank=8, targets=("q", "down")), random_slot(3, rank=5)]
    both = lora.side_by_side(slots)
    assert {target: low.a.shape[1:] for target, low in both.items()} == {
        "q": (3, 32, 8), "k": (3, 32, 5), "v": (3, 32, 5), "o": (3, 32, 5), "down": (3, 48, 8),
    }  # fmt: skip
    for n, slot in enumerate(slots):
        mixed = hidden(lora.stack(slots, [1.0, 0.5, 2.0], jnp.full(3, n)), batch)
        alone = hidden(lora.only(slot, (1.0, 0.5, 2.0)[n]), batch)
        np.testing.assert_allclose(mixed, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("targets", [("q", "k", "v", "o"), EVERY])
def test_adapters_added_to_the_kernels_give_what_they_give_beside_them(batch: Batch, targets: tuple[str, ...]) -> None:
    bank, before = lora.only(random_slot(4, targets=targets), 0.5), roles.fingerprint(BACKBONE)
    whole = roles.merged(roles.Weights(BACKBONE, bank))
    assert roles.fingerprint(BACKBONE) == before
    alone = jax.jit(lambda state: forward.read(CONFIG, roles.Weights(state, None), *batch).states)(whole)
    np.testing.assert_allclose(alone, hidden(bank, batch), rtol=1e-3, atol=1e-4)


def test_targets_can_be_chosen_and_unknown_ones_are_named(batch: Batch) -> None:
    assert set(fresh_slot(targets=("v", "down"))) == {"v", "down"}
    with pytest.raises(UserError, match="no such adapter target: lm_head; tiny-vlm has q, k"):
        adapted(CONFIG, ("q", "lm_head"))


def test_dropout_acts_only_where_it_is_asked_for(batch: Batch) -> None:
    made = random_roles("policy")
    weights = made.weights("policy")

    @jax.jit
    def dropped(key: jax.Array) -> jax.Array:
        return forward.read(CONFIG, weights, *batch, forward.Pass(dropout=0.5, key=key)).states

    one, same, other = dropped(jax.random.key(0)), dropped(jax.random.key(0)), dropped(jax.random.key(1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    without = forward.read(CONFIG, weights, *batch, forward.Pass(dropout=0.0, key=jax.random.key(0))).states
    np.testing.assert_allclose(without, hidden(weights.bank, batch), rtol=1e-4, atol=1e-5)


def test_a_role_started_from_another_is_a_copy_of_it() -> None:
    made = random_roles("sft").start("policy", "sft")
    assert roles.fingerprint(made.slots["policy"]) == roles.fingerprint(made.slots["sft"])
    moved = made.put(jax.tree.map(lambda x: x + 1, made.pick("policy")))
    assert roles.fingerprint(moved.slots["policy"]) != roles.fingerprint(made.slots["policy"])
    assert roles.fingerprint(moved.slots["sft"]) == roles.fingerprint(made.slots["sft"])
    assert moved.backbone is made.backbone


def test_all_weights_of_a_role_are_trained_in_float32_and_read_in_the_type_of_the_backbone() -> None:
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), BACKBONE)
    made = roles.only_backbone(half).start("sft", roles.BACKBONE)
    learned = made.pick("sft")
    assert kinds(learned) == {jnp.dtype(jnp.float32)}
    moved = made.put(jax.tree.map(lambda x: x + 2**-12, learned))
    assert kinds(moved.copies) == kinds(moved.weights("sft").state) == {jnp.dtype(jnp.bfloat16)}
    for now, before in zip(jax.tree.leaves(moved.copies), jax.tree.leaves(half), strict=True):
        np.testing.assert_array_equal(now, (before.astype(jnp.float32) + 2**-12).astype(jnp.bfloat16))


def test_roles_share_their_arrays_until_they_are_trained() -> None:
    made = roles.only_backbone(BACKBONE).start("sft", roles.BACKBONE).start("reward", roles.BACKBONE)
    assert pointers(made.copies["sft"]) == pointers(made.copies["reward"]) == pointers(BACKBONE)
    learned = made.pick("sft")
    assert not pointers(learned) & pointers(BACKBONE)
    after = made.put(learned).start("anchor", "sft").start("policy", "sft")
    assert pointers(after.copies["anchor"]) == pointers(after.copies["policy"]) == pointers(learned)


def kinds(tree: object) -> set[jnp.dtype]:
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def pointers(tree: object) -> set[int]:
    return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}


def test_what_is_picked_may_be_donated() -> None:
    made = random_roles("policy")
    picked = made.pick("policy")
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(picked)
    assert np.isfinite(np.asarray(made.slots["policy"]["q"].a)).all()


def test_the_fingerprint_feels_a_single_bit() -> None:
    values = np.zeros(1000, np.float32)
    changed = values.copy()
    changed.view(np.uint32)[777] ^= 1
    assert roles.fingerprint({"a": values}) != roles.fingerprint({"a": changed})


def test_an_unknown_role_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no role 'judge'; there are \['backbone', 'policy'\]"):
        random_roles("policy").weights("judge")


def test_the_reward_model_may_have_other_targets_than_the_policy() -> None:
    lora_config = LoraConfig(rank=2, reward_rank=3, alpha=6.0, scaling="rslora", reward_targets=("o", "down"))
    made = attach(Model("tiny", CONFIG, BACKBONE, None), TuneConfig(lora=lora_config))  # type: ignore[arg-type]
    assert {role: sorted(slot) for role, slot in made.slots.items()} == {
        "sft": ["k", "o", "q", "v"],
        "reward": ["down", "o"],
    }
    assert made.slots["reward"]["down"].a.shape == (CONFIG.decoder.layers, CONFIG.decoder.mlp_width, 3)
    assert made.scales["reward"] == pytest.approx(6 / 3**0.5)


def test_the_value_model_begins_as_the_sft_policy_or_with_adapters_of_its_own() -> None:
    for own, is_sft in ({}, True), ({"value_rank": 3}, False), ({"value_targets": ("mlp",)}, False):
        lora_config = LoraConfig(rank=2, targets=("q",), **own)
        made = attach(Model("tiny", CONFIG, BACKBONE, None), TuneConfig(lora=lora_config))  # type: ignore[arg-type]
        made = made._replace(slots={**made.slots, "sft": random_slot(1, rank=2, targets=("q",))})
        begun = policy_gradient.begun(made, CONFIG, RLConfig())
        assert begun.slots["policy"] is made.slots["sft"]
        assert (begun.slots["value"] is made.slots["sft"]) == is_sft
        if not is_sft:
            rank = own.get("value_rank", 2)
            assert {low.a.shape[-1] for low in begun.slots["value"].values()} == {rank}
            assert sorted(begun.slots["value"]) == (["q"] if "value_rank" in own else ["down", "gate", "up"])
            assert not any(low.b.any() for low in begun.slots["value"].values()), "it begins as the backbone"


def test_groups_of_targets_are_those_matrices_that_a_model_has() -> None:
    assert set(adapted(CONFIG, ("attention", "down", "q"))) == {"q", "k", "v", "o", "down"}
    plain = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, gated=False))
    assert set(adapted(plain, ("mlp",))) == {"up", "down"}
    with pytest.raises(UserError, match="no such adapter target: gate"):
        adapted(plain, ("gate",))
