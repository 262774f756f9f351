"""The page of a run: right numbers, unfinished runs, and nothing alive in it that comes from models or data."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.reports import page
from pe_rlhf_mm.reports.curves import MAX_BUCKETS, draw_curves
from pe_rlhf_mm.reports.gallery import LIMIT, choose_samples
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.reports.wording import decimal, duration

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
) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(png())
    config = {"task": task, "model": "tiny-vlm", "status": status, "settings": SETTINGS}
    config |= {"versions": {"jax": "0.10.1"}, "hardware": "1 x cpu"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    if samples:
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def read(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def row(page: Page, label: str) -> str:
    """The cells of a table's row, joined."""
    return " | ".join(next(cells for cells in page.rows if cells and cells[0].startswith(label))).replace("\xa0", " ")


# --- numbers -------------------------------------------------------------------------------------------------------


def test_the_table_shows_the_numbers_of_the_summary(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run"))
    assert row(page, "SFT").split(" | ")[1:] == ["51.2 %", "1,500", "48.7 % to 53.8 %", "", "60", "1 min 1 s"]
    reward_model = ["87.1 %", "1,200", "85.3 % to 88.9 %", "", "–", "2 min 2 s"]
    assert row(page, "Reward model").split(" | ")[1:] == reward_model
    rl = ["63.4 %KL to SFT 1.250 nats per reply", "1,500", "60.9 % to 65.7 %", "", "40 of 60", "9 min 0 s"]
    assert row(page, "RL").split(" | ")[1:] == rl
    assert row(page, "Evaluation").endswith("| 31 s")


def test_the_headline_says_the_gain_and_how_sure_it_is(tmp_path: Path) -> None:
    text = read(make_run(tmp_path / "run")).text
    assert "Accuracy on 1,500 test questions was 51.2 % after SFT and is 63.4 % after RL: +12.2 points" in text
    assert "(95 % interval +9.5 to +14.9)" in text
    assert "may be chance" not in text
    assert "This run is unfinished" not in text


def test_a_gain_whose_interval_includes_zero_is_called_doubtful(tmp_path: Path) -> None:
    summary = SUMMARY | {"gain": {"accuracy": 0.004, "interval": [-0.01, 0.018]}}
    text = read(make_run(tmp_path / "run", summary=summary)).text
    assert "+0.4 points (95 % interval −1.0 to +1.8)" in text
    assert "may be chance" in text


def test_missing_numbers_are_dashes(tmp_path: Path) -> None:
    summary = {"sft": {"accuracy": math.nan, "n": None, "interval": [math.nan, math.nan]}, "rl": "gone"}
    page = read(make_run(tmp_path / "run", summary=summary))
    assert row(page, "SFT").split(" | ")[1:5] == ["–", "–", "–", ""]
    assert row(page, "RL").split(" | ")[1:4] == ["–", "–", "–"]
    assert "nan" not in page.text.lower()


def test_settings_versions_and_hardware_are_listed(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run"))
    for cells in (
        ["rank", "8"],
        ["targets", "q, v"],
        ["schedule.warmup", "3"],
        ["jax", "0.10.1"],
        ["machine", "1 x cpu"],
    ):
        assert cells in page.rows


@pytest.mark.parametrize(
    ("seconds", "written"), [(8.44, "8.4 s"), (59.7, "1 min 0 s"), (3599.6, "1 h 0 min"), (8040, "2 h 14 min")]
)
def test_durations(seconds: float, written: str) -> None:
    assert duration(seconds).replace("\xa0", " ") == written


@pytest.mark.parametrize(
    ("number", "written"),
    [(0.5, "0.500"), (-14.24, "−14.2"), (12345.0, "12,345"), (3.14e-6, "3.1×10⁻⁶"), (-0.0, "0.000"), (None, "–")],
)
def test_decimals(number: float | None, written: str) -> None:
    assert decimal(number) == written


# --- the reward model ----------------------------------------------------------------------------------------------

REWARD = {
    "sft": {"mean": -0.1, "n": 16, "interval": [-0.25, 0.05]},
    "rl": {"mean": 0.3, "n": 16, "interval": [0.2, 0.4]},
    "gain": {"mean": 0.4, "n": 16, "interval": [0.1, 0.7]},
}
UNKNOWN = {"accuracy": None, "n": 0, "interval": [None, None]}


def test_the_learned_reward_has_a_table(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run", summary=SUMMARY | {"learned_reward": REWARD}))
    assert ["SFT", "−0.100", "16", "−0.250 to 0.050"] in page.rows
    assert ["RL", "0.300", "16", "0.200 to 0.400"] in page.rows
    assert ["Gain by RL", "+0.400", "16", "+0.100 to +0.700"] in page.rows
    assert "Learned reward of test replies" not in read(make_run(tmp_path / "older")).text


def test_the_accuracy_of_the_reward_model_is_told_apart_in_the_order_of_the_run(tmp_path: Path) -> None:
    part = {"accuracy": 0.75, "n": 4, "interval": [0.5, 1.0]}
    by = {"confidence": {"9": part, "10": part | {"n": 8}}, "domain": {SCRIPT: UNKNOWN}}
    page = read(make_run(tmp_path / "run", summary=SUMMARY | {"reward_model": SUMMARY["reward_model"] | {"by": by}}))
    cells = [[cell.replace("\xa0", " ") for cell in cells] for cells in page.rows]
    nine = cells.index(["9", "75.0 %", "4", "50.0 % to 100.0 %"])
    assert cells[nine + 1] == ["10", "75.0 %", "8", "50.0 % to 100.0 %"]
    assert [SCRIPT, "–", "0", "–"] in cells
    assert len(page.all("script")) == 0


def test_of_many_parts_the_largest_are_shown(tmp_path: Path) -> None:
    by = {"domain": {f"d{i}": {"accuracy": 0.5, "n": i} for i in range(30)}}
    page = read(make_run(tmp_path / "run", summary=SUMMARY | {"reward_model": {"by": by}}))
    shown = [cells[0] for cells in page.rows if re.fullmatch(r"d\d+", cells[0] if cells else "")]
    assert shown == [f"d{i}" for i in range(10, 30)]


@pytest.mark.parametrize("broken", [7, {"sft": 7}, {"sft": {"mean": "x"}}, [REWARD]])
def test_rewards_that_are_none_break_no_page(tmp_path: Path, broken: Any) -> None:
    summary = SUMMARY | {"learned_reward": broken, "reward_model": {"by": {"domain": broken}}}
    assert "Accuracy on 1,500 test questions" in read(make_run(tmp_path / "run", summary=summary)).text


def test_where_no_reply_is_scored_the_headline_is_the_learned_reward(tmp_path: Path) -> None:
    unscored = dict.fromkeys(("sft", "rl", "reward_model", "gain"), UNKNOWN)
    summary = SUMMARY | unscored | {"learned_reward": REWARD}
    page = read(make_run(tmp_path / "run", summary=summary, samples=[sample("1", None, None), {"id": "2"}]))
    assert "The mean learned reward of the test replies was −0.100 after SFT and is 0.300 after RL: +0.400" in page.text
    assert "(95 % interval +0.100 to +0.700)." in page.text
    assert "chance" not in page.text
    assert row(page, "Reward model").split(" | ")[1:5] == ["–", "0", "–", ""]
    assert "2 not scored" in page.text
    assert "both wrong" not in page.text
    doubtful = REWARD | {"gain": {"mean": 0.4, "interval": [-0.1, 0.9]}}
    text = read(make_run(tmp_path / "doubtful", summary=summary | {"learned_reward": doubtful})).text
    assert "may be chance" in text


def test_roles_of_another_run_are_told_as_its_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["start_from"] = {"run": "/runs/tldr", "task": "text/tldr@1", "roles": ["sft"]}
    (folder / "config.json").write_text(json.dumps(config))
    page = read(folder)
    assert "trained by a run on text/tldr@1" in row(page, "SFT")
    assert "trained by" not in row(page, "Reward model")
    assert ["started from", "/runs/tldr"] in page.rows


# --- unfinished runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"), [("running", "still running"), ("interrupted", "interrupted"), ("failed", "failed")]
)
def test_an_unfinished_run_shows_what_is_there(tmp_path: Path, status: str, words: str) -> None:
    page = read(make_run(tmp_path / "run", status=status, summary=None))
    assert "This run is unfinished" in page.text
    assert words in page.text
    assert "in stage RL at step 40 of 60" in page.text
    assert "Validation accuracy was 50.0 % before RL and 60.0 % at RL step 40." in page.text.replace("\xa0", " ")
    assert row(page, "SFT").split(" | ")[1:] == ["–", "–", "–", "", "60", "1 min 0 s"]
    assert row(page, "RL").endswith("| 40 of 60 | 40 s")
    assert "No samples yet" in page.text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", status="running", summary=None)
    (folder / "metrics.jsonl").unlink()
    text = read(folder).text
    assert "before the first step" in text
    assert "No steps have been recorded yet." in text


@pytest.mark.parametrize(
    "torn", [b'{"stage": "rl", "step": 41, "rew', b'{"stage": "rl", "step": 41, "x": "\xc3', b"4", b"[" * 100_000]
)
def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, torn: bytes) -> None:
    folder = make_run(tmp_path / "run", status="running", summary=None)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    text = read(folder).text
    assert "1 unreadable line of metrics.jsonl left out." in text
    assert "at step 40 of 60" in text


def test_whole_files_are_not_called_torn(tmp_path: Path) -> None:
    assert "unreadable" not in read(make_run(tmp_path / "run", samples=[sample("1", 0, 1)])).text


@pytest.mark.parametrize("config", [None, "{}", '{"model_type": "idefics3"}'])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="is no run folder"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_broken_config_is_an_error_a_user_can_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(UserError, match=r"config\.json does not hold a JSON object"):
        write_report(tmp_path)


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_page_is_written_whole_and_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert write_report(folder) == folder / "report.html"
    assert not list(folder.glob("*.partial"))
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize("broken", ["rendering", "writing"])
def test_the_old_page_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "report.html").write_text("the page before")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no more")

    if broken == "rendering":
        monkeypatch.setattr(page, "draw_curves", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RuntimeError):
        write_report(folder)
    assert (folder / "report.html").read_text() == "the page before"


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    samples = [sample(str(i), i % 2, i % 3 == 0) for i in range(100)]
    folder = make_run(tmp_path / "run", samples=samples)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[sample("1", 0, 1, question="half \ud83d here")])
    assert "half ? here" in read(folder).text


