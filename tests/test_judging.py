"""Judges: models in this process against softmax by hand, and servers that answer well, badly, and not at all."""

from __future__ import annotations

import base64
import io
import json
import math
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, prompt_of, refused, said, serving
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.judging.cache import CachedJudge
from pe_rlhf_mm.judging.endpoint import Endpoint
from pe_rlhf_mm.judging.load import load_judge
from pe_rlhf_mm.judging.local import LocalJudge
from pe_rlhf_mm.judging.reading import named_choice
from pe_rlhf_mm.rollout.server import HOPELESS
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.types import Image, Judge, Message, Text, Verdict

KEY = "sk-very-secret-0123456789"
YES_NO = ("YES", "NO")
GRADES = tuple(map(str, range(1, 11)))


def question(text: str = "is it?") -> list[Message]:
    return [Message("user", text)]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("PE_RLHF_CACHE", str(tmp_path / "cache"))


def ask_once(answer: Answer, choices: Sequence[str] = YES_NO) -> Verdict:
    """The verdict on one question that a server answers so, always."""
    with serving(lambda request, n: answer) as server:
        return Endpoint(server.reference, retries=0).choose([question()], choices)[0]


# --- which choice a reply names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "choices", "choice"),
    [
        ("YES", YES_NO, "YES"),
        (" **No.**\n", YES_NO, "NO"),  # a whole reply may be written in small letters
        ("YES, there is no doubt", YES_NO, "YES"),  # a word of it may not
        ("First I thought YES. NO", YES_NO, "NO"),  # the last one
        ("<think>YES?</think>NO", YES_NO, "NO"),
        ("yes or no", YES_NO, None),
        ("NOBODY knows", YES_NO, None),
        ("NOT", YES_NO, None),
        ("", YES_NO, None),
        ("I choose B", ("A", "B"), "B"),
        ("a reply", ("A", "B"), None),
        ("10", GRADES, "10"),
        ("8/10", GRADES, "8"),
        ("8 / 10", GRADES, "8"),
        ("8 out of 10", GRADES, "8"),
        ("Grade: 7.", GRADES, "7"),
        ("7.5", GRADES, None),
        ("100", GRADES, None),
        ("11", GRADES, None),
    ],
)
def test_the_choice_that_a_reply_names(text: str, choices: Sequence[str], choice: str | None) -> None:
    found = named_choice(text, choices)
    assert (found and found.choice) == choice
    if found is not None:
        assert text[found.start :].casefold().startswith(found.choice.casefold())


def test_words_are_certain_where_no_probabilities_are_told() -> None:
    assert ask_once(said("I say NO")) == Verdict({"YES": 0.0, "NO": 1.0})


def test_probabilities_are_those_of_the_tokens_where_the_choice_stands() -> None:
    first = {"I": 0.0, "YES": -9.0}
    there = {" NO": math.log(0.6), "Yes": math.log(0.1), " Y": math.log(0.05), "maybe": math.log(0.25)}
    found = ask_once(said("I say NO", tokens=[("I", first), (" say", {}), (" NO", there)]))
    assert found.probabilities == pytest.approx({"NO": 0.6 / 0.75, "YES": 0.15 / 0.75})


