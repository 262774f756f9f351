"""How good a reward model is on labels that it was not trained on: how often right, on what, and how sure of it.

    P(chosen is better) = σ(k · (r_c - r_r))        P(a reply is right) = σ(k · r)

k is fitted on the validation labels: standardised scores have no unit of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from pe_rlhf_mm import registry
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.calibration import calibration, fit_scale, sigmoid
from pe_rlhf_mm.evaluation.intervals import SHARE, Interval, clustered_mean, or_dash
from pe_rlhf_mm.training.judged import judge
from pe_rlhf_mm.training.jury import ALONE, Jury
from pe_rlhf_mm.training.reward import Scored, labels_of, score_each, score_judged
from pe_rlhf_mm.training.reward_model import RewardModel
from pe_rlhf_mm.types import PreferenceTask, Rated, RatedTask

BROKEN_DOWN_BY = ("confidence", "domain")
"""Metadata of pairs and ratings whose values the reward model's accuracy is told apart for."""
VALIDATED_ON = 1000
"""Labels that the scale of its probabilities is fitted on."""


LENGTH = "length of the better reply"
"""What pairs are told apart by besides: one that is right where the better reply is the longer one, and wrong where it
is the shorter one, judges by length."""


def reward_accuracy(labels: Sequence[Label], right: Sequence[float]) -> dict[str, Any]:
    """The reward model's accuracy on all labels, and on each value of what they are broken down by."""

    def over(chosen: Sequence[int]) -> dict[str, Any]:
        return _over([labels[i] for i in chosen], [right[i] for i in chosen])

    parts: dict[str, dict[str, Any]] = {}
    told = {name: [label.metadata.get(name) for label in labels] for name in BROKEN_DOWN_BY}
    for name, values in {**told, LENGTH: [_length(label) for label in labels]}.items():
        members: dict[str | Real, list[int]] = {}
        for i, value in enumerate(values):
            if isinstance(value, str | Real):
                members.setdefault(value, []).append(i)
        if members:
            parts[name] = {str(value): over(members[value]) for value in sorted(members, key=_order)}
    return {**over(range(len(labels))), "by": parts}


def _over(labels: Sequence[Label], right: Sequence[float]) -> dict[str, Any]:
    clusters = [label.cluster or str(i) for i, label in enumerate(labels)]
    mean, interval = clustered_mean([float(value) for value in right], clusters, bounds=SHARE)
    return {"accuracy": mean, "n": len(right), "interval": interval}


def _length(label: Label) -> str | None:
    """Whether the better reply of a pair has more characters than the other; None of ties, and where neither does."""
    if isinstance(label, Rated) or label.probability == 0.5:
        return None
    chosen, rejected = (reply if isinstance(reply, str) else None for reply in (label.chosen, label.rejected))
    if chosen is None or rejected is None or len(chosen) == len(rejected):
        return None
    return "longer" if (len(chosen) > len(rejected)) == (label.probability > 0.5) else "shorter"


def _order(value: str | Real) -> tuple[float, str]:
    """Numbers by size, then everything else by name."""
    return (float(value), "") if isinstance(value, Real) else (math.inf, str(value))


def reward_calibration(scored: Scored, held_out: Scored) -> dict[str, Any]:
    """Of its probabilities, whose scale is fitted on `held_out`: the error, and bins as of `calibration`.

    Of a pair it is the probability of the reply that it takes for the better one: there 0.5 is a guess.
    """
    scale = fit_scale(_logits(held_out), held_out.labels[:, 0])
    predicted, observed = sigmoid(scale * _logits(scored)), scored.labels[:, 0].astype(float)
    if scored.labels.shape[1] > 1:
        first = predicted >= 0.5
        predicted, observed = np.maximum(predicted, 1 - predicted), np.where(first, observed, 1 - observed)
    found = calibration(predicted, observed)
    return {"scale": scale, **found._asdict(), "bins": [b._asdict() for b in found.bins]}


def _logits(scored: Scored) -> np.ndarray:
    scores = scored.scores.astype(float)
    return scores[:, 0] - scores[:, 1] if scores.shape[1] > 1 else scores[:, 0]


def examine_reward(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    labels: Sequence[Label],
    held_out: Sequence[Label],
    jury: Jury = ALONE,
) -> dict[str, Any]:
    """Accuracy of reward models on labels, and calibration where there are labels held out to fit it on.

    Where there are several reward models, accuracy is told apart by `member` as well, for those that are at hand; and
    `disagreement` is the mean deviation of those whose words are combined.
    """
    tested, fitted = (judge(some, processor, gallery, room=1) for some in (labels, held_out))
    members = sorted(name for name in roles.slots if name.startswith("reward-"))
    asked = dict.fromkeys([*jury.roles, *members])
    said = score_each(roles, [*asked], processor, gallery, [e.rows for e in tested]) if tested else {}
    scored = Scored(np.asarray(jury.verdict(said)), labels_of(tested)) if tested else None
    known = score_judged(roles, processor, gallery, fitted, jury) if fitted else None
    told = reward_accuracy(labels, scored.right.tolist() if scored else [])
    told["calibration"] = reward_calibration(scored, known) if scored and known else None
    if said and members:
        right = {name: Scored(said[name], labels_of(tested)).right.tolist() for name in members}
        told["by"]["member"] = {name: _over(labels, right[name]) for name in members}
    if said and len(jury.roles) > 1:
        told["disagreement"] = float(jury.disagreement(said).mean())
    return told


def evaluate_reward(
    task: str, reward: RewardModel, *, split: str = "test", limit: int | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Tests a reward model on a task's labels: {"pairs": .., "ratings": ..}, of the kinds that it has.

    Each as of `examine_reward`. Raises UnknownId, and UserError for a task without labels of that split.
    """
    instance = registry.tasks.make(task)
    sources: dict[str, Callable[..., Iterable[Label]]] = {}
    if isinstance(instance, PreferenceTask):
        sources["pairs"] = instance.preferences
    if isinstance(instance, RatedTask):
        sources["ratings"] = instance.ratings
    if not sources:
        raise UserError(f"{task} has no preferences(split, seed) and no ratings(split, seed) to be tested on.")
    found = {}
    for kind, read in sources.items():
        labels = list(itertools.islice(read(split, seed=seed), limit))
        known = list(itertools.islice(read("validation", seed=seed), VALIDATED_ON))
        if not labels:
            raise UserError(f"{task} has no {kind} of the split {split!r}.")
        gallery = Gallery(reward.processor.config)
        found[kind] = examine_reward(reward.roles, reward.processor, gallery, labels, known, reward.jury)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """What `evaluate_reward` found, as text."""
    lines = [f"{'labels':<36} {'n':>8} {'accuracy':>9}   95 % interval"]
    for kind, told in found.items():
        parts = {f"{kind}, {name} {value}": part for name, by in told["by"].items() for value, part in by.items()}
        for name, part in {kind: told, **parts}.items():
            interval: Interval = part["interval"]
            lines.append(f"{name:<36} {part['n']:>8} {or_dash(part['accuracy'], '.3f'):>9}   {interval.text('.3f')}")
    for kind, told in found.items():
        if told["calibration"] is not None:
            lines.append(f"{kind}: probabilities are {100 * told['calibration']['error']:.1f} points off on average")
    return "\n".join(lines)