# --- the gallery ---------------------------------------------------------------------------------------------------


def test_all_samples_are_counted_and_a_mix_is_shown(tmp_path: Path) -> None:
    kinds = {"fixed": (0, 1, 40), "broken": (1, 0, 3), "both-right": (1, 1, 200), "both-wrong": (0, 0, 30)}
    samples = [sample(f"{kind}-{i}", *kinds[kind][:2]) for kind in kinds for i in range(kinds[kind][2])]
    folder = make_run(tmp_path / "run", samples=samples)
    gallery = choose_samples(folder, samples)
    assert {group.id: group.total for group in gallery.groups} == {kind: n for kind, (_, _, n) in kinds.items()}
    assert {group.id: group.shown for group in gallery.groups} == dict(
        zip(kinds, (15, 3, 15, 15), strict=True)  # the small group's room goes to the others
    )
    assert len(gallery.cards) == LIMIT
    assert all(card.id.startswith(card.group) for card in gallery.cards)

    page = read(folder)
    assert "40 fixed by RL" in page.text
    assert "3 broken by RL" in page.text
    assert "200 both right" in page.text
    assert "30 both wrong" in page.text
    assert "273 test samples" in page.text
    assert "48 of them" in page.text
    assert [card["data-group"] for card in page.all("article")].count("fixed") == 15


