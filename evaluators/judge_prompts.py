"""What evaluators share that ask a judge: prompts that no reply can rewrite, and scores of what was answered.

The fields of a template are filled in one pass, so "{reply}" in a reply stays what it is. What is filled in stands
between tags, and has none of them itself: a "<" that would begin one is written "&lt;".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from pe_rlhf_mm.evaluators.turns import turns
from pe_rlhf_mm.judging.verdicts import verdicts_of
from pe_rlhf_mm.types import Image, Judge, Message, Outcome, Reply, Score, Text

FIELD = re.compile(r"\{(\w+)\}")
TAG = re.compile(r"<(?=\s*/?\s*(?:context|reply|reply_1|reply_2|action)\b)", re.IGNORECASE)

Parts = list[Text | Image]
Prompts = Sequence[Sequence[Message]]


def fill(template: str, fields: Mapping[str, Reply]) -> Parts:
    """The parts of a template with its fields, pictures included, in their places."""
    parts: Parts = []
    for i, piece in enumerate(FIELD.split(template)):
        parts += _tagless(fields[piece]) if i % 2 else [Text(piece)]
    return joined(parts)


def joined(parts: Sequence[Text | Image]) -> Parts:
    """Neighbouring texts as one."""
    found: Parts = []
    for part in parts:
        if isinstance(part, Text) and found and isinstance(found[-1], Text):
            found[-1] = Text(found[-1].text + part.text)
        else:
            found.append(part)
    return found


def _tagless(field: Reply) -> Parts:
    """Texts are joined first: two halves of a tag make a whole."""
    parts = joined([Text(field)] if isinstance(field, str) else field)
    return [Text(TAG.sub("&lt;", part.text)) if isinstance(part, Text) else part for part in parts]


def as_parts(messages: Sequence[Message]) -> Parts:
    """A conversation as text and pictures; who speaks is told where there are several turns."""
    if len(messages) == 1:
        return list(messages[0].parts)
    return [part for m in messages for part in (Text(f"{m.role}:\n"), *m.parts, Text("\n\n"))]


def about_last_reply(template: str, outcome: Outcome) -> Prompts:
    """One prompt: a template with the fields "context" and "reply"."""
    context, reply = turns(outcome)[-1]
    fields: dict[str, Reply] = {"context": as_parts(context), "reply": reply}
    return [[Message("user", fill(template, fields))]]


def ask(
    judge: Judge,
    outcomes: Sequence[Outcome],
    choices: Sequence[str],
    prompts_of: Callable[[Outcome], Prompts | str],
    score_of: Callable[[Outcome, Sequence[Mapping[str, float]]], Score],
) -> list[Score]:
    """Scores out of a judge's answers, all prompts asked at once.

    `prompts_of`: the prompts on an outcome, or why there are none. `score_of` gets the probabilities of the choices for
    each of them. An outcome is not scored where any prompt of it has no verdict.
    """
    asked = [prompts_of(outcome) if outcome.replies else "there is no reply" for outcome in outcomes]
    prompts = [prompt for found in asked if not isinstance(found, str) for prompt in found]
    verdicts = verdicts_of(judge, prompts, choices) if prompts else []
    left, scores = iter(verdicts), []
    for outcome, found in zip(outcomes, asked, strict=True):
        if isinstance(found, str):
            scores.append(Score(None, found))
            continue
        given = list(itertools.islice(left, len(found)))
        likely = [verdict.probabilities for verdict in given if verdict.probabilities is not None]
        why = next((verdict.why for verdict in given if verdict.probabilities is None), None)
        scores.append(score_of(outcome, likely) if why is None else Score(None, f"no verdict: {why}"))
    return scores
