"""Run folders for the tests of reports, and what a browser makes of their pages."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from pe_rlhf_mm.reports.page import write_report

SCRIPT = "<script>alert(1)</script>"
HANDLER = '"><img src=x onerror=alert(1)>'
SETTINGS = {
    "mode": "lora",
    "seed": 7,
    "lora": {"rank": 8, "targets": ["q", "v"]},
    "sft": {"steps": 60},
    "reward": {"steps": 60},
    "rl": {"steps": 60, "schedule": {"warmup": 3}},
}
SUMMARY = {
    "mode": "lora",
    "seed": 7,
    "sft": {"accuracy": 0.512, "n": 1500, "interval": [0.487, 0.538]},
    "reward_model": {"accuracy": 0.871, "n": 1200, "interval": [0.853, 0.889]},
    "rl": {"accuracy": 0.634, "n": 1500, "kl": 1.25, "interval": [0.609, 0.657]},
    "gain": {"accuracy": 0.122, "interval": [0.095, 0.149]},
    "trainable_fraction": 0.0131,
    "seconds": 754.0,
    "peak_rss_gib": 2.317,
    "stages": {"sft": 61.0, "reward_model": 122.0, "rl": 540.0, "evaluation": 31.0},
}


class Page(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, its text, and the cells of its tables."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def png(colour: tuple[int, int, int] = (200, 30, 30), side: int = 8) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(encoded, "PNG")
    return encoded.getvalue()


def sample(id: str, before: float | None, after: float | None, **changes: Any) -> dict[str, Any]:
    replies = {
        name: {"reply": f"{name} says {id}", "reward": 0.25, "score": score}
        for name, score in (("sft", before), ("rl", after))
    }
    return {"id": id, "question": "Which colour?", "target": "red", "image": "images/a.png", **replies, **changes}


def metrics() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"stage": "sft", "step": step, "seconds": float(step), "loss": 3 / step} for step in range(1, 61)
    ]
    lines.append({"stage": "rl", "step": 0, "seconds": 60.0, "validation_accuracy": 0.5})
    for step in range(1, 41):
        lines.append({"stage": "rl", "step": step, "seconds": 60.0 + step, "reward": step / 10, "sampler_gap": 2e-6})
    lines.append({"stage": "rl", "step": 40, "seconds": 100.0, "validation_accuracy": 0.6})
    return lines


def make_run(
    folder: Path,
    *,
    status: str = "finished",
    summary: dict[str, Any] | None = SUMMARY,
    samples: Sequence[dict[str, Any]] = (),
    task: str = "pe/easy-vqa@1",
    told: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder; `told` is what else its config.json says."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(png())
    config = {"task": task, "model": "tiny-vlm", "status": status, "settings": SETTINGS}
    config |= {"versions": {"jax": "0.10.1"}, "hardware": "1 x cpu", **(told or {})}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    if samples:
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def make_log(folder: Path, values: Mapping[str, Sequence[float | None]], **results: Any) -> Path:
    """The log of an evaluation: what each evaluator gave the samples, one after the other."""
    folder.mkdir()
    facts = {"schema": 1, "task": "pe/easy-vqa@1", "split": "test", "policy": "tiny-vlm", "status": "finished"}
    (folder / "run.json").write_text(json.dumps(facts))
    lines, metrics = [], []
    for name, own in values.items():
        known = [value for value in own if value is not None]
        mean, counts = sum(known) / len(known) if known else None, {"n": len(known), "unscored": len(own) - len(known)}
        ends = [None, None] if mean is None else [mean - 0.25, mean + 0.25]
        bounds = [min(known, default=0), max(known, default=1)]
        metrics.append({"evaluator": name, "value": mean, "interval": ends, "bounds": bounds, **counts})
    for i in range(max(map(len, values.values()))):
        scores = {name: {"value": own[i], "why": "", "parts": {}} for name, own in values.items()}
        lines.append({"id": str(i), "repeat": 0, "cluster": str(i), "scores": scores})
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "results.json").write_text(json.dumps({"metrics": metrics, **results}))
    return folder


def read(folder: Path) -> Page:
    return Page(write_report(folder)[0].read_text(encoding="utf-8"))


@contextlib.contextmanager
def shown(browser: Browser, path: Path, *, width: int = 1200, dark: bool = False) -> Iterator[Tab]:
    """A page in a browser; whatever it says, asks or fetches is a failure."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: heard.append(request.url))
    tab.goto(path.as_uri())
    try:
        yield tab
    finally:
        tab.close()
    told = [said for said in heard if not said.startswith("data:image/")]
    assert told == [path.as_uri()], told


def row(page: Page, label: str) -> str:
    """The cells of a table's row, joined."""
    return " | ".join(next(cells for cells in page.rows if cells and cells[0].startswith(label))).replace("\xa0", " ")