def test_samples_without_a_score_are_a_group_of_their_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert "unscored" not in [group.id for group in choose_samples(folder, [sample("1", 0, 1)]).groups]
    groups = choose_samples(folder, [sample("1", 0, 1), sample("2", None, 1), {"id": "3"}]).groups
    assert {group.id: group.total for group in groups if group.total} == {"fixed": 1, "unscored": 2}


def test_a_card_shows_both_replies_with_marks_and_rewards(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run", samples=[sample("7", 0, 1)]))
    assert ["SFT", "✗wrongsft says 7", "0.250"] in page.rows
    assert ["RL", "✓rightrl says 7", "0.250"] in page.rows
    assert ["Truth", "red", ""] in page.rows


def test_filters_are_hidden_until_the_script_runs_and_cards_are_not(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run", samples=[sample("7", 0, 1)]))
    filters = next(a for a in page.all("div") if a.get("class") == "filters")
    assert "hidden" in filters
    assert all("hidden" not in card for card in page.all("article"))


# --- what comes from models and data is never alive ---------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path: Path) -> Page:
    words = SCRIPT + HANDLER + "javascript:alert(1)"
    reply = {"reply": words, "reward": words, "score": 1.0}
    samples = [
        sample(words, 0, 1, question=words, target=words, sft=reply, rl=reply),
        sample("svg", 0, 1, image="images/evil.svg"),
        sample("disguised", 0, 1, image="images/evil.png"),
        sample("outside", 0, 1, image="../../etc/passwd"),
        sample("secret", 0, 1, image="../secret.png"),
        sample("absolute", 0, 1, image=str(tmp_path / "secret.png")),
        sample("link", 0, 1, image="images/link.png"),
        sample("url", 0, 1, image="https://example.com/a.png"),
        sample("nul", 0, 1, image="images/\0.png"),
        sample("kind", 0, 1, image={"src": "x"}),
        sample("good", 0, 1),
    ]
    folder = make_run(tmp_path / "run", samples=samples, task=words)
    evil = f'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">{SCRIPT}</svg>'
    (folder / "images" / "evil.svg").write_text(evil)
    (folder / "images" / "evil.png").write_text(evil)
    (tmp_path / "secret.png").write_bytes(png((1, 2, 3)))
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model": words, "hardware": words, "versions": {words: words}}
    config["settings"] |= {words: {words: words}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"mode": words}))
    return read(folder)


