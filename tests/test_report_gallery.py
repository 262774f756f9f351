"""The samples of a page: a fair choice, and nothing alive in it that comes from models or data."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from report_pages import HANDLER, SCRIPT, SUMMARY, Page, make_run, png, read, sample

from pe_rlhf_mm.reports import page
from pe_rlhf_mm.reports.gallery import LIMIT, choose_samples
from pe_rlhf_mm.reports.page import write_report

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
    html = write_report(folder)[0].read_text(encoding="utf-8")
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