@pytest.mark.parametrize(
    ("text", "likely", "expected"),
    [
        ("7", {"7": 0.6, "8": 0.2, "1": 0.1, "10": 0.1}, {"7": 0.6, "8": 0.2, "1": 0.1, "10": 0.1}),  # 10 is a token
        ("7", {"7": 0.8, "8": 0.15, "1": 0.05}, {"7": 1.0}),  # 1, or the beginning of 10? The word decides
        ("7", {"7": 0.75, "8": 0.25, "1": 0.005}, {"7": 0.75, "8": 0.25}),  # too little to matter
        ("10", {"1": 0.8, "9": 0.2}, {"10": 0.8, "9": 0.2}),  # it went on to 10
        ("1", {"1": 0.8, "2": 0.2}, {"1": 0.8, "2": 0.2}),
    ],
)
def test_grades_of_which_one_begins_another(text: str, likely: dict[str, float], expected: dict[str, float]) -> None:
    tokens = [(letter, {t: math.log(p) for t, p in likely.items()}) for letter in text]
    found = ask_once(said(text, tokens=tokens), GRADES)
    assert found.probabilities == pytest.approx(dict.fromkeys(GRADES, 0.0) | expected)


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (said(""), "the reply is empty"),
        (said(" \n"), "the reply is empty"),
        (said(None), "the reply is empty"),
        (said("", ended="length"), "empty and was cut off"),
        (said("Hm, let me think", ended="length"), "names none of YES, NO and was cut off"),
        (said("MAYBE"), "names none of YES, NO: 'MAYBE'"),
        (said(None, refusal="I will not rate this"), "it refused: I will not rate this"),
        (said("YES", ended="content_filter"), "it refused: the content was filtered"),
        ((200, "{not json"), "no JSON"),
        ((200, ""), "no JSON"),
        ((200, "[]"), "no chat completion"),
        ((200, '"YES"'), "no chat completion"),
        ((200, '{"choices": []}'), "no chat completion"),
        ((200, '{"choices": [{"text": "YES"}]}'), "no chat completion"),
        ((200, '{"error": "model is loading"}'), "no chat completion"),
        (refused(401, "wrong key"), "HTTP 401"),
        (refused(404, "no such model"), "no such model"),
        (refused(400, "context too long"), "context too long"),
        ((502, "<html>bad gateway</html>"), "HTTP 502"),
    ],
)
def test_what_is_no_verdict_is_none_and_says_why(answer: Answer, why: str) -> None:
    found = ask_once(answer)
    assert found.probabilities is None
    assert why in found.why


def test_a_server_that_is_down() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        reference = f"http://127.0.0.1:{free.getsockname()[1]}/v1#small"
    found = Endpoint(reference, retries=1).choose([question()], YES_NO)[0]
    assert found.probabilities is None
    assert "could not be reached" in found.why


def test_a_server_that_is_busy_is_asked_again() -> None:
    answers = [refused(429, "slow down"), refused(500, "oops"), said("YES")]
    with serving(lambda request, n: answers[n]) as server:
        found = Endpoint(server.reference, retries=2).choose([question()], YES_NO)
        assert found == [Verdict({"YES": 1.0, "NO": 0.0})]
        assert len(server.requests) == 3


def test_a_server_that_stays_broken_is_given_up_after_so_many_tries() -> None:
    with serving(lambda request, n: refused(500, "oops")) as server:
        found = Endpoint(server.reference, retries=2).choose([question()], YES_NO)[0]
        assert found.probabilities is None
        assert "HTTP 500" in found.why
        assert len(server.requests) == 3


def test_a_server_that_does_not_answer_in_time() -> None:
    let_go = threading.Event()

    def slow(request: dict[str, Any], n: int) -> Answer:
        let_go.wait(20)
        return said("YES")

    with serving(slow) as server:
        started = time.monotonic()
        found = Endpoint(server.reference, retries=1, timeout=0.2).choose([question()], YES_NO)[0]
        let_go.set()
        assert found == Verdict(None, "the server did not answer in time")
        assert time.monotonic() - started < 10
        assert len(server.requests) == 2


def test_after_many_failures_in_a_row_the_rest_is_not_asked() -> None:
    with serving(lambda request, n: refused(500, "oops")) as server:
        found = Endpoint(server.reference, retries=0, at_once=1).choose([question()] * (HOPELESS + 5), YES_NO)
        assert len(server.requests) == HOPELESS
        assert all(verdict.probabilities is None for verdict in found)
        assert "not asked, after 8 failures in a row, the last: HTTP 500" in found[-1].why


def test_failures_that_are_not_in_a_row_are_forgotten() -> None:
    with serving(lambda request, n: said("YES") if n % HOPELESS == 0 else refused(500, "oops")) as server:
        Endpoint(server.reference, retries=0, at_once=1).choose([question()] * (3 * HOPELESS), YES_NO)
        assert len(server.requests) == 3 * HOPELESS


