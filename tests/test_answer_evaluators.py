"""ANLS, relaxed accuracy and multiple choice against hand-made cases and slow second readings."""

from __future__ import annotations

import functools
import random

import pytest

from pe_rlhf_mm.evaluators.anls import anls, edit_distance
from pe_rlhf_mm.evaluators.multiple_choice import choice_of
from pe_rlhf_mm.evaluators.relaxed_accuracy import relaxed_accuracy
from pe_rlhf_mm.registry import evaluators
from pe_rlhf_mm.testing import check_evaluator
from pe_rlhf_mm.types import Message, Outcome, Sample, Score


def score(name: str, reply: str, target: object, **metadata: object) -> Score:
    sample = Sample("s", (Message("user", "?"),), target=target, metadata=metadata)
    return evaluators.make(name).score([Outcome(sample, [reply])])[0]


@pytest.mark.parametrize("name", ["pe/anls", "pe/relaxed-accuracy", "pe/multiple-choice"])
def test_they_are_evaluators(name: str) -> None:
    assert check_evaluator(name) == []
    assert score(name, "x", None, choices=["x", "y"]).value is None


# --- ANLS ---------------------------------------------------------------------------------------------------------


def slow_distance(one: str, other: str) -> int:
    """As it is defined: the cheapest of three ways to deal with the first letters."""

    @functools.cache
    def of(i: int, j: int) -> int:
        if i == len(one) or j == len(other):
            return len(one) - i + len(other) - j
        return min(of(i + 1, j) + 1, of(i, j + 1) + 1, of(i + 1, j + 1) + (one[i] != other[j]))

    return of(0, 0)


def test_the_edit_distance_is_what_it_is_defined_to_be() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choices("abc", k=rng.randrange(8))) for _ in range(2))
        assert edit_distance(one, other) == slow_distance(one, other) == edit_distance(other, one)


@pytest.mark.parametrize(
    ("reply", "targets", "expected"),
    [
        ("Coca  Cola", ["coca cola"], 1),
        ("coca cole", ["coca cola"], 8 / 9),
        ("ab", ["abc"], 2 / 3),
        ("ab", ["abcd"], 0),  # half of it is missing: d is not below the threshold
        ("abc", ["abcd", "abx", "abc."], 3 / 4),  # the best of 3/4, 2/3 and 3/4
        ("axcd", ["abcd"], 3 / 4),
        ("the total is 12", ["12"], 0),
        ("", ["12"], 0),
        ("", [""], 1),
    ],
)
def test_anls_scores(reply: str, targets: list[str], expected: float) -> None:
    assert anls(reply, targets) == pytest.approx(expected)
    assert score("pe/anls", reply, targets).value == pytest.approx(expected)


def test_a_very_long_reply_is_not_compared_letter_by_letter() -> None:
    assert anls("12 " * 1_000_000, ["12"]) == 0


# --- relaxed accuracy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "target", "expected"),
    [
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("-100", "100", 0),
        ("-98", "-100", 1),
        ("12%", "0.12", 1),
        ("12", "0.12", 0),
        ("0.0", "0", 0),  # five percent of nothing is nothing, and the texts differ
        ("0", "0", 1),
        ("1,000", "1000", 0),  # a number with commas is a text
        ("1,000", "1,000", 1),
        ("Blue ", "blue", 1),
        ("light blue", "blue", 0),
        ("nan", "nan", 1),  # no number
        ("inf", "5", 0),
        ("1e2", "100", 1),
        ("", "5", 0),
    ],
)
def test_relaxed_accuracy_scores(reply: str, target: str, expected: float) -> None:
    assert relaxed_accuracy(reply, [target]) == expected
    assert score("pe/relaxed-accuracy", reply, target).value == expected


def test_any_of_several_targets_will_do() -> None:
    assert relaxed_accuracy("98", ["red", "100"]) == 1
    assert relaxed_accuracy("red", ["100", "Red"]) == 1


# --- multiple choice ----------------------------------------------------------------------------------------------

ANIMALS = ["a cat", "a dog", "A bird.", "no animal"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        (" (b) ", "B"),
        ("b", "B"),
        ("[C] a bird", "C"),
        ("B.", "B"),
        ("B) a dog", "B"),
        ("**B**: a dog", "B"),
        ("**B**", "B"),
        ("D: no animal, I think", "D"),
        ("A cat", "A"),  # by its text: "A" alone would be the article
        ("A dog.", "B"),
        ("a bird", "C"),
        ("A horse", None),
        ("It has whiskers. The answer is (A).", "A"),
        ("Answer: D", "D"),
        ("The answer is A? No. The answer is B.", "B"),  # the last word counts
        ("The answer is **C**", "C"),
        ("The answer is A. Or so", "A"),
        ("The answer is Dog", None),  # not the letter D
        ("A. No: the answer is B", None),  # says both
        ("E", None),  # was not offered
        ("E) a horse", None),
        ("", None),
        ("a cat or a dog", None),
    ],
)
def test_a_reply_is_read(reply: str, letter: str | None) -> None:
    assert choice_of(reply, ANIMALS) == letter


def test_what_cannot_be_read_is_wrong_and_counted() -> None:
    right, wrong, unread = (
        score("pe/multiple-choice", reply, "B", choices=ANIMALS) for reply in ("(B)", "C", "Who knows?")
    )
    assert [(s.value, s.parts) for s in (right, wrong, unread)] == [
        (1, {"unread": 0}),
        (0, {"unread": 0}),
        (0, {"unread": 1}),
    ]
    assert "could not be read" in unread.why


def test_the_text_of_two_equal_choices_names_neither() -> None:
    assert choice_of("yes", ["yes", "Yes.", "no"]) is None


@pytest.mark.parametrize("choices", [None, "AB", ["one"], ["x"] * 27])
def test_a_sample_without_choices_is_unscored(choices: object) -> None:
    found = score("pe/multiple-choice", "A", "A", choices=choices)
    assert found.value is None
    assert "metadata['choices']" in found.why


@pytest.mark.parametrize("target", ["E", "a cat", "AB", ""])
def test_a_target_that_was_not_offered_is_unscored(target: str) -> None:
    found = score("pe/multiple-choice", "A", target, choices=ANIMALS)
    assert found.value is None
    assert "expected a letter of ABCD" in found.why
