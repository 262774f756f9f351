"""Gates of a mixture of adapters: how much each expert has to say of a token.

    p(h) = softmax((h W + b) / exp(τ))

of the vector h of one token, so that what is read at once and what is written token by token go the same way. Nothing
looks ahead, and nothing depends on how long a row is: the gates of MoLE read a whole sequence. A fresh gate gives all
experts equal shares. MoLE: Wu et al. 2024 (arXiv 2404.13628), where gates stand before blocks or before layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

KINDS: dict[str, tuple[str, ...]] = {"block": ("attention",), "layer": ("attention", "mlp")}
"""Before which halves of a block a gate stands, and reads what these read. What has none goes by the one before it."""
LEAST = 1e-6
"""A share is no less where its logarithm is taken."""


class Gate(NamedTuple):
    """Of one place in every layer, or in one; `log_temperature` is τ."""

    weight: Float[Array, "*L D N"]
    bias: Float[Array, "*L N"]
    log_temperature: Float[Array, "*L"]

    def __call__(self, h: Float[Array, "*n D"]) -> Float[Array, "*n N"]:
        """The shares of N experts, in float32."""
        return jax.nn.softmax((h.astype(jnp.float32) @ self.weight + self.bias) / jnp.exp(self.log_temperature))


Gates = Mapping[str, Gate]
"""The place of a gate, out of those of KINDS, to the gate."""
Shares = Mapping[str, Float[Array, "*n N"]]
"""The place of a gate to what it said."""


def new_gates(kind: str, *, layers: int, width: int, experts: int) -> dict[str, Gate]:
    """Gates of one of KINDS that give all experts equal shares."""
    fresh = Gate(jnp.zeros((layers, width, experts)), jnp.zeros((layers, experts)), jnp.zeros(layers))
    return dict.fromkeys(KINDS[kind], fresh)


def usage(said: Shares, real: Bool[Array, "B S"]) -> Float[Array, " N"]:
    """The mean share of each expert, over all gates, [L, B, S, N] each, and all tokens that are real."""
    each = [jnp.einsum("lbsn,bs->n", shares, real.astype(jnp.float32)) / len(shares) for shares in said.values()]
    return sum(each, start=jnp.float32(0)) / len(each) / jnp.maximum(real.sum(), 1)


def imbalance(usage: Float[Array, " N"]) -> Float[Array, ""]:
    """-Σ_n log q_n of mean shares q: least, N log N, where all experts are used alike: MoLE's gating balance loss."""
    return -jnp.sum(jnp.log(jnp.maximum(usage, LEAST)))
