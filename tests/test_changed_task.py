"""A log knows the task it is of: the same questions about the same pictures, under the same ids, from any folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.evaluate import rescore
from pe_rlhf_mm.evaluation.scoring import Evaluation
from pe_rlhf_mm.types import Image, Message, Sample, Text

TASK_FILE = '''
import pe_rlhf_mm as pe


class Greeting:
    evaluators = (f"{__file__}:Polite",)

    def samples(self, split, *, seed=0):
        for i in range(4):
            yield pe.Sample(f"{i}", [pe.Message("user", f"hello {i}")], "hello")

    def environment(self):
        return None

    def solve(self, sample):
        return [sample.target]


class Polite:
    """1 for hello."""

    def score(self, outcomes, *, seed=0):
        return [pe.Score(float("hello" in outcome.replies[-1])) for outcome in outcomes]


def echo(messages):
    return str(messages[-1].content)
'''


class Album:
    """Questions about pictures, which a test exchanges."""

    evaluators: Sequence[str] = ("pe/exact-match",)
    sources: ClassVar[dict[str, object]] = {}

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for id, source in self.sources.items():
            yield Sample(id, [Message("user", [Image(source), Text("what?")])], "red")  # type: ignore[arg-type]

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


ALBUM = f"{__name__}:Album"


def says_red(messages: Sequence[Message]) -> str:
    return "red"


def evaluated(folder: Path, sources: dict[str, object], monkeypatch: pytest.MonkeyPatch, **more: int) -> Evaluation:
    monkeypatch.setattr(Album, "sources", sources)
    return pe.evaluate(ALBUM, says_red, out=folder, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, object]:
    """One in a file, one of bytes, one in memory."""
    Pillow.new("RGB", (4, 4), "blue").save(tmp_path / "blue.png")
    Pillow.new("RGB", (4, 4), "green").save(tmp_path / "green.png")
    return {
        "file": tmp_path / "blue.png",
        "bytes": (tmp_path / "green.png").read_bytes(),
        "memory": Pillow.new("RGB", (3, 2), "red"),
    }


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["file", "bytes", "memory"])
def test_another_picture_is_another_task(
    changed: str, pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(tmp_path / "log", pictures, monkeypatch)
    before = contents(tmp_path / "log")
    other = Pillow.new("RGB", (4, 4), "yellow")
    if changed == "file":
        other.save(tmp_path / "blue.png")
    elif changed == "bytes":
        other.save(tmp_path / "other.png")
        pictures = {**pictures, "bytes": (tmp_path / "other.png").read_bytes()}
    else:
        pictures = {**pictures, "memory": other}
    for again in (lambda: evaluated(tmp_path / "log", pictures, monkeypatch), lambda: rescore(tmp_path / "log")):
        with pytest.raises(UserError, match=f"picture 1 of sample '{changed}' is not what it was when it was answered"):
            again()
    assert contents(tmp_path / "log") == before


def test_a_picture_may_be_written_anew_and_lie_elsewhere(
    pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another encoder, or another version of one, gives other bytes of the same pixels."""
    first = evaluated(tmp_path / "log", pictures, monkeypatch)
    Pillow.new("RGB", (4, 4), "blue").save(tmp_path / "elsewhere.png", compress_level=0)
    moved = {**pictures, "file": tmp_path / "elsewhere.png", "bytes": tmp_path / "green.png"}
    assert evaluated(tmp_path / "log", moved, monkeypatch).scores == first.scores


def test_a_picture_more_or_less_is_another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Image(Pillow.new("RGB", (4, 4), "blue"))
    for before, after in (([one], []), ([one], [one, one])):
        folder = tmp_path / f"log-{len(after)}"
        for shown in (before, after):
            asked = [Message("user", [*shown, Text("what?")])]
            monkeypatch.setattr(Album, "samples", lambda self, split, seed=0, asked=asked: [Sample("a", asked, "red")])
            if shown is before:
                pe.evaluate(ALBUM, says_red, out=folder)
            else:
                with pytest.raises(UserError, match="of sample 'a' is not what it was when"):
                    pe.evaluate(ALBUM, says_red, out=folder)


# --- ids ----------------------------------------------------------------------------------------------------------


