"""One backbone, every role: what is frozen, what each role adds to it, and which part is being trained.

A role is a slot of low-rank adapters or a mixture of some (mode `lora`), or weights of its own (mode `full`), and a
scalar head if it judges. Of a mixture the gates are trained, and its experts are as frozen as the backbone. Training
code names roles; which of these they are, it never asks. What equals another role shares its arrays until it is
trained. While it is, its weights are a `Trainable` in float32, and afterwards they are frozen in the type of the
backbone, in which every pass reads them.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters import dora, lora
from pe_rlhf_mm.adapters.gates import Gate
from pe_rlhf_mm.adapters.mixture import Mixture
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.models import quantize
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.places import placed_slot
from pe_rlhf_mm.models.vlm import kernel_at

BACKBONE = "backbone"
"""The role of the untouched checkpoint."""


class Head(NamedTuple):
    """A scalar read off a hidden state: h · weight + bias, in float32."""

    weight: Float[Array, " D"]
    bias: Float[Array, ""]

    def __call__(self, hidden: Float[Array, "*n D"]) -> Float[Array, "*n"]:
        return hidden.astype(jnp.float32) @ self.weight + self.bias


class Weights(NamedTuple):
    """What a forward pass of one role reads: a backbone's weights, and adapters on top of them or none."""

    state: nnx.State
    bank: lora.Bank | None

    @property
    def adapted(self) -> tuple[str, ...]:
        """The matrices that it has adapters beside."""
        return () if self.bank is None else tuple(self.bank.matrices)


def adapted_by(backbone: nnx.State, slot: lora.Slot, scale: float | Float[Array, ""]) -> Weights:
    """A backbone with the adapters of one role."""
    return Weights(backbone, lora.only(slot, scale, dora.gains(backbone, slot, scale)))


class Trainable(NamedTuple):
    """The part of the roles that one recipe trains, in float32: gradients and optimizer state have just this shape."""

    slots: dict[str, lora.Slot]
    copies: dict[str, nnx.State]
    heads: dict[str, Head]
    gates: dict[str, dict[str, Gate]]


Learned = TypeVar("Learned")
"""A pytree: what the steps of a training change, for instance a `Trainable` of some roles."""


class Roles(NamedTuple):
    """The frozen backbone and, by role, adapters with their scale, or a mixture, or all weights, and heads."""

    backbone: nnx.State
    slots: dict[str, lora.Slot]
    scales: dict[str, Float[Array, ""]]
    copies: dict[str, nnx.State]
    heads: dict[str, Head]
    mixtures: dict[str, Mixture]

    def weights(self, role: str) -> Weights:
        """What a forward pass of one role reads."""
        if role in self.copies:
            return Weights(self.copies[role], None)
        if role in self.slots:
            return adapted_by(self.backbone, self.slots[role], self.scales[role])
        if role in self.mixtures:
            return Weights(self.backbone, self.mixtures[role].bank)
        if role == BACKBONE:
            return Weights(self.backbone, None)
        raise KeyError(f"no role {role!r}; there are {sorted([BACKBONE, *self.slots, *self.copies, *self.mixtures])}")

    def pick(self, *roles: str) -> Trainable:
        """The trainable part of the named roles, copied, so that its buffers may be donated.

        In float32, since a bfloat16 weight swallows most updates.
        """
        chosen = Trainable(
            slots={role: self.slots[role] for role in roles if role in self.slots},
            copies={role: self.copies[role] for role in roles if role in self.copies},
            heads={role: self.heads[role] for role in roles if role in self.heads},
            gates={role: self.mixtures[role].gates for role in roles if role in self.mixtures},
        )
        # Copied indeed: `astype` gives back what is float32 already, and a training step gives it away.
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32), chosen)

    def frozen(self, trained: Learned) -> Learned:
        """What is trained, as passes read it: all weights of a role in the type of the backbone."""
        if not isinstance(trained, Trainable):
            return trained
        kind = type_of(self.backbone)

        def read(x: Array) -> Array:
            return x if x.dtype == kind else x.astype(kind)

        copies: Any = jax.tree.map(read, trained.copies)
        return trained._replace(copies=copies)

    def put(self, trained: Trainable) -> Roles:
        """The roles with a trained part in its place, frozen."""
        return self._replace(
            slots={**self.slots, **trained.slots},
            copies={**self.copies, **self.frozen(trained).copies},
            heads={**self.heads, **trained.heads},
            mixtures={
                **self.mixtures,
                **{role: self.mixtures[role]._replace(gates=gates) for role, gates in trained.gates.items()},
            },
        )

    def mixed(self, role: str, mixture: Mixture) -> Roles:
        """`role` becomes a mixture, in place of adapters of its own."""
        return self._replace(
            slots={name: slot for name, slot in self.slots.items() if name != role},
            scales={name: scale for name, scale in self.scales.items() if name != role},
            mixtures={**self.mixtures, role: mixture},
        )

    def start(self, role: str, source: str) -> Roles:
        """`role` begins as `source` is now, and shares its arrays: the policy as the SFT policy, for instance.

        Raises UserError if those are to be the weights of a quantised backbone.
        """
        if source in self.copies or source == BACKBONE:
            weights = self.weights(source).state
            quantize.refuse(weights, "whole numbers cannot be trained, as mode full would")
            return self._replace(copies={**self.copies, role: weights})
        if source in self.mixtures:
            return self.mixed(role, self.mixtures[source])
        return self._replace(
            slots={**self.slots, role: self.slots[source]}, scales={**self.scales, role: self.scales[source]}
        )

    def with_head(self, role: str, weight: Float[Array, " D"]) -> Roles:
        """`role` gets a fresh head."""
        return self._replace(heads={**self.heads, role: Head(weight, jnp.zeros(()))})


