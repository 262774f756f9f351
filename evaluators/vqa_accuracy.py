"""VQA accuracy: how many of ten people gave the same answer, as the official evaluator of VQA v2.0 counts it.

For k of n people the score is the mean, over the n sets that leave one person out, of min(1, matches in the set / 3):

    [k · min(1, (k - 1) / 3) + (n - k) · min(1, k / 3)] / n        0, .3, .6, .9, 1 for k = 0, 1, 2, 3, 4 and more of 10

Source: `vqaEval.py` of github.com/GT-Vision-Lab/VQA. Its oddities are kept, since published numbers have them: answers
are compared raw, letter case included, where all people gave the same one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from pe_rlhf_mm.evaluators.against_targets import score_each
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine ten".split())} | {
    "none": "0"
}
ARTICLES = ("a", "an", "the")
DOTS = 32
"""So many full stops are removed at most: the original passes a flag where the count belongs."""

# Words that are English without their apostrophe too (its, ill, well, were, id, shed) are not in the official table.
ONE_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've "
    "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're "
    "there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're "
    "you've"
).split()
TWO_APOSTROPHES = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've "
    "there'd've they'd've we'd've who'd've wouldn't've you'd've"
).split()
IRREGULAR = {  # as in the official table
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}


def _contractions() -> dict[str, str]:
    """From words that lack one apostrophe to the words that have it."""
    table = {word.replace("'", ""): word for word in ONE_APOSTROPHE} | IRREGULAR
    for word in TWO_APOSTROPHES:
        first, last = word.index("'"), word.rindex("'")
        table[word[:first] + word[first + 1 :]] = table[word[:last] + word[last + 1 :]] = word
    return table


CONTRACTIONS = _contractions()


def extract_answer(reply: str) -> str:
    """What counts of a reply before anything is normalised."""
    return reply.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=2**16)  # few answers, given over and over
def normalize(answer: str) -> str:
    """An answer without punctuation, articles and letter case; number words as digits, apostrophes put back."""
    words = (NUMBERS.get(word, word) for word in _without_punctuation(extract_answer(answer)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(answer: str) -> str:
    """A mark goes if it stands beside a space somewhere, or if a comma is inside a number; else it becomes a space."""
    text, number = answer, re.search(r"\d,\d", answer)
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if number or beside_space else " ")
    return re.sub(r"\.(?!\d)", "", text, count=DOTS)


def _agreement(said: str, answers: Sequence[str]) -> float:
    """The formula above; in whole numbers, so that .3, .6 and .9 come out as themselves."""
    k, n = answers.count(said), len(answers)
    return (k * min(3, k - 1) + (n - k) * min(3, k)) / (3 * n)


def _raw_or_normal(reply: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    said, given = extract_answer(reply), [extract_answer(answer) for answer in answers]
    return (said, given) if len(set(given)) == 1 else (normalize(said), [normalize(answer) for answer in given])


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """The official score of a reply, 0 to 1, for the answers of (ten) people: for numbers to be reported."""
    return _agreement(*_raw_or_normal(reply, answers))


def vqa_accuracy_always(reply: str, answers: Sequence[str]) -> float:
    """The score with everything normalised, and 0 where nothing is left of the reply: for rewards and for labels.

    By the official rule "Yes" is worth 0 where all said "yes", and no reply at all is worth 1 where five people
    answered "a": a policy would learn both.
    """
    said = normalize(reply)
    return _agreement(said, [normalize(answer) for answer in answers]) if said else 0.0


def _scorer(accuracy: Callable[[str, Sequence[str]], float]) -> Callable[[str, Sequence[str]], Score]:
    def score(reply: str, targets: Sequence[str]) -> Score:
        answers = list(targets) * 10 if len(targets) == 1 else targets  # one target: ten people agree on it
        frequent = max(dict.fromkeys(answers), key=answers.count)
        return Score(accuracy(reply, answers), f"said {extract_answer(reply)!r}, most people said {frequent!r}")

    return score


@register_evaluator("pe/vqa-accuracy@1")
class VQAAccuracy:
    """Official VQA accuracy of the last reply; the target is the list of the people's answers."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_each(outcomes, _scorer(vqa_accuracy))


@register_evaluator("pe/vqa-accuracy-always@1")
class VQAAccuracyAlways:
    """VQA accuracy with every answer normalised: the one to be a reward."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_each(outcomes, _scorer(vqa_accuracy_always))