def test_hostile_text_stays_text(hostile: Page) -> None:
    assert len(hostile.all("script")) == 1
    assert "alert(1)" in hostile.text  # it is shown ..
    for _, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")]  # .. and does nothing
    tags = {tag for tag, _ in hostile.elements}
    assert not tags & {"iframe", "object", "embed", "link", "base", "form", "a", "foreignobject", "use", "image"}


def test_the_page_needs_no_network(hostile: Page) -> None:
    for tag, attributes in hostile.elements:
        assert "href" not in attributes
        assert "srcset" not in attributes
        assert tag == "img" or "src" not in attributes
    assert not re.search(r"@import|url\(", (Path(page.__file__).parent / "page.css").read_text())


def test_the_policy_allows_our_script_and_no_other(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[sample("1", 0, 1)])
    html = write_report(folder).read_text(encoding="utf-8")
    policy = next(a["content"] for a in Page(html).all("meta") if "Content-Security-Policy" in a.values()) or ""
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_only_real_pictures_inside_the_folder_are_shown(hostile: Page) -> None:
    sources = [image["src"] or "" for image in hostile.all("img")]
    assert len(sources) == 2  # the first sample's and the last one's
    for source in sources:
        assert source.startswith("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == (200, 30, 30)
    assert hostile.text.count("no picture") == 9


def test_pictures_are_encoded_anew_and_small(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[sample("1", 0, 1)])
    (folder / "images" / "a.png").write_bytes(png(side=900) + SCRIPT.encode())
    (image,) = read(folder).all("img")
    content = base64.b64decode((image["src"] or "").partition(",")[2])
    assert b"alert" not in content
    with Image.open(io.BytesIO(content)) as picture:
        assert max(picture.size) <= 192


def test_a_very_long_reply_is_cut_and_says_so(tmp_path: Path) -> None:
    long = {"reply": "x" * 100_000, "score": 1.0, "reward": 0.0}
    folder = make_run(tmp_path / "run", samples=[sample("1", 0, 1, rl=long)])
    text = read(folder).text
    assert "(99,400 more characters)" in text
    assert (folder / "report.html").stat().st_size < 100_000


# --- curves --------------------------------------------------------------------------------------------------------


def lines_of(values: Sequence[float], key: str = "reward") -> list[dict[str, Any]]:
    return [{"stage": "rl", "step": i + 1, key: value} for i, value in enumerate(values)]


def places(path: str) -> list[tuple[float, float]]:
    pairs = (place.split() for place in path.removeprefix("M").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


def test_a_noisy_curve_is_smoothed_in_front_of_its_raw_self() -> None:
    (curve,) = draw_curves(lines_of([i % 2 for i in range(100)]))
    raw, line = ([y for _, y in places(path)] for path in (curve.raw, curve.line))
    assert max(raw) - min(raw) > 100
    assert max(line) - min(line) < 60
    assert abs(sum(raw) / len(raw) - sum(line) / len(line)) < 3


def test_few_points_are_drawn_as_they_are() -> None:
    (curve,) = draw_curves(lines_of([0.1, 0.9, 0.1]))
    assert not curve.raw
    assert len(curve.dots) == 3


def test_a_long_run_keeps_its_spike_and_its_end() -> None:
    values = [0.0] * 20_000
    values[12_345] = 1.0
    (curve,) = draw_curves(lines_of(values, "kl"))
    assert len(places(curve.raw)) <= 2 * MAX_BUCKETS
    assert min(y for _, y in places(curve.raw)) < 60
    assert curve.dots[0][0] == 350


def test_numbers_that_are_none_leave_no_mark() -> None:
    (curve,) = draw_curves(lines_of([1.0, math.nan, math.inf, 2.0]))
    assert len(places(curve.line)) == 2
    assert draw_curves(lines_of([math.nan])) == []


@pytest.mark.parametrize(
    ("values", "key", "labels"),
    [
        ([0.0, 1.0], "reward", ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([-1.0, 0.25], "reward", ["−1.00", "−0.75", "−0.50", "−0.25", "0.00", "0.25"]),
        ([5.0, 5.0], "length", ["4.6", "4.8", "5.0", "5.2", "5.4"]),
        ([1.0, 1.0], "validation_accuracy", ["90", "95", "100"]),
        ([0.0, 4e-6], "sampler_gap", ["0", "1", "2", "3", "4"]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], key: str, labels: list[str]) -> None:
    (curve,) = draw_curves(lines_of(values, key))
    assert [tick.label for tick in curve.y_ticks] == labels


def test_tiny_numbers_move_their_power_of_ten_to_the_unit() -> None:
    (curve,) = draw_curves(lines_of([1e-6, 4e-6], "sampler_gap"))
    assert curve.unit == "10⁻⁶ nats"


def test_steps_are_whole_numbers_and_a_single_one_can_be_drawn() -> None:
    (curve,) = draw_curves(lines_of([0.5]))
    assert [tick.label for tick in curve.x_ticks] == ["1", "2"]
    (curve,) = draw_curves(lines_of([0.5] * 13))
    assert [tick.label for tick in curve.x_ticks] == ["2", "4", "6", "8", "10", "12"]


def test_the_value_before_rl_is_a_line_across() -> None:
    checks = [{"stage": "rl", "step": step, "validation_accuracy": 0.5 + step / 1000} for step in (0, 50, 100)]
    (curve,) = draw_curves(checks)
    assert curve.before == curve.dots[0][1]
    (curve,) = draw_curves(checks[1:])
    assert curve.before is None
