"""Rotary positions: frequencies, angles and the rotation (Su et al. 2021), with the variants that families use."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pe_rlhf_mm.models.config import Llama3Scaling, Rope


def frequencies(rope: Rope, half: int) -> Float[np.ndarray, " F"]:
    """Radians a position, for each of the F = C/2 pairs of channels: theta^(-i/F), scaled."""
    share = half // len(rope.sections) if rope.axial else half
    base = np.float32(rope.theta) ** (-np.arange(share, dtype=np.float32) / share)
    if rope.llama3 is not None:
        base = _llama3(base, rope.llama3)
    return np.tile(base / np.float32(rope.factor), half // share)


def _llama3(base: Float[np.ndarray, " F"], scaling: Llama3Scaling) -> Float[np.ndarray, " F"]:
    turns = scaling.trained_context * base / (2 * np.pi)  # full turns within the context that was trained on
    keep = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return (base * (keep + (1 - keep) / scaling.factor)).astype(np.float32)


def axis_of(rope: Rope, half: int) -> Int[np.ndarray, " F"]:
    """Which position axis turns each pair of channels."""
    if not rope.interleaved:
        return np.repeat(np.arange(len(rope.sections)), rope.sections)
    axes, pair = len(rope.sections), np.arange(half)
    within = pair < axes * np.array(rope.sections)[pair % axes]
    return np.where(within, pair % axes, 0)


def angles(rope: Rope, half: int, positions: Int[Array, "*rows A"]) -> Float[Array, "*rows F"]:
    """position · frequency for every pair of channels; A is the number of position axes."""
    chosen = positions[..., axis_of(rope, half)] if rope.sections else positions[..., :1]
    return chosen.astype(jnp.float32) * frequencies(rope, half)


def rotate(x: Float[Array, "*rows H C"], angles: Float[Array, "*rows F"]) -> Float[Array, "*rows H C"]:
    """Turns the first half of the channels against the second, in the layout of Llama; computed in float32."""
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)
