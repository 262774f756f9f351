"""A policy on a task: exact match, scores that are missing, policies and evaluators of all kinds."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import clustered_mean
from pe_rlhf_mm.evaluation.scoring import summarize
from pe_rlhf_mm.evaluators.exact_match import ExactMatch
from pe_rlhf_mm.registry import BrokenEntry, UnknownId
from pe_rlhf_mm.rollout.load import policy_from
from pe_rlhf_mm.tasks.vqa.easy_vqa import data_folder
from pe_rlhf_mm.types import Message, Outcome, Sample, Score


class Sums:
    """Ten sums, two on each card."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(0 if split == "nothing" else 10):
            yield Sample(f"sum-{i}", [Message("user", f"{i} + {i}")], str(i + i), cluster=f"card-{i // 2}")

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


class SumsWithNoEvaluator(Sums):
    evaluators = ()


class SumsWithAnUnknownEvaluator(Sums):
    evaluators = ("pe/exact-mach",)


class ScoredBy(Sums):
    """Sums whose evaluator gives what a test wants it to give."""

    evaluators = (f"{__name__}:Given",)


class Given:
    scores: ClassVar[object] = []
    bounds = (-1, 3)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> object:
        return self.scores


SUMS, SCORED = f"{__name__}:Sums", f"{__name__}:ScoredBy"


def doubled(messages: Sequence[Message]) -> str:
    return str(2 * int(messages[0].content.split()[0]))


# --- scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", ["blue", "Blue", " blue\n", "BLUE.", "blue. "])
def test_case_space_and_a_full_stop_are_not_held_against_a_reply(reply: str) -> None:
    assert ExactMatch().score([Outcome(Sample("1", [], "blue"), [reply])])[0].value == 1.0


@pytest.mark.parametrize("reply", ["", "blu", "dark blue", "bluegreen", "blue!", "b lue", "not blue"])
def test_anything_else_is_wrong(reply: str) -> None:
    assert ExactMatch().score([Outcome(Sample("1", [], "blue"), [reply])])[0].value == 0.0


def test_only_the_last_reply_counts() -> None:
    sample = Sample("1", [], "blue")
    scores = ExactMatch().score(
        [Outcome(sample, ["red", "blue"]), Outcome(sample, ["blue", "red"]), Outcome(sample, [])]
    )
    assert [s.value for s in scores] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("target", [("gray", "grey"), ["Grey"], 4])
def test_targets_may_be_several_or_a_number(target: object) -> None:
    reply = "4" if target == 4 else "grey"
    assert ExactMatch().score([Outcome(Sample("1", [], target), [reply])])[0].value == 1.0


def test_a_sample_without_a_target_is_not_scored() -> None:
    score = ExactMatch().score([Outcome(Sample("seven", [], None), ["blue"])])[0]
    assert score == Score(None, "the sample has no target")


def test_missing_scores_are_counted_and_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 1 1 0 and six that cannot be scored: 3 / 4, not 3 / 10."""
    monkeypatch.setattr(Given, "scores", [Score(v) for v in (1, None, 1, None, None, 0, 1, None, None, None)])
    found = pe.evaluate(SCORED, doubled)
    assert (found.headline.value, found.headline.n, found.headline.unscored) == (0.75, 4, 6)
    assert "4 (6 unscored)" in found.table()


def test_samples_of_one_cluster_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sums of a card are right or wrong together: five independent verdicts, not ten."""
    verdicts = [0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    monkeypatch.setattr(Given, "scores", [Score(v) for v in verdicts])
    interval = pe.evaluate(SCORED, doubled).headline.interval
    assert interval == clustered_mean([0, 1, 0, 1, 1], list("abcde"))[1]
    assert interval != clustered_mean(verdicts, list("abcdefghij"))[1]


def test_nothing_that_could_be_scored_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Given, "scores", [Score(None)] * 10)
    found = pe.evaluate(SCORED, doubled)
    assert math.isnan(found.headline.value)
    assert (found.headline.n, found.headline.unscored) == (0, 10)
    assert found.table().splitlines()[1].split()[-6:] == ["0", "(10", "unscored)", "0", "–", "–"]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([Score(1.0)] * 9, "gave 9 scores for 10 outcomes"),
        ([], "gave 0 scores for 10 outcomes"),
        (None, "gave a NoneType for 10 outcomes"),
        ([Score(1.0)] * 3 + [0.5] * 7, "gave 0.5 for sample sum-3"),
        ([Score(1.0)] * 3 + [Score(math.nan)] * 7, "for sample sum-3; expected a Score of a finite number"),
        ([Score("good")] * 10, "for sample sum-0; expected a Score of a finite number"),
        ([Score(3.0)] * 9 + [Score(3.5)], r"gave 3.5 for sample sum-9, and says that its values lie between -1 and 3"),
    ],
)
def test_an_evaluator_that_breaks_its_contract_is_named(
    scores: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Given, "scores", scores)
    with pytest.raises(UserError, match=said) as caught:
        pe.evaluate(SCORED, doubled)
    assert ScoredBy.evaluators[0] in str(caught.value)


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0, math.inf), (math.nan, 1), 1, (0, 1, 2), "01", (None, 1)])
def test_bounds_that_are_none_are_refused(bounds: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Given, "scores", [Score(1.0)] * 10)
    monkeypatch.setattr(Given, "bounds", bounds)
    with pytest.raises(UserError, match=r"Given.bounds is .*; expected (two finite numbers|the lower one first), as"):
        pe.evaluate(SCORED, doubled)


def test_an_evaluator_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, outcomes: object, *, seed: int = 0) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Given, "score", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        pe.evaluate(SCORED, doubled)
    assert "Given was scoring 10 outcomes; what is answered is kept" in caught.value.__notes__[0]


