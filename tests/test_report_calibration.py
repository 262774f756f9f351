"""The reliability diagram of a reward model: right places, the error in words, and nothing for what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from report_pages import HANDLER, SUMMARY, Page, make_run, read, shown

from pe_rlhf_mm.reports.calibration import draw_calibration
from pe_rlhf_mm.reports.page import write_report


def bin(low: float, n: float, predicted: float, observed: float) -> dict[str, Any]:
    return {"low": low, "high": low + 0.1, "n": n, "predicted": predicted, "observed": observed}


BINS = [bin(0.5, 100, 0.55, 0.575), bin(0.9, 400, 1.0, 0.9)]


def summary(found: Any) -> dict[str, Any]:
    return SUMMARY | {"reward_model": {"accuracy": 0.871, "n": 1200, "calibration": found}}


def plots(page: Page) -> list[str]:
    return [str(a.get("aria-label")) for a in page.all("svg") if "Calibration" in str(a.get("aria-label"))]


def test_dots_lie_where_the_bins_are_and_their_areas_are_as_their_numbers() -> None:
    drawing = draw_calibration(summary({"error": 0.0214, "scale": 1.0, "n": 500, "bins": BINS}))
    assert drawing is not None
    # Across, 50 to 100 % are 44 to 350: 55 % is a tenth of the way. Up, they are 236 to 24: 57.5 % is 15 % of it.
    assert drawing.dots == [(350.0, 66.4, 11.0), (74.6, 204.2, 5.5)]
    assert drawing.diagonal == "M44.0 236.0L350.0 24.0"
    assert [tick.label for tick in drawing.x_ticks] == ["50", "60", "70", "80", "90", "100"]
    assert [tick.place for tick in drawing.x_ticks][::5] == [44.0, 350.0]
    assert [tick.place for tick in drawing.y_ticks][::5] == [236.0, 24.0]


def test_a_share_below_the_lowest_prediction_makes_the_axis_longer() -> None:
    drawing = draw_calibration(summary({"bins": [bin(0.5, 10, 0.55, 0.32), *BINS]}))
    assert drawing is not None
    assert [tick.label for tick in drawing.y_ticks] == [str(share) for share in range(30, 101, 10)]
    assert drawing.x_ticks[0].label == "50"
    assert drawing.diagonal == "M44.0 175.4L350.0 24.0"  # 50 % is 2/7 of the way from 30 to 100
    assert max(dot.y for dot in drawing.dots) < 236


def test_a_bin_that_nobody_would_see_is_drawn_all_the_same() -> None:
    drawing = draw_calibration(summary({"bins": [bin(0.5, 1, 0.55, 0.55), bin(0.6, 1_000_000, 0.65, 0.65)]}))
    assert drawing is not None
    assert [dot.radius for dot in drawing.dots] == [11.0, 2.0]


def test_the_page_says_the_error_and_speaks_the_bins(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run", summary=summary({"error": 0.0214, "bins": BINS})))
    assert "500 labels, on average 2.1 points off." in page.text
    spoken = "Calibration of the reward model, 500 labels, on average 2.1 points off. "
    spoken += "Met: 57.5 % of those given 55.0 %, 90.0 % of those given 100.0 %."
    assert [told.replace("\xa0", " ") for told in plots(page)] == [spoken]
    assert [a["r"] for a in page.all("circle")][:2] == ["11.0", "5.5"]


@pytest.mark.parametrize(
    "found",
    [
        *(None, 7, [], {}, {"error": 0.1}, {"error": 0.1, "bins": 7}, {"bins": []}, {"bins": {"low": 0.5}}),
        *({"bins": [odd]} for odd in (None, 7, [0.5, 0.6, 10, 0.5, 0.5], {}, bin(0.5, 0, 0.55, 0.5))),
        *({"bins": [bin(0.5, n, 0.55, 0.5)]} for n in (-1, None, "x", 10**400, 1e300, float("nan"))),
        *({"bins": [bin(0.5, 1, at, 0.5)]} for at in (-0.1, 1.1, None, HANDLER, True, 0.4)),
        *({"bins": [bin(0.5, 1, 0.5, at)]} for at in (-0.1, 1.1, None, HANDLER, float("inf"))),
        *({"bins": [bin(0.9, 1, 1.0, 1.0) | {"low": low}]} for low in (1.0, -1, None, HANDLER)),
    ],
)
def test_what_is_no_calibration_is_not_drawn(tmp_path: Path, found: Any) -> None:
    page = read(make_run(tmp_path / "run", summary=summary(found)))
    assert not plots(page)
    assert "Accuracy on 1,500 test questions" in page.text


@pytest.mark.parametrize("error", [None, -0.1, 7, HANDLER, float("nan"), 1e308])
def test_an_error_that_is_none_is_left_out(tmp_path: Path, error: Any) -> None:
    page = read(make_run(tmp_path / "run", summary=summary({"error": error, "bins": [*BINS, 7]})))
    assert "500 labels. On the dashed line" in page.text
    assert len(plots(page)) == 1


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_dots_are_seen_where_they_are(tmp_path: Path, browser: Browser, width: int, dark: bool) -> None:
    path, _ = write_report(make_run(tmp_path / "run", summary=summary({"error": 0.0214, "bins": BINS})))
    with shown(browser, path, width=width, dark=dark) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        plot = tab.locator("svg[aria-label^='Calibration']")
        boxes = plot.locator("circle").evaluate_all(
            """found => found.map(e => e.getBoundingClientRect())
                             .map(b => [b.x + b.width / 2, b.y + b.height / 2, b.width])"""
        )
        (far, high, large), (near, low, small) = boxes
        assert large / small == pytest.approx(2, rel=0.05)  # 4 times the area
        scale = plot.bounding_box()["width"] / 360
        assert (far - near, low - high) == pytest.approx((275.4 * scale, 137.8 * scale), abs=1)
        assert plot.locator(".before").evaluate("e => getComputedStyle(e).strokeDasharray") == "4px, 4px"
        fill = plot.locator("circle").first.evaluate("e => getComputedStyle(e).fill")
        assert fill == ("rgb(242, 178, 92)" if dark else "rgb(163, 85, 10)")
