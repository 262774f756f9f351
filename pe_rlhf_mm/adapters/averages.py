"""Averages of adapters that were trained apart: of what they do to a matrix, not of their factors.

    Σ_k p_k · s_k a_k b_k  =  s [a_1 .. a_K] [w_1 b_1; ..; w_K b_K],    w_k = K p_k s_k / s_1,    s = s_1 / K

with all columns of the a_k side by side and all rows of the b_k below each other: an adapter of rank K·R, and no matrix
of the backbone's size. Where the p_k and the s_k are equal, every w_k is 1, and all factors stay as they are, to the
bit. (Averages of the a_k and of the b_k would be something else: the same product has many factors.) Averaged reward
models, WARM: Ramé et al. 2024 (arXiv 2401.12187).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters.lora import LowRank, Slot
from pe_rlhf_mm.adapters.roles import Head, Roles
from pe_rlhf_mm.errors import OutOfRange, UserError


def averaged(
    slots: Sequence[Slot], scales: Sequence[float | Float[Array, ""]], shares: Sequence[float] | None = None
) -> tuple[Slot, Float[Array, ""]]:
    """The slot, and its scale, whose update is the mean of theirs; `shares` add up to 1, and are equal by default.

    Raises UserError for slots of other matrices, layers or sizes, ranks may differ; and for lengths of columns that are
    learned apart (`dora.py`): what those do to a matrix is of no low rank.
    """
    first, count = slots[0], len(slots)
    if any(low.magnitude is not None for slot in slots for low in slot.values()):
        raise UserError("adapters of kind dora have no average that is an adapter: average some of kind lora.")
    for number, slot in enumerate(slots[1:], start=2):
        if _sizes(slot) != _sizes(first):
            raise UserError(
                f"adapters of different shapes have no average: number 1 has {_told(first)}, and number {number} "
                f"{_told(slot)}. Average adapters of one model that adapt the same matrices."
            )
    weights = [jnp.float32(scale) / scales[0] for scale in scales]
    if shares is not None:
        _refuse_other_shares(shares, count)
        weights = [weight * count * share for weight, share in zip(weights, shares, strict=True)]
    made = {
        target: LowRank(
            jnp.concatenate([slot[target].a for slot in slots], axis=-1),
            jnp.concatenate([w * slot[target].b for w, slot in zip(weights, slots, strict=True)], axis=-2),
        )
        for target in first
    }
    return made, jnp.float32(scales[0]) / count


def _refuse_other_shares(shares: Sequence[float], count: int) -> None:
    if len(shares) != count or abs(sum(shares) - 1) > 1e-6:
        raise OutOfRange(f"shares of an average of {count} must be {count} numbers that add up to 1, not {shares}")


def _sizes(slot: Slot) -> dict[str, tuple[int, ...]]:
    return {target: (*low.a.shape[:-1], low.b.shape[-1]) for target, low in slot.items()}


def _told(slot: Slot) -> str:
    return ", ".join(f"{t} {'x'.join(map(str, size))}" for t, size in sorted(_sizes(slot).items())) or "none"


def with_average(roles: Roles, role: str, of: Sequence[str], shares: Sequence[float] | None = None) -> Roles:
    """`role` becomes the average of others: of their updates, and of their heads. Raises UserError as `averaged`."""
    slot, scale = averaged([roles.slots[name] for name in of], [roles.scales[name] for name in of], shares)
    parts = [1 / len(of)] * len(of) if shares is None else shares

    def mean(*values: Array) -> Array:
        return sum((part * value for part, value in zip(parts, values, strict=True)), start=jnp.zeros_like(values[0]))

    head: Head = jax.tree.map(mean, *(roles.heads[name] for name in of))
    return roles._replace(
        slots={**roles.slots, role: slot}, scales={**roles.scales, role: scale}, heads={**roles.heads, role: head}
    )