def test_ids_that_are_gone_are_named(
    pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(tmp_path / "log", pictures, monkeypatch)
    before = contents(tmp_path / "log")
    renamed = {f"new-{id}": source for id, source in pictures.items()}
    said = r"finished samples that the task has no more, such as 'file' \(3 of 3\)"
    for limit in (None, 1, 3):
        with pytest.raises(UserError, match=said):
            evaluated(tmp_path / "log", renamed, monkeypatch, **({} if limit is None else {"limit": limit}))
    with pytest.raises(UserError, match=said):
        rescore(tmp_path / "log")
    assert contents(tmp_path / "log") == before


def test_fewer_may_be_asked_for_than_before(
    pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(tmp_path / "log", pictures, monkeypatch)
    fewer = evaluated(tmp_path / "log", pictures, monkeypatch, limit=1)
    assert (fewer.headline.n, fewer.unasked) == (1, 2)
    assert "the log has 2 more outcomes, which were not asked for this time" in fewer.table()
    again = rescore(tmp_path / "log")
    assert (again.headline.n, again.unasked) == (3, 0)


def test_a_split_without_an_end_is_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(self: Album, split: str, *, seed: int = 0) -> Iterator[Sample]:
        number = 0
        while True:
            assert number < 100, "read much further than was asked for"
            yield Sample(f"{number}", [Message("user", "?")], "red")
            number += 1

    monkeypatch.setattr(Album, "samples", endless)
    pe.evaluate(ALBUM, says_red, limit=5, out=tmp_path / "log")
    assert rescore(tmp_path / "log").headline.n == 5
    assert pe.evaluate(ALBUM, says_red, limit=2, out=tmp_path / "log").headline.n == 2


# --- what a log tells of itself -------------------------------------------------------------------------------------


def test_a_log_tells_when_it_began_by_what_and_how_much_was_asked(
    pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(tmp_path / "log", pictures, monkeypatch, limit=2)
    told = json.loads((tmp_path / "log" / "run.json").read_text())
    assert (told["samples"], told["repeats"], told["version"]) == (2, 1, pe.__version__)
    path = tmp_path / "log" / "run.json"
    path.write_text(json.dumps({**told, "begun": "2020-01-01T00:00:00+00:00"}))
    evaluated(tmp_path / "log", pictures, monkeypatch, repeats=2)
    evaluated(tmp_path / "log", pictures, monkeypatch, limit=1)
    told = json.loads(path.read_text())
    assert (told["samples"], told["repeats"], told["begun"]) == (3, 2, "2020-01-01T00:00:00+00:00")


def test_scores_of_a_log_that_was_cut_short_say_so(
    pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path / "log", pictures, monkeypatch)
    assert "unfinished" not in rescore(tmp_path / "log").table()
    samples = tmp_path / "log" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes().splitlines(keepends=True)[0])
    assert run(["eval", "score", str(tmp_path / "log")]) == 0
    assert "unfinished: 1 of 3 outcomes; the command that began it goes on" in capsys.readouterr().out
    assert run(["eval", "score", str(tmp_path / "log"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left"] == 2


def test_a_folder_of_several_logs_names_them(
    pictures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a"):
        evaluated(tmp_path / "logs" / name, pictures, monkeypatch)
    with pytest.raises(UserError, match=r"no run.json. It holds the logs of several tasks: name one of them, a, b\."):
        rescore(tmp_path / "logs")


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_is_the_same_task_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(TASK_FILE)
    file = tmp_path / "here" / "mine.py"
    both = [f"{tmp_path}/{name}/mine.py:Greeting" for name in ("here", "there")]
    assert run(["eval", "run", *both, "--policy", f"{file}:echo", "--out", str(tmp_path / "logs")]) == 2
    assert "two of these tasks would share a folder in --out" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()
    for folder, named in ((tmp_path / "here", "mine.py"), (tmp_path, "here/mine.py"), (tmp_path, str(file))):
        monkeypatch.chdir(folder)
        asked = ["eval", "run", f"{named}:Greeting", "--policy", f"{named}:echo", "--out", str(tmp_path / "log")]
        assert run([*asked, "--evaluator", f"{named}:Polite"]) == 0
        printed = capsys.readouterr()
        assert "4/4" in printed.err or folder != tmp_path / "here", "asked once"
        assert printed.out.splitlines()[1].split()[:5] == ["mine.py:Greeting", "mine.py:Polite", "4", "4", "1.000"]
        assert "–" in printed.out.splitlines()[1], "all are right, and nobody knows what else there might be"
    assert run(["eval", "score", str(tmp_path / "log")]) == 0
    told = json.loads((tmp_path / "log" / "run.json").read_text())
    assert (told["task"], told["policy"]) == (f"{file}:Greeting", f"{file}:echo")
    assert [*json.loads((tmp_path / "log" / "scores.jsonl").read_text().splitlines()[0])["scores"]] == [
        f"{file}:Polite"
    ]
    assert run(["eval", "report", str(tmp_path / "log")]) == 0
    page = (tmp_path / "log" / "report.html").read_text()
    assert "mine.py:Polite" in page
    assert str(tmp_path) not in page, "a page that is sent to others tells nothing of one's folders"


def test_a_run_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"task": "pe/easy-vqa@1", "model": "tiny-vlm"}))
    assert run(["models", "show", str(tmp_path / "run")]) == 2
    assert "is the folder of a run, not of a model. It was tuned from tiny-vlm" in capsys.readouterr().err


def test_what_was_given_for_nothing_names_what_would_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, object]
) -> None:
    evaluated(tmp_path / "log", pictures, monkeypatch)
    with pytest.raises(UserError, match=r"anchor was given, .* such as --evaluator pe/drift"):
        pe.evaluate(ALBUM, says_red, given=pe.Given(anchor="tiny-vlm"))
    with pytest.raises(UserError, match=r"evaluators='pe/anls' is a string; expected a list of ids, as \['pe/anls'\]"):
        pe.evaluate(ALBUM, says_red, evaluators="pe/anls")
    with pytest.raises(UserError, match="pe/drift asks the policy, and a log has none"):
        rescore(tmp_path / "log", ["pe/drift"])
