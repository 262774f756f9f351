"""The mathematics of pe_rlhf_mm/algorithms once more, as plain loops over float64: slow, and hard to get wrong."""

from __future__ import annotations

import math

import numpy as np

Rows = np.ndarray


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def probabilities(logits: Rows) -> list[float]:
    top = max(logits)
    weights = [math.exp(float(x) - float(top)) for x in logits]
    return [w / sum(weights) for w in weights]


def entropy(logits: Rows) -> float:
    return -sum(p * math.log(p) for p in probabilities(logits) if p > 0)


def kept(logits: Rows, top_k: int, top_p: float) -> set[int]:
    """From the likeliest token downwards: at most `top_k`, and none once the share `top_p` of those is reached."""
    order = sorted((i for i in range(len(logits)) if logits[i] > -math.inf), key=lambda i: -logits[i])
    order = order[: top_k or len(order)]
    shares = probabilities([logits[i] for i in order])
    chosen, reached = set(), 0.0
    for token, share in zip(order, shares, strict=True):
        if reached >= top_p and top_p < 1:
            break
        chosen.add(token)
        reached += share
    return chosen


def sft(logprobs: Rows, mask: Rows) -> float:
    said = [float(x) for x, m in zip(np.ravel(logprobs), np.ravel(mask), strict=True) if m]
    return -sum(said) / len(said)


def pairwise(chosen: Rows, rejected: Rows, probability: Rows) -> float:
    losses = []
    for c, r, p in zip(chosen, rejected, probability, strict=True):
        preferred = math.exp(c) / (math.exp(c) + math.exp(r))
        losses.append(-p * math.log(preferred) - (1 - p) * math.log(1 - preferred))
    return sum(losses) / len(losses)


def pointwise(scores: Rows, labels: Rows) -> float:
    pairs = list(zip(scores, labels, strict=True))
    return sum(-p * math.log(sigmoid(r)) - (1 - p) * math.log(1 - sigmoid(r)) for r, p in pairs) / len(pairs)


def reinforce(logprobs: Rows, advantages: Rows, mask: Rows) -> float:
    episodes = []
    for row in range(len(mask)):
        steps = [t for t in range(mask.shape[1]) if mask[row, t]]
        if steps:
            episodes.append(sum(float(logprobs[row, t]) * float(advantages[row, t]) for t in steps))
    return -sum(episodes) / len(episodes)


def value(values: Rows, returns: Rows, mask: Rows) -> float:
    episodes = []
    for row in range(len(mask)):
        steps = [t for t in range(mask.shape[1]) if mask[row, t]]
        if steps:
            episodes.append(sum((float(returns[row, t]) - float(values[row, t])) ** 2 for t in steps))
    return sum(episodes) / len(episodes)


def token_rewards(rewards: Rows, kl: Rows, mask: Rows, beta: float) -> Rows:
    made = np.zeros(mask.shape)
    for row in range(len(mask)):
        steps = [t for t in range(mask.shape[1]) if mask[row, t]]
        for t in steps:
            made[row, t] = -beta * kl[row, t] + ((1 - beta) * rewards[row] if t == steps[-1] else 0)
    return made


def returns_to_go(rewards: Rows, gamma: float) -> Rows:
    made = np.zeros(rewards.shape)
    for row in range(len(rewards)):
        behind = 0.0
        for t in reversed(range(rewards.shape[1])):
            behind = made[row, t] = rewards[row, t] + gamma * behind
    return made
