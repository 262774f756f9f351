"""How often a judge says what people said: its accuracy on pairs and ratings in a file (`data/labels.py`).

A pair is put to an evaluator that compares, as the chosen reply against the other one; it agrees where the preference
that it gives the chosen one is above 1/2, as the people's probability is. A rating is put to one that says 0 to 1;
it agrees where both are above 1/2, or neither is. Pairs and ratings of exactly 1/2 say nothing, and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import SHARE, Interval, clustered_mean, or_dash
from pe_rlhf_mm.judging.asking import scores_of, unfit
from pe_rlhf_mm.types import Judge, Preference, Score

SHOWN = 200
"""Characters of why there is no verdict."""


@dataclass(frozen=True)
class Agreement:
    """The share of `n` labels on which judge and people agree; a preference of exactly 1/2 is half of one.

    `ties`: labels of exactly 1/2, which are not asked about; `unscored`: labels without a verdict, and `whys` how often
    each reason was given. `domains`: the same of the labels of each "domain" in the metadata, where there is one.
    """

    accuracy: float
    interval: Interval
    n: int
    ties: int
    unscored: int
    whys: Mapping[str, int]
    domains: Mapping[str, Agreement] = field(default_factory=dict)

    def text(self) -> str:
        """A line, one for the commonest reason why there is no verdict, and a row a domain."""
        value, interval = or_dash(self.accuracy, ".3f"), self.interval.text(".3f")
        ties = f", {self.ties} of 1/2 left out" * bool(self.ties)
        lines = [f"agrees on {value} {interval} of {self.n} labels ({self.unscored} unscored{ties})"]
        lines += [f"{n} unscored because {why:.{SHOWN}}" for why, n in list(self.whys.items())[:1]]
        width = max(map(len, self.domains), default=0)
        lines += [f"{name:<{width}}  {found.text().splitlines()[0]}" for name, found in self.domains.items()]
        return "\n".join(lines)


def agreement(labels: Sequence[Label], evaluator: str, judge: Judge, *, seed: int = 0) -> Agreement:
    """Puts labels of one kind to an evaluator that asks a judge; ties are not asked about.

    Raises UserError as `scores_of`, and where all are ties.
    """
    told = [label for label in labels if _said(label) != 0.5]
    if labels and not told:
        raise UserError(f"all {len(labels)} labels are 1/2: they say nothing that a judge could agree with.")
    scores = scores_of(told, evaluator, judge, seed=seed)
    return agreed(told, scores, evaluator, ties=len(labels) - len(told), seed=seed)


def agreed(
    labels: Sequence[Label], scores: Sequence[Score], evaluator: str, *, ties: int = 0, seed: int = 0
) -> Agreement:
    """How often labels, none of which is a tie, are what an evaluator's scores of them say, and in each domain."""
    whole = _agreed(labels, scores, evaluator, ties=ties, seed=seed)
    own: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        if "domain" in label.metadata:
            own.setdefault(str(label.metadata["domain"]), []).append(i)
    return replace(
        whole,
        domains={
            name: _agreed([labels[i] for i in chosen], [scores[i] for i in chosen], evaluator, seed=seed)
            for name, chosen in sorted(own.items())
        },
    )


def _agreed(
    labels: Sequence[Label], scores: Sequence[Score], evaluator: str, *, ties: int = 0, seed: int = 0
) -> Agreement:
    values, clusters = [], []
    for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
        if score.value is not None:
            judged = _judged(score, label, evaluator)
            values.append(0.5 if judged == 0.5 else float((judged > 0.5) == (_said(label) > 0.5)))
            clusters.append(label.cluster or str(i))
    accuracy, interval = clustered_mean(values, clusters, bounds=SHARE, seed=seed)
    whys = reasons(scores)
    return Agreement(accuracy, interval, len(values), ties, sum(whys.values()), whys)


def reasons(scores: Sequence[Score]) -> dict[str, int]:
    """How often each reason was given for a score that is missing, the commonest first."""
    return dict(Counter(score.why for score in scores if score.value is None).most_common())


def _said(label: Label) -> float:
    return label.probability if isinstance(label, Preference) else label.label


def _judged(score: Score, label: Label, evaluator: str) -> float:
    """What the judge says, from 0 to 1."""
    if not isinstance(label, Preference) and score.value is not None and 0 <= score.value <= 1:
        return score.value
    if isinstance(label, Preference) and "preference" in score.parts:
        return score.parts["preference"]
    raise UserError(unfit(evaluator, pairs=isinstance(label, Preference)))
