"""Labels put to an evaluator that asks a judge: what it says of the replies that were labelled.

A pair is put to an evaluator that compares, as the chosen reply against the other one, and a rating to one that says
0 to 1 of a reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm import registry
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.scoring import score_outcomes
from pe_rlhf_mm.types import Judge, Outcome, Preference, Reply, Sample, Score


def scores_of(labels: Sequence[Label], evaluator: str, judge: Judge, *, seed: int = 0) -> list[Score]:
    """Of each label a score: of the chosen reply against the other one, or of the reply that was rated.

    Raises UserError for pairs and ratings mixed, for replies with pictures, and for an evaluator that is not fit, or
    breaks its contract.
    """
    kinds = {type(label) for label in labels}
    if len(kinds) != 1:
        raise UserError(f"{len(labels)} labels of pairs and ratings mixed; expected one kind, and one label at least.")
    refuse_unfit(evaluator, pairs=Preference in kinds)
    outcomes = [Outcome(Sample(str(i), label.messages), [_text(_reply(label))]) for i, label in enumerate(labels)]
    against = {str(i): [_text(label.rejected)] for i, label in enumerate(labels) if isinstance(label, Preference)}
    offered = {"judge": judge, "against": against or None}
    made = registry.evaluators.make(evaluator, offered)
    return score_outcomes(registry.evaluators.resolve(evaluator), made, outcomes, seed=seed)


def refuse_unfit(evaluator: str, *, pairs: bool) -> None:
    """Raises UserError: of pairs a judge must see both replies, and of a rating there is one only."""
    asks = registry.evaluators.asks(evaluator)
    if "judge" not in asks or pairs != ("against" in asks):
        raise UserError(unfit(evaluator, pairs=pairs))


def unfit(evaluator: str, *, pairs: bool) -> str:
    """Why an evaluator cannot say anything of pairs, or of ratings."""
    fit = "compares two replies, as pe/judge-win-rate" if pairs else "says 0 to 1 of a reply, as pe/judge-harmless"
    kind = "pairs" if pairs else "ratings"
    return f"{evaluator} cannot be held against {kind}; expected an evaluator that asks a judge and {fit}."


def _reply(label: Label) -> Reply:
    return label.chosen if isinstance(label, Preference) else label.reply


def _text(reply: Reply) -> str:
    if not isinstance(reply, str):
        raise UserError(f"the reply {reply!r:.80} is made of parts; a judge is asked about replies that are strings.")
    return reply
