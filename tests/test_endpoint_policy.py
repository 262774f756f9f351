"""A policy behind a server: what it is asked, what becomes of what it says, and what happens where it says nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, Asked, prompt_of, refused, said, serving

from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import Unanswered, UserError
from pe_rlhf_mm.evaluation.attempts import reply_seed
from pe_rlhf_mm.evaluation.evaluate import evaluate
from pe_rlhf_mm.evaluation.given import Given
from pe_rlhf_mm.rollout.endpoint import EndpointPolicy
from pe_rlhf_mm.rollout.load import policy_from
from pe_rlhf_mm.rollout.server import HOPELESS
from pe_rlhf_mm.testing.toys import ToyEnvironment, ToyTask
from pe_rlhf_mm.types import Message, Outcome, Sample, Score

KEY = "sk-0123456789abcdef"


class Sums:
    """What is i + 1?"""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(20):
            yield Sample(str(i), [Message("user", str(i))], str(i + 1))

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


class Counter(Sums):
    """Bring a counter to 1, 2 or 3."""

    evaluators: Sequence[str] = (f"{__name__}:Arrived",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(1, 4):
            yield Sample(str(i), [Message("user", "Count.")], i)

    def environment(self) -> ToyEnvironment:  # type: ignore[override]
        return ToyEnvironment()


class Arrived:
    """The reward of the last step."""

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [Score(outcome.steps[-1].reward) for outcome in outcomes]


SUMS, COUNTER = f"{__name__}:Sums", f"{__name__}:Counter"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def adds(request: dict[str, Any], n: int) -> Answer:
    return said(str(int(prompt_of(request)) + 1))


def prompts(server: Asked) -> list[str]:
    return sorted(prompt_of(request) for request in server.requests)


def logged(folder: Path) -> set[str]:
    return {json.loads(line)["id"] for line in (folder / "samples.jsonl").read_text().splitlines()}


def quick(server: Asked, *, at_once: int = 1) -> EndpointPolicy:
    return EndpointPolicy(server.reference, retries=0, at_once=at_once)


# --- replies ------------------------------------------------------------------------------------------------------


def test_the_command_asks_a_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with serving(lambda request, n: said("7" if prompt_of(request) == "6" else "no idea")) as server:
        command = ["eval", "run", SUMS, "--policy", server.reference, "--limit", "8", "--max-tokens", "5"]
        assert run([*command, "--out", str(tmp_path / "log"), "--json"]) == 0
        (metric,) = json.loads(capsys.readouterr().out)["metrics"]
        assert (metric["value"], metric["n"]) == (1 / 8, 8)
        facts = json.loads((tmp_path / "log/run.json").read_text())
        assert (facts["policy"], facts["fingerprint"]) == (server.reference, server.reference)
        assert prompts(server) == [str(i) for i in range(8)]
        for request in server.requests:
            assert (request["model"], request["max_tokens"], request["temperature"]) == ("small", 5, 0)
            assert "seed" not in request
        assert run([*command, "--out", str(tmp_path / "log"), "--json"]) == 0
        assert len(server.requests) == 8  # nothing is asked again
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "log").iterdir() if path.is_file())


def test_replies_are_those_to_their_questions_however_slow_each_is() -> None:
    last = threading.Event()

    def answer(request: dict[str, Any], n: int) -> Answer:
        if prompt_of(request) == "0":
            last.wait(20)
        return adds(request, n)

    with serving(answer) as server:
        asked = [[Message("user", str(i))] for i in range(5)]
        coming = quick(server, at_once=2).replies(asked)
        came = [next(coming) for _ in range(4)]  # while the first one is still to be answered
        last.set()
        assert sorted(came) == [(i, str(i + 1)) for i in range(1, 5)]
        assert list(coming) == [(0, "1")]
        assert quick(server, at_once=3).generate(asked[1:], samples=2) == [[str(i + 1)] * 2 for i in range(1, 5)]
        assert quick(server)(asked[3]) == "4"


def test_pictures_go_along() -> None:
    with serving(lambda request, n: said("red")) as server:
        found = evaluate(f"{ToyTask.__module__}:ToyTask", server.reference, limit=4)
        assert found.headline.value == 1 / 4
        assert all(r["messages"][0]["content"][0]["type"] == "image_url" for r in server.requests)


def test_what_is_drawn_has_a_seed_of_its_own_which_a_server_may_refuse() -> None:
    with serving(adds) as server:
        evaluate(SUMS, quick(server), limit=3, repeats=2, temperature=0.7, seed=5)
        seeds = {(prompt_of(request), request["seed"]) for request in server.requests}
        assert seeds == {(str(i), reply_seed(5, str(i), repeat)) for i in range(3) for repeat in range(2)}
        assert {request["temperature"] for request in server.requests} == {0.7}
        with pytest.raises(UserError, match="2 greedy replies are the same reply"):
            evaluate(SUMS, quick(server), limit=3, repeats=2)

    def strict(request: dict[str, Any], n: int) -> Answer:
        return refused(422, "extra fields: seed") if "seed" in request else adds(request, n)

    with serving(strict) as server:
        assert evaluate(SUMS, quick(server), limit=3, temperature=0.7).headline.value == 1
        assert ["seed" in request for request in server.requests] == [True, False, False, False]


# --- no reply -----------------------------------------------------------------------------------------------------


def test_what_fails_is_unscored_and_asked_again_by_the_same_command(tmp_path: Path) -> None:
    fails = {"3": refused(500, "oops " + KEY), "5": refused(400, "context too long"), "7": (200, "[]")}
    fails["9"] = said(None, ended="content_filter")
    with serving(lambda request, n: fails.get(prompt_of(request)) or adds(request, n)) as server:
        found = evaluate(SUMS, quick(server), limit=16, out=tmp_path / "log")
        assert (found.headline.value, found.headline.n, found.headline.unscored) == (1, 12, 4)
        told = found.table()
        assert KEY not in told
        assert "4 outcomes without an answer are in no log: the same command asks again" in told
        for why in ("HTTP 500", "context too long", "no chat completion"):
            assert why in told
        assert logged(tmp_path / "log") == {str(i) for i in range(16)} - set(fails)
        fails.clear()
        server.requests.clear()
        again = evaluate(SUMS, quick(server), limit=16, out=tmp_path / "log")
        assert (again.headline.value, again.headline.n, again.headline.unscored) == (1, 16, 0)
        assert prompts(server) == ["3", "5", "7", "9"]


def test_too_many_failures_are_exit_code_3_and_the_page_tells_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    with serving(lambda request, n: adds(request, n) if int(prompt_of(request)) % 2 else refused(403, "no")) as server:
        command = ["eval", "run", SUMS, "--policy", server.reference, "--limit", "10", "--out", str(log)]
        assert run(command) == 3
        assert "50.0 % of pe/exact-match@1 could not be scored" in capsys.readouterr().err
    assert run(["eval", "report", str(log)]) == 0
    for page in ("report.html", "report.md"):
        told = (log / page).read_text().replace("\\", "")
        assert "5 samples have no answer, and stand in no list: no answer: HTTP 403" in told


def test_a_server_that_answers_nothing_ends_the_run_and_what_is_answered_is_kept(tmp_path: Path) -> None:
    with serving(lambda request, n: adds(request, n) if n < 3 else refused(401, "the key is wrong")) as server:
        with pytest.raises(UserError, match=r"not asked, after 8 failures in a row, the last: HTTP 401: .*key is"):
            evaluate(SUMS, quick(server), out=tmp_path / "log")
        assert len(server.requests) == 3 + HOPELESS
    assert logged(tmp_path / "log") == {"0", "1", "2"}
    assert json.loads((tmp_path / "log/run.json").read_text())["status"] == "failed"


def test_a_server_that_is_down_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        reference = f"http://127.0.0.1:{free.getsockname()[1]}/v1#small"
    with pytest.raises(UserError, match="all 3 samples are without an answer, the first one because: the server could"):
        evaluate(SUMS, EndpointPolicy(reference, retries=0), limit=3)
    with pytest.raises(Unanswered, match="could not be reached"):
        EndpointPolicy(reference, retries=0)([Message("user", "1")])
    assert run(["eval", "run", SUMS, "--policy", "http://127.0.0.1/v1", "--limit", "1"]) == 2
    assert "must look like http://host:port/v1#model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (said("  blue "), "  blue "),
        (said(""), ""),
        (said(None, ended="length"), ""),
        (said(None, refusal="I will not"), "I will not"),
        (said("bl", ended="length"), "bl"),
    ],
)
def test_what_counts_as_a_reply(answer: Answer, reply: str) -> None:
    with serving(lambda request, n: answer) as server:
        assert quick(server)([Message("user", "?")]) == reply


def test_what_reads_probabilities_is_refused_before_anything_is_asked() -> None:
    with serving(adds) as server:
        with pytest.raises(UserError, match="a function or a server as policy tells none"):
            evaluate(SUMS, server.reference, evaluators=["pe/drift"], given=Given(anchor="tiny-vlm"))
        assert server.requests == []
    assert repr(policy_from("http://host/v1#model")) == "EndpointPolicy('http://host/v1#model')"


# --- episodes -----------------------------------------------------------------------------------------------------


def test_a_server_plays_episodes_and_one_that_it_leaves_is_lost_and_played_again(tmp_path: Path) -> None:
    broken = {"The counter stands at 1."}

    def counts(request: dict[str, Any], n: int) -> Answer:
        wanted = int(request["messages"][1]["content"].split()[-1].rstrip("."))
        made = sum(message["role"] == "assistant" for message in request["messages"])
        if wanted == 2 and prompt_of(request) in broken:
            return refused(503, "overloaded")
        return said("up" if made < wanted else "done")

    with serving(counts) as server:
        found = evaluate(COUNTER, quick(server), out=tmp_path / "log")
        assert (found.headline.value, found.headline.n, found.headline.unscored) == (1, 2, 1)
        assert found.episodes is not None
        assert (found.episodes.terminated, found.episodes.lost) == (2, 1)
        assert "the episode was lost: HTTP 503" in found.table()
        assert logged(tmp_path / "log") == {"1", "3"}
        broken.clear()
        server.requests.clear()
        again = evaluate(COUNTER, quick(server), out=tmp_path / "log")
        assert (again.headline.value, again.headline.n) == (1, 3)
        assert len(server.requests) == 3  # up, up, done
