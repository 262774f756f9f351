"""Judges that write down their reasons before they choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, prompt_of, refused, said, serving
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.judging.local import LocalJudge
from pe_rlhf_mm.judging.rationale import ANSWER, WHY, ReasoningJudge, answered_why, asking_why
from pe_rlhf_mm.types import Image, Message, Text, Verdict

HERE = str(Path(__file__).resolve())
TOY = "pe_rlhf_mm.testing.toys:ToyTask"
PICTURE = Image(Pillow.new("RGB", (20, 20), "red"))
ASKED = [Message("system", "Be fair."), Message("user", [PICTURE, Text("Which is it?")])]


class Mine:
    """A judge that chooses only."""

    id = "mine"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        return [Verdict({"1": 1.0, "2": 0.0})] * len(conversations)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_RLHF_CACHE", str(tmp_path / "cache"))


def reasoning(request: dict[str, Any], n: int) -> Answer:
    """Says that red is right, and chooses what its own reasons name."""
    if prompt_of(request).endswith(WHY):
        return said("Reasons: 1 is short. The second is right.")
    assert prompt_of(request) == "Now answer with 1 or 2, and nothing else."
    reasons = request["messages"][-2]["content"]
    return said("2" if "second is right" in reasons else "1")


def test_what_is_asked_by_hand() -> None:
    first = asking_why(ASKED)
    assert first == [ASKED[0], Message("user", [PICTURE, Text("Which is it?"), Text(WHY)])]
    assert answered_why(ASKED, "so", ("YES", "NO")) == [
        *first,
        Message("assistant", "so"),
        Message("user", ANSWER.format(choices="YES or NO")),
    ]


def test_a_server_is_asked_twice_and_reads_its_own_reasons() -> None:
    with serving(reasoning) as server:
        judge = pe.load_judge(server.reference, max_tokens=99, rationale=True)
        assert judge.choose([ASKED], ("1", "2")) == [Verdict({"1": 0.0, "2": 1.0})]
        first, second = server.requests
        assert judge.choose([ASKED], ("1", "2")) == [Verdict({"1": 0.0, "2": 1.0})]
        assert len(server.requests) == 2  # out of the cache
        plain = pe.load_judge(server.reference)
        assert judge.id == f"{plain.id} with a rationale"
    assert (first["temperature"], first["max_tokens"], "logprobs" in first) == (0, 99, False)
    assert [m["role"] for m in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][1]["content"][0]["type"] == "image_url"
    assert (second["messages"][2]["content"], second["logprobs"]) == ("Reasons: 1 is short. The second is right.", True)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refused(400, "too long"), "HTTP 400: "),
        (said("  "), "it wrote no reasons"),
        (said("x", ended="content_filter"), "the server filtered the content"),
    ],
)
def test_without_reasons_there_is_no_verdict(answer: Answer, why: str) -> None:
    with serving(lambda request, n: answer) as server:
        (found,) = pe.load_judge(server.reference, rationale=True).choose([ASKED], ("1", "2"))
        assert len(server.requests) == 1
    assert found.probabilities is None
    assert found.why.startswith(why)


def test_a_model_writes_greedily_and_is_asked_behind_its_reasons() -> None:
    policy = pe.load_policy("tiny-vlm")
    asked = [[Message("user", [PICTURE, Text("what color is the shape?")])], [Message("user", "is it red?")]]
    reasons = policy.generate([asking_why(c) for c in asked], max_tokens=policy.processor.config.context // 4)
    behind = [answered_why(c, own, ("1", "2")) for c, (own,) in zip(asked, reasons, strict=True)]
    expected, found = (
        judge.choose(questions, ("1", "2"))
        for judge, questions in ((LocalJudge(policy), behind), (ReasoningJudge(policy), asked))
    )
    assert all(own.strip() for (own,) in reasons)
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities)
    for named in (policy, "tiny-vlm"):
        assert pe.load_judge(named, rationale=True).id == f"{LocalJudge(policy).id} with a rationale"


def test_reasons_leave_room_in_the_context_of_a_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiny-vlm reads 512 tokens."""
    room: list[int] = []

    def generate(self: pe.Policy, conversations: Sequence[Any], *, max_tokens: int) -> list[list[str]]:
        room.append(max_tokens)
        return [["so"] for _ in conversations]

    monkeypatch.setattr(pe.Policy, "generate", generate)
    ReasoningJudge(pe.load_policy("tiny-vlm")).choose([ASKED], ("1", "2"))
    assert room == [128]


def test_what_a_model_cannot_read_says_so_alone() -> None:
    asked = [[Message("user", text)] for text in ("is it red?", "word " * 2000, "is it blue?")]
    judge = ReasoningJudge(pe.load_policy("tiny-vlm"))
    one, long, other = judge.choose(asked, ("1", "2"))
    assert long.probabilities is None
    assert long.why.startswith("it could not be asked: ")
    for found, conversation in ((one, asked[0]), (other, asked[2])):
        assert found.probabilities == pytest.approx(judge.choose([conversation], ("1", "2"))[0].probabilities)


def test_labels_with_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.jsonl"
    with serving(reasoning) as server:
        command = ["label", TOY, "--limit", "3", "--judge", server.reference, "--out", str(out)]
        assert run([*command, "--rationale", "--judge-calls", "9", "--judge-tokens", "77"]) == 3
        assert len(server.requests) == 9  # and the rest the next time
        assert {request["max_tokens"] for request in server.requests} == {77}
        assert run([*command, "--rationale"]) == 0
        assert run(command) == 2
    assert "holds other labels: their judge is" in capsys.readouterr().err
    assert {label.metadata["judge"] for label in pe.read_labels(out)} == {f"{server.reference} with a rationale"}


def test_who_writes_nothing_has_no_rationale(tmp_path: Path) -> None:
    for judge, what in ((f"{HERE}:Mine", "Mine is a class, which chooses and writes no reasons"), (Mine(), "already")):
        with pytest.raises(pe.UserError, match=what):
            pe.label(TOY, judge, tmp_path / "labels.jsonl", rationale=True)
    pe.label(TOY, f"{HERE}:Mine", tmp_path / "labels.jsonl")
