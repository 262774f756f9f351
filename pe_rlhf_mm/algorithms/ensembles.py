"""What several reward models make of their words on the same replies; members stand on the first axis.

A policy finds what a reward model gets wrong. Members that were trained apart get other things wrong, so where they
differ a high reward is to be believed less. Coste et al. 2023 (Reward model ensembles help mitigate overoptimization,
arXiv 2310.02743).
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float


def mean(rewards: Float[Array, "K *n"], doubt: float) -> Float[Array, "*n"]:
    """r = (1/K) Σ_k r_k"""
    return rewards.mean(axis=0)


def worst(rewards: Float[Array, "K *n"], doubt: float) -> Float[Array, "*n"]:
    """r = min_k r_k: a reply is worth what its harshest judge says."""
    return rewards.min(axis=0)


def uncertainty_weighted(rewards: Float[Array, "K *n"], doubt: float) -> Float[Array, "*n"]:
    """r = m - λ · (1/K) Σ_k (r_k - m)²,   m = (1/K) Σ_k r_k,   λ = `doubt`"""
    return rewards.mean(axis=0) - doubt * rewards.var(axis=0)


ENSEMBLES: dict[str, Callable[[Float[Array, "K *n"], float], Float[Array, "*n"]]] = {
    "mean": mean,
    "worst": worst,
    "uncertainty": uncertainty_weighted,
}
"""All of them take arrays of numpy as well."""
