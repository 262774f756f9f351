"""Win rates on the page of a log and in its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from report_pages import HANDLER, SCRIPT, Page, make_log, shown

from pe_rlhf_mm.evaluation.win_rate import win_rate
from pe_rlhf_mm.reports.evaluation_log import read_evaluation
from pe_rlhf_mm.reports.evaluation_page import write_evaluation_report
from pe_rlhf_mm.reports.win_rates import win_rates
from pe_rlhf_mm.types import Score

JUDGE = "pe/judge-win-rate@1"
RATE = {
    **{"rate": 0.65, "interval": [0.5, 0.8], "length_controlled": 0.591, "flipped": 0.125},
    **{"wins": 12, "ties": 2, "losses": 6, "unscored": 3, "length": 154.2, "other_length": 1098.7},
}


def log_of(folder: Path, rates: Any) -> Path:
    return make_log(folder, {JUDGE: [1.0, 0.5, 0.0]}, win_rates=rates)


def page_of(*logs: Path) -> Page:
    return Page(write_evaluation_report(*logs, out=logs[0] / "page.html")[0].read_text())


def test_all_that_is_known_of_a_win_rate_is_told(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", {JUDGE: RATE})
    page = page_of(log)
    text = page.text.replace("\xa0", " ")
    assert f"{JUDGE}win rate 0.650 wins 12 ties 2 losses 6" in text
    for told in ("95 % interval0.500 to 0.800", "At equal length0.591", "Flipped with the order12.5 %", "Unscored3"):
        assert told in text
    assert "154 against 1,099" in text
    paths = {a["class"]: a["d"] for a in page.all("path") if a.get("class") in ("wins", "ties", "losses")}
    assert paths == {
        "wins": "M0 0h60.0v10h-60.0z",
        "ties": "M60.0 0h10.0v10h-10.0z",
        "losses": "M70.0 0h30.0v10h-30.0z",
    }
    row = "0.650 | 0.500 to 0.800 | 0.591 | 12.5 % | 154 against 1,099 | 3 | wins 12, ties 2, losses 6"
    assert f"| {JUDGE} | {row} |" in (log / "page.md").read_text().replace("\xa0", " ")


def test_two_logs_stand_beside_each_other(tmp_path: Path) -> None:
    a = log_of(tmp_path / "a", {JUDGE: RATE, "mine": RATE})
    b = log_of(tmp_path / "b", {"mine": RATE, JUDGE: RATE | {"wins": 0, "ties": 0, "losses": 4, "rate": 0.0}})
    rows = win_rates([read_evaluation(a), read_evaluation(b)])
    assert [(row.log, row.evaluator) for row in rows] == [("A", JUDGE), ("B", JUDGE), ("A", "mine"), ("B", "mine")]
    assert [part.width for part in rows[1].parts] == [0, 0, 100]
    assert "| B | pe/judge-win-rate@1 | 0.000 |" in (page_of(a, b) and (a / "page.md").read_text())


def test_a_log_without_win_rates_says_nothing_of_them(tmp_path: Path) -> None:
    page = page_of(make_log(tmp_path / "log", {"pe/exact-match@1": [1.0]}))
    assert "win rate" not in page.text
    assert "win rate" not in (tmp_path / "log/page.md").read_text()


@pytest.mark.parametrize("odd", [None, 7, "x", [], {}, {JUDGE: 7}, {JUDGE: None}, [RATE]])
def test_what_is_no_win_rate_breaks_no_page(tmp_path: Path, odd: Any) -> None:
    assert "win rate" not in page_of(log_of(tmp_path / "log", odd)).text


@pytest.mark.parametrize("name", ["wins", "ties", "losses"])
@pytest.mark.parametrize("odd", [None, -1, "x", True, float("nan"), 1e308, HANDLER])
def test_counts_that_are_none_leave_the_bar_out_and_keep_the_rest(tmp_path: Path, name: str, odd: Any) -> None:
    page = page_of(log_of(tmp_path / "log", {JUDGE: RATE | {name: odd}}))
    assert "win rate 0.650" in page.text
    assert not [a for a in page.all("path") if a.get("class") in ("wins", "ties", "losses")]
    assert "| 3 | – |" in (tmp_path / "log/page.md").read_text()


def test_numbers_that_are_none_are_dashes_and_names_are_texts(tmp_path: Path) -> None:
    evil = f"{SCRIPT}{HANDLER} | $x_1$"
    odd = dict.fromkeys(RATE, HANDLER) | {"wins": 1, "ties": 0, "losses": 0, "interval": [None, None]}
    page = page_of(log_of(tmp_path / "log", {evil: odd}))
    assert evil in page.text
    assert "win rate –" in page.text
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert "| – | – | – | – | – against – | – | wins 1, ties 0, losses 0 |" in (tmp_path / "log/page.md").read_text()


def test_an_evaluator_that_scored_nothing_breaks_no_page(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log", {"pe/exact-match@1": [1.0, 0.0], JUDGE: [None, None]})
    page = page_of(log)
    data = json.loads(next(text for text in page.texts if text.startswith('{"logs"')))
    assert data["best"] == [1, 1]


@pytest.mark.parametrize(("verdicts", "flipped", "doubted"), [(20, 0.75, True), (20, 0.5, False), (9, 1.0, False)])
def test_a_judge_that_prefers_a_place_is_doubted(tmp_path: Path, verdicts: int, flipped: float, doubted: bool) -> None:
    ties = round(verdicts * flipped)
    scores = [
        Score(
            0.5 if i < ties else 1.0,
            "",
            {"preference": 0.5, "flipped": float(i < ties), "length": 1, "other_length": 1},
        )
        for i in range(verdicts)
    ]
    found = win_rate(scores, [str(i) for i in range(verdicts)])
    assert found is not None
    said = f"{100 * flipped:.0f} % of the verdicts flipped with the order: this judge prefers a place and not a reply"
    assert (said in found.text()) == doubted
    log = log_of(tmp_path / "log", {JUDGE: found.__dict__ | {"interval": list(found.interval)}})
    assert (said in page_of(log).text) == doubted
    assert (said in (log / "page.md").read_text().replace("\\", "")) == doubted


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_the_parts_are_as_wide_as_their_counts_and_named_in_words(
    tmp_path: Path, browser: Browser, width: int, dark: bool
) -> None:
    a, b = (log_of(tmp_path / name, {JUDGE: RATE, f"{SCRIPT}{HANDLER}{'x' * 90}": RATE}) for name in "ab")
    page = write_evaluation_report(a, b)[0]
    with shown(browser, page, width=width, dark=dark) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        figures = tab.locator(".rates figure")
        assert figures.count() == 4
        figure = figures.first
        wide = "found => found.map(e => e.getBoundingClientRect().width)"
        wins, ties, losses = figure.locator("svg path").evaluate_all(wide)
        assert (wins / ties, losses / ties) == pytest.approx((6, 3), rel=0.02)
        assert figure.locator(".parts li").all_inner_texts() == ["wins 12", "ties 2", "losses 6"]
        fills = figure.locator("svg path").evaluate_all("found => found.map(e => getComputedStyle(e).fill)")
        assert fills[2] == "none"
        assert fills[0] == ("rgb(134, 176, 255)" if dark else "rgb(43, 98, 196)")
