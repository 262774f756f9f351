"""The page of an evaluation's log: right numbers, every sample to be found, and nothing alive in it."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab
from report_pages import HANDLER, SCRIPT, Page, png, row, shown

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.comparison import compare
from pe_rlhf_mm.reports import evaluation_samples, rendering
from pe_rlhf_mm.reports.evaluation_page import write_evaluation_report
from pe_rlhf_mm.reports.histogram import bins
from pe_rlhf_mm.types import Image, Message, Sample, Text

EVIL = f"</script>{SCRIPT}{HANDLER}<svg onload=alert(1)><!--<script> [x](javascript:alert(1))"
COLOURS = itertools.cycle(("red", "no", "blue", "yes"))


def no(messages: Sequence[Message]) -> str:
    return "no"


def colours(messages: Sequence[Message]) -> str:
    """Right now and then."""
    return next(COLOURS)


def clicks(messages: Sequence[Message]) -> str:
    """An action, a drag that the screens do not know, or none."""
    turns = sum(message.role == "assistant" for message in messages)
    return ("clack", "drag 10 20 90 80", "click 25 75")[min(turns, 2)]


class Hostile:
    """Everything that comes from data is an attack, and so are three of four pictures."""

    evaluators: Sequence[str] = ("pe/exact-match",)
    folder = Path()

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i, name in enumerate(("good.png", "evil.svg", "evil.png", "page.html")):
            parts = [Image(self.folder / name), Text(f"{EVIL} asked")]
            yield Sample(f"{EVIL} {i}", [Message("system", EVIL), Message("user", parts)], EVIL, cluster=EVIL)

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


def attacks(messages: Sequence[Message]) -> str:
    return f"{EVIL} answered \ud83d"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of 30 questions, answered by two functions, and of 6 episodes. Tests that change one take a copy."""
    folder = tmp_path_factory.mktemp("logs")
    pe.evaluate("pe/easy-vqa", policy=colours, limit=30, out=folder / "a")
    pe.evaluate("pe/easy-vqa", policy=no, limit=30, out=folder / "b")
    pe.evaluate("canvas/mix", policy=clicks, limit=6, out=folder / "played")
    return folder


@pytest.fixture
def log(logs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(logs / "a", tmp_path / "log"))


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    markup = f'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">{SCRIPT}</svg>'
    for name, content in (("good.png", png()), ("page.html", f"<html>{SCRIPT}</html>".encode())):
        (tmp_path / name).write_bytes(content)
    for name in ("evil.svg", "evil.png"):
        (tmp_path / name).write_text(markup + name)
    monkeypatch.setattr(Hostile, "folder", tmp_path)
    pe.evaluate(f"{__name__}:Hostile", policy=attacks, out=tmp_path / "log")
    evil = {"policy": f"{EVIL} \ud83d", "fingerprint": EVIL, "status": EVIL}
    facts = json.loads((tmp_path / "log/run.json").read_text()) | evil
    (tmp_path / "log/run.json").write_text(json.dumps(facts))
    return tmp_path / "log"


def written(*folders: Path, out: Path | None = None) -> Page:
    page, _ = write_evaluation_report(*folders, out=out)
    return Page(page.read_text(encoding="utf-8"))


def data(page: Page) -> dict[str, Any]:
    """What the script of a page reads."""
    return json.loads(next(text for text in page.texts if text.startswith('{"logs"')))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ids(tab: Tab) -> list[str]:
    return tab.locator(".sample h3 bdi").all_inner_texts()


# --- numbers -------------------------------------------------------------------------------------------------------


def test_the_page_has_the_table_and_the_facts_of_the_log(log: Path) -> None:
    page = written(log)
    (metric,) = json.loads((log / "results.json").read_text())["metrics"]
    low, high = metric["interval"]
    counts = [str(metric[name]) for name in ("n", "clusters", "unscored")]
    assert counts[::2] == ["30", "0"]
    told = row(page, "pe/exact-match@1").split(" | ")[1:-1]
    assert told == [*counts, f"{metric['value']:.3f}", f"{low:.3f} to {high:.3f}"]
    bar = next(a["d"] for name, a in page.elements if name == "path" and a.get("class") == "spread")
    assert bar == f"M{round(100 * low, 2)} 6H{round(100 * high, 2)}"
    for told in ("policytest_eval_report:colours", "splittest", "seed0", "max tokens16", "statusfinished", "samples30"):
        assert told in page.text
    assert "pe/easy-vqa@1" in page.text
    assert not [a for a in page.all("li") if a.get("class") == "unfinished"]


