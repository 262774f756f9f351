"""Labels of a policy's own replies: pairs of the tries that a log has at one sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.testing.toys import ToyEnvironment
from pe_rlhf_mm.types import Environment, Message, Preference, Sample, Text, Verdict

HERE = str(Path(__file__).resolve())


class Asks:
    """Four questions, two of which share a cluster; what may not be written as JSON stays where it is."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(4):
            metadata = {"domain": f"d-{i}", "box": (1, 2)} if i else {}
            yield Sample(f"{split}-{i}", (Message("user", f"{split} {i}?"),), "", f"c-{i // 2}", metadata)

    def environment(self) -> Environment | None:
        return None

    def solve(self, sample: Sample) -> None: ...


class Other(Asks): ...


class Played(Asks):
    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        yield Sample("s", (), 1)

    def environment(self) -> Environment:
        return ToyEnvironment()


ASKS = f"{HERE}:Asks"


class Longer:
    """A judge that prefers the longer reply."""

    id = "longer"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        found = []
        for conversation in conversations:
            text = "".join(part.text for m in conversation for part in m.parts if isinstance(part, Text))
            one, other = (text.partition(f"<reply_{n}>\n")[2].partition(f"\n</reply_{n}>")[0] for n in (1, 2))
            found.append(Verdict({"1": 0.9, "2": 0.1} if len(one) > len(other) else {"1": 0.1, "2": 0.9}))
        return found


def tries_of(*tries: Sequence[str]) -> Callable[[Sequence[Message]], str]:
    """A policy that says these to the four questions, first all once, then all again."""
    said = iter([reply for own in tries for reply in own])

    def policy(messages: Sequence[Message]) -> str:
        return next(said)

    return policy


TRIES = (["a", "b", "c", "dd"], ["a", " b ", "c", "d"], ["aa", "b", "c", "ddd"])


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_RLHF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    pe.evaluate(ASKS, tries_of(*TRIES), split="train", repeats=3, out=tmp_path / "log")
    return tmp_path / "log"


def test_of_the_tries_the_first_two_that_differ(log: Path, tmp_path: Path) -> None:
    """At 0 the first and the third, at 3 the first two; at 1 and 2 all are alike, space aside."""
    report = pe.label(ASKS, Longer(), tmp_path / "labels.jsonl", replies=log)
    assert pe.read_labels(tmp_path / "labels.jsonl") == [
        Preference(
            (Message("user", f"train {i}?"),), better, worse, 0.9, 0.0, f"c-{i // 2}",
            {"sample": f"train-{i}", **domain, "judge": "longer", "flipped": False},
        )
        for i, better, worse, domain in ((0, "aa", "a", {}), (3, "dd", "d", {"domain": "d-3"}))
    ]  # fmt: skip
    assert (report.labelled, report.alike, report.people) == (2, 2, None)
    assert report.text().startswith("2 pairs: 2 labelled, 0 of them ties, 0 unlabelled; 2 samples whose tries are all")
    record = json.loads((tmp_path / "labels.jsonl.json").read_text())
    assert record["replies"]["policy"].endswith("policy")
    assert (record["split"], record["seed"]) == ("train", 0)


def test_the_command_and_its_limit(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.jsonl"
    command = ["label", ASKS, "--judge", f"{HERE}:Longer", "--replies", str(log), "--out", str(out)]
    assert run([*command, "--limit", "1"]) == 0
    assert len(pe.read_labels(out)) == 1
    assert run(command) == 0
    assert len(pe.read_labels(out)) == 2
    assert "2 samples whose tries are all alike" in capsys.readouterr().out


def test_the_log_stays_as_it_is(log: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in log.iterdir() if path.is_file()}
    pe.label(ASKS, Longer(), tmp_path / "labels.jsonl", replies=log)
    assert {path.name: path.read_bytes() for path in log.iterdir() if path.is_file()} == before


def test_replies_of_another_policy_are_other_labels(log: Path, tmp_path: Path) -> None:
    pe.label(ASKS, Longer(), tmp_path / "labels.jsonl", replies=log)

    def another(messages: Sequence[Message]) -> str:
        return policy(messages)

    policy = tries_of(*TRIES)
    pe.evaluate(ASKS, another, split="train", repeats=3, out=tmp_path / "other")
    with pytest.raises(pe.UserError, match=r"holds other labels: their replies is \{.*policy"):
        pe.label(ASKS, Longer(), tmp_path / "labels.jsonl", replies=tmp_path / "other")


def test_what_makes_no_pairs(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    alike = tmp_path / "alike"
    pe.evaluate(ASKS, tries_of(["a"] * 4, ["a "] * 4), repeats=2, out=alike)
    played = tmp_path / "played"
    pe.evaluate(f"{HERE}:Played", lambda messages: "done", out=played)
    for task, replies, more, what in (
        (f"{HERE}:Other", log, {}, "is a log of the task .*Asks'; expected .*Other'"),
        (ASKS, log, {"split": "test"}, "is a log of the split 'train'; expected 'test'"),
        (ASKS, alike, {}, "has no two different replies to one sample"),
        (f"{HERE}:Played", played, {}, "holds played episodes"),
        (ASKS, tmp_path / "nothing", {}, "is no log of `pe-rlhf eval run --out`"),
        (ASKS, log, {"limit": 0}, "limit must be at least 1"),
        (ASKS, None, {}, "Asks has no preferences"),
    ):
        with pytest.raises(pe.UserError, match=what):
            pe.label(task, Longer(), out, replies=replies, **more)
        assert not out.exists()


def test_a_task_that_asks_otherwise_now_is_refused(log: Path, tmp_path: Path) -> None:
    samples = log / "samples.jsonl"
    samples.write_text(samples.read_text().replace("train 0?", "train zero?"))
    with pytest.raises(pe.UserError, match="The task has changed"):
        pe.label(ASKS, Longer(), tmp_path / "labels.jsonl", replies=log)
