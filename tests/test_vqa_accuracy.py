"""VQA accuracy: golden values of the official evaluator, and a second reading of its rules on random answers."""

from __future__ import annotations

import random

import pytest

from pe_rlhf_mm.evaluators.vqa_accuracy import (
    CONTRACTIONS,
    VQAAccuracy,
    VQAAccuracyAlways,
    normalize,
    vqa_accuracy,
    vqa_accuracy_always,
)
from pe_rlhf_mm.testing import check_evaluator
from pe_rlhf_mm.types import Message, Outcome, Sample

GOLDEN = {  # from the published vqaEval.py, run under Python 3
    "Yes.": "yes",
    "the cat": "cat",
    "none": "0",
    "Ten.": "10",
    "1,000": "1000",
    "1, 000": "1 000",
    "$3.50.": "$3.50",
    ".5": ".5",
    "U.S.A.": "usa",
    "no.1": "no.1",
    "black/white": "black white",
    "t-shirt": "t shirt",
    "hello,world": "hello world",
    "DONT": "don't",
    "its": "its",
    "Im": "im",
    "10:30": "10:30",
    "a": "",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "somebody'd": "somebodyd",
    "line\tone\n": "line 1",
    "." * 33 + "x": ".x",
}


@pytest.mark.parametrize(("answer", "expected"), GOLDEN.items())
def test_answers_are_normalised_as_the_official_code_does(answer: str, expected: str) -> None:
    assert normalize(answer) == expected


@pytest.mark.parametrize(
    ("reply", "answers", "official", "always"),
    [
        ("Yes", ["yes"] * 10, 0, 1),  # all agree: compared raw
        ("Yes.", ["yes"] * 9 + ["no"], 1, 1),
        ("none", ["none"] + ["nothing"] * 9, 0.3, 0.3),
        ("", ["a"] * 5 + ["b"] * 5, 1, 0),  # "a" normalises to nothing
        (" \tyes\n", ["yes"] * 10, 1, 1),
        ("blue", ["red"] * 10, 0, 0),
        ("2", ["two"] * 3 + ["3"] * 7, 0.9, 0.9),
    ],
)
def test_golden_accuracies(reply: str, answers: list[str], official: float, always: float) -> None:
    assert vqa_accuracy(reply, answers) == pytest.approx(official, abs=1e-12)
    assert vqa_accuracy_always(reply, answers) == pytest.approx(always, abs=1e-12)


@pytest.mark.parametrize(("k", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_k_of_ten_people(k: int, score: float) -> None:
    assert vqa_accuracy("red", ["red"] * k + ["blue"] * (10 - k)) == score  # exactly: .3 is printed as .3


# --- a second reading of the rules, letter by letter and person by person --------------------------------------------


def slow_normalize(answer: str) -> str:
    text = " ".join(piece for piece in answer.replace("\t", "\n").split("\n")).strip()
    inside_number = any(
        text[i].isdigit() and text[i + 1] == "," and text[i + 2].isdigit() for i in range(len(text) - 2)
    )
    letters = []
    for letter in text:
        if letter in ';/[]"{}()=+\\_-><@`,?!':
            near = any(letter in (text[i], text[i + 1]) and " " in (text[i], text[i + 1]) for i in range(len(text) - 1))
            letters.append("" if inside_number or near else " ")
        else:
            letters.append(letter)
    bare, out, dots = "".join(letters), [], 0
    for i, letter in enumerate(bare):
        if letter == "." and dots < 32 and not bare[i + 1 : i + 2].isdigit():
            dots += 1
        else:
            out.append(letter)
    digits = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
    digits |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
    kept = []
    for word in "".join(out).lower().split():
        if word in digits:
            kept.append(digits[word])
        elif word not in ("a", "an", "the"):
            kept.append(CONTRACTIONS.get(word, word))
    return " ".join(kept)


def slow_accuracy(reply: str, answers: list[str]) -> float:
    def tidy(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    said, given = tidy(reply), [tidy(answer) for answer in answers]
    if any(answer != given[0] for answer in given):
        said, given = slow_normalize(said), [slow_normalize(answer) for answer in given]
    total = 0.0
    for left_out in range(len(given)):
        matches = 0
        for person, answer in enumerate(given):
            if person != left_out and answer == said:
                matches += 1
        total += min(1.0, matches / 3)
    return total / len(given)


WORDS = ["a", "The", "one", "None", "ten", "1,000", "$3.50", "U.S.A.", "x-y", "no.1", "yes", "Yes", "red", "...", "a,b"]
WORDS += [
    "t - z",
    "\t",
    "\n",
    ".5",
    "10:30",
    '"q"',
    "dont",
    "couldn'tve",
    "its",
    ";",
    "(",
    "?",
    "! ",
    " @",
    "",
    "é",
    "１,２",
]


def test_random_answers_score_as_by_the_second_reading() -> None:
    rng, seen = random.Random(5), set()

    def text() -> str:
        return rng.choice(["", " ", "  "]).join(rng.choices(WORDS, k=rng.choice([1, 1, 2, 3])))

    for _ in range(4000):
        pool = [text() for _ in range(rng.randint(1, 4))]
        answers = [rng.choice(pool) for _ in range(10)]
        reply = rng.choice([*pool, text(), pool[0].upper()])
        assert normalize(reply) == slow_normalize(reply), reply
        found = vqa_accuracy(reply, answers)
        assert found == pytest.approx(slow_accuracy(reply, answers), abs=1e-12), (reply, answers)
        seen.add(round(found, 1))
    assert seen == {0.0, 0.3, 0.6, 0.9, 1.0}  # the draw reaches every value


def test_the_table_of_contractions_only_puts_apostrophes_in() -> None:
    """But for the one entry that is the wrong way round in the official table too. 120 there: 4 can never match (they
    have capitals, and words are lower-cased first), 2 are already right."""
    assert len(CONTRACTIONS) == 120 - 4 - 2
    odd = {k: v for k, v in CONTRACTIONS.items() if k.replace("'", "") != v.replace("'", "") or len(v) <= len(k)}
    assert odd == {"somebody'd": "somebodyd"}


# --- as evaluators ------------------------------------------------------------------------------------------------


def outcome(reply: str, target: object) -> Outcome:
    return Outcome(Sample("s", (Message("user", "?"),), target=target), [reply])


def test_both_modes_are_evaluators() -> None:
    outcomes = [outcome("Yes", ["yes"] * 10), outcome("two", ("2",) * 5 + ("3",) * 5), outcome("x", None)]
    assert [score.value for score in VQAAccuracy().score(outcomes)] == [0, 1, None]
    assert [score.value for score in VQAAccuracyAlways().score(outcomes)] == [1, 1, None]
    for name in ("pe/vqa-accuracy", "pe/vqa-accuracy-always"):
        assert check_evaluator(name, outcomes) == []
        assert check_evaluator(name) == []


def test_a_target_of_one_text_is_ten_people_who_agree() -> None:
    assert [score.value for score in VQAAccuracy().score([outcome("red", "red"), outcome("blue", "red")])] == [1, 0]


def test_a_score_says_what_was_said_and_what_most_people_said() -> None:
    (score,) = VQAAccuracy().score([outcome(" dark red", ["red"] * 6 + ["maroon"] * 4)])
    assert score.why == "said 'dark red', most people said 'red'"