def test_the_markdown_has_the_same_table(log: Path) -> None:
    page, tables = write_evaluation_report(log)
    assert (page, tables) == (log / "report.html", log / "report.md")
    cells = row(Page(page.read_text()), "pe/exact-match@1").split(" | ")[1:6]
    assert f"| pe/easy-vqa@1 | pe/exact-match@1 | {' | '.join(cells)} |" in tables.read_text()
    assert "| policy | test\\_eval\\_report:colours |" in tables.read_text()


def test_every_sample_is_on_the_page_with_all_that_the_log_tells(log: Path) -> None:
    found = data(written(log))
    lines = [json.loads(line) for line in (log / "samples.jsonl").read_text().splitlines()]
    scores = [
        json.loads(line)["scores"]["pe/exact-match@1"] for line in (log / "scores.jsonl").read_text().splitlines()
    ]
    assert [sample["id"] for sample in found["samples"]] == [line["id"] for line in lines]
    assert [sample["sides"][0]["replies"] for sample in found["samples"]] == [line["replies"] for line in lines]
    assert [sample["sides"][0]["scores"] for sample in found["samples"]] == [[score] for score in scores]
    (message,) = found["samples"][0]["messages"]
    assert message["parts"][0]["screen"] == ["screen-0", 64, 64]
    assert message["parts"][1] == {"text": lines[0]["messages"][0]["content"][1]["text"]}


def test_episodes_are_counted_and_shown_as_strips(logs: Path, tmp_path: Path) -> None:
    page = written(logs / "played", out=tmp_path / "played.html")
    assert re.search(r"6 episodes, \d+ replies, \d+ \(\S+ %\) not carried out", page.text)
    strips = [sample["sides"][0]["strip"] for sample in data(page)["samples"]]
    turns = strips[1]["turns"]
    assert [turn["reply"] for turn in turns][:3] == ["clack", "drag 10 20 90 80", "click 25 75"]
    assert turns[0]["error"]
    assert turns[2]["point"] == [0.25, 0.75]
    assert data(page)["samples"][0]["goal"].startswith("Press")


def test_values_are_counted_one_by_one_or_in_stretches() -> None:
    assert bins([[0, 1, 1], [1]]) == [("0.000", [1, 0]), ("1.000", [2, 1])]
    many = bins([[i / 100 for i in range(100)]])
    assert [found.counts for found in many] == [[10]] * 10
    assert many[0].label == "0.000 to 0.099"


def test_tries_at_one_sample_are_samples_of_the_page(log: Path) -> None:
    for name in ("samples.jsonl", "scores.jsonl"):
        line = json.loads((log / name).read_text().splitlines()[0]) | {"repeat": 1}
        with (log / name).open("a") as file:
            file.write(json.dumps(line) + "\n")
    samples = data(written(log))["samples"]
    assert [(s["id"], s["repeat"]) for s in samples if s["id"] == "test-0"] == [("test-0", 0), ("test-0", 1)]
    assert len(samples) == 31


# --- what is unfinished, and what is no log -------------------------------------------------------------------------


