"""A verdict out of what a server answered: which choice the reply names, and how sure that was where the server tells.

The choice is the whole reply, letter case and marks aside, or else the last one that stands in it as a word of its own.
Of "8/10", "8 / 10" and "8 out of 10" that is 8, and of "7.5" none. Where the server gives the likeliest tokens at that
place, the probabilities are theirs, each token counted for the choice that it is or begins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pe_rlhf_mm.types import Verdict

MARKS = re.compile(r"^[\W_]+|[\W_]+$")
NEGLIGIBLE = 0.01
WORD = r"(?<![\w.])(?<!/)(?<!/ )(?<!out of ){}(?!\w|[.,]\d)"


class Named(NamedTuple):
    """A choice, and where it begins in the reply."""

    choice: str
    start: int


def read_verdict(said: Any, choices: Sequence[str]) -> Verdict:
    """The verdict in the first choice of a chat completion, as the client `openai` hands it over."""
    text, refusal, ended, told = said.message.content, said.message.refusal, said.finish_reason, said.logprobs
    if refusal or ended == "content_filter":
        return Verdict(None, f"it refused: {refusal or 'the content was filtered'}")
    if not isinstance(text, str) or not text.strip():
        return Verdict(None, "the reply is empty" + " and was cut off" * (ended == "length"))
    named = named_choice(text, choices)
    if named is None:
        cut = " and was cut off" * (ended == "length")
        return Verdict(None, f"the reply names none of {', '.join(choices)}{cut}: {text!r}")
    return Verdict(_weighed(told, named, choices) or {c: float(c == named.choice) for c in choices})


def named_choice(text: str, choices: Sequence[str]) -> Named | None:
    """The choice that a reply names, by the rule above."""
    bare = MARKS.sub("", text)
    whole = [choice for choice in choices if choice.casefold() == bare.casefold()]
    if len(whole) == 1:
        return Named(whole[0], text.index(bare))
    found = [Named(c, match.start()) for c in choices for match in re.finditer(WORD.format(re.escape(c)), text)]
    return max(found, key=lambda named: named.start, default=None)


def _weighed(told: Any, named: Named, choices: Sequence[str]) -> dict[str, float] | None:
    """Probabilities out of the likeliest tokens where the choice stands; None where they cannot be told."""
    end = 0
    try:
        for token in told.content:
            end += len(token.token)
            if end > named.start:
                likely = [(MARKS.sub("", t.token).casefold(), math.exp(t.logprob)) for t in token.top_logprobs]
                return _shared_out(likely, named.choice, choices)
    except (AttributeError, TypeError, OverflowError):  # what the server tells has another form
        pass
    return None


def _shared_out(likely: Sequence[tuple[str, float]], named: str, choices: Sequence[str]) -> dict[str, float] | None:
    """Each token's probability to the choice that it is or begins, divided by their sum.

    Where "10" is no token of its own, "1" may be either: it is the one that the reply named. If that is neither, the
    token is left out where it is negligible, and otherwise nothing can be told.
    """
    plain, weights = {choice: choice.casefold() for choice in choices}, dict.fromkeys(choices, 0.0)
    seen = {token for token, _ in likely}
    for token, probability in likely:
        fits = [c for c, text in plain.items() if token and text.startswith(token)]
        if len(fits) > 1 and all(plain[c] in seen for c in fits):
            fits = [c for c in fits if plain[c] == token]
        if len(fits) > 1 and probability > NEGLIGIBLE and named not in fits:
            return None
        if len(fits) == 1 or named in fits:
            weights[fits[0] if len(fits) == 1 else named] += probability
    total = sum(weights.values())
    return {choice: weight / total for choice, weight in weights.items()} if total > 0 else None
