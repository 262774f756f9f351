"""DoRA: the printed formula, nothing at the start, a length that is a constant to gradients, and every kind of pass."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec
from models import CONFIG, Batch, random_batch, random_slot, slot_of, state
from safetensors.numpy import load_file
from test_families import model

from pe_rlhf_mm.adapters import dora, lora, roles
from pe_rlhf_mm.adapters.lora import Slot
from pe_rlhf_mm.adapters.origin import origin_of
from pe_rlhf_mm.adapters.peft import read_adapter, write_adapter
from pe_rlhf_mm.adapters.roles import Weights, adapted_by
from pe_rlhf_mm.models import quantize
from pe_rlhf_mm.models.places import cuts_of_slot
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.models.vlm import kernel_at
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward, passes
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.passes import Completed

BACKBONE, SCALE = state(), 0.5
TARGETS = ("q", "down", "projector")


def learned(seed: int, targets: tuple[str, ...] = TARGETS, rank: int = 3, backbone: nnx.State = BACKBONE) -> Slot:
    """A slot that has been trained, its lengths too."""
    fresh, keys = dora.decomposed(backbone, random_slot(seed, rank=rank, targets=targets)), jax.random.key(seed)
    return {
        target: low._replace(magnitude=low.magnitude * jax.random.uniform(keys, low.magnitude.shape, minval=0.7))
        for target, low in fresh.items()
    }


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(np.random.default_rng(0), rows=3, group=2)


@jax.jit
def hidden(weights: Weights, batch: Batch) -> jax.Array:
    return forward.read(CONFIG, weights, *batch).states


def by_hand(slot: Slot) -> nnx.State:
    """m · (W + s a b) / ‖W + s a b‖, column by column, in place of every W."""
    whole = jax.tree.map(lambda leaf: leaf, BACKBONE)
    for target, (a, b, magnitude) in slot.items():
        kernel = kernel_at(whole, target)
        direction = np.asarray(kernel.get_value()) + SCALE * (np.asarray(a) @ np.asarray(b))
        lengths = np.sqrt((direction**2).sum(axis=-2, keepdims=True))
        kernel.set_value(jnp.asarray(magnitude[:, None] * direction / lengths).reshape(kernel.shape))
    return whole


def test_a_pass_is_that_of_the_printed_formula(batch: Batch) -> None:
    slot = learned(1)
    beside, base = hidden(adapted_by(BACKBONE, slot, SCALE), batch), hidden(Weights(BACKBONE, None), batch)
    np.testing.assert_allclose(beside, hidden(Weights(by_hand(slot), None), batch), rtol=1e-3, atol=2e-4)
    assert np.abs(beside - base).max() > 0.1
    whole = roles.merged(adapted_by(BACKBONE, slot, SCALE))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, by_hand(slot))


def test_fresh_adapters_change_nothing(batch: Batch) -> None:
    made = roles.new_slot_role(
        roles.only_backbone(BACKBONE), "sft", CONFIG, rank=2, alpha=4.0, targets=TARGETS, key=jax.random.key(0),
        kind="dora",
    )  # fmt: skip
    slot = made.slots["sft"]
    column = np.asarray(kernel_at(BACKBONE, "q").get_value())[1, :, 5]
    assert float(slot["q"].magnitude[1, 5]) == pytest.approx(np.sqrt((column**2).sum()), rel=1e-6)
    fresh, none = (hidden(weights, batch) for weights in (made.weights("sft"), Weights(BACKBONE, None)))
    np.testing.assert_allclose(fresh, none, rtol=0, atol=5e-6)


def test_the_length_is_a_constant_to_gradients(batch: Batch) -> None:
    slot = learned(1, targets=("q",))

    def loss(slot: Slot, gains: lora.Gains | None) -> jax.Array:
        found = dora.gains(BACKBONE, slot, SCALE) if gains is None else gains
        return jnp.sum(forward.read(CONFIG, Weights(BACKBONE, lora.only(slot, SCALE, found)), *batch).states ** 3)

    own = jax.jit(jax.grad(lambda s: loss(s, None)))(slot)["q"]
    by_factors, by_gain = jax.jit(jax.grad(loss, argnums=(0, 1)))(slot, dora.gains(BACKBONE, slot, SCALE))
    np.testing.assert_allclose(own.a, by_factors["q"].a, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own.b, by_factors["q"].b, rtol=1e-4, atol=1e-4)
    lengths = slot["q"].magnitude / dora.gains(BACKBONE, slot, SCALE)["q"]
    np.testing.assert_allclose(own.magnitude, by_gain["q"] / lengths, rtol=1e-4, atol=1e-4)
    assert all(float(jnp.abs(part).max()) > 1e-2 for part in own)


def test_rows_and_roles_have_gains_of_their_own(batch: Batch) -> None:
    """By number, and in one pass of several roles, one of which has learned no lengths."""
    slots = [learned(1), random_slot(2, rank=5, targets=("q", "up")), learned(3, targets=("o", "tower"), rank=2)]
    gains = [dora.gains(BACKBONE, slot, SCALE) for slot in slots]
    alone = [hidden(adapted_by(BACKBONE, slot, SCALE), batch) for slot in slots]
    bank = lora.stack(slots, [SCALE] * 3, jnp.array([2, lora.BACKBONE, 1]), gains)
    mixed, base = hidden(Weights(BACKBONE, bank), batch), hidden(Weights(BACKBONE, None), batch)
    for row, expected in enumerate((alone[2], base, alone[1])):
        np.testing.assert_allclose(mixed[row], expected[row], rtol=1e-3, atol=1e-4)
    names = ("policy", "anchor", "reward")
    made = roles.only_backbone(BACKBONE).with_head("reward", jnp.ones(CONFIG.decoder.width))
    made = made._replace(
        slots=dict(zip(names, slots, strict=True)), scales={name: jnp.float32(SCALE) for name in names}
    )
    one, own = (
        passes.said(CONFIG, made, names, Completed(*batch), RLConfig(passes=how)) for how in ("together", "apart")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, own)


def test_what_is_sampled_has_the_log_probabilities_of_a_full_pass(batch: Batch) -> None:
    weights, plain = adapted_by(BACKBONE, learned(1), SCALE), Sampling(max_tokens=5)
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = sample(CONFIG, *weights, batch.prompts, keys, group=2, sampling=plain)
    again = forward.score_policy(CONFIG, weights, batch.prompts, drawn.completions, plain)
    np.testing.assert_allclose(drawn.logprobs, again.logprobs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_over_a_quantised_backbone_lengths_are_those_of_what_it_stands_for(kind: str) -> None:
    rounded = quantize.quantized_state(BACKBONE, kind)
    kernel = quantize.dequantized(kernel_at(rounded, "down").get_value())
    (low,) = dora.decomposed(rounded, random_slot(1, targets=("down",))).values()
    np.testing.assert_allclose(low.magnitude, np.sqrt((np.asarray(kernel) ** 2).sum(axis=1)), rtol=1e-5)


def test_lengths_are_cut_as_the_columns_are() -> None:
    cuts = cuts_of_slot(CONFIG, learned(1, targets=("q", "o")), AbstractMesh((1, 2, 2), MESH_AXES))
    assert cuts["q"][2] == PartitionSpec(None, "model")
    assert cuts["o"][2] == PartitionSpec(None, None)


def test_files_are_those_of_peft(tmp_path: Path) -> None:
    loaded = model("llama")
    slot = dora.decomposed(loaded.state, slot_of(loaded.config, ("q", "down")))
    write_adapter(tmp_path, slot, 0.5, loaded.config, origin_of("policy", loaded.config, loaded.state, model="base"))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_dora"] is True
    stored = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector"
    np.testing.assert_array_equal(stored[name], slot["down"].magnitude[1])
    again, scale = read_adapter(tmp_path, loaded.config)
    assert (roles.fingerprint(again), scale) == (roles.fingerprint(slot), 0.5)
