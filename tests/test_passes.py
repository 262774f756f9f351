"""Several roles in one pass: each says what it says by itself, and what they share is computed and gathered once."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from models import CONFIG, FIRST_WORD, Heard, processor, random_batch, random_roles, random_slot

from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.models.vision import VisionTower
from pe_rlhf_mm.training import passes, reinforce
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.passes import PASSES, Completed
from pe_rlhf_mm.training.policy_gradient import ALGORITHMS, Experience, assessors
from pe_rlhf_mm.types import Pixels

TOGETHER = RLConfig(
    passes="together", algorithm="ppo", steps=3, prompts=4, group=2, learning_rate=1e-2, value_learning_rate=1e-2,
    temperature=1.0, max_tokens=4,
)  # fmt: skip
APART = replace(TOGETHER, passes="apart")
EVERY = ("policy", "anchor", "value", "reward")
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Of float32 in another program."""


def several() -> Roles:
    """Adapters of other scales, ranks and targets, and other heads."""
    roles = random_roles(*EVERY)
    others = {
        "value": random_slot(11, rank=5, targets=("v", "down")),
        "reward": random_slot(12, rank=2, targets=("q", "k", "up")),
    }
    return roles._replace(slots={**roles.slots, **others})


def rows() -> Completed:
    return Completed(*random_batch(np.random.default_rng(0), rows=4, group=2))


def same(one: object, other: object, **tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_every_role_says_in_one_pass_what_it_says_in_its_own() -> None:
    one, own = (passes.said(CONFIG, several(), EVERY, rows(), settings) for settings in (TOGETHER, APART))
    assert tuple(one) == tuple(own) == EVERY
    same(one, own, **ROUNDING)
    assert np.abs(one["policy"].logprobs - one["anchor"].logprobs).max() > 0.1
    assert np.abs(one["value"]).max() > 0.1


def test_equal_weights_diverge_by_nothing_in_one_pass() -> None:
    """By no bit, whoever reads with them."""
    roles = several().start("anchor", "policy")
    said = passes.said(CONFIG, roles, EVERY, rows(), TOGETHER)
    jax.tree.map(np.testing.assert_array_equal, said["policy"], said["anchor"])


def test_one_pass_gives_every_role_its_own_gradient() -> None:
    """Also where layers are computed again on the way back."""
    roles, given = several(), rows()
    constant = np.random.default_rng(1).normal(size=(6, *given.mask.shape)).astype(np.float32)
    rollout = reinforce.Rollout(*given, constant[0, :, :, 0], Experience(*constant))

    def gradient(settings: RLConfig) -> Trainable:
        loss = functools.partial(reinforce.loss, CONFIG, replace(settings, algorithm="reinforce"), "layers")
        of = jax.jit(jax.grad(lambda trainable: loss(trainable, roles, rollout, jax.random.key(0))[0]))
        return of(roles.pick("policy", "value"))

    one, own = gradient(TOGETHER), gradient(APART)
    same(one, own, rtol=1e-4, atol=1e-4)
    assert all(np.abs(leaf).max() > 1e-2 for leaf in jax.tree.leaves((one.slots, one.heads["value"])))


def test_pictures_are_looked_at_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = [], VisionTower.see
    monkeypatch.setattr(VisionTower, "see", lambda tower, *a, **how: looks.append(1) or look(tower, *a, **how))
    assert isinstance(rows().prompts.images, Pixels)
    for settings, expected in ((TOGETHER, 1), (APART, 4)):
        looks.clear()
        jax.eval_shape(lambda s=settings: passes.said(CONFIG, several(), EVERY, rows(), s, passes.read))
        assert len(looks) == expected


def test_copies_of_all_weights_have_passes_of_their_own() -> None:
    roles = random_roles("policy", "anchor")
    roles = roles._replace(copies={"value": roles.backbone, "reward": roles.backbone})
    assert PASSES["together"](roles, EVERY) == [("policy", "anchor"), ("value",), ("reward",)]
    assert PASSES["apart"](roles, EVERY) == [("policy",), ("anchor",), ("value",), ("reward",)]


def test_by_default_roles_share_a_pass_where_weights_are_kept_in_parts() -> None:
    """With `data` every device has them whole, and with `model` each multiplies with its part."""
    roles = random_roles("policy", "anchor")
    for sizes, groups in (((2, 1, 2), 2), ((1, 2, 1), 1)):
        with jax.sharding.use_abstract_mesh(AbstractMesh(sizes, MESH_AXES)):
            assert len(PASSES["auto"](roles, ("policy", "anchor"))) == groups
    assert len(PASSES[RLConfig().passes](roles, ("policy", "anchor"))) == 2  # on one device


@pytest.mark.parametrize(
    ("algorithm", "judges", "expected"),
    [
        ("reinforce", ("reward",), ("policy", "anchor", "reward")),
        ("ppo", ("reward",), ("policy", "anchor", "value", "reward")),
        ("grpo", (), ("policy", "anchor")),
    ],
)
def test_only_those_read_a_rollout_whose_word_is_taken(
    algorithm: str, judges: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert assessors(replace(TOGETHER, algorithm=algorithm), judges) == expected  # type: ignore[arg-type]


def test_policy_and_anchor_are_one_program_also_where_each_has_its_own_pass() -> None:
    policy, anchor, value = (passes.joint(random_roles(*EVERY), (name,)) for name in EVERY[:3])
    assert jax.tree.structure(policy) == jax.tree.structure(anchor) != jax.tree.structure(value)


def test_a_whole_training_goes_the_same_way() -> None:
    asked = [EncodedPrompt([FIRST_WORD + i, FIRST_WORD + 1], ()) for i in range(8)]
    found = {}
    for settings in (TOGETHER, APART):
        heard, before = Heard(), random_roles("sft", "reward")
        after = reinforce.reinforce(before, processor(), Gallery(CONFIG), asked, settings, observer=heard)
        found[settings.passes] = heard.steps, after.pick(*ALGORITHMS["ppo"].roles)
    (steps, learned), (other_steps, other_learned) = found["together"], found["apart"]
    assert len(steps) == 3
    assert steps[0]["kl"] == 0 != steps[1]["kl"]
    same(steps, other_steps, rtol=2e-4, atol=2e-5)
    same(learned, other_learned, rtol=0, atol=2e-4)
