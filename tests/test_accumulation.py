"""A batch in parts gives the loss, the metrics and the gradient of the whole; what cannot be split is refused."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, Batch, processor, random_batch, random_roles

import pe_rlhf_mm as pe
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.data.transcript import Turn
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.planning.plan import plan
from pe_rlhf_mm.planning.programs import Load
from pe_rlhf_mm.training import preferences, reinforce, reward, sft
from pe_rlhf_mm.training.accumulation import Parts, alike, over_parts
from pe_rlhf_mm.training.policy_gradient import Experience
from pe_rlhf_mm.types import Packed

ROLES = random_roles("sft", "reward", "policy", "value", "anchor")
ROWS = 4


def batch(group: int, rows: int = ROWS) -> Batch:
    """Replies of 1 to 6 tokens: no two parts have as many."""
    return random_batch(np.random.default_rng(0), rows=rows, group=group)


def packed() -> Packed:
    shown = [
        [Turn(EncodedPrompt([FIRST_WORD + i, FIRST_WORD + 3], ()), [FIRST_WORD + 1] * (1 + i % 5) + [CONFIG.stop_id])]
        for i in range(16)
    ]
    fed = sft.several_a_row(processor(), Gallery(CONFIG), shown, capacity=24, batch_size=ROWS, seed=0)
    return next(fed.batches(0))


def judged(rows_each: int) -> reward.JudgedBatch:
    """Pairs whose replies share a row, or have one each."""
    rng, (prompts, completions) = np.random.default_rng(1), batch(2 // rows_each, ROWS * rows_each)
    probability = rng.uniform(size=ROWS).astype(np.float32)
    labels = np.stack([probability, 1 - probability], axis=1)
    return reward.JudgedBatch(prompts, completions, labels, rng.uniform(size=ROWS).astype(np.float32))


def judged_packed() -> reward.PackedBatch:
    rows = packed()
    return reward.PackedBatch(rows, np.random.default_rng(2).uniform(size=rows.mask.shape).astype(np.float32))


def rollout() -> reinforce.Rollout:
    """Of some replies nothing is known: they are empty, and the mean is not taken over them."""
    rng, (prompts, completions) = np.random.default_rng(3), batch(2)
    mask = completions.mask & (np.arange(ROWS * 2).reshape(ROWS, 2, 1) % 3 > 0)
    found = (rng.normal(size=mask.shape).astype(np.float32) for _ in range(4))
    experience = Experience(*found, None, np.full(mask.shape, 0.3, np.float32))
    return reinforce.Rollout(prompts, completions._replace(mask=mask), np.zeros(mask.shape[:2], np.float32), experience)


def by_reinforce(algorithm: str = "reinforce") -> Callable[..., Any]:
    settings = pe.RLConfig(algorithm=algorithm, group=2, kl="loss")
    return functools.partial(reinforce.loss, CONFIG, settings, "products")


PAIRWISE = functools.partial(reward.pairwise, CONFIG, 0.0, "products")
CASES: dict[str, tuple[Callable[..., Any], Callable[[], Any], Callable[[Any], jax.Array], tuple[str, ...]]] = {
    "sft": (functools.partial(sft.loss, CONFIG, 0.0, "products"), lambda: batch(1), sft.tokens, ("sft",)),
    "sft packed": (functools.partial(sft.packed_loss, CONFIG, 0.0, "products"), packed, sft.tokens, ("sft",)),
    "pairs": (PAIRWISE, lambda: judged(1), reward.share, ("reward",)),
    "pairs apart": (PAIRWISE, lambda: judged(2), alike, ("reward",)),
    "ratings packed": (
        functools.partial(reward.packed_pointwise, CONFIG, 0.0, "products"), judged_packed, reward.share, ("reward",)
    ),
    "reinforce": (by_reinforce(), rollout, reinforce.replies, ("policy", "value")),
    "online-dpo": (by_reinforce("online-dpo"), rollout, reinforce.replies, ("policy",)),
    "dpo": (
        functools.partial(preferences.loss, CONFIG, "dpo", pe.PreferenceConfig(), "products"), lambda: judged(1), alike,
        ("policy",),
    ),
}  # fmt: skip
OTHERWISE_DIVIDED = {"entropy", "explained_variance"}
"""Of RL, where all else is divided by completions."""


@pytest.mark.parametrize("case", CASES)
def test_parts_add_up_to_the_whole(case: str) -> None:
    loss, make, share, learners = CASES[case]
    given, learned, key = make(), ROLES.pick(*learners), jax.random.key(0)
    gradient = jax.value_and_grad(loss, has_aux=True)

    @functools.partial(jax.jit, static_argnums=1)
    def measured(learned: Any, into: int) -> Any:
        return over_parts(Parts(into, share), lambda part, key: gradient(learned, ROLES, part, key), given, key)

    ((whole, metrics), grads), ((added, of_parts), sums) = measured(learned, 1), measured(learned, 2)
    np.testing.assert_allclose(added, whole, rtol=1e-5)
    for name in metrics.keys() - (OTHERWISE_DIVIDED if share is reinforce.replies else set()):
        np.testing.assert_allclose(of_parts[name], metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for found, wanted in zip(jax.tree.leaves(sums), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_every_part_has_a_key_and_rows_of_its_own() -> None:
    """Rows 0, 2, 4 and 1, 3, 5: the first half of a batch, which is one device's, is not one part."""
    seen: list[Any] = []
    keys = jax.random.key_data(jax.random.key(0))

    def measure(part: jax.Array, key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda rows, key: seen.append((rows.tolist(), key.tolist())), part, jax.random.key_data(key))
        return part.mean()

    found = over_parts(Parts(2), measure, np.arange(6, dtype=np.float32), jax.random.key(0))
    jax.effects_barrier()
    assert float(found) == 2.5
    assert sorted(rows for rows, _ in seen) == [[0, 2, 4], [1, 3, 5]]
    assert len({tuple(key) for _, key in seen} | {tuple(keys.tolist())}) == 3


def test_the_memory_is_that_of_a_part() -> None:
    """What a step keeps beside its state is nearly all of it activations, of which there are half as many."""
    settings = pe.TuneConfig(reward=pe.RewardConfig(batch_size=16))
    asked = {"stage": "reward", "topology": "here"}
    load = Load(prompt_tokens=80, reply_tokens=4)
    tiny = pe.load_model("tiny-vlm").config
    whole, halves = (
        plan(tiny, dataclasses.replace(settings, accumulate=into), load, **asked).costs[0].temporaries
        for into in (1, 4)
    )  # fmt: skip
    assert halves < 0.4 * whole


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"accumulate": 3}, r"sft.batch_size is 64, and --accumulate 3 works through them .* multiple of 3: 63\."),
        (
            {"accumulate": 4, "mesh": pe.MeshConfig(fsdp=32)},
            r"--accumulate 4 .*, each of which a mesh of data 1 and fsdp 32 deals .* multiple of 128: 128\.",
        ),
    ],
)
def test_batches_that_leave_a_remainder_are_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        pe.tune("pe/easy-vqa", out=tmp_path / "run", config=pe.TuneConfig(**config), quiet=True)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Press is played .* cannot be split then"):
        pe.tune("canvas/press", out=tmp_path / "run", config=pe.TuneConfig(accumulate=2), quiet=True)
    with pytest.raises(ValueError, match="kto compares every reply with the mean of its batch"):
        pe.TuneConfig(accumulate=2, method="kto")
    with pytest.raises(ValueError, match=r"rl\.entropy is taken over tokens"):
        pe.TuneConfig(accumulate=2, rl=pe.RLConfig(entropy=0.1))
