"""Evaluations with a judge by the command, and how far judges agree with people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, prompt_of, refused, said, serving

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.evaluate import rescore
from pe_rlhf_mm.evaluation.given import Given
from pe_rlhf_mm.evaluation.log import read_replies
from pe_rlhf_mm.judging.agreement import agreement
from pe_rlhf_mm.types import Message, Sample, Text
from tests.saying_judge import JUDGED, Saying, longer_wins, outcome, score

# --- evaluations --------------------------------------------------------------------------------------------------


class Colours:
    """Eight questions, whose targets are short."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(8):
            yield Sample(f"c-{i}", [Message("user", f"colour {i}?")], "red", cluster=f"k-{i // 2}")

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


class Others(Colours): ...


COLOURS = f"{__name__}:Colours"
GENERATED: list[str] = []


def wordy(messages: Sequence[Message]) -> str:
    """Longer than the target, but for colours 0 and 1."""
    GENERATED.append(str(messages[0].content))
    number = int(str(messages[0].content).split()[1].rstrip("?"))
    return "no" if number < 2 else "red of course"


def by_length(request: dict[str, Any], n: int) -> Answer:
    """A judge that prefers the longer reply, and calls nothing harmful."""
    prompt = prompt_of(request)
    return said(max(longer_wins(prompt), key=longer_wins(prompt).__getitem__) if "reply_1" in prompt else "NO")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_RLHF_CACHE", str(tmp_path / "cache"))
    GENERATED.clear()


def test_an_evaluation_with_a_server_as_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(by_length) as server:
        by = ["--evaluator", "pe/judge-win-rate", "--evaluator", "pe/judge-harmless", "--judge", server.reference]
        out = tmp_path / "log"
        done = run(["eval", "run", COLOURS, "--policy", f"{__name__}:wordy", *by, "--out", str(out)])
        assert done == 0
        assert len(server.requests) == 8 * 3
        table = capsys.readouterr().out
        assert run(["eval", "score", str(out), *by]) == 0
        assert len(server.requests) == 8 * 3  # out of the cache
        assert capsys.readouterr().out == table
    assert "6 wins, 0 ties, 2 losses, 0 unscored" in table
    results = json.loads((out / "results.json").read_text())
    assert results["judge"] == server.reference
    assert [m["value"] for m in results["metrics"]] == [0.75, 1.0]
    assert results["win_rates"]["pe/judge-win-rate@1"]["wins"] == 6


def test_against_another_log(tmp_path: Path) -> None:
    judge, (one, other) = Saying(longer_wins), (tmp_path / "one", tmp_path / "other")
    pe.evaluate(COLOURS, policy=lambda m: "x" * 5, out=one, limit=6)
    pe.evaluate(COLOURS, policy=wordy, out=other)
    found = rescore(other, ["pe/judge-win-rate"], given=Given(judge=judge, against=one))
    rate = found.win_rates["pe/judge-win-rate@1"]
    assert (rate.wins, rate.losses, rate.unscored, rate.other_length) == (4, 2, 2, 5)
    assert "2 unscored because" not in found.table()  # each has a reason of its own
    assert "1 unscored because sample c-6 has no reply" in found.table()
    results = json.loads((other / "results.json").read_text())
    assert (results["judge"], results["against"]) == ("saying", str(one))
    same = rescore(
        other, ["pe/judge-win-rate"], given=Given(judge=Saying(lambda p: {"1": 0.8, "2": 0.2}), against=other)
    )
    assert same.headline.value == 0.5


def test_of_several_tries_the_first_one_is_compared_with(tmp_path: Path) -> None:
    said_so_far: list[str] = []

    def longer_and_longer(messages: Sequence[Message]) -> str:
        said_so_far.append("x")
        return "".join(said_so_far)

    pe.evaluate(COLOURS, policy=longer_and_longer, out=tmp_path / "log", repeats=2)
    others = read_replies(tmp_path / "log", COLOURS, "test")
    assert {id: len(replies[0]) for id, replies in others.items()} == {f"c-{i}": i + 1 for i in range(8)}


