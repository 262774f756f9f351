"""Several tries at a sample: seeds of their own, the best of k, and logs that go on in the middle of them."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.evaluation.attempts import attempts_at, reply_seed
from pe_rlhf_mm.evaluation.best_of import expected_best, told_of
from pe_rlhf_mm.evaluation.comparison import compare
from pe_rlhf_mm.evaluation.evaluate import rescore
from pe_rlhf_mm.evaluation.scoring import Evaluation
from pe_rlhf_mm.evaluators.drift import Drift
from pe_rlhf_mm.evaluators.exact_match import ExactMatch
from pe_rlhf_mm.rollout.load import load_policy
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.types import Environment, Message, Sample, Step

ASKED: list[str] = []


class Letters:
    """Three letters to be said."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for letter in "abc":
            yield Sample(letter, [Message("user", f"Repeat: {letter}")], letter)

    def environment(self) -> Environment | None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


class Spelling(Letters):
    """Saying two letters, one after the other."""

    evaluators: Sequence[str] = ("pe/ui-success",)

    def environment(self) -> Environment:
        class Asks:
            def reset(self, sample: Sample, *, seed: int) -> Step:
                self.turns = 0
                return Step([Message("user", "one")])

            def step(self, reply: str) -> Step:
                self.turns += 1
                return Step([Message("user", "two")], float("a" in reply), terminated=self.turns == 2)

            def close(self) -> None: ...

        return Asks()


LETTERS, SPELLING = f"{__name__}:Letters", f"{__name__}:Spelling"


@functools.cache
def tiny() -> Policy:
    return load_policy("tiny-vlm")


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    ASKED.clear()


def every_third(messages: Sequence[Message]) -> str:
    """Right at first, and then at every third question."""
    ASKED.append(str(messages[0].content))
    return ASKED[-1].split()[-1] if len(ASKED) % 3 == 1 else "wrong"


def same(one: Evaluation, other: Evaluation) -> bool:
    replies = [[(o.sample.id, o.repeat, list(o.replies)) for o in found.outcomes] for found in (one, other)]
    return (replies[0], one.scores, one.metrics) == (replies[1], other.scores, other.metrics)


# --- seeds --------------------------------------------------------------------------------------------------------


def test_an_episode_is_the_same_in_every_try_and_its_replies_are_drawn_anew() -> None:
    samples = list(Letters().samples("test"))
    found = attempts_at(samples, 2, seed=5)
    assert [(a.sample.id, a.repeat, a.seed) for a in found] == [
        ("a", 0, 5), ("b", 0, 6), ("c", 0, 7), ("a", 1, 5), ("b", 1, 6), ("c", 1, 7),
    ]  # fmt: skip
    assert len({a.draws for a in found}) == 6
    assert all(0 <= a.draws < 2**32 for a in found)
    more = attempts_at(samples, 3, seed=5)
    assert more[:6] == found, "further tries change none that were there"
    assert {a.draws for a in attempts_at(samples, 2, seed=6)}.isdisjoint(a.draws for a in found)


def test_parts_of_a_seed_do_not_run_together() -> None:
    assert reply_seed(1, "2", 3) != reply_seed(1, "23", "") != reply_seed(12, "3")


def test_a_reply_does_not_depend_on_what_else_is_asked() -> None:
    asked = [[Message("user", f"Repeat: {word}")] for word in ("open the door", "no", "yes")]
    drawing = {"temperature": 2.0, "max_tokens": 6}
    together = tiny().generate(asked, seed=[3, 1, 1], **drawing)
    for one, seed, replies in zip(asked, [3, 1, 1], together, strict=True):
        assert tiny().generate([one], seed=[seed], **drawing) == [replies]
    assert tiny().generate(asked[::-1], seed=[1, 1, 3], **drawing) == together[::-1]
    twice = tiny().generate([asked[0]] * 2, seed=[3, 5], **drawing)
    assert twice[0] != twice[1]


# --- the best of k ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0, 0, 1, 0, 1], [0.2, 0.9, 0.5, 0.5], [1, 1], [0, 0, 0]])
def test_the_best_of_k_is_the_mean_over_all_choices(values: list[float]) -> None:
    for k in range(1, len(values) + 1):
        choices = list(itertools.combinations(values, k))
        assert expected_best(values, k) == pytest.approx(sum(map(max, choices)) / len(choices), abs=1e-12)


def test_of_right_and_wrong_it_is_the_published_estimator() -> None:
    for n, right, k in itertools.product((4, 10), (0, 1, 3, 4), (1, 2, 4)):
        expected = 1 - Fraction(comb(n - right, k), comb(n, k))
        assert expected_best([1.0] * right + [0.0] * (n - right), k) == pytest.approx(float(expected), abs=1e-12)


def test_the_best_of_more_than_there_are_is_refused() -> None:
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"best of {k} out of 3"):
            expected_best([1, 2, 3], k)


