"""What the rows of the published text sets mean, on tiny files in exactly the published formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from published_files import (
    cnndm_row,
    hh_pair,
    shp_row,
    tldr_post,
    tldr_row,
    write_bolt,
    write_hh,
    write_shp,
    write_tldr,
    write_tldr_posts,
    written,
)
from published_rows import bad, only, reason, records

from pe_rlhf_mm.data.published.catalogue import published


def test_tldr(tmp_path: Path) -> None:
    write_tldr(tmp_path)
    assert only("tldr", tmp_path) == (
        "train",
        {
            "id": "t3_fake00",
            "subreddit": "Advice",
            "title": "Lost key 0",
            "post": "I lost my key number 0.\nWhat now?",
            "summaries": [" Lost key 0, want help.", " Where is key 0?"],
            "policies": ["sup4", "ref"],
            "choice": 1,
            "confidence": 8,
            "worker": "w1",
        },
    )


@pytest.mark.parametrize("extra", [{}, None, {"confidence": None}])
def test_tldr_without_confidence(extra: Any, tmp_path: Path) -> None:
    write_tldr(tmp_path, [tldr_row(extra=extra)])
    assert only("tldr", tmp_path)[1]["confidence"] == 0


def test_tldr_splits_are_those_of_the_rows(tmp_path: Path) -> None:
    write_tldr(tmp_path, [tldr_row(i, split=split) for i, split in enumerate(("valid2", "train", "valid1"))])
    assert [split for split, _ in records("tldr", tmp_path)] == ["test", "train", "validation"]


def test_tldr_articles_are_set_aside(tmp_path: Path) -> None:
    write_tldr(tmp_path, [cnndm_row()], name="cnndm0.json")
    assert reason("tldr", tmp_path) == "CNN/DM article"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choice": 2}, "the field 'choice' is 2; expected 0 or 1"),
        ({"split": "valid"}, "the field 'split' is 'valid'; expected one of train, valid1, valid2"),
        ({"summaries": []}, "there are 0 summaries; expected 2"),
        ({"info": {"id": "x"}}, "there is no field 'subreddit'"),
        ({"worker": None}, "the field 'worker' holds a NoneType; expected str"),
        ({"summaries": ["a", "b"]}, "there is a str where an object with 'text' was expected"),
        ({"extra": {"confidence": "high"}}, "the field 'confidence' holds a str; expected int"),
    ],
)
def test_tldr_rows_that_are_not_as_published(changes: Any, said: str, tmp_path: Path) -> None:
    path = write_tldr(tmp_path, [tldr_row(), tldr_row(**changes)])
    assert f"{path}, line 2: {said}" in bad("tldr", tmp_path, 1)


def test_tldr_posts(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_tldr_posts(tmp_path, split)
    assert [split for split, _ in records("tldr-posts", tmp_path)] == ["test", "train", "validation"]
    assert all(record == tldr_post() for _, record in records("tldr-posts", tmp_path))


def test_shp(tmp_path: Path) -> None:
    write_shp(tmp_path)
    write_shp(tmp_path, "validation", [shp_row(1, domain="legaladvice_validation", labels=0, score_ratio=2)])
    assert records("shp", tmp_path) == [
        (
            "train",
            {
                "post_id": "fake00",
                "domain": "askbaking",
                "history": "Why is cake 0 flat?",
                "reply_a": "Old baking powder 0.",
                "reply_b": "Bad luck 0.",
                "label": 1,
                "score_ratio": 3.0,
                "upvote_ratio": 0.98,
            },
        ),
        (
            "validation",
            {
                "post_id": "fake01",
                "domain": "legaladvice",
                "history": "Why is cake 1 flat?",
                "reply_a": "Old baking powder 1.",
                "reply_b": "Bad luck 1.",
                "label": 0,
                "score_ratio": 2.0,
                "upvote_ratio": 0.98,
            },
        ),
    ]


def test_shp_domains_name_their_split(tmp_path: Path) -> None:
    path = write_shp(tmp_path, "train", [shp_row(domain="askbaking")])
    assert f"{path}, line 1: the field 'domain' is 'askbaking'" in bad("shp", tmp_path)


H, A = "\n\nHuman:", "\n\nAssistant:"


def test_hh(tmp_path: Path) -> None:
    write_hh(tmp_path, "helpful-online", "test")
    assert only("hh", tmp_path) == (
        "test",
        {
            "subset": "helpful-online",
            "roles": ["user", "assistant", "user"],
            "turns": ["Hi", "Hello!", "How do I boil 0 eggs?"],
            "chosen": "Ten minutes in boiling water.",
            "rejected": "No idea.",
        },
    )


@pytest.mark.parametrize(
    ("prompt", "roles", "turns"),
    [
        (f"{H} a\n\nb", ["user"], ["a\n\nb"]),
        (f"{H} Human: a Assistant: b\nHuman: c", ["user"], ["Human: a Assistant: b\nHuman: c"]),
        (f"{H} a{A} b{A} c{H} d", ["user", "assistant", "user"], ["a", "b\n\nc", "d"]),
        (f"{H} a{H} b", ["user"], ["a\n\nb"]),
        (f"{H}{A} b{H} c", ["user", "assistant", "user"], ["", "b", "c"]),
    ],
)
def test_hh_turns(prompt: str, roles: list[str], turns: list[str], tmp_path: Path) -> None:
    write_hh(tmp_path, pairs=[(f"{prompt}{A} yes", f"{prompt}{A} no")])
    _, record = only("hh", tmp_path)
    assert (record["roles"], record["turns"]) == (roles, turns)


@pytest.mark.parametrize(
    ("chosen", "rejected", "why"),
    [
        (f"{H} a{A} b", f"{H} A{A} b", "different prompts"),
        (f"{H} a{A} b{A} c", f"{H} a{A} b", "different prompts"),
        (f"{H} a{A}", f"{H} A{A} b", "different prompts"),
        (f"{H} a{A} ", f"{H} a{A} b", "empty answer"),
        (f"{H} a{A} b", f"{H} a{A}\n", "empty answer"),
        (f"{H} a{A}", f"{H} a{A}", "empty answer"),
        (f"{H} a{A} b", f"{H} a{A} b ", "equal answers"),
        ("a", "b", "no conversation"),
        (f"{A} a", f"{A} b", "no conversation"),
        (f"a{H} b{A} c", f"a{H} b{A} d", "no conversation"),
        (f"{H} a{A} b{A} c", f"{H} a{A} b{A} d", "no conversation"),
        (f"{H} a{A} b{H} c", f"{H} a{A} d", "no conversation"),
    ],
)
def test_hh_rows_set_aside(chosen: str, rejected: str, why: str, tmp_path: Path) -> None:
    write_hh(tmp_path, pairs=[(chosen, rejected)])
    assert reason("hh", tmp_path) == why


def test_hh_one_conversation_is_in_one_split(tmp_path: Path) -> None:
    """The files lie flat, as some copies have them; every conversation stands in three of them, twice in each."""
    pairs = [hh_pair(i % 100) for i in range(200)]
    for subset in ("harmless-base", "helpful-base"):
        write_hh(tmp_path, subset, pairs=pairs).rename(tmp_path / f"{subset}-train.jsonl.gz")
    found = records("hh", tmp_path)
    assert len(found) == 400
    splits: dict[str, set[str]] = {}
    for split, record in found:
        splits.setdefault(record["turns"][-1], set()).add(split)
    assert all(len(held) == 1 for held in splits.values())
    assert 2 <= sum(held == {"validation"} for held in splits.values()) <= 20
    assert {record["subset"] for _, record in found} == {"harmless-base", "helpful-base"}


@pytest.mark.skipif("PE_RLHF_REAL_DATA" not in os.environ, reason="PE_RLHF_REAL_DATA names no folder of real data")
def test_the_real_hh_file(tmp_path: Path) -> None:
    from pe_rlhf_mm.data.preparation.building import prepare

    folder = Path(os.environ["PE_RLHF_REAL_DATA"]) / "hh-rlhf"
    report = prepare(published("hh"), str(folder), tmp_path)
    assert report["read"] == 2312
    assert report["kept"] == {"test": 2303}
    assert {why: group["rows"] for why, group in report["set_aside"].items()} == {
        "different prompts": 5,
        "empty answer": 4,
    }


def test_bolt(tmp_path: Path) -> None:
    write_bolt(tmp_path)
    _, record = only("bolt", tmp_path)
    assert record == {
        "id": "SMS_ENG_20120903.0001",
        "medium": "SMS",
        "speakers": ["A", "B"],
        "texts": ["lunch at 12 & coffee?", "yes! call ####"],
        "times": ["2012-09-03 17:02:11 UTC", "2012-09-03 17:03:40 UTC"],
    }


def test_bolt_speakers_are_lettered_as_they_appear(tmp_path: Path) -> None:
    write_bolt(tmp_path, messages=[(str(number), "t", "x") for number in (7, 3, 7, *range(100, 125))])
    speakers = only("bolt", tmp_path)[1]["speakers"]
    assert speakers[:4] == ["A", "B", "A", "C"]
    assert speakers[-2:] == ["Z", "P27"]


def test_bolt_without_messages(tmp_path: Path) -> None:
    write_bolt(tmp_path, messages=[])
    assert reason("bolt", tmp_path) == "no messages"


def test_bolt_files_of_another_kind(tmp_path: Path) -> None:
    path = written(tmp_path / "data" / "x.conv.xml", b"<thread><message/></thread>")
    assert f"{path}" in bad("bolt", tmp_path)
    assert "its root is <thread>; expected <conversation>" in bad("bolt", tmp_path)


def test_bolt_has_three_splits_by_the_id(tmp_path: Path) -> None:
    for i in range(150):
        write_bolt(tmp_path, id=f"CHT_ENG_20120903.{i:04d}")
    splits = {record["id"]: split for split, record in records("bolt", tmp_path)}
    assert set(splits.values()) == {"train", "validation", "test"}
    write_bolt(tmp_path / "alone", id="CHT_ENG_20120903.0007")
    assert only("bolt", tmp_path / "alone")[0] == splits["CHT_ENG_20120903.0007"]
