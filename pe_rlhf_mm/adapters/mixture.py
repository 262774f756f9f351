"""Mixtures of adapters that were trained apart: frozen experts, and gates that learn which of them to follow.

    y = x W + Σ_n p_n(h) · s_n (x a_n) b_n,      p by `gates.py`

A fresh mixture is the mean of its experts. What it does to a matrix depends on the token, so it cannot be merged into
the backbone. Mixture of LoRA experts: Wu et al. 2024 (arXiv 2404.13628), with gates that read what the experts read,
and not what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters import gates, lora
from pe_rlhf_mm.adapters.gates import Gate
from pe_rlhf_mm.adapters.lora import Bank, Slot
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig


class Mixture(NamedTuple):
    """Frozen experts side by side, [L, N, in, R], with their scales; the gates, which are trained; and how much the
    balance loss weighs in that."""

    experts: Slot
    scales: Float[Array, " N"]
    gates: dict[str, Gate]
    balance: Float[Array, ""]

    @property
    def bank(self) -> Bank:
        """What a pass reads."""
        return Bank(self.experts, self.scales, {}, gates=self.gates)


def new_mixture(
    config: VLMConfig,
    experts: Sequence[Slot],
    scales: Sequence[float | Float[Array, ""]],
    *,
    kind: str = "block",
    balance: float = 0.5,
) -> Mixture:
    """A mixture of adapters of any ranks, before any training: their mean. `kind`: one of `gates.KINDS`.

    Raises UserError for no experts, for some of kind dora, and for some beside the tower or the projector.
    """
    if not experts:
        raise UserError("a mixture of no experts has nothing to choose from: name the adapters of at least one.")
    for number, slot in enumerate(experts, start=1):
        if beside := [target for target in slot if "." in target]:
            raise UserError(
                f"expert {number} has adapters beside {', '.join(beside)}: gates are for matrices of the decoder. Take "
                "experts whose targets are of attention and mlp."
            )
        if any(low.magnitude is not None for low in slot.values()):
            raise UserError(f"expert {number} is of kind dora, and a gate would share out its gains. Take kind lora.")
    width, layers = config.decoder.width, config.decoder.layers
    fresh = gates.new_gates(kind, layers=layers, width=width, experts=len(experts))
    return Mixture(lora.side_by_side(experts), jnp.stack(list(map(jnp.float32, scales))), fresh, jnp.float32(balance))


def balanced(
    mixture: Mixture | None,
    usage: Float[Array, " N"] | None,
    loss: Float[Array, ""],
    metrics: Mapping[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A loss with the balance loss of the gates that it went through, and what each expert was used; if there are any.

    Without it, the expert that is best at first is soon the only one that learns to be asked.
    """
    if mixture is None or usage is None:
        return loss, dict(metrics)
    used = {f"expert_{n}": usage[n - 1] for n in range(1, len(usage) + 1)}
    return loss + mixture.balance * gates.imbalance(usage), {**metrics, **used, "least_used_expert": usage.min()}
