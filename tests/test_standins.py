"""Stand-ins: in the published formats, by the rules they state, the same bytes each time, whole or not at all."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.data.standins import STAND_INS
from pe_rlhf_mm.data.standins.draws import one_of, others, share
from pe_rlhf_mm.errors import UserError
from tests.published_files import picture, write_easy_vqa, write_hh, write_json_document, write_json_lines

ASPECTS = ("challenge", "approach", "outcome")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- sources in the packages' formats -------------------------------------------------------------------------------


def papers(folder: Path, count: int = 40) -> Path:
    """As the package aclsum has them."""
    for split in ("train", "val", "test"):
        rows = [
            {
                "id": f"{split}-{n}",
                "title": f"Title {split} {n}",
                "summary": {aspect: f"The {aspect} of {split} {n}." for aspect in ASPECTS},
                "sentences": {
                    "abstract": [f"Abstract {n} .", "More ."],
                    "introduction": ["Intro ."],
                    "conclusion": ["End ."],
                },
            }
            for n in range(count)
        ]
        write_json_lines(folder / "dataset" / f"{split}.jsonl", rows)
    return folder


def message(sender: str, text: str, second: int) -> dict[str, str]:
    return {"text": text, "timestamp": f"2018-05-02T19:38:{second:02d}Z", "sender": sender}


def chats(folder: Path, count: int = 300) -> Path:
    """As the package chitchat-dataset has them: one too short, one with turns without a word."""
    document: dict[str, Any] = {
        "short": {"messages": [[message("x", "hi", 0)], [message("y", "ho", 1)]]},
        "silent": {"messages": [[message("x", "hi", 0)], [message("y", " ", 1)]] * 3},
    }
    for n in range(count):
        turns = [[message("xy"[turn % 2], f"turn {turn} & <chat> {n}", 2 * turn)] for turn in range(5)]
        turns[0] += [message("x", "\n", 1), message("x", "second thoughts", 1)]
        document[f"chat-{n}"] = {"messages": turns, "ratings": {}, "start": "2018", "prompt": None}
    write_json_document(folder / "dataset.json", document)
    return folder


def shapes(folder: Path) -> Path:
    """As the package easy-vqa has them."""
    write_easy_vqa(folder / "data", "train", [("what color is the shape?", "red", 0), ("is it blue?", "no", 0)])
    write_easy_vqa(folder / "data", "test", [("what shape is in the image?", "circle", 3)])
    return folder


def many_shapes(folder: Path) -> Path:
    rows = [("what color is the shape?", "red", n) for n in range(60)]
    write_easy_vqa(folder / "data", "train", rows)
    write_easy_vqa(folder / "data", "test", rows[:5], pictures={n: picture(60 + n, format="PNG") for n in range(5)})
    return folder


def harmless(folder: Path, count: int = 400) -> Path:
    pairs = [(f"\n\nHuman: q{n}\n\nAssistant: yes", f"\n\nHuman: q{n}\n\nAssistant: no") for n in range(count)]
    write_hh(folder, "harmless-base", "test", pairs)
    return folder


SOURCES = {"tldr": papers, "bolt": chats, "shp": chats, "vqav2": shapes, "hh": harmless}


@pytest.mark.parametrize("name", SOURCES)
def test_the_bytes_are_the_same_each_time(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path / "source")
    counts = [STAND_INS[name].write(tmp_path / out, source) for out in ("one", "two")]
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}
    assert counts[0] == counts[1]
    assert all(count > 0 for count in counts[0].values())


@pytest.mark.parametrize("name", SOURCES)
def test_what_fails_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        STAND_INS[name].write(tmp_path / "out", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*SOURCES, "tldr-posts"])
def test_the_real_readers_keep_every_row_and_find_all_splits(name: str, tmp_path: Path) -> None:
    stand_in = name.removesuffix("-posts")
    source = many_shapes(tmp_path / "source") if name == "vqav2" else SOURCES[stand_in](tmp_path / "source")
    STAND_INS[stand_in].write(tmp_path / "out", source)
    report = prepare(published(name), str(tmp_path / "out"), tmp_path / "home")
    assert report["kept"].keys() == {"train", "validation", "test"}
    assert sum(report["kept"].values()) == report["read"] > 0


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        STAND_INS["hh"].write(tmp_path, harmless(tmp_path / "source"))
    assert (tmp_path / "mine.txt").read_text() == "dear"


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install chitchat-dataset"):
        STAND_INS["bolt"].write(tmp_path / "out")


def test_data_that_no_package_brings_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--from FOLDER"):
        STAND_INS["hh"].write(tmp_path / "out")


# --- tldr ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tldr(tmp_path: Path) -> Path:
    STAND_INS["tldr"].write(tmp_path / "out", papers(tmp_path / "source"))
    return tmp_path / "out"


def test_every_paper_is_three_posts(tldr: Path) -> None:
    posts = lines(tldr / "tldr_3_filtered" / "train.jsonl")
    assert len(posts) == 40 * 3
    assert posts[1] == {
        "id": "t3_train-0-approach",
        "subreddit": "approach",
        "title": "Title train 0",
        "post": "Abstract 0 . More .\n\nIntro .\n\nEnd .",
        "summary": "The approach of train 0.",
    }


def test_comparisons_hold_the_right_summary_against_two_of_other_aspects_and_two_of_other_papers(tldr: Path) -> None:
    for batch, split, paper in (
        ("batch3", "train", "train"),
        ("batch4", "valid1", "val"),
        ("batch5", "valid2", "test"),
    ):
        rows = lines(tldr / "comparisons" / f"{batch}.json")
        assert len(rows) == 40 * 3 * 4
        for row in rows:
            assert (row["split"], row["batch"]) == (split, batch)
            (right,) = [s for s in row["summaries"] if s["policy"] == "ref"]
            (wrong,) = [s for s in row["summaries"] if s["policy"] != "ref"]
            aspect, number = row["info"]["subreddit"], row["info"]["title"].split()[-1]
            assert right["text"] == f" The {aspect} of {paper} {number}."
            of_paper, of_aspect = wrong["text"].endswith(f" {number}."), f"The {aspect} of" in wrong["text"]
            assert (of_paper, of_aspect) == ((True, False) if wrong["policy"] == "other-aspect" else (False, True))
        policies = Counter(s["policy"] for row in rows for s in row["summaries"])
        assert policies == {"ref": 480, "other-aspect": 240, "other-paper": 240}


def test_labels_are_wrong_in_the_stated_shares_and_unsure_then(tldr: Path) -> None:
    rows = [row for batch in (3, 4, 5) for row in lines(tldr / "comparisons" / f"batch{batch}.json")]
    wrong, places = Counter[str](), Counter[int]()
    for row in rows:
        preferred, other = row["summaries"][row["choice"]]["policy"], row["summaries"][1 - row["choice"]]["policy"]
        places[[s["policy"] for s in row["summaries"]].index("ref")] += 1
        confidence = row["extra"]["confidence"]
        if preferred == "ref":
            assert confidence in (range(4, 10) if other == "other-aspect" else range(6, 10))
        else:
            wrong[preferred] += 1
            assert confidence in range(1, 4)
    for policy, expected in (("other-aspect", 0.15), ("other-paper", 0.05)):  # 720 of each, 4 standard deviations
        assert abs(wrong[policy] / 720 - expected) < 4 * (expected * (1 - expected) / 720) ** 0.5
    assert abs(places[0] / 1440 - 0.5) < 4 * (0.25 / 1440) ** 0.5


# --- bolt and shp -------------------------------------------------------------------------------------------------


def test_a_chat_is_a_conversation_of_the_corpus(tmp_path: Path) -> None:
    counts = STAND_INS["bolt"].write(tmp_path / "out", chats(tmp_path / "source", 3))
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert counts == {"conversations": 3, "messages": 18}  # neither the short chat nor the silent one
    assert [path.name for path in files] == [f"CHT_ENG_20180502.{n:04d}.conv.xml" for n in range(3)]
    root = ElementTree.parse(files[1]).getroot()
    assert root.attrib == {"id": "CHT_ENG_20180502.0001", "medium": "CHT", "donated": "true"}
    messages = list(root.iter("message"))
    assert [m.findtext("body") for m in messages[:3]] == ["turn 0 & <chat> 1", "second thoughts", "turn 1 & <chat> 1"]
    assert [m.attrib["participant"] for m in messages] == ["120000", "120000", "120001", "120000", "120001", "120000"]
    assert messages[2].attrib["time"] == "2018-05-02 19:38:02 UTC"


@pytest.fixture
def shp(tmp_path: Path) -> list[dict[str, Any]]:
    STAND_INS["shp"].write(tmp_path / "out", chats(tmp_path / "source", 1500))
    rows = []
    for split in ("train", "validation", "test"):
        found = lines(tmp_path / "out" / "chitchat" / f"{split}.json")
        assert {row["domain"] for row in found} == {f"chitchat_{split}"}
        rows += found
    return rows


def test_the_given_reply_stands_against_replies_of_other_chats(shp: list[dict[str, Any]]) -> None:
    assert Counter(row["post_id"] for row in shp) == {f"chat-{n}": 2 for n in range(1500)}
    for row in shp:
        number = row["post_id"].removeprefix("chat-")
        assert row["history"] == "\n".join(
            [
                f"A: turn 0 & <chat> {number} second thoughts",
                f"B: turn 1 & <chat> {number}",
                f"A: turn 2 & <chat> {number}",
            ]
        )
        given = f"turn 3 & <chat> {number}"
        assert (row["human_ref_A"] == given) != (row["human_ref_B"] == given)
        assert all(row[name].startswith("turn 3") for name in ("human_ref_A", "human_ref_B"))
        winner, loser = ("A", "B") if row["labels"] == 1 else ("B", "A")
        assert row[f"score_{winner}"] / row[f"score_{loser}"] == row["score_ratio"]


def test_votes_are_wrong_in_the_stated_shares(shp: list[dict[str, Any]]) -> None:
    total, wrong, first = Counter[float](), Counter[float](), 0
    for row in shp:
        given = f"turn 3 & <chat> {row['post_id'].removeprefix('chat-')}"
        total[row["score_ratio"]] += 1
        wrong[row["score_ratio"]] += row["human_ref_A" if row["labels"] == 1 else "human_ref_B"] != given
        first += row["human_ref_A"] == given
    for ratio, share_of_all, mistaken in ((1.5, 0.2, 0.3), (2.0, 0.4, 0.05), (4.0, 0.4, 0.05)):
        assert abs(total[ratio] / 3000 - share_of_all) < 4 * (0.25 / 3000) ** 0.5
        assert abs(wrong[ratio] / total[ratio] - mistaken) < 4 * (mistaken * (1 - mistaken) / total[ratio]) ** 0.5
    assert abs(first / 3000 - 0.5) < 4 * (0.25 / 3000) ** 0.5


def test_other_data_are_refused(tmp_path: Path) -> None:
    write_json_document(tmp_path / "source" / "dataset.json", {"chat": {"turns": []}})
    with pytest.raises(UserError, match=r"source does not hold the data of chitchat-dataset: KeyError\('messages'\)"):
        STAND_INS["bolt"].write(tmp_path / "out", tmp_path / "source")
    assert not (tmp_path / "out").exists()


# --- vqav2 and hh -------------------------------------------------------------------------------------------------


def test_easy_vqa_is_written_as_vqav2(tmp_path: Path) -> None:
    source = shapes(tmp_path / "source")
    assert STAND_INS["vqav2"].write(tmp_path / "out", source) == {
        "questions (train2014)": 2,
        "images (train2014)": 1,
        "questions (val2014)": 1,
        "images (val2014)": 1,
    }
    asked = json.loads((tmp_path / "out" / "v2_OpenEnded_mscoco_train2014_questions.json").read_text())
    answered = json.loads((tmp_path / "out" / "v2_mscoco_train2014_annotations.json").read_text())
    assert (asked["task_type"], asked["data_type"], asked["data_subtype"]) == ("Open-Ended", "mscoco", "train2014")
    assert asked["questions"] == [
        {"question_id": 1000, "image_id": 1, "question": "what color is the shape?"},
        {"question_id": 1001, "image_id": 1, "question": "is it blue?"},
    ]
    second = answered["annotations"][1]
    assert second["answers"] == [{"answer": "no", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
    assert (second["question_id"], second["image_id"], second["multiple_choice_answer"]) == (1001, 1, "no")
    assert [a["answer_type"] for a in answered["annotations"]] == ["other", "yes/no"]
    assert answered["annotations"][0]["question_type"] == "what color"


def test_pictures_have_cocos_names_and_kind_and_the_colours_of_before(tmp_path: Path) -> None:
    source = shapes(tmp_path / "source")
    STAND_INS["vqav2"].write(tmp_path / "out", source)
    with Pillow.open(tmp_path / "out" / "val2014" / "COCO_val2014_000000100004.jpg") as written:
        assert written.format == "JPEG"
        before = Pillow.open(source / "data" / "test" / "images" / "3.png").convert("RGB").getpixel((5, 5))
        assert all(abs(a - b) <= 3 for a, b in zip(written.getpixel((5, 5)), before, strict=True))


def test_hh_is_split_by_conversation_and_keeps_its_rows(tmp_path: Path) -> None:
    source = harmless(tmp_path / "source")
    published = gzip.decompress((source / "harmless-base" / "test.jsonl.gz").read_bytes()).splitlines()
    counts = STAND_INS["hh"].write(tmp_path / "out", source)
    found = {
        split: gzip.decompress((tmp_path / "out" / "harmless-base" / f"{split}.jsonl.gz").read_bytes()).splitlines()
        for split in ("train", "test")
    }
    assert sorted(found["train"] + found["test"]) == sorted(published)
    assert (tmp_path / "out" / "harmless-base" / "test.jsonl.gz").read_bytes()[4:8] == bytes(4)  # no time of day
    assert counts == {f"pairs ({split})": len(rows) for split, rows in found.items()}
    assert abs(len(found["test"]) / 400 - 0.2) < 4 * (0.16 / 400) ** 0.5


def test_hh_takes_the_file_under_a_flat_name_too(tmp_path: Path) -> None:
    nested = harmless(tmp_path / "source") / "harmless-base" / "test.jsonl.gz"
    (tmp_path / "flat").mkdir()
    nested.rename(tmp_path / "flat" / "harmless-base-test.jsonl.gz")
    assert sum(STAND_INS["hh"].write(tmp_path / "out", tmp_path / "flat").values()) == 400


# --- draws --------------------------------------------------------------------------------------------------------


def test_draws_are_even_and_always_the_same() -> None:
    assert share("a", 1) == 131_057_482_197_300 / 2**48  # the first 48 bits of the sha256 of "a/1"
    drawn = Counter(one_of("abcd", "key", n) for n in range(4000))
    assert all(abs(count - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for count in drawn.values())


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_others_are_others(count: int) -> None:
    items = list(range(count))
    for place in items:
        found = others(items, place, 2, "key", place)
        assert len(set(found)) == len(found) == min(2, count - 1)
        assert place not in found


# --- the real packages --------------------------------------------------------------------------------------------

REAL = {
    "tldr": ("aclsum", [300, 1200, 150, 600, 300, 1200]),
    "bolt": ("chitchat_dataset", [3234, 236_617]),
    "shp": ("chitchat_dataset", [5192, 652, 624]),
    "vqav2": ("easy_vqa", [38_575, 4000, 9673, 1000]),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_packages_give_the_counts_of_the_documentation(name: str, tmp_path: Path) -> None:
    package, counts = REAL[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (extra stand-ins)")
    assert list(STAND_INS[name].write(tmp_path / "out").values()) == counts