def test_reasons_are_told_of_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    whys = ["dead", "dead", "mute", "late", "late", "late", *["dead"] * 3, "once"]
    monkeypatch.setattr(Given, "scores", [Score(None, why) for why in whys])
    table = pe.evaluate(SCORED, doubled).table()
    places = [table.index(f"{n} unscored because {why}") for n, why in ((5, "dead"), (3, "late"), (1, "mute"))]
    assert places == sorted(places)


def test_the_order_of_samples_does_not_matter() -> None:
    samples = list(Sums().samples("test"))
    outcomes = [Outcome(s, [s.target if i % 3 else "?"]) for i, s in enumerate(samples)]
    shuffled = random.Random(0).sample(outcomes, len(outcomes))
    assert summarize("t", shuffled, Sums.evaluators).metrics == summarize("t", outcomes, Sums.evaluators).metrics


# --- policies ---------------------------------------------------------------------------------------------------


def test_a_function_is_a_policy() -> None:
    found = pe.evaluate(SUMS, doubled)
    assert (found.headline.value, found.headline.n, found.headline.clusters) == (1.0, 10, 5)
    assert found.headline.interval == pytest.approx((0.025 ** (1 / 5), 1.0))  # no doubt of 5 cards, but of the others
    assert [o.replies for o in found.outcomes] == [[str(2 * i)] for i in range(10)]


def test_a_function_can_be_named() -> None:
    assert pe.evaluate(SUMS, f"{__name__}:doubled").metrics == pe.evaluate(SUMS, doubled).metrics


def test_always_yes_is_right_where_the_published_answer_is_yes() -> None:
    published = json.loads((data_folder() / "test/questions.json").read_text())[:50]
    found = pe.evaluate("pe/easy-vqa", lambda messages: "Yes.", limit=50)
    assert found.headline.value == sum(answer == "yes" for _, answer, _ in published) / 50


def test_a_model_answers_a_sample_among_others_as_it_answers_it_alone() -> None:
    """Every reply comes back to its own sample; the replies differ, so a mix-up would show."""
    found = pe.evaluate("pe/easy-vqa", "tiny-vlm", limit=6, max_tokens=8)
    policy = policy_from("tiny-vlm")
    alone = [policy.generate([o.sample.messages], max_tokens=8)[0] for o in found.outcomes]
    assert [o.replies for o in found.outcomes] == alone
    assert len({reply for (reply,) in alone}) > 1


def test_a_limit_picks_the_same_samples_each_time() -> None:
    def ids(limit: int) -> list[str]:
        return [o.sample.id for o in pe.evaluate("pe/easy-vqa", lambda messages: "", limit=limit).outcomes]

    assert ids(30) == ids(30)
    assert ids(30)[:10] == ids(10)
    assert len(set(ids(30))) == 30


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=f"at least 1, not {limit}"):
        pe.evaluate(SUMS, doubled, limit=limit)


def test_a_policy_that_raises_is_heard_and_its_sample_named() -> None:
    def third_time_unlucky(messages: Sequence[Message]) -> str:
        return "" if not messages[0].content.startswith("3") else {}["3"]

    with pytest.raises(KeyError) as caught:
        pe.evaluate(SUMS, third_time_unlucky)
    assert "sum-3" in caught.value.__notes__[0]


@pytest.mark.parametrize("reply", [None, 4, b"4", ["4"]])
def test_a_reply_that_is_no_string_is_refused(reply: object) -> None:
    with pytest.raises(UserError, match=f"sample sum-0 with a {type(reply).__name__}"):
        pe.evaluate(SUMS, lambda messages: reply)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("no-such-model", "no model 'no-such-model'"),
        (Path("no/such/run"), "no model 'no/such/run'"),
        (f"{__name__}:doubeld", "Did you mean doubled"),
        ("no_such_module:function", "no module 'no_such_module'"),
        (None, "None is no policy"),
        (7, "7 is no policy"),
    ],
)
def test_a_policy_that_cannot_be_found_is_named(policy: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pe.evaluate(SUMS, policy)


def test_an_empty_split_is_named() -> None:
    with pytest.raises(UserError, match="'nothing' of Sums is empty"):
        pe.evaluate(SUMS, doubled, split="nothing")


def test_an_unknown_task_brings_a_suggestion() -> None:
    with pytest.raises(UnknownId, match="Did you mean pe/easy-vqa"):
        pe.evaluate("pe/easy-vq", doubled)
    with pytest.raises(BrokenEntry, match="Did you mean Sums"):
        pe.evaluate(f"{__name__}:Sum", doubled)


@pytest.mark.parametrize(
    ("task", "said"),
    [("SumsWithNoEvaluator", r"evaluators is \(\)"), ("SumsWithAnUnknownEvaluator", "Did you mean pe/exact-match")],
)
def test_a_missing_evaluator_is_found_before_the_policy_is_asked(task: str, said: str) -> None:
    asked: list[Sequence[Message]] = []
    with pytest.raises(UserError, match=said):
        pe.evaluate(f"{__name__}:{task}", lambda messages: asked.append(messages) or "")
    assert not asked


def test_a_gain_of_nothing_is_no_certainty_either() -> None:
    """All replies are the same before and after RL, on 5 cards: up to 1 - .025^(1/5) of all might change."""
    from pe_rlhf_mm.training.examine import gain

    found = pe.evaluate(SUMS, doubled)
    reach = 1 - 0.025 ** (1 / 5)
    assert gain(found, found) == {"accuracy": 0.0, "interval": pytest.approx((-reach, reach))}