def test_no_more_is_asked_than_the_budget_allows() -> None:
    with serving(lambda request, n: said("YES")) as server:
        judge = Endpoint(server.reference, calls=3)
        found = judge.choose([question(str(i)) for i in range(5)], YES_NO)
        assert len(server.requests) == 3
        assert sum(verdict.probabilities is not None for verdict in found) == 3
        assert [v.why for v in found if v.probabilities is None] == ["the budget of 3 calls is used up"] * 2
        assert judge.choose([question()], YES_NO)[0].probabilities is None


def test_no_more_is_asked_at_once_than_allowed() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def answer(request: dict[str, Any], n: int) -> Answer:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.05)
        with lock:
            now -= 1
        return said("YES")

    with serving(answer) as server:
        Endpoint(server.reference, at_once=2).choose([question(str(i)) for i in range(8)], YES_NO)
    assert most == 2


def test_verdicts_come_in_the_order_of_the_questions() -> None:
    def answer(request: dict[str, Any], n: int) -> Answer:
        number = int(prompt_of(request))
        time.sleep(0.02 * (6 - number))  # those asked first are answered last
        return said("YES" if number % 2 else "NO")

    with serving(answer) as server:
        found = Endpoint(server.reference).choose([question(str(i)) for i in range(6)], YES_NO)
    assert [verdict.probabilities["YES"] for verdict in found if verdict.probabilities] == [0, 1, 0, 1, 0, 1]


# --- what a server is sent ----------------------------------------------------------------------------------------


def test_the_request() -> None:
    picture = Pillow.new("RGB", (3, 2), "red")
    conversation = [
        Message("system", "Be brief."),
        Message("user", [Text("what is"), Image(picture), Text("this?")]),
        Message("tool", "red"),
    ]
    with serving(lambda request, n: said("YES")) as server:
        Endpoint(server.reference).choose([conversation], YES_NO)
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["logprobs"]) == ("small", 0, True)
    assert request["max_tokens"] == 2048
    system, user, tool = request["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert tool == {"role": "user", "content": "red"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    start, _, content = user["content"][1]["image_url"]["url"].partition(",")
    assert start == "data:image/png;base64"
    sent = Pillow.open(io.BytesIO(base64.b64decode(content)))
    assert (sent.size, sent.getpixel((1, 1))) == ((3, 2), (255, 0, 0))


def test_a_picture_that_cannot_be_read_is_asked_nobody() -> None:
    with serving(lambda request, n: said("YES")) as server:
        broken = [Message("user", [Image(b"no picture"), Text("what?")])]
        found = Endpoint(server.reference).choose([broken, question()], YES_NO)
        assert len(server.requests) == 1
    assert found[0].probabilities is None
    assert "could not be asked: image of 10 bytes cannot be read" in found[0].why
    assert found[1].probabilities == {"YES": 1.0, "NO": 0.0}


def test_a_server_that_tells_no_probabilities_is_asked_without_from_then_on() -> None:
    def answer(request: dict[str, Any], n: int) -> Answer:
        return refused(400, "logprobs is not supported") if "logprobs" in request else said("YES")

    with serving(answer) as server:
        judge = Endpoint(server.reference, at_once=1)
        found = judge.choose([question(), question("another")], YES_NO)
        assert [verdict.probabilities for verdict in found] == [{"YES": 1.0, "NO": 0.0}] * 2
        assert ["logprobs" in request for request in server.requests] == [True, False, False]


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path) -> None:
    def telltale(request: dict[str, Any], n: int) -> Answer:
        key = "Bearer " + KEY
        cut = refused(500, "x" * (200 + 4 * n) + KEY)  # where `why` ends, somewhere within the key
        answers = [refused(401, key), said(f"who uses {key}?"), (200, key)]
        return answers[n] if n < 3 else cut if n < 23 and n % 7 else said("YES")

    with serving(telltale) as server, warnings.catch_warnings(record=True) as warned:
        endpoint = Endpoint(server.reference, retries=0, at_once=1)
        judge = CachedJudge(endpoint)
        found = judge.choose([question(str(i)) for i in range(24)], YES_NO)
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert sum(verdict.probabilities is None for verdict in found) == 20
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 1
    for shown in (*map(repr, (found, endpoint, judge, warned)), *kept, judge.id):
        assert KEY[:10] not in shown  # nor the first half of it


