"""SQuAD and ROUGE against published numbers, hand-made cases and slow second readings."""

from __future__ import annotations

import random

import pytest

from pe_rlhf_mm.evaluators.rouge import common_subsequence, rouge_l, rouge_n, words_of
from pe_rlhf_mm.evaluators.squad import normalize, squad
from pe_rlhf_mm.registry import evaluators
from pe_rlhf_mm.testing import check_evaluator
from pe_rlhf_mm.types import Message, Outcome, Sample, Score


def score(name: str, reply: str, target: object) -> Score:
    sample = Sample("s", (Message("user", "?"),), target=target)
    return evaluators.make(name).score([Outcome(sample, [reply])])[0]


@pytest.mark.parametrize("name", ["pe/squad", "pe/rouge"])
def test_they_are_evaluators(name: str) -> None:
    assert check_evaluator(name) == []
    assert score(name, "x", None).value is None
    assert score(name, "x", []).value is None
    assert "no target" in score(name, "x", None).why


# --- SQuAD --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),  # what punctuation joined stays joined
        ("a an the", ""),
        ("Theatre", "theatre"),
        ("  An apple,\ta day ", "apple day"),
        ("“quoted”", "“quoted”"),  # ASCII punctuation only
    ],
)
def test_squad_normalises(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("reply", "targets", "exact", "f1"),
    [
        ("The Cat.", ["cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),  # P 1/2, R 1
        ("cat cat dog", ["cat dog bird"], 0, 2 / 3),  # 2 in common: a word counts as often as both have it
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("12", ["a total of 12 exercises", "12"], 1, 1),  # the best target counts
        ("12 exercises total", ["a total of 12 exercises", "12"], 0, 6 / 7),  # P 3/3, R 3/4; against "12" only 1/2
        ("<no answer>", ["rest", "<no answer>"], 1, 1),
        (" <no answer>\n", ["<no answer>"], 1, 1),
        ("<no answer>", ["rest"], 0, 0),
        ("<no answer>", ["no answer"], 0, 0),
        ("no answer", ["<no answer>"], 0, 0),  # ScreenQA: only the very same text is that reply
        ("no", ["<no answer>", "yes"], 0, 0),
    ],
)
def test_squad_scores(reply: str, targets: list[str], exact: float, f1: float) -> None:
    assert squad(reply, targets) == (exact, pytest.approx(f1))
    found = score("pe/squad", reply, targets)
    assert (found.value, found.parts) == (pytest.approx(f1), {"exact": exact})


# --- ROUGE --------------------------------------------------------------------------------------------------------

GOLDEN = [  # rouge-score 0.1.2, use_stemmer=False: ROUGE-L, ROUGE-1, ROUGE-2
    ("The cat sat on the mat.", "the cat was on the mat", 0.8333333333333334, 0.8333333333333334, 0.6),
    ("police kill the gunman", "police killed the gunman", 0.75, 0.75, 0.3333333333333333),
    ("Don't stop: 3.5 km!", "do not stop, 35 km", 0.3636363636363636, 0.3636363636363636, 0.0),
    ("a b c d e", "e d c b a", 0.2, 1.0, 0.0),
    (
        "My landlord wants to keep my deposit.",
        "Landlord keeps the deposit; what can I do to get my deposit back?",
        0.4,
        0.4,
        0.1111111111111111,
    ),
    ("", "red", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("reply", "reference", "longest", "one", "two"), GOLDEN)
def test_rouge_equals_googles_package(reply: str, reference: str, longest: float, one: float, two: float) -> None:
    found = score("pe/rouge", reply, reference)
    assert found.value == pytest.approx(longest, abs=1e-12)
    assert found.parts == pytest.approx({"rouge1": one, "rouge2": two}, abs=1e-12)


def test_words_are_runs_of_ascii_letters_and_digits() -> None:
    assert words_of("Don't  pay €3.50, naïve_One!") == ["don", "t", "pay", "3", "50", "na", "ve", "one"]


def slow_common_subsequence(one: list[str], other: list[str]) -> int:
    if not one or not other:
        return 0
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        one, other = (rng.choices("abcd", k=rng.randint(0, 90)) for _ in range(2))
        assert common_subsequence(one, other) == slow_common_subsequence(one, other)


def test_rouge_does_not_care_which_text_is_which_and_knows_itself() -> None:
    rng = random.Random(1)
    for _ in range(300):
        one, other = (rng.choices("abcdef", k=rng.randint(2, 20)) for _ in range(2))
        assert rouge_l(one, other) == rouge_l(other, one)
        assert rouge_n(one, other, 2) == rouge_n(other, one, 2)
        assert rouge_l(one, one) == rouge_n(one, one, 1) == rouge_n(one, one, 2) == 1


def test_of_several_references_each_measure_takes_the_best() -> None:
    found = score("pe/rouge", "a b c", ["c b a", "a x b y c", "b c z z"])
    assert found.value == pytest.approx(6 / 8)  # of the second: 3 in order, of 3 and 5 words
    assert found.parts == {"rouge1": pytest.approx(1.0), "rouge2": pytest.approx(2 / 5)}  # of the first, of the third


def test_what_rouge_says_of_a_score_repeats_no_text() -> None:
    why = score("pe/rouge", "some awful words", "more awful words").why
    assert "awful" not in why
    assert "0.667 of 3 words" in why
