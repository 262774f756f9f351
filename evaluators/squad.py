"""SQuAD: exact match and F1 of words, after letter case, punctuation, articles and surplus space are taken out.

    F1 = 2 · P · R / (P + R)        P, R: words in common, as a share of the reply's and of the target's

Of several targets the best one counts. "<no answer>" is a reply of its own, right only where a target is the very
same, as ScreenQA scores it. Sources: Rajpurkar et al., 2016; `code/metrics.py` of google-research-datasets/screen_qa.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from pe_rlhf_mm.evaluators.against_targets import score_each
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score

NO_ANSWER = "<no answer>"
"""The reply that a screen does not say what is asked for."""


def extract_answer(reply: str) -> str:
    """What counts of a reply before anything is normalised."""
    return reply.strip()


def normalize(text: str) -> str:
    """Lower case, no punctuation (what it joined stays joined), no articles, single spaces."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _f1(said: str, target: str) -> float:
    words, expected = said.split(), target.split()
    common = (Counter(words) & Counter(expected)).total()
    return 2 * common / (len(words) + len(expected)) if common else 0.0


def squad(reply: str, targets: Sequence[str]) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 (0 to 1) of a reply, each against the target that suits it best."""
    said = extract_answer(reply)
    if said == NO_ANSWER:
        right = float(NO_ANSWER in targets)
        return right, right
    words = normalize(said)
    known = [normalize(target) for target in targets if target != NO_ANSWER]
    return float(words in known), max((_f1(words, target) for target in known), default=0.0)


def _score(reply: str, targets: Sequence[str]) -> Score:
    exact, f1 = squad(reply, targets)
    return Score(f1, f"said {extract_answer(reply)!r}, expected {' or '.join(targets)!r}", {"exact": exact})


@register_evaluator("pe/squad@1")
class Squad:
    """F1 of the last reply; exact match as a part."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_each(outcomes, _score)