@pytest.mark.parametrize(
    "reference",
    [
        "http://host/v1",
        "http://host/v1#",
        "ftp://host/v1#model",
        f"http://me:{KEY}@host/v1#model",
        f"https://host/v1?key={KEY}#model",
        "https://host/v1#model name",
    ],
)
def test_an_address_that_is_none(reference: str) -> None:
    with pytest.raises(UserError, match="must look like http://host:port/v1#model") as caught:
        load_judge(reference)
    assert KEY not in str(caught.value)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'pe-rlhf-mm\[judge\]'"):
        load_judge("http://127.0.0.1:1/v1#small")


# --- the cache ----------------------------------------------------------------------------------------------------


class Counting:
    """A judge that counts its questions, and has no verdict on those with a question mark."""

    def __init__(self, id: str = "counting"):
        self.id, self.asked = id, 0

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        self.asked += len(conversations)
        even = {choice: 1 / len(choices) for choice in choices}
        return [Verdict(None, "?") if "?" in str(c[0].content) else Verdict(even) for c in conversations]


def test_what_was_answered_is_not_asked_again() -> None:
    with serving(lambda request, n: said("YES")) as server:
        asked = [question("a"), question("b"), question("a")]
        first = load_judge(server.reference).choose(asked, YES_NO)
        again = load_judge(server.reference).choose(asked, YES_NO)
        assert first == again == [Verdict({"YES": 1.0, "NO": 0.0})] * 3
        assert len(server.requests) == 2
        load_judge(server.reference, cache=False).choose(asked[:1], YES_NO)
        assert len(server.requests) == 3


def test_anything_else_is_asked_again(tmp_path: Path) -> None:
    red, blue = (Pillow.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    red.save(paths[0])
    blue.save(paths[1])
    others = [
        question("a"),
        question("b"),
        [Message("system", "a")],
        [Message("user", [Text("a"), Image(red)])],
        [Message("user", [Text("a"), Image(blue)])],
        [Message("user", [Text("a"), Image(paths[0])])],
        [Message("user", [Text("a"), Image(paths[1])])],
    ]
    judge = Counting()
    cached = CachedJudge(judge)
    cached.choose(others, YES_NO)
    assert judge.asked == len(others)
    cached.choose(others, YES_NO)
    assert judge.asked == len(others)
    cached.choose(others, ("NO", "YES"))
    assert judge.asked == 2 * len(others)
    CachedJudge(other := Counting("another")).choose(others, YES_NO)
    assert other.asked == len(others)


def test_what_had_no_verdict_is_asked_again() -> None:
    judge = Counting()
    for _ in range(2):
        assert CachedJudge(judge).choose([question("no idea?")], YES_NO)[0].probabilities is None
    assert judge.asked == 2


def test_a_line_that_a_killed_process_left_spoils_no_other(tmp_path: Path) -> None:
    judge = Counting()
    CachedJudge(judge).choose([question("a")], YES_NO)
    (path,) = (tmp_path / "cache" / "judged").iterdir()
    with path.open("a") as file:
        file.write('\n{"key": "torn", "probabi')
    CachedJudge(judge).choose([question("b")], YES_NO)
    with path.open("a") as file:
        file.write('\n[]\n{"key": 1}\n{"key": "k", "probabilities": {"YES": 2.0}}\n\xff')
    CachedJudge(judge).choose([question("a"), question("b")], YES_NO)
    assert judge.asked == 2


WRITER = """
import sys
from pathlib import Path
from pe_rlhf_mm.judging.cache import CachedJudge
from pe_rlhf_mm.rollout.server import HOPELESS
from pe_rlhf_mm.types import Message, Verdict

class Sure:
    id = "sure"
    def choose(self, conversations, choices):
        return [Verdict({c: float(c == choices[0]) for c in choices}) for _ in conversations]

for i in range(200):
    CachedJudge(Sure(), Path(sys.argv[2])).choose([[Message("user", f"{sys.argv[1]} {i}")]], ("YES", "NO"))
"""


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name, str(tmp_path)]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    (path,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert len({line["key"] for line in lines}) == len(lines) == 400


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="verdicts are not kept"):
        found = CachedJudge(Counting(), tmp_path / "file").choose([question("a")], YES_NO)
    assert found[0].probabilities == {"YES": 0.5, "NO": 0.5}


