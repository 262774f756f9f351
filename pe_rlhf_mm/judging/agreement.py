"""How often a judge says what people said: its accuracy on pairs and ratings in a file (`data/labels.py`).

A pair is put to an evaluator that compares, as the chosen reply against the other one; it agrees where the preference
that it gives the chosen one is above 1/2, as the people's probability is. A rating is put to any evaluator of 0 to 1;
it agrees where both are above 1/2, or neither is. Pairs and ratings of exactly 1/2 say nothing, and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pe_rlhf_mm import registry
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import Interval, clustered_mean, or_dash
from pe_rlhf_mm.types import Judge, Outcome, Preference, Reply, Sample, Score


@dataclass(frozen=True)
class Agreement:
    """The share of `n` labels on which judge and people agree; a preference of exactly 1/2 is half of one."""

    accuracy: float
    interval: Interval
    n: int
    unscored: int

    def text(self) -> str:
        """One line."""
        value, interval = or_dash(self.accuracy, ".3f"), self.interval.text(".3f")
        return f"agrees on {value} {interval} of {self.n} labels ({self.unscored} unscored)"


def agreement(labels: Sequence[Label], evaluator: str, judge: Judge, *, seed: int = 0) -> Agreement:
    """Puts labels of one kind to an evaluator that asks a judge.

    Raises UserError for pairs and ratings mixed, for replies with pictures, and for an evaluator that is not fit.
    """
    if len({type(label) for label in labels}) != 1:
        raise UserError(f"{len(labels)} labels of pairs and ratings mixed; expected one kind, and one label at least.")
    told = [(label, said) for label in labels if (said := _said(label)) != 0.5]
    outcomes = [Outcome(Sample(str(i), label.messages), [_text(_reply(label))]) for i, (label, _) in enumerate(told)]
    against = {str(i): [_text(label.rejected)] for i, (label, _) in enumerate(told) if isinstance(label, Preference)}
    offered = {"judge": judge, "against": against or None}
    scores = registry.evaluators.make(evaluator, offered).score(outcomes, seed=seed)
    agreed, clusters = [], []
    for i, ((label, said), score) in enumerate(zip(told, scores, strict=True)):
        if score.value is not None:
            judged = _judged(score, label, evaluator)
            agreed.append(0.5 if judged == 0.5 else float((judged > 0.5) == (said > 0.5)))
            clusters.append(label.cluster or str(i))
    accuracy, interval = clustered_mean(agreed, clusters, seed=seed)
    return Agreement(accuracy, interval, len(agreed), len(scores) - len(agreed))


def _said(label: Label) -> float:
    return label.probability if isinstance(label, Preference) else label.label


def _reply(label: Label) -> Reply:
    return label.chosen if isinstance(label, Preference) else label.reply


def _text(reply: Reply) -> str:
    if not isinstance(reply, str):
        raise UserError(f"the reply {reply!r:.80} is made of parts; a judge is asked about replies that are strings.")
    return reply


def _judged(score: Score, label: Label, evaluator: str) -> float:
    """What the judge says, from 0 to 1."""
    if not isinstance(label, Preference) and score.value is not None and 0 <= score.value <= 1:
        return score.value
    if isinstance(label, Preference) and "preference" in score.parts:
        return score.parts["preference"]
    fit = "compares, as pe/judge-win-rate" if isinstance(label, Preference) else "says 0 to 1, as pe/judge-harmless"
    raise UserError(f"{evaluator} cannot be held against a {type(label).__name__}; expected an evaluator that {fit}.")