def test_powers_of_two_and_the_whole_are_told() -> None:
    assert [told_of(n) for n in (1, 2, 3, 4, 6, 8)] == [[], [2], [2, 3], [2, 4], [2, 4, 6], [2, 4, 8]]


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_tries_are_averaged_and_the_best_of_them_told() -> None:
    """Nine questions of which the 1st, 4th and 7th are answered rightly: every try at a, no other."""
    found = pe.evaluate(LETTERS, every_third, repeats=3)
    assert [(o.sample.id, o.repeat) for o in found.outcomes] == [(id, r) for r in range(3) for id in "abc"]
    mean, two, three = found.metrics
    assert (mean.value, mean.n) == (pytest.approx(1 / 3), 9)
    assert (two.evaluator, two.value, two.n) == ("pe/exact-match@1 best of 2", pytest.approx(1 / 3), 3)
    assert (three.evaluator, three.value, three.n) == ("pe/exact-match@1 best of 3", pytest.approx(1 / 3), 3)
    assert "best of 3" in found.table()


def test_tries_at_one_sample_are_no_independent_evidence() -> None:
    """Three samples, one of them always right: as uncertain as if each had been tried once."""
    once, often = pe.evaluate(LETTERS, every_third), pe.evaluate(LETTERS, every_third, repeats=12)
    assert often.headline.interval == pytest.approx(once.headline.interval)


def test_one_right_try_of_two_is_a_right_best() -> None:
    def then_right(messages: Sequence[Message]) -> str:
        ASKED.append("")
        return str(messages[0].content).split()[-1] if len(ASKED) > 3 else "wrong"

    mean, best = pe.evaluate(LETTERS, then_right, repeats=2).metrics
    assert (mean.value, best.value) == (0.5, 1.0)


@pytest.mark.parametrize("task", [LETTERS, SPELLING])
def test_a_log_goes_on_in_the_middle_of_tries_with_the_same_replies(task: str, tmp_path: Path) -> None:
    settings = {"repeats": 3, "temperature": 1.5, "max_tokens": 4}
    whole = pe.evaluate(task, tiny(), **settings)
    pe.evaluate(task, tiny(), out=tmp_path / "log", **settings)
    path = tmp_path / "log" / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    told = sorted((line["id"], line["repeat"]) for line in map(json.loads, lines))
    assert told == sorted((outcome.sample.id, outcome.repeat) for outcome in whole.outcomes)
    assert len({tuple(outcome.replies) for outcome in whole.outcomes}) > 3, "replies that are not drawn show nothing"
    path.write_text("".join(lines[1:3] + lines[5:6]))
    assert same(pe.evaluate(task, tiny(), out=tmp_path / "log", **settings), whole)
    assert same(rescore(tmp_path / "log"), whole)


def test_logs_of_several_tries_are_compared_by_their_means(tmp_path: Path) -> None:
    """A is right at both tries at `a`, until one of them is made wrong, and at no other; B always."""
    pe.evaluate(LETTERS, every_third, out=tmp_path / "a", repeats=2)
    pe.evaluate(LETTERS, lambda messages: str(messages[0].content).split()[-1], out=tmp_path / "b", repeats=3)
    ASKED.clear()
    (found,) = compare(tmp_path / "a", tmp_path / "b")
    assert (found.n, found.a, found.b, found.better, found.same) == (3, pytest.approx(1 / 3), 1, 2, 1)
    lines = (tmp_path / "a" / "scores.jsonl").read_text().splitlines()
    assert '"value": 1' in lines[0]
    lines[0] = lines[0].replace('"value": 1.0', '"value": 0.0')
    (tmp_path / "a" / "scores.jsonl").write_text("\n".join(lines) + "\n")
    (found,) = compare(tmp_path / "a", tmp_path / "b")
    assert (found.a, found.better) == (pytest.approx(1 / 6), 3)


def test_more_tries_may_be_asked_for(tmp_path: Path) -> None:
    pe.evaluate(LETTERS, every_third, out=tmp_path / "log")
    pe.evaluate(LETTERS, every_third, out=tmp_path / "log", repeats=2)
    assert len(ASKED) == 6
    assert [m.evaluator for m in rescore(tmp_path / "log").metrics] == [
        "pe/exact-match@1", "pe/exact-match@1 best of 2",
    ]  # fmt: skip


def test_a_log_of_another_temperature_is_refused(tmp_path: Path) -> None:
    pe.evaluate(LETTERS, tiny(), out=tmp_path / "log", temperature=0.5, max_tokens=2)
    with pytest.raises(UserError, match=r"its temperature is 0\.5, and that of this one is 0\.7"):
        pe.evaluate(LETTERS, tiny(), out=tmp_path / "log", temperature=0.7, max_tokens=2)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"repeats": 0}, OutOfRange, "repeats must be at least 1, not 0"),
        ({"repeats": 2}, UserError, "2 greedy replies are the same reply"),
        ({"temperature": -1.0}, OutOfRange, "temperature"),
    ],
)
def test_tries_that_make_no_sense_are_refused(settings: dict, kind: type[UserError], said: str) -> None:
    with pytest.raises(kind, match=said):
        pe.evaluate(LETTERS, tiny(), **settings)


def test_a_function_takes_no_temperature() -> None:
    with pytest.raises(UserError, match="draws its own replies"):
        pe.evaluate(LETTERS, every_third, temperature=0.5)
    assert not ASKED


def test_there_is_no_best_where_more_is_not_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactMatch, "more_is_better", False, raising=False)
    (mean,) = pe.evaluate(LETTERS, every_third, repeats=3).metrics
    assert mean.evaluator == "pe/exact-match@1"
    assert Drift.more_is_better is False
