"""Multiple choice: which of the offered answers a reply gives, read by rule.

The sample's `metadata["choices"]` are the texts that were offered as A, B, C and so on; its target is the letter of the
right one. A reply is read as

    the letter, with or without brackets, alone or before its text:   B   (B)   B.   B) a cat   **B**: a cat
    a letter at the last "answer is" or "answer:"                     I see whiskers. The answer is (B).
    the text of one choice and nothing else                           A cat.

in this order. "A cat" is not the letter A. A reply that is none of these, or names two, is wrong and counted in the
part "unread": nothing is guessed, and no model is asked.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pe_rlhf_mm.evaluators.against_targets import targets_of
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score

LETTERS = string.ascii_uppercase
IN_FRONT = re.compile(r"[*_\s]*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?:[*_]*[.):,]|[*_\s]*$))")
ANNOUNCED = re.compile(r"(?i:\banswer(?:\s+is)?)\s*:?[\s*_]*[(\[]?([A-Z])(?![\w'’])")


def _words(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def choice_of(reply: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that a reply gives; None where it cannot be told."""
    offered = LETTERS[: len(choices)]
    announced = [letter for letter in ANNOUNCED.findall(reply) if letter in offered]
    in_front = IN_FRONT.match(reply)
    if in_front and (letter := next(filter(None, in_front.groups())).upper()) in offered:
        return letter if not announced or announced[-1] == letter else None
    if announced:
        return announced[-1]
    same = [letter for letter, text in zip(offered, choices, strict=True) if _words(text) == _words(reply)]
    return same[0] if len(same) == 1 else None


@register_evaluator("pe/multiple-choice@1")
class MultipleChoice:
    """1 if the last reply gives the choice whose letter is the target, otherwise 0.

    Part "unread": 1 where the reply cannot be read. None for a sample without choices, and for one whose target is the
    letter of none of them.
    """

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [_score(outcome) for outcome in outcomes]


def _score(outcome: Outcome) -> Score:
    sample = outcome.sample
    choices, targets = sample.metadata.get("choices"), targets_of(sample)
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not 2 <= len(choices) <= len(LETTERS):
        return Score(None, f"the sample has no list of 2 to {len(LETTERS)} texts in metadata['choices']")
    offered = LETTERS[: len(choices)]
    if not targets or not all(target in tuple(offered) for target in targets):
        return Score(None, f"the target is {sample.target!r}; expected a letter of {offered}")
    reply = outcome.replies[-1] if outcome.replies else ""
    said = choice_of(reply, [str(text) for text in choices])
    read = "could not be read" if said is None else f"is {said}"
    why = f"{reply.strip()!r:.200} {read}, expected {' or '.join(targets)}"
    return Score(float(said in targets), why, {"unread": float(said is None)})
