"""Adapters in tower and projector: nothing at the start, the weights that they are merged to, and looking ahead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, Batch, random_batch, random_slot, slot_of, state
from PIL import Image as Pillow
from test_families import SEES, model

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import dora, lora, roles
from pe_rlhf_mm.adapters.origin import origin_of
from pe_rlhf_mm.adapters.peft import read_adapter, write_adapter
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.adapters.targets import adapted, matrices
from pe_rlhf_mm.checkpoints.export import export_merged
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.vision import of_views
from pe_rlhf_mm.models.vlm import kernel_at
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import forward, passes
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.likelihood import likelihoods
from pe_rlhf_mm.training.lora_config import LoraConfig
from pe_rlhf_mm.training.passes import Completed
from pe_rlhf_mm.types import Features, Image, Merged, Pixels

BACKBONE, FIXTURES = state(), Path(__file__).parent / "fixtures"
SIGHT = ("tower", "projector")
TOY = f"{__name__}:ToyTask"


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(np.random.default_rng(0), rows=3, group=2)


@jax.jit
def hidden(bank: lora.Bank | None, batch: Batch) -> jax.Array:
    return forward.read(CONFIG, Weights(BACKBONE, bank), *batch).states


def merged_ahead(batch: Batch) -> Batch:
    """The same batch as far as a frozen tower can look at it before a projector that is adapted."""
    seen = vlm.bind(CONFIG, BACKBONE).see(batch.prompts.images)
    return batch._replace(prompts=batch.prompts._replace(images=seen))


def test_every_matrix_is_where_its_name_says_and_of_its_sizes() -> None:
    for family in SEES:
        config = model(family).config
        weights = vlm.abstract_state(config)
        for name, matrix in matrices(config).items():
            shape = kernel_at(weights, name).get_value().shape
            assert shape[-2:] == (matrix.size_in, matrix.size_out), (family, name)
            assert shape[:-2] == ((matrix.layers,) if "projector" not in name else ()), (family, name)


def test_fresh_adapters_change_not_one_bit_and_trained_ones_only_rows_with_a_picture(batch: Batch) -> None:
    fresh = lora.new_slot(jax.random.key(0), adapted(CONFIG, SIGHT), rank=2)
    for given in batch, merged_ahead(batch):
        one, none, other = (
            hidden(lora.stack([fresh, random_slot(1, targets=SIGHT)], [1.0, 1.0], jnp.full(3, i)), given)
            for i in (0, lora.BACKBONE, 1)
        )
        np.testing.assert_array_equal(one, none)
        assert (other != none).any(axis=(1, 2)).tolist() == [True, True, False], "the last row has no picture"


def test_each_row_has_the_eyes_of_its_own_slot(batch: Batch) -> None:
    slots = [random_slot(1, targets=SIGHT), random_slot(2, targets=SIGHT)]
    mixed = hidden(lora.stack(slots, [0.5, 2.0], jnp.array([1, 0, lora.BACKBONE])), batch)
    alone = [hidden(lora.only(slots[1], 2.0), batch), hidden(lora.only(slots[0], 0.5), batch), hidden(None, batch)]
    for row in range(3):
        np.testing.assert_allclose(mixed[row], alone[row][row], rtol=1e-4, atol=1e-5)
    two_views = of_views(lora.stack(slots, [0.5, 2.0], jnp.array([1, 0, lora.BACKBONE])), 2)
    assert two_views.ids.tolist() == [1, 1, 0, 0, -1, -1]


@pytest.mark.parametrize("targets", [("tower",), ("projector",), ("q", *SIGHT)])
def test_adapters_added_to_the_kernels_give_what_they_give_beside_them(batch: Batch, targets: tuple[str, ...]) -> None:
    bank = lora.only(random_slot(4, targets=targets), 0.5)
    beside, base = hidden(bank, batch), hidden(None, batch)
    whole = roles.merged(Weights(BACKBONE, bank))
    alone = jax.jit(lambda state: forward.read(CONFIG, Weights(state, None), *batch).states)(whole)
    np.testing.assert_allclose(alone, beside, rtol=1e-3, atol=1e-4)
    assert np.abs(beside - base).max() > 1e-2
    if targets == ("projector",):
        np.testing.assert_allclose(hidden(bank, merged_ahead(batch)), beside, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_adapter_of_tower_and_projector(batch: Batch) -> None:
    def loss(slot: lora.Slot) -> jax.Array:
        return jnp.sum(forward.read(CONFIG, Weights(BACKBONE, lora.only(slot, 0.5)), *batch).states ** 3)

    slot = random_slot(4, targets=SIGHT)
    gradients, loss = jax.jit(jax.grad(loss))(slot), jax.jit(loss)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    step = jax.tree.map(lambda g: 1e-2 * g / jnp.abs(g).max(), gradients)
    ends = [loss(jax.tree.map(lambda x, d, s=s: x + s * d, slot, step)) for s in (1, -1)]
    slope = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradients, step)), strict=True))
    assert float(ends[0] - ends[1]) / 2 == pytest.approx(slope, rel=0.05)


def test_dropout_reaches_the_eyes(batch: Batch) -> None:
    weights = Weights(BACKBONE, lora.only(random_slot(4, targets=("projector",)), 0.5))
    dropped = [
        forward.read(CONFIG, weights, *batch, forward.Pass(dropout=0.5, key=jax.random.key(n))).states for n in (0, 1)
    ]
    assert (dropped[0] != dropped[1]).any()


def test_roles_with_other_eyes_read_one_rollout_together(batch: Batch) -> None:
    made = roles.only_backbone(BACKBONE)
    slots = {"policy": random_slot(1, targets=("q", "projector")), "anchor": random_slot(2, targets=("tower", "up"))}
    made = made._replace(slots=slots, scales={name: jnp.float32(0.5) for name in slots})
    one, own = (
        passes.said(CONFIG, made, tuple(slots), Completed(*batch), RLConfig(passes=how))
        for how in ("together", "apart")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, own)


# --- pictures that were looked at ahead -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl"])  # pooled; of several levels
def test_a_frozen_tower_looks_as_far_ahead_as_nothing_is_adapted(family: str) -> None:
    """And what is left to do gives what the whole of it gives."""
    loaded = model(family)
    picture = Image(Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)))
    taken = {}
    for kind, names in (Pixels, ("q", "tower.q")), (Merged, ("projector.project",)), (Features, ("q",)):
        gallery = Gallery(loaded.config, look_with=loaded.state, adapted=names)
        taken[kind] = gallery.take([[gallery.add(picture)]])
        assert type(taken[kind]) is kind
    bound = vlm.bind(loaded.config, loaded.state)
    ready = taken[Features].vectors
    count = gallery.tokens(0)
    for kind in Pixels, Merged:
        np.testing.assert_allclose(bound.look(taken[kind]).vectors[:, :count], ready[:, :count], rtol=1e-3, atol=1e-4)


def test_a_policy_looks_with_its_own_eyes() -> None:
    loaded = pe.load_model("tiny-vlm")
    beside = Weights(loaded.state, lora.only(slot_of(loaded.config, ("projector",)), 0.3))
    asked = [sample.messages for sample in list(ToyTask().samples("test"))[:2]]
    policy, whole, base = (
        likelihoods(Policy(loaded.processor, weights), asked, ["red", "green"])
        for weights in (beside, Weights(roles.merged(beside), None), Weights(loaded.state, None))
    )
    np.testing.assert_allclose([x[0] for x in policy], [x[0] for x in whole], rtol=1e-4)
    assert abs(policy[0][0] - base[0][0]) > 1e-2


# --- on disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])  # deep projectors and fused q, k, v; a bare matrix, pooled
def test_they_are_saved_and_read_and_merged_into_a_checkpoint(family: str, tmp_path: Path) -> None:
    loaded = model(family)
    slot = slot_of(loaded.config, ("q", *SIGHT))
    origin = origin_of("policy", loaded.config, loaded.state, model="org/base")
    write_adapter(tmp_path / "adapter", slot, 0.5, loaded.config, origin)
    again, scale = read_adapter(tmp_path / "adapter", loaded.config)
    assert (roles.fingerprint(again), scale) == (roles.fingerprint(slot), 0.5)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["peft_type"] == "PE_RLHF_MM"
    export_merged(FIXTURES / family, tmp_path / "merged", loaded.config, lora.merged(slot, 0.5))
    expected = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), roles.merged(Weights(loaded.state, lora.only(slot, 0.5)))
    )
    assert roles.fingerprint(pe.load_model(tmp_path / "merged").state) == roles.fingerprint(expected)


def test_what_peft_has_no_name_for_is_not_exported_for_it(tmp_path: Path) -> None:
    loaded = pe.load_model("tiny-vlm")
    policy = Policy(loaded.processor, Weights(loaded.state, lora.only(slot_of(loaded.config, ("q", "projector")), 0.5)))
    with pytest.raises(UserError, match=r"adapters beside projector.project, .*--format merged"):
        pe.save_adapter(tmp_path / "adapter", policy)
    assert not (tmp_path / "adapter").exists()


def test_a_run_trains_what_its_policy_and_its_reward_model_see_with(tmp_path: Path) -> None:
    small = pe.TuneConfig(
        lora=LoraConfig(rank=2, reward_rank=2, kind="dora", targets=("q", "projector"), reward_targets=("tower.v",)),
        sft=pe.SFTConfig(steps=2, batch_size=8, learning_rate=1e-3),
        reward=pe.RewardConfig(steps=2, batch_size=8, learning_rate=1e-3, validate_every=2, validation_pairs=8),
        rl=pe.RLConfig(steps=1, prompts=4, learning_rate=1e-3, max_tokens=4, evaluate_every=1, evaluation_samples=4),
        test_samples=4,
    )
    pe.tune(TOY, out=tmp_path / "run", config=small, quiet=True)
    found, backbone = {}, pe.load_model("tiny-vlm").state
    for role in ("sft", "policy", "reward"):
        slot, _ = read_adapter(tmp_path / "run/adapters" / role, pe.load_model("tiny-vlm").config)
        found[role] = {name: np.abs(low.b).max() for name, low in slot.items()}
        start = dora.decomposed(backbone, slot)
        assert all(np.abs(low.magnitude - start[name].magnitude).max() > 1e-4 for name, low in slot.items())
    assert set(found["policy"]) == {"q", "projector.project"}
    assert set(found["reward"]) == {"tower.v"}
    assert all(moved > 0 for role in found.values() for moved in role.values())


def test_a_model_that_does_not_see_has_no_eyes_to_adapt(tmp_path: Path) -> None:
    config = replace(pe.TuneConfig(), lora=LoraConfig(targets=("q", "tower")))
    with pytest.raises(UserError, match=r"no such adapter target: tower; .* has q, k, v, o"):
        pe.tune(TOY, model=FIXTURES / "llama", out=tmp_path / "run", config=config, quiet=True)
    assert not (tmp_path / "run").exists()