# --- models in this process ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> pe.Policy:
    return pe.load_policy("tiny-vlm")


def asked_about_pictures() -> list[list[Message]]:
    red = Image(Pillow.new("RGB", (40, 30), "red"))
    return [
        question("is red a colour, and is it the colour of this square?"),
        [Message("user", [red, Text("is it red?")])],
        [Message("user", [red, Text("or"), Image(Pillow.new("RGB", (9, 9), "blue"))]), Message("assistant", "blue"),
         Message("user", "sure?")],
    ]  # fmt: skip


@pytest.mark.parametrize("choices", [YES_NO, GRADES, ("red square", "a", "blue")])
def test_probabilities_are_the_softmax_of_likelihoods(policy: pe.Policy, choices: Sequence[str]) -> None:
    """Against one pass for each choice by itself, without groups, padding or other questions."""
    from pe_rlhf_mm.data.images import Gallery

    asked, processor = asked_about_pictures(), policy.processor
    found = LocalJudge(policy).choose(asked, choices)
    for conversation, verdict in zip(asked, found, strict=True):
        totals = []
        for choice in choices:
            gallery = Gallery(processor.config)
            (prompt,) = processor.encode([conversation], gallery)
            (tokens,) = processor.encode_replies([choice])
            assert tokens[-1] == processor.config.stop_id
            row = processor.prompts([prompt], gallery, length=len(prompt.tokens))
            scored = forward.score_policy(
                processor.config, policy.weights, row, processor.completions([[tokens]], length=len(tokens))
            )
            totals.append(float(np.asarray(scored.logprobs).sum()))
        weights = np.exp(np.array(totals) - max(totals))
        assert verdict.probabilities is not None
        assert [*verdict.probabilities] == [*choices]
        assert [*verdict.probabilities.values()] == pytest.approx(weights / weights.sum(), abs=2e-4)
        assert sum(verdict.probabilities.values()) == pytest.approx(1)


def test_a_choice_of_several_tokens_begins_as_another_and_is_told_apart(policy: pe.Policy) -> None:
    one, ten = policy.processor.encode_replies(["1", "10"])
    assert len(one) == 2
    assert len(ten) == 3  # so that this test is one
    found = LocalJudge(policy).choose([question()], ("1", "10"))[0].probabilities
    assert found is not None
    assert found["1"] + found["10"] == pytest.approx(1)


def test_what_a_model_cannot_read_is_none_by_itself(policy: pe.Policy) -> None:
    asked = [question("word " * 5000), [Message("user", [Image(b"no picture"), Text("?")])], question()]
    long, broken, good = LocalJudge(policy).choose(asked, YES_NO)
    assert long.probabilities is broken.probabilities is None
    assert "could not be asked: prompt 0" in long.why
    assert "image of 10 bytes cannot be read" in broken.why
    assert good.probabilities is not None
    assert LocalJudge(policy).choose([], YES_NO) == []


def test_references(policy: pe.Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class Mine:\n    id = 'mine'\n    choose = print\n\nclass Other: ...\n")
    named, given = load_judge("tiny-vlm"), load_judge(policy)
    assert isinstance(named, Judge)
    assert named.id == given.id != LocalJudge(policy).id + "x"
    assert named.id.startswith("tiny-vlm ")
    assert load_judge("mine.py:Mine").id == "mine"
    with pytest.raises(UserError, match="is no judge"):
        load_judge("mine.py:Other")
    with pytest.raises(OutOfRange, match="calls must be 0 or more"):
        load_judge("tiny-vlm", calls=-1)


def test_the_id_of_a_model_changes_with_its_weights(policy: pe.Policy) -> None:
    import jax

    other = pe.Policy(
        policy.processor, policy.weights._replace(state=jax.tree.map(lambda x: x * 1.001, policy.weights.state))
    )
    assert LocalJudge(other).id.split()[-1] != LocalJudge(policy).id.split()[-1]
