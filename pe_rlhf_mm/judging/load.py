"""A judge from whatever names one: an address, a model, or a class of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.judging.cache import CachedJudge
from pe_rlhf_mm.judging.endpoint import CALLS, TOKENS, Endpoint
from pe_rlhf_mm.registry import import_attribute
from pe_rlhf_mm.types import Judge

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy


def load_judge(
    reference: str | Path | Policy,
    *,
    calls: int = CALLS,
    max_tokens: int = TOKENS,
    cache: bool = True,
    rationale: bool = False,
) -> Judge:
    """A judge: `http://host:port/v1#model`, a Policy or what names one, or `path.py:Class` of a Judge.

    `calls`: questions that a server is asked at most; `max_tokens`: of each of its answers. `cache`: verdicts are kept
    on disk. `rationale`: the judge writes down its reasons before it chooses. Raises UserError where there is no such
    model or class, an address is malformed, or a class is to write reasons.
    """
    if calls < 0:
        raise OutOfRange(f"calls must be 0 or more, not {calls}")
    if max_tokens < 1:
        raise OutOfRange(f"max_tokens must be at least 1, not {max_tokens}")
    judge = _judge(reference, calls, max_tokens, rationale)
    return CachedJudge(judge) if cache else judge


def _judge(reference: str | Path | Policy, calls: int, max_tokens: int, rationale: bool) -> Judge:
    from pe_rlhf_mm.judging.local import LocalJudge
    from pe_rlhf_mm.judging.rationale import ReasoningEndpoint, ReasoningJudge
    from pe_rlhf_mm.rollout.load import load_policy

    of_policy = ReasoningJudge if rationale else LocalJudge
    if not isinstance(reference, str | Path):
        return of_policy(reference)
    named = str(reference)
    if "://" in named:
        return (ReasoningEndpoint if rationale else Endpoint)(named, calls=calls, max_tokens=max_tokens)
    if ":" in named and not Path(named).exists():
        return _class_of_the_user(named, rationale)
    return of_policy(load_policy(named))


def _class_of_the_user(named: str, rationale: bool) -> Judge:
    if rationale:
        raise UserError(
            f"{named} is a class, which chooses and writes no reasons, so there is no rationale. Name a model, a run "
            "or a server, or let the class reason by itself."
        )
    judge = import_attribute(named, "judge")()
    if not isinstance(judge, Judge):
        raise UserError(f"{named} gave {judge!r:.80}, which is no judge: a judge has an id and a method choose.")
    return judge
