"""Optimizers in one table, and where what they remember lies on a mesh.

All clip the gradient to norm 1, warm up linearly, and go on at a constant rate or one that decays by a cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pe_rlhf_mm.adapters.roles import Trainable


class Optimizer(Protocol):
    def __call__(
        self, learning_rate: float, steps: int, *, warmup: int = 0, decay: bool = False
    ) -> optax.GradientTransformation:
        """For a training of so many steps."""


def adam(learning_rate: float, steps: int, *, warmup: int = 0, decay: bool = False) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980): two moments of every weight."""
    return _clipped(optax.adam, learning_rate, steps, warmup, decay=decay)


def adafactor(
    learning_rate: float, steps: int, *, warmup: int = 0, decay: bool = False
) -> optax.GradientTransformation:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): of a matrix, second moments of its rows and of its columns.

    There is no momentum. A rate is the length of a step as for Adam, and not a share of the weights' size. An axis
    shorter than 128 is not worth it: there every weight has its moment, as for adapters. A stack of layers counts as
    one block where the update is clipped.
    """

    def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return optax.adafactor(rate, multiply_by_parameter_scale=False)

    return _clipped(make, learning_rate, steps, warmup, decay=decay)


OPTIMIZERS: dict[str, Optimizer] = {"adam": adam, "adafactor": adafactor}


def by_role(trainable: Trainable, each: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """Every role with an optimizer of its own: each has a rate and a norm."""
    labels = Trainable(
        *({role: jax.tree.map(lambda _, r=role: r, tree) for role, tree in p.items()} for p in trainable)
    )
    return optax.partition(each, labels)


def _clipped(
    make: Callable[[optax.ScalarOrSchedule], optax.GradientTransformation],
    learning_rate: float,
    steps: int,
    warmup: int,
    *,
    decay: bool,
) -> optax.GradientTransformation:
    after = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), 0.05) if decay else learning_rate
    schedule = optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, max(warmup, 1)), after if decay else optax.constant_schedule(after)],
        [warmup],
    )
    return optax.chain(optax.clip_by_global_norm(1.0), make(schedule))


def places_of_moments(moments: Any, weights: Any, mesh: Mesh) -> Any:
    """For all that an optimizer remembers its place on a mesh: as the weight lies that it is of.

    What was summed up along an axis of a weight is cut as the axes that are left; all else is whole on every device.
    """
    by_name = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(weights)}
    whole = NamedSharding(mesh, PartitionSpec())

    def place(path: Any, moment: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)  # which ends as that of the weight does, whatever the optimizer is made of
        weight = next((x for end, x in by_name.items() if name.endswith(end)), None)
        if weight is None or not isinstance(weight.sharding, NamedSharding):
            return whole
        cuts = _cuts_beside(weight.sharding.spec, weight.shape, moment.shape, row="v_row" in name)
        return NamedSharding(mesh, PartitionSpec(*cuts))

    return jax.tree_util.tree_map_with_path(place, moments)


def _cuts_beside(spec: PartitionSpec, weight: tuple[int, ...], moment: tuple[int, ...], *, row: bool) -> Sequence[Any]:
    """Of a square, the moments of rows are summed up along the last axis, and those of columns along the one before."""
    if moment == weight:
        return tuple(spec)
    cuts = [*spec, *[None] * (len(weight) - len(spec))]
    left = [n for n in range(len(weight)) if weight[:n] + weight[n + 1 :] == moment]
    if not left:
        return ()
    del cuts[left[-1] if row else left[0]]
    return cuts