def only_backbone(backbone: nnx.State) -> Roles:
    """No role but the checkpoint itself."""
    return Roles(backbone, {}, {}, {}, {}, {})


def type_of(state: nnx.State) -> jnp.dtype:
    """In which type the weights of a model are that are not quantised: that of its embeddings, for one."""
    embedding: Any = state["decoder"]["embedding"]
    return jnp.dtype(embedding.get_value().dtype)


def new_slot_role(
    roles: Roles,
    role: str,
    config: VLMConfig,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    key: jax.Array,
    scaling: str = "lora",
    kind: str = "lora",
) -> Roles:
    """Adds a role whose fresh adapters change nothing: it equals the backbone exactly.

    `scaling`: how their scale comes of alpha and rank, a name in `lora.SCALES`; `kind`: one in `dora.KINDS`.
    """
    slot = placed_slot(config, lora.new_slot(key, adapted(config, targets), rank=rank))
    slot = placed_slot(config, dora.KINDS[kind](roles.backbone, slot))
    scale = jnp.float32(lora.SCALES[scaling](alpha, rank))
    return roles._replace(slots={**roles.slots, role: slot}, scales={**roles.scales, role: scale})


def merged(weights: Weights) -> nnx.State:
    """The backbone with adapters added to its kernels: one role as a model of its own.

    Raises UserError if the backbone is quantised: the sum would have to be rounded again, to steps wider than most
    updates, and would be another model than the one that was trained.
    """
    quantize.refuse(weights.state, "adapters added to its rounded kernels would be lost or rounded again")
    if weights.bank is None:
        return weights.state
    updates = dora.merged(weights.state, lora.first(weights.bank), weights.bank.scale[0])
    state = jax.tree.map(lambda leaf: leaf, weights.state)  # the same arrays in a tree of its own
    for target, update in updates.items():
        kernel = kernel_at(state, target)
        kernel.set_value(kernel.get_value() + update.reshape(kernel.shape).astype(kernel.dtype))
    return state


def count(tree: object) -> int:
    """Numbers in a pytree of arrays; a quantised kernel counts as the weights it stands for."""
    return sum(x.size for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, quantize.Quantized)))


def fingerprint(tree: object) -> str:
    """A hash of every bit of a pytree: equal before and after training if and only if nothing moved."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(hosts.fetched(leaf).tobytes())
    return digest.hexdigest()
