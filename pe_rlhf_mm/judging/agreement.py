"""How often a judge says what people said: its accuracy on pairs and ratings in a file (`data/labels.py`).

A pair is put to an evaluator that compares, as the chosen reply against the other one; it agrees where the preference
that it gives the chosen one is above 1/2, as the people's probability is. A rating is put to one that says 0 to 1;
it agrees where both are above 1/2, or neither is. Pairs and ratings of exactly 1/2 say nothing, and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pe_rlhf_mm import registry
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import SHARE, Interval, clustered_mean, or_dash
from pe_rlhf_mm.types import Judge, Outcome, Preference, Reply, Sample, Score

SHOWN = 200
"""Characters of why there is no verdict."""


@dataclass(frozen=True)
class Agreement:
    """The share of `n` labels on which judge and people agree; a preference of exactly 1/2 is half of one.

    `ties`: labels of exactly 1/2, which are not asked about; `unscored`: labels without a verdict, and `whys` how often
    each reason was given.
    """

    accuracy: float
    interval: Interval
    n: int
    ties: int
    unscored: int
    whys: Mapping[str, int]

    def text(self) -> str:
        """A line, and one for the commonest reason why there is no verdict."""
        value, interval = or_dash(self.accuracy, ".3f"), self.interval.text(".3f")
        ties = f", {self.ties} of 1/2 left out" * bool(self.ties)
        lines = [f"agrees on {value} {interval} of {self.n} labels ({self.unscored} unscored{ties})"]
        lines += [f"{n} unscored because {why:.{SHOWN}}" for why, n in list(self.whys.items())[:1]]
        return "\n".join(lines)


def agreement(labels: Sequence[Label], evaluator: str, judge: Judge, *, seed: int = 0) -> Agreement:
    """Puts labels of one kind to an evaluator that asks a judge.

    Raises UserError for pairs and ratings mixed, for replies with pictures, where all are ties, and for an evaluator
    that is not fit.
    """
    kinds = {type(label) for label in labels}
    if len(kinds) != 1:
        raise UserError(f"{len(labels)} labels of pairs and ratings mixed; expected one kind, and one label at least.")
    _refuse_unfit(evaluator, kinds.pop())
    told = [(label, said) for label in labels if (said := _said(label)) != 0.5]
    if not told:
        raise UserError(f"all {len(labels)} labels are 1/2: they say nothing that a judge could agree with.")
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
    accuracy, interval = clustered_mean(agreed, clusters, bounds=SHARE, seed=seed)
    whys = Counter(score.why for score in scores if score.value is None)
    ties, unscored = len(labels) - len(told), whys.total()
    return Agreement(accuracy, interval, len(agreed), ties, unscored, dict(whys.most_common()))


def _refuse_unfit(evaluator: str, kind: type[Label]) -> None:
    """Before anything is asked: of pairs a judge must see both replies, and of a rating there is one only."""
    asks, pairs = registry.evaluators.asks(evaluator), kind is Preference
    if "judge" not in asks or pairs != ("against" in asks):
        raise UserError(_unfit(evaluator, pairs))


def _unfit(evaluator: str, pairs: bool) -> str:
    fit = "compares two replies, as pe/judge-win-rate" if pairs else "says 0 to 1 of a reply, as pe/judge-harmless"
    kind = "pairs" if pairs else "ratings"
    return f"{evaluator} cannot be held against {kind}; expected an evaluator that asks a judge and {fit}."


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
    raise UserError(_unfit(evaluator, isinstance(label, Preference)))