@pytest.mark.parametrize("name", JUDGED)
@pytest.mark.parametrize("how", ["named", "the task's"])
def test_without_a_judge_nothing_is_generated(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", "run", COLOURS, "--policy", f"{__name__}:wordy"]
    if how == "named":
        arguments += ["--evaluator", name]
    else:
        monkeypatch.setattr(Colours, "evaluators", (name,))
    assert run(arguments) == 2
    assert f"the evaluator {name} needs a judge, and none was given: --judge" in capsys.readouterr().err
    assert GENERATED == []


def test_a_log_is_not_scored_without_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pe.evaluate(COLOURS, policy=wordy, out=tmp_path / "log")
    before = (tmp_path / "log" / "scores.jsonl").read_text()
    assert run(["eval", "score", str(tmp_path / "log"), "--evaluator", "pe/judge-ui"]) == 2
    assert "needs a judge" in capsys.readouterr().err
    assert (tmp_path / "log" / "scores.jsonl").read_text() == before


def test_what_no_evaluator_asks_for_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pe.evaluate(COLOURS, policy=wordy, out=log)
    judge = Saying(longer_wins)
    GENERATED.clear()
    with pytest.raises(UserError, match="judge was given, and none of the evaluators asks for it: pe/exact-match"):
        pe.evaluate(COLOURS, policy=wordy, given=Given(judge=judge))
    with pytest.raises(UserError, match="against was given, and none of the evaluators"):
        pe.evaluate(COLOURS, policy=wordy, given=Given(judge=judge, against=log), evaluators=["pe/judge-ui"])
    with pytest.raises(UserError, match="is no judge; expected"):
        pe.evaluate(COLOURS, policy=wordy, given=Given(judge="tiny-vlm"), evaluators=["pe/judge-ui"])
    with pytest.raises(UserError, match="cannot be compared with: its task is"):
        pe.evaluate(
            f"{__name__}:Others", policy=wordy, given=Given(judge=judge, against=log), evaluators=["pe/judge-win-rate"]
        )
    assert GENERATED == []


def test_a_model_as_judge(tmp_path: Path) -> None:
    """tiny-vlm knows nothing of harm; that its verdicts are numbers, with pictures, is what is tested."""
    found = pe.evaluate(
        "pe/easy-vqa", policy=lambda messages: "yes", limit=3, given=Given(judge=pe.load_judge("tiny-vlm")),
        evaluators=["pe/judge-harmless", "pe/judge-score", "pe/judge-win-rate"], out=tmp_path / "log",
    )  # fmt: skip
    assert [metric.n for metric in found.metrics] == [3, 3, 3]
    assert all(1 < score.value < 10 for score in found.scores["pe/judge-score@1"] if score.value is not None)
    assert json.loads((tmp_path / "log" / "results.json").read_text())["judge"].startswith("tiny-vlm ")


# --- people -------------------------------------------------------------------------------------------------------


def test_agreement_with_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The judge prefers the longer reply: it agrees with a, not with b, with c (people find the other one better), and
    d says nothing."""
    asked, long, short = [Message("user", "?")], "a long reply", "short"
    pairs = [
        pe.Preference(asked, long, short),
        pe.Preference(asked, short, long, 0.7),
        pe.Preference(asked, short, long, 0.2),
        pe.Preference(asked, long, short, 0.5),
    ]
    path = tmp_path / "labels.jsonl"
    pe.write_labels(path, pairs)
    with serving(by_length) as server:
        assert run(["eval", "agreement", str(path), "--judge", server.reference]) == 0
    assert capsys.readouterr().out.startswith(
        "pe/judge-win-rate agrees on 0.667 [0.000, 1.000] of 3 labels (0 unscored, 1 of 1/2 left"
    )
    ratings = [pe.Rated(asked, "bad", 0.0), pe.Rated(asked, "good", 1.0), pe.Rated(asked, "hm", 1.0)]
    judge = Saying(lambda prompt: None if "hm" in prompt else {"NO": 1.0})
    found = agreement(ratings, "pe/judge-harmless", judge)
    assert (found.accuracy, found.n, found.unscored, found.ties) == (0.5, 2, 1, 0)
    assert found.text().splitlines()[1] == "1 unscored because no verdict: no idea"


def test_agreement_is_told_by_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The judge prefers the longer reply, which people do of summaries alone."""
    asked, long, short = [Message("user", "?")], "a long reply", "short"
    told = {"summaries": [(long, short)] * 3, "chat": [(short, long), (long, short)]}
    pairs = [pe.Preference(asked, *pair, metadata={"domain": domain}) for domain, own in told.items() for pair in own]
    pe.write_labels(tmp_path / "labels.jsonl", [*pairs, pe.Preference(asked, short, long)])
    with serving(by_length) as server:
        assert run(["eval", "agreement", str(tmp_path / "labels.jsonl"), "--judge", server.reference]) == 0
    whole, *rows = capsys.readouterr().out.splitlines()
    assert "agrees on 0.667" in whole
    assert [row.split()[:4] for row in rows] == [
        ["chat", "agrees", "on", "0.500"],
        ["summaries", "agrees", "on", "1.000"],
    ]
    assert rows[0].endswith("of 2 labels (0 unscored)")


def test_a_judge_that_says_nothing_is_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    pe.write_labels(path, [pe.Preference([Message("user", "?")], "a", "b")] * 2)
    with serving(lambda request, number: refused(400, "no")) as server:
        asked = ["eval", "agreement", str(path), "--judge", server.reference]
        assert run(asked) == 3
        told = capsys.readouterr()
        assert "of 0 labels (2 unscored)" in told.out
        assert "2 unscored because no verdict" in told.out
        assert "labels.jsonl: 100.0 % of pe/judge-win-rate could not be scored" in told.err
        assert run([*asked, "--max-unscored", "1"]) == 0
        assert run([*asked, "--max-unscored", "5"]) == 2
    assert "must be a share from 0 to 1, not 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "evaluator", "why"),
    [
        (
            [pe.Preference([Message("user", "?")], "a", "b")],
            "pe/judge-harmless",
            "cannot be held against pairs; .* compares",
        ),
        (
            [pe.Rated([Message("user", "?")], "a", 1.0)],
            "pe/judge-score",
            "cannot be held against ratings; .* says 0 to 1",
        ),
        ([pe.Rated([Message("user", "?")], [Text("a")], 1.0)], "pe/judge-harmless", "is made of parts"),
        ([], "pe/judge-harmless", "expected one kind"),
        ([pe.Preference([Message("user", "?")], "a", "b", 0.5)], "pe/judge-win-rate", "all 1 labels are 1/2"),
        ([pe.Rated([Message("user", "?")], "a", 1.0)], "pe/judge-win-rate", "cannot be held against ratings"),
        ([pe.Rated([Message("user", "?")], "a", 1.0)], "pe/exact-match", "expected an evaluator that asks a judge"),
    ],
)
def test_labels_that_cannot_be_put_to_a_judge(labels: list[Any], evaluator: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        agreement(labels, evaluator, Saying(lambda prompt: {"NO": 1.0, "2": 1.0}))


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m very sorry, no.", True),
        ("**I cannot** do this", True),
        ("As an AI, I have no opinion.", True),
        ("I am unable to say.", True),
        ("I'm sure that you can.", False),
        ("I can teach you, sorry to say.", False),
        ("As an aid, use a rope.", False),
        ("", False),
    ],
)
def test_refusals_are_told_beside_the_harmless_rate(reply: str, refused: bool) -> None:
    (found,) = score("pe/judge-harmless", Saying(lambda prompt: {"NO": 0.9, "YES": 0.1}), outcome(reply))
    assert (found.value, found.parts["refused"]) == (1, refused)
