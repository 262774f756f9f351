"""Losses that train a policy on pairs of replies, or on ratings, directly, without a reward model in between.

All of them take the log-probability of a whole reply: the *sum* over its tokens, the stop token included, not a mean.
`probability` is that of the first reply of a pair being the better one: 1 for a hard label, less for a soft one, 0.5
for a tie. A loss is the mean over which of the two it is, so a pair may be swapped together with its probability.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pe_rlhf_mm.algorithms import losses, masked


def gained(policy: Float[Array, "B 2"], anchor: Float[Array, "B 2"]) -> Float[Array, " B"]:
    """By how many nats more than the second reply the first one has become likelier than under the anchor.

    h = (log π(y_1) - log anchor(y_1)) - (log π(y_2) - log anchor(y_2))
    """
    ratios = policy - anchor
    return ratios[:, 0] - ratios[:, 1]


def dpo(
    policy: Float[Array, "B 2"], anchor: Float[Array, "B 2"], probability: Float[Array, " B"], beta: float
) -> Float[Array, ""]:
    """Bradley-Terry on the rewards β · (log π - log anchor), of which the policy is the best answer at penalty β.

        L = -(1/B) Σ [p · log σ(β h) + (1 - p) · log σ(-β h)]

    Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), equation 7, which has p = 1.
    """
    difference = beta * gained(policy, anchor)
    return losses.pairwise(difference, jnp.zeros_like(difference), probability)


def online_dpo(
    logprobs: Float[Array, "*n G T"],
    anchor: Float[Array, "*n G T"],
    side: Float[Array, "*n G T"],
    mask: Bool[Array, "*n G T"],
    beta: float,
) -> Float[Array, ""]:
    """`dpo` on pairs out of groups of replies that were drawn: `side` is 1 at the tokens of the better one of a pair,
    -1 at those of the worse one, and 0 elsewhere.

        L = -(1/N) Σ_n log σ(β h[group of n]),   h = Σ_{i,t} side[i,t] · (log π - log anchor)[i,t],
        N = number of non-empty replies

    A group without a pair adds log 2 and no gradient. A group counts by its replies, as in RL's other losses; where all
    have as many, L is the mean over groups.

    Online DPO (Guo et al. 2024, Direct language model alignment from online AI feedback, arXiv 2402.04792).
    """
    gained = masked.sequence_sum(side * (logprobs - anchor), mask).sum(axis=-1, keepdims=True)
    known = mask.any(axis=-1)
    return masked.token_mean(jnp.broadcast_to(-jax.nn.log_sigmoid(beta * gained), known.shape), known)


def ipo(
    policy: Float[Array, "B 2"], anchor: Float[Array, "B 2"], probability: Float[Array, " B"], beta: float
) -> Float[Array, ""]:
    """Squared error of a gain of 1 / (2β) nats: unlike `dpo`, a pair that nobody doubts does not push for ever.

        L = (1/B) Σ [p · (h - 1/(2β))² + (1 - p) · (h + 1/(2β))²]

    Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036), equation 17, which has p = 1 and calls β τ.
    """
    h, target = gained(policy, anchor), 1 / (2 * beta)
    return jnp.mean(probability * (h - target) ** 2 + (1 - probability) * (h + target) ** 2)


def kto(
    policy: Float[Array, "B 2"],
    anchor: Float[Array, "B 2"],
    probability: Float[Array, " B"],
    beta: float,
    right: float,
    wrong: float,
) -> Float[Array, ""]:
    """Replies that are right or wrong by themselves. Column 0 is the rated reply, column 1 a reply to another prompt.

        r = log π(y) - log anchor(y),   z = max(0, mean of r over column 1), without a gradient
        L = (1/B) Σ [p · λ_right · (1 - σ(β (r - z))) + (1 - p) · λ_wrong · (1 - σ(β (z - r)))]

    z estimates how far the policy has gone from its anchor altogether: what counts is what a reply has gained beyond
    that. Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), equations 7 and 8, which have p = 1
    or 0.
    """
    gained, strangers = (policy - anchor).T
    z = jax.lax.stop_gradient(jax.nn.relu(strangers.mean()))
    good, bad = jax.nn.sigmoid(beta * (z - gained)), jax.nn.sigmoid(beta * (gained - z))
    return jnp.mean(probability * right * good + (1 - probability) * wrong * bad)


def slic(policy: Float[Array, "B 2"], probability: Float[Array, " B"], delta: float, weight: float) -> Float[Array, ""]:
    """Hinge on the policy's own log-probabilities, and the likelihood of the better reply in place of an anchor.

        L = (1/B) Σ [p · l(d, y_1) + (1 - p) · l(-d, y_2)],   d = log π(y_1) - log π(y_2)
        l(d, y) = max(0, δ - d) - λ · log π(y)

    Sequence likelihood calibration with human feedback (SLiC-HF, Zhao et al. 2023, arXiv 2305.10425), which has
    p = 1 and lets the reply whose likelihood is kept up be any good one, y_ref; here it is the better one of the pair.
    """
    difference = policy[:, 0] - policy[:, 1]
    first = jax.nn.relu(delta - difference) - weight * policy[:, 0]
    second = jax.nn.relu(delta + difference) - weight * policy[:, 1]
    return jnp.mean(probability * first + (1 - probability) * second)
