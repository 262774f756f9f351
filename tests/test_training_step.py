"""One step of training, whatever is trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.step import new_state, train_step


def squares(
    trainable: Trainable, roles: Roles, batch: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A loss of everything that is trained, beside weights that are not."""
    frozen = jax.tree.leaves(roles.backbone)[0]
    return batch * sum(jnp.sum(x**2) for x in jax.tree.leaves(trainable)) + 0 * frozen.sum(), {}


def test_steps_of_one_shape_share_one_program() -> None:
    """Weights that were read are bound to their device; with a state that is not, the second step would compile."""
    found = load_model("tiny-vlm")
    assert all(x.committed for x in jax.tree.leaves(found.state))
    backbone, new = role_table.only_backbone(found.state), {"rank": 2, "alpha": 2.0, "targets": ("q",)}
    roles = role_table.new_slot_role(backbone, "sft", found.config, key=jax.random.key(0), **new)
    optimizer, compiled = adam(1e-2, 10), train_step._cache_size()
    state, values = new_state(roles.pick("sft"), roles, optimizer, jax.random.key(0)), []
    for _ in range(3):
        state, metrics = train_step(state, roles, jnp.float32(1), loss=squares, optimizer=optimizer)
        values.append(float(metrics["loss"]))
    assert train_step._cache_size() == compiled + 1
    assert values[0] > values[1] > values[2]
