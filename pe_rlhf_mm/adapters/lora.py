"""Low-rank adapters as plain arrays beside a frozen backbone.

A *slot* is one role's adapter: for every adapted matrix a pair (a, b), stacked over the layers. A *bank* is several
slots stacked on one more axis, E; each row of a batch names the slot it uses, so one compiled program serves the
policy, the value model and any number of reward models, alone or mixed in one batch.

    y = x W + scale · (x a) b,      scale = alpha / rank,      b = 0 at the start

so that a fresh slot changes nothing, exactly. LoRA: Hu et al. 2021 (arXiv 2106.09685), equation 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pe_rlhf_mm.adapters.gates import Gates
from pe_rlhf_mm.adapters.targets import Matrix

BACKBONE = -1
"""The adapter id of a row that uses the backbone alone."""


class LowRank(NamedTuple):
    """The two factors for one matrix: of one slot (a [L, in, R]), of a bank (a [L, E, in, R]), or of one layer; and the
    lengths of its columns, where those are learned (`dora.py`)."""

    a: Float[Array, "... in R"]
    b: Float[Array, "... R out"]
    magnitude: Float[Array, "... out"] | None = None


def parts_of(low: LowRank) -> list[Array]:
    """What of it there is."""
    return [part for part in low if part is not None]


SCALES: dict[str, Callable[[float, int], float]] = {
    "lora": lambda alpha, rank: alpha / rank,
    "rslora": lambda alpha, rank: alpha / rank**0.5,
}
"""The scale of alpha and rank. Divided by the root, what an adapter learns does not shrink as its rank grows: rank
stabilisation, Kalajdzievski 2023 (arXiv 2312.03732)."""

Slot = dict[str, LowRank]
"""The name of a matrix (`targets.py`) to its factors."""
Gains = Mapping[str, Float[Array, "L *E out"]]
"""The name of a matrix to the gains of its columns; one that is not there has a gain of 1."""


class Bank(NamedTuple):
    """Slots side by side, and which of them each row uses. `ids` None: every row uses the only slot.

    `gains`: what the columns of some matrices, adapters added, are multiplied by (`dora.py`). `gates`: with them, every
    token uses all slots, each by its share (`mixture.py`), and rows have no say.
    """

    matrices: Slot
    scale: Float[Array, " E"]
    gains: Gains
    ids: Int[Array, " B"] | None = None
    gates: Gates | None = None


def new_slot(key: jax.Array, matrices: Mapping[str, Matrix], *, rank: int) -> Slot:
    """Makes a slot that changes nothing yet: `a` is Kaiming-uniform, `b` is zero."""
    slot = {}
    for i, (target, (layers, size_in, size_out)) in enumerate(sorted(matrices.items())):
        bound = (3.0 / size_in) ** 0.5
        a = jax.random.uniform(jax.random.fold_in(key, i), (layers, size_in, rank), minval=-bound, maxval=bound)
        slot[target] = LowRank(a, jnp.zeros((layers, rank, size_out)))
    return slot


def only(slot: Slot, scale: float | Float[Array, ""], gains: Gains | None = None) -> Bank:
    """The bank of a single slot: what a pass for one role reads."""
    matrices, gains = jax.tree.map(lambda x: x[:, None], (slot, dict(gains or {})))
    return Bank(matrices, jnp.asarray(scale, jnp.float32)[None], gains)


def first(bank: Bank) -> Slot:
    """The slot of a bank that has only one."""
    slot: Slot = jax.tree.map(lambda x: x[:, 0], bank.matrices)
    return slot


def side_by_side(slots: Sequence[Slot]) -> Slot:
    """Slots of any ranks and targets as one: a [L, E, in, R], b [L, E, R, out], with R the largest rank.

    Columns that a slot does not have are zeros, and so is all of a target that it does not adapt: both add nothing,
    exactly, and what is zero on both sides has no gradient. Of lengths a bank knows its gains.
    """
    targets = sorted({target for slot in slots for target in slot})
    return {target: _beside([slot.get(target) for slot in slots]) for target in targets}


def _beside(factors: Sequence[LowRank | None]) -> LowRank:
    there = [low for low in factors if low is not None]
    rank = max(low.a.shape[-1] for low in there)

    def padded(low: LowRank) -> LowRank:
        more = rank - low.a.shape[-1]
        return LowRank(jnp.pad(low.a, ((0, 0), (0, 0), (0, more))), jnp.pad(low.b, ((0, 0), (0, more), (0, 0))))

    nothing = jax.tree.map(jnp.zeros_like, padded(there[0]))
    every = [nothing if low is None else padded(low) for low in factors]
    return LowRank(*(jnp.stack(same, axis=1) for same in ([low.a for low in every], [low.b for low in every])))


def within(bank: Bank | None, place: str = "") -> Bank | None:
    """What a bank adapts of one place ("tower."; "": of names without a place), by the names there; None: nothing."""
    if bank is None:
        return None
    inner = {name.removeprefix(place): low for name, low in bank.matrices.items() if name.startswith(place)}
    inner = {name: low for name, low in inner.items() if place or "." not in name}
    gains = {name: bank.gains[place + name] for name in inner if place + name in bank.gains}
    return bank._replace(matrices=inner, gains=gains, gates=None if place else bank.gates) if inner else None


def gains_side_by_side(gains: Sequence[Gains]) -> Gains:
    """Those of several slots as one [L, E, out]; 1 where a slot has none."""
    some = {target: gain for every in gains for target, gain in every.items()}
    return {
        target: jnp.stack([every.get(target, jnp.ones_like(gain)) for every in gains], axis=1)
        for target, gain in some.items()
    }


def stack(
    slots: Sequence[Slot], scales: Sequence[float], ids: Int[Array, " B"], gains: Sequence[Gains] | None = None
) -> Bank:
    """Slots side by side as a bank whose rows choose by `ids` (-1: backbone alone)."""
    return Bank(side_by_side(slots), jnp.array(scales, jnp.float32), gains_side_by_side(gains or [{}]), ids)


def delta(
    x: Float[Array, "B *rest in"], low: LowRank, scale: Float[Array, " E"], ids: Int[Array, " B"] | None
) -> Float[Array, "B *rest out"]:
    """The adapter's part of one layer's output, `scale · (x a) b`, each row with its own slot; float32."""
    x = x.astype(jnp.float32)
    if ids is None:
        return ((x @ low.a[0]) @ low.b[0]) * scale[0]
    chosen = jnp.maximum(ids, 0)
    weight = jnp.where(ids == BACKBONE, 0.0, scale[chosen])
    inner = jnp.einsum("b...i,bir->b...r", x, low.a[chosen])
    return jnp.einsum("b...r,bro,b->b...o", inner, low.b[chosen], weight)


def mixed(
    x: Float[Array, "*n in"], low: LowRank, scale: Float[Array, " E"], shares: Float[Array, "*n E"]
) -> Float[Array, "*n out"]:
    """What several slots add to one layer's output, Σ_e share_e · scale_e · (x a_e) b_e, token by token; float32."""
    inner = jnp.einsum("...i,eir->...er", x.astype(jnp.float32), low.a)
    return jnp.einsum("...er,ero,...e->...o", inner, low.b, shares * scale)


def gain(gains: Float[Array, "E out"], ids: Int[Array, " B"] | None, like: Array) -> Float[Array, "*rows out"]:
    """Of every row of an output, [B, .., out], the gains of the slot that it uses."""
    if ids is None:
        return gains[0]
    own = jnp.where((ids == BACKBONE)[:, None], 1.0, gains[jnp.maximum(ids, 0)])
    return own.reshape(len(ids), *[1] * (like.ndim - 2), -1)


def merged(slot: Slot, scale: float | Float[Array, ""]) -> dict[str, Float[Array, "L in out"]]:
    """The dense update `scale · a b` of every target, to be added to the backbone's kernels."""
    return {target: scale * jnp.einsum("lir,lro->lio", low.a, low.b) for target, low in slot.items()}