def test_a_log_that_was_killed_is_told_with_its_status_and_left_as_it_is(log: Path) -> None:
    for name in ("scores.jsonl", "results.json"):
        (log / name).unlink()
    facts = json.loads((log / "run.json").read_text()) | {"status": "running"}
    (log / "run.json").write_text(json.dumps(facts))
    lines = (log / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (log / "samples.jsonl").write_bytes(b"".join(lines[:12]) + lines[12][:50])
    before = contents(log)
    page = written(log)
    assert "This log is unfinished: its status is running" in page.text
    assert "Samples answered so far: 12. None is scored yet." in page.text
    assert "Unreadable lines of samples.jsonl, left out: 1." in page.text
    assert "There are no results yet." in page.text
    assert len(data(page)["samples"]) == 12
    assert "unfinished: its status is running" in (log / "report.md").read_text()
    assert {name: there for name, there in contents(log).items() if not name.startswith("report.")} == before


def test_samples_that_came_after_the_table_are_told(log: Path) -> None:
    scored = (log / "scores.jsonl").read_text().splitlines(keepends=True)
    (log / "scores.jsonl").write_text("".join(scored[:20]))
    page = written(log)
    assert "Samples that are not in the table, since they have no scores yet: 10." in page.text
    assert data(page)["samples"][25]["sides"][0]["scores"] == [None]


def test_a_log_that_has_only_begun(log: Path) -> None:
    for name in ("samples.jsonl", "scores.jsonl", "results.json"):
        (log / name).unlink()
    assert "Samples answered so far: 0." in written(log).text


@pytest.mark.parametrize("line", ["7", "{}", '{"id": "x", "replies": 7}', '{"id": "x", "messages": [], "steps": [7]}'])
def test_a_line_that_is_no_outcome_is_left_out_and_said(log: Path, line: str) -> None:
    with (log / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    page = written(log)
    assert "Unreadable lines of samples.jsonl, left out: 1." in page.text
    assert len(data(page)["samples"]) == 30


@pytest.mark.parametrize("kind", ["missing", "empty", "foreign", "broken", "newer"])
def test_what_is_no_log_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture, kind: str) -> None:
    folder = tmp_path / "folder"
    if kind != "missing":
        folder.mkdir()
    given = {"foreign": ("config.json", "{}"), "broken": ("run.json", '{"sch'), "newer": ("run.json", '{"schema": 2}')}
    if kind in given:
        name, content = given[kind]
        (folder / name).write_text(content)
    before = contents(tmp_path)
    assert run(["eval", "report", str(folder)]) == 2
    told = capsys.readouterr().err
    assert str(folder) in told
    assert "Traceback" not in told
    assert contents(tmp_path) == before
    assert folder.exists() == (kind != "missing")


# --- the files -----------------------------------------------------------------------------------------------------


def test_the_command_prints_the_paths_of_what_it_wrote(logs: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "deep/side.html"
    assert run(["eval", "report", str(logs / "a"), str(logs / "b"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".md"))]
    assert sorted(path.name for path in out.parent.iterdir()) == ["side.html", "side.md"]
    assert not (logs / "a/report.html").exists()


@pytest.mark.parametrize("name", ["samples.jsonl", "page", "x.md"])
def test_a_page_that_is_named_otherwise_is_refused(log: Path, name: str) -> None:
    before = contents(log)
    with pytest.raises(UserError, match=r"expected a name that ends in \.html"):
        write_evaluation_report(log, out=log / name)
    assert contents(log) == before


def test_a_place_that_cannot_be_written_is_told(log: Path) -> None:
    before = contents(log)
    (log / "taken.html").mkdir()
    for out in (log / "taken.html", log / "run.json/page.html"):
        with pytest.raises(UserError, match=r"cannot be written: .*\. Give another --out"):
            write_evaluation_report(log, out=out)
    assert contents(log) == before


def test_the_page_before_survives_a_failure(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (log / "report.html").write_text("the page before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rendering.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_evaluation_report(log)
    assert (log / "report.html").read_text() == "the page before"
    assert not list(log.glob("*.partial"))


def test_the_same_log_gives_the_same_page(log: Path) -> None:
    one = [path.read_bytes() for path in write_evaluation_report(log)]
    assert one == [path.read_bytes() for path in write_evaluation_report(log)]


# --- what is left out ----------------------------------------------------------------------------------------------


def test_texts_are_cut_fairly_where_they_are_too_many(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in (log / "samples.jsonl").read_text().splitlines()]
    for i in (3, 4):
        lines[i]["replies"] = ["x" * 2000]
    (log / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Texts that are cut" not in written(log).text
    monkeypatch.setattr(evaluation_samples, "TEXTS", 3000)
    page = written(log)
    samples = data(page)["samples"]
    rooms = {len(sample["sides"][0]["replies"][0].split(" … ")[0]) for sample in samples[3:5]}
    (room,) = rooms
    assert 1000 < room < 1500
    assert f"Texts that are cut at {room:,} characters: 2." in page.text
    assert [sample["sides"][0]["replies"] for sample in samples[5:]] == [line["replies"] for line in lines[5:]]


def test_pictures_keep_to_their_budget_and_the_worst_samples_come_first(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data(written(log))["samples"]
    assert len({sample["messages"][0]["parts"][0]["screen"][0] for sample in whole}) == len(
        list((log / "images").iterdir())
    )
    scores = [json.loads(line) for line in (log / "scores.jsonl").read_text().splitlines()]
    for line in scores:
        line["scores"]["pe/exact-match@1"]["value"] = float(line["cluster"] != scores[-1]["cluster"])
    (log / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scores))
    monkeypatch.setattr(evaluation_samples, "PICTURES", 1)
    page = written(log)
    pictures = [(sample, sample["messages"][0]["parts"][0]) for sample in data(page)["samples"]]
    assert {sample["cluster"] for sample, part in pictures if "screen" in part} == {scores[-1]["cluster"]}
    left_out = {part["left_out"] for _, part in pictures if "left_out" in part}
    assert left_out
    assert (
        f"since 1 fill the 0 MB there are for them, the samples of the lowest scores first: {len(left_out)}."
        in page.text.replace("\xa0", " ")
    )
    assert all((log / path).is_file() for path in left_out)


def test_samples_beyond_the_most_are_counted(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_samples, "MOST_SAMPLES", 20)
    page = written(log)
    assert "Samples that are not on this page, which has the first 20: 10." in page.text
    assert len(data(page)["samples"]) == 20
    assert row(page, "pe/exact-match@1").split(" | ")[1] == "30"


def test_photographs_are_jpeg_and_screens_have_a_palette(tmp_path: Path) -> None:
    bands = [Pillow.linear_gradient("L").rotate(angle).resize((600, 400)) for angle in (0, 45, 90)]
    Pillow.merge("RGB", bands).save(tmp_path / "photo.png")
    (tmp_path / "screen.png").write_bytes(png(side=300))
    album = evaluation_samples.Album(tmp_path)
    for name in ("photo.png", "screen.png", "none.png"):
        album.add(name)
    assert re.findall(r"data:image/(\w+)", album.rules) == ["jpeg", "png"]
    assert (album.beyond, album.unreadable) == (0, 1)


# --- side by side --------------------------------------------------------------------------------------------------


def test_two_logs_have_the_paired_table_and_both_replies(logs: Path, tmp_path: Path) -> None:
    page = written(logs / "a", logs / "b", out=tmp_path / "side.html")
    (d,) = compare(logs / "a", logs / "b")
    cells = row(page, "pe/exact-match@1").replace("−", "-").split(" | ")[1:]
    ends = f"{d.interval.low:+.3f} to {d.interval.high:+.3f}"
    counts = f"{d.better} / {d.same} / {d.worse}"
    assert cells == ["30", f"{d.a:.3f}", f"{d.b:.3f}", f"{d.difference:+.3f}", ends, "", counts, "0"]
    assert f"{d.better} / {d.same} / {d.worse}" in (tmp_path / "side.md").read_text()
    assert data(page)["logs"] == ["A", "B"]
    assert {len(sample["sides"]) for sample in data(page)["samples"]} == {2}
    assert {sample["sides"][1]["replies"][0] for sample in data(page)["samples"]} == {"no"}


def test_a_sample_of_one_log_only_is_shown_and_pictures_are_found_in_either(logs: Path, log: Path) -> None:
    for name in ("samples.jsonl", "scores.jsonl"):
        lines = (log / name).read_text().splitlines(keepends=True)
        (log / name).write_text("".join(lines[:10]))
    for path in (log / "images").iterdir():
        path.unlink()
    samples = data(written(log, logs / "b"))["samples"]
    assert [sample["sides"][0] is None for sample in samples] == [False] * 10 + [True] * 20
    assert all("screen" in sample["messages"][0]["parts"][0] for sample in samples)


@pytest.mark.parametrize("name", ["task", "split"])
def test_logs_that_cannot_be_compared_are_refused(log: Path, logs: Path, capsys: Any, name: str) -> None:
    facts = json.loads((log / "run.json").read_text()) | {name: "another"}
    (log / "run.json").write_text(json.dumps(facts))
    before = contents(log)
    assert run(["eval", "report", str(log), str(logs / "b")]) == 2
    told = capsys.readouterr().err
    assert f"cannot be compared: the {name} is 'another'" in told
    assert "Traceback" not in told
    assert contents(log) == before


# --- what comes from models and data is never alive ----------------------------------------------------------------


def test_hostile_texts_stay_texts(hostile: Path) -> None:
    page = written(hostile)
    assert [a.get("type") for a in page.all("script")] == ["application/json", None]
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    assert not {"img", "iframe", "object", "embed", "link", "a", "form", "base"} & {tag for tag, _ in page.elements}
    samples = data(page)["samples"]
    assert [sample["id"] for sample in samples] == [f"{EVIL} {i}" for i in range(4)]
    assert EVIL in samples[0]["sides"][0]["scores"][0]["why"]
    tables = (hostile / "report.md").read_text()
    assert not re.search(r"(?<!\\)[<\[|]script|(?<!\\)<", tables)


def test_only_pixels_are_embedded(hostile: Path) -> None:
    lines = [json.loads(line) for line in (hostile / "samples.jsonl").read_text().splitlines()]
    (hostile.parent / "secret.png").write_bytes(png((1, 2, 3)))
    others = ("../secret.png", str(hostile.parent / "secret.png"), "https://example.com/a.png", "images/none")
    for i, path in enumerate(others, start=1):
        parts = [{"image": path}, {"image": {"src": "x"}}] if i > 1 else [{"image": path}]
        lines.append({**lines[0], "id": f"more {i}", "messages": [{"role": "user", "content": parts}]})
    (hostile / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = written(hostile)
    html = (hostile / "report.html").read_text()
    assert re.findall(r"url\((.{22})", html) == ["data:image/png;base64,"]
    assert "svg xmlns" not in html
    assert "Pictures that are missing, or no PNG, JPEG, GIF or WEBP, and so left out: 7." in page.text
    assert "left_out" in json.dumps(data(page)["samples"][1])


@pytest.mark.browser
def test_hostile_texts_are_read_and_do_nothing(hostile: Path, browser: Browser) -> None:
    page, _ = write_evaluation_report(hostile)
    with shown(browser, page) as tab:
        assert ids(tab) == [f"{EVIL} {i}" for i in range(4)]
        card = tab.locator(".sample").first
        assert f"{EVIL} answered" in (card.text_content() or "")
        assert f"{EVIL} asked" in (card.text_content() or "")
        assert f"expected '{EVIL[:20]}" in (card.text_content() or "")
        tab.locator("#query").fill("</script>")
        assert tab.locator(".sample").count() == 4
        assert tab.locator(".sample script, .sample img, .sample a, .sample [onload]").count() == 0
        assert tab.evaluate("document.querySelectorAll('script').length") == 2
        assert tab.locator(".sample .screen").count() == 1
        tab.wait_for_timeout(200)  # for handlers that fire late


@pytest.mark.browser
def test_no_other_script_can_run(log: Path, browser: Browser) -> None:
    page, _ = write_evaluation_report(log)
    page.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'taken'</script>"))
    found = []
    with pytest.raises(AssertionError, match="Content Security Policy"), shown(browser, page) as tab:
        found = [tab.title(), tab.locator(".sample").count()]
    assert found == ["pe/easy-vqa@1 · evaluation", 20]


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_samples_are_found_by_text_and_by_score(log: Path, browser: Browser) -> None:
    found = data(written(log))["samples"]
    value = [sample["sides"][0]["scores"][0]["value"] for sample in found]
    asked = [sample["messages"][0]["parts"][1]["text"] for sample in found]
    with shown(browser, log / "report.html") as tab:
        assert tab.locator("#shown").inner_text() == "1–20 of 30 samples"
        tab.get_by_role("button", name="Right").click()
        assert ids(tab) == [sample["id"] for sample, v in zip(found, value, strict=True) if v == 1]
        tab.get_by_role("button", name="Wrong").click()
        assert tab.locator("#shown").inner_text().endswith(f"{value.count(0)} samples of 30 in all")
        tab.get_by_role("button", name="All").click()
        tab.locator("#query").fill("COLOR of the")
        expected = [sample["id"] for sample, text in zip(found, asked, strict=True) if "color of the" in text]
        assert ids(tab) == expected[:20]
        right = sum("color of the" in text and v == 1 for text, v in zip(asked, value, strict=True))
        counts = dict(told.rsplit(" ", 1) for told in tab.locator(".filters button").all_inner_texts())
        assert (counts["All"], counts["Right"]) == (str(len(expected)), str(right)), "of what was searched for"
        tab.locator("#query").fill("no such words")
        assert tab.locator("#shown").inner_text() == "0 samples of 30 in all"
        assert tab.get_by_role("button", name="Unscored").is_disabled()


@pytest.mark.browser
def test_values_between_and_samples_without_a_score_are_kinds_of_their_own(log: Path, browser: Browser) -> None:
    lines = [json.loads(line) for line in (log / "scores.jsonl").read_text().splitlines()]
    for i, value in enumerate((0.5, 0.25, None)):
        lines[i]["scores"]["pe/exact-match@1"]["value"] = value
    for i, line in enumerate(lines):
        line["scores"]["pe/judge-score@1"] = {"value": (3, 7, 10)[i % 3], "why": "", "parts": {}}
    (log / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:28]))
    write_evaluation_report(log)
    with shown(browser, log / "report.html") as tab:
        for name, expected in (("Between", ["test-0", "test-1"]), ("Unscored", ["test-2", "test-28", "test-29"])):
            tab.get_by_role("button", name=name).click()
            assert ids(tab) == expected
        tab.locator("#scores").select_option("pe/judge-score@1")  # grades: the highest one is right
        tab.get_by_role("button", name="Right").click()
        assert ids(tab) == [f"test-{i}" for i in range(2, 28, 3)]


@pytest.mark.browser
def test_keys_lead_from_sample_to_sample_and_to_the_search(log: Path, browser: Browser) -> None:
    page, _ = write_evaluation_report(log)

    def focused(tab: Tab) -> str | None:
        return tab.evaluate("document.activeElement.getAttribute('aria-label')")

    with shown(browser, page) as tab:
        tab.keyboard.press("j")
        assert focused(tab) == "Sample test-0"
        for _ in range(20):
            tab.keyboard.press("j")
        assert focused(tab) == "Sample test-20"  # over the end of a page
        tab.keyboard.press("k")
        assert focused(tab) == "Sample test-19"
        tab.keyboard.press("n")
        assert focused(tab) == "Sample test-20"
        tab.keyboard.press("p")
        assert focused(tab) == "Sample test-0"
        tab.keyboard.press("k")
        assert focused(tab) == "Sample test-0"
        tab.keyboard.press("/")
        tab.keyboard.type("jk/")
        assert tab.locator("#query").input_value() == "jk/"
        assert tab.locator("kbd").all_inner_texts() == ["j", "k", "n", "p", "/"]
        tab.locator("#query").fill("test-7")
        tab.keyboard.press("Enter")
        assert focused(tab) == "Sample test-7"


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["answered", "played", "side by side"])
def test_pages_fit_a_phone_and_follow_the_dark(logs: Path, tmp_path: Path, browser: Browser, kind: str) -> None:
    given = {"answered": ("a",), "played": ("played",), "side by side": ("a", "b")}[kind]
    page, _ = write_evaluation_report(*(logs / name for name in given), out=tmp_path / "page.html")
    grounds = set()
    for width, dark in ((390, False), (390, True), (1200, False)):
        with shown(browser, page, width=width, dark=dark) as tab:
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.locator(".sample").count() > 0
            grounds.add((dark, tab.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert grounds == {(False, "rgb(246, 246, 243)"), (True, "rgb(18, 20, 24)")}


@pytest.mark.browser
def test_clicks_and_drags_lie_where_the_policy_pointed(logs: Path, tmp_path: Path, browser: Browser) -> None:
    page, _ = write_evaluation_report(logs / "played", out=tmp_path / "page.html")
    html = page.read_text()
    drag = '"reply": "drag 10 20 90 80"'
    page.write_text(html.replace(drag, f'{drag}, "point": [0.1, 0.2], "to": [0.9, 0.8]'))  # canvas knows no drag
    with shown(browser, page) as tab:
        places = tab.evaluate(
            """() => [...document.querySelectorAll('.sample:nth-child(2) .aim')].map(aim => {
                const mark = aim.getBoundingClientRect(), screen = aim.parentElement.getBoundingClientRect();
                return [(mark.x + mark.width / 2 - screen.x) / screen.width,
                        (mark.y + mark.height / 2 - screen.y) / screen.height];
            })"""
        )
        expected = [0.9, 0.8, 0.1, 0.2, 0.25, 0.75]
        assert [part for place in places[:3] for part in place] == pytest.approx(expected, abs=0.01)
        assert tab.locator(".drag path").first.get_attribute("d") == "M0.1 0.2L0.9 0.8"
        label = "Screen 3, pointed at 25.0 % from the left, 75.0 % from the top"
        assert tab.get_by_role("img", name=label).count() > 0
        shot = Pillow.open(io.BytesIO(tab.locator(".screen").first.screenshot())).convert("RGB")
        assert len(shot.getcolors(1 << 20) or ()) > 3


@pytest.mark.browser
def test_two_logs_are_filtered_by_what_changed(logs: Path, tmp_path: Path, browser: Browser) -> None:
    (d,) = compare(logs / "a", logs / "b")
    page, _ = write_evaluation_report(logs / "a", logs / "b", out=tmp_path / "side.html")
    samples = data(Page(page.read_text()))["samples"]
    others = sum(sample["sides"][0]["replies"] != sample["sides"][1]["replies"] for sample in samples)
    with shown(browser, page) as tab:
        for name, n in (
            ("Replies differ", others),
            ("Scores differ", d.better + d.worse),
            ("B better", d.better),
            ("B worse", d.worse),
        ):
            button = tab.get_by_role("button", name=name)
            assert button.inner_text() == f"{name} {n}"
            button.click()
            assert tab.locator(".sample").count() == min(n, 20)
        assert tab.locator(".sample").first.locator(".answer h4").all_inner_texts() == ["A", "B"]
        tab.get_by_role("button", name="All").click()
        tab.locator("#scores").select_option("pe/exact-match@1 of B")
        tab.get_by_role("button", name="Right").click()
        assert {words.split("\n")[0] for words in tab.locator(".answer:last-child .reply").all_inner_texts()} == {"no"}
        assert tab.locator(".sample").count() == round(d.b * d.n)


def grown(log: Path, n: int) -> Path:
    """A log with so many samples, made of the lines of one."""
    for name in ("samples.jsonl", "scores.jsonl"):
        lines = [json.loads(line) for line in (log / name).read_text().splitlines()]
        with (log / name).open("w") as file:
            for i in range(n):
                file.write(json.dumps({**lines[i % len(lines)], "id": f"many-{i}", "seed": i}) + "\n")
    return log


@pytest.mark.browser
def test_ten_thousand_samples_can_be_opened_and_filtered(log: Path, browser: Browser) -> None:
    samples = data(written(grown(log, 10_000)))["samples"]
    right = sum(sample["sides"][0]["scores"][0]["value"] == 1 for sample in samples)
    with shown(browser, log / "report.html") as tab:
        assert tab.locator("#shown").inner_text() == "1–20 of 10,000 samples"
        assert tab.locator(".sample").count() == 20
        tab.locator("#query").fill("many-77")
        assert tab.locator("#shown").inner_text() == "1–20 of 111 samples of 10,000 in all"
        tab.locator("#query").fill("")
        tab.get_by_role("button", name="Right").click()
        assert tab.locator("#shown").inner_text() == f"1–20 of {right:,} samples of 10,000 in all"
        tab.get_by_role("button", name="Next").click()
        assert tab.locator("#shown").inner_text().startswith("21–40 of")
        assert tab.locator(".sample").count() == 20
