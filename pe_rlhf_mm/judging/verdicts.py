"""Verdicts of a judge that may be the user's own: one for each question, of probabilities of the choices."""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Judge, Message, Verdict


def verdicts_of(judge: Judge, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
    """What a judge says. Raises UserError for one that breaks its contract."""
    verdicts = judge.choose(conversations, choices)
    if len(verdicts) != len(conversations):
        raise UserError(
            f"the judge {judge.id} gave {len(verdicts)} verdicts on {len(conversations)} prompts; expected one each"
        )
    for likely in (verdict.probabilities for verdict in verdicts):
        if likely is not None and set(likely) != set(choices):
            told = f"probabilities of {', '.join(likely)}; expected those of {', '.join(choices)}"
            raise UserError(f"the judge {judge.id} gave {told}")
    return verdicts
