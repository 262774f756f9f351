"""ROUGE-L, ROUGE-1 and ROUGE-2: the F1 of what a summary has in common with a reference (Lin, 2004).

    F1 = 2 · c / (m + n)        ROUGE-N: c n-grams in common, of m and n
                                ROUGE-L: c words of the longest common subsequence, of m and n

Words are runs of a-z and 0-9 after lower-casing, not stemmed, as Google's package `rouge-score` has them. Of several
references, each measure takes the best. It is likeness of wording: neither truth nor harmlessness.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from pe_rlhf_mm.evaluators.against_targets import score_each
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score


def words_of(text: str) -> list[str]:
    """The words that are compared; letters outside a-z part words."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _f1(common: int, said: int, expected: int) -> float:
    return 2 * common / (said + expected) if common else 0.0


def rouge_n(said: Sequence[str], expected: Sequence[str], n: int) -> float:
    """F1 of n-grams, each counted as often as both texts have it."""
    one, other = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (said, expected))
    return _f1((one & other).total(), one.total(), other.total())


def rouge_l(said: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of the longest common subsequence."""
    return _f1(common_subsequence(said, expected), len(said), len(expected))


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a whole row of the table at a time in the bits of a number.

    Hyyrö, "Bit-parallel LCS-length computation revisited", 2004: a bit that is 0 stands where the row goes up by one.
    """
    places: dict[str, int] = defaultdict(int)
    for i, word in enumerate(one):
        places[word] |= 1 << i
    whole = row = (1 << len(one)) - 1
    for word in other:
        hit = row & places.get(word, 0)
        row = (row + hit | row - hit) & whole
    return len(one) - row.bit_count()


def _score(reply: str, targets: Sequence[str]) -> Score:
    said, references = words_of(reply), [words_of(target) for target in targets]
    longest = max(rouge_l(said, reference) for reference in references)
    parts = {f"rouge{n}": max(rouge_n(said, reference, n) for reference in references) for n in (1, 2)}
    # No word of either text: those of HH are upsetting, and these lines are printed.
    return Score(longest, f"ROUGE-L {longest:.3f} of {len(said)} words against {len(references)} references", parts)


@register_evaluator("pe/rouge@1")
class Rouge:
    """ROUGE-L of the last reply against the sample's references; ROUGE-1 and ROUGE-2 as parts."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_each(outcomes, _score)
