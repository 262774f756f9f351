"""The text tasks, on tiny sets in the published formats that went through the real readers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.prepared import Unprepared
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.scoring import summarize
from pe_rlhf_mm.registry import tasks
from pe_rlhf_mm.tasks.text import bolt, helpful_shp, hh, small, tldr
from pe_rlhf_mm.testing import check_task
from pe_rlhf_mm.types import Message, Outcome
from tests import published_files as files

TASKS = ("text/tldr", "text/bolt", "text/helpful-shp", "text/helpful-hh", "text/harmless")
SPLITS = ("train", "validation", "test")
Prepare = Callable[..., Path]


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepares what a folder holds, for this test."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))

    def make(*names: str) -> Path:
        for name in names:
            prepare(published(name), str(tmp_path / "published"), tmp_path / "home")
        return tmp_path / "published"

    return make


@pytest.fixture
def everything(tmp_path: Path, ready: Prepare) -> None:
    """Some rows of each of the text sets, in every split."""
    folder = tmp_path / "published"
    for part, (posts, comparisons) in enumerate((("train", "train"), ("valid", "valid1"), ("test", "valid2"))):
        numbers = range(10 * part, 10 * part + 3)
        files.write_tldr_posts(folder, posts, [files.tldr_post(n) for n in numbers])
        rows = [files.tldr_row(n, split=comparisons) for n in numbers]
        files.write_tldr(folder, rows, name=f"batch{part + 3}.json")
        split = SPLITS[part]
        files.write_shp(folder, split, [files.shp_row(n, domain=f"askbaking_{split}") for n in numbers])
    for subset, first in (("harmless-base", 0), ("helpful-base", 1000), ("helpful-online", 2000)):
        files.write_hh(folder, subset, "train", [files.hh_pair(first + n) for n in range(60)])
        files.write_hh(folder, subset, "test", [files.hh_pair(first + n) for n in range(500, 505)])
    for n in range(60):
        files.write_bolt(folder, f"SMS_ENG_20120903.{n:04d}", [("1", "", f"lunch at {n}?"), ("2", "", "yes")])
    ready("tldr", "tldr-posts", "shp", "hh", "bolt")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", TASKS)
def test_they_pass_the_conformance_checks(name: str) -> None:
    assert check_task(name) == []


@pytest.mark.parametrize("name", TASKS)
def test_what_is_not_prepared_is_said_with_the_command(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path))
    with pytest.raises(Unprepared, match="pe-rlhf data prepare"):
        next(iter(tasks.make(name).samples("train")))


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", TASKS)
def test_docstrings_name_the_commands_that_prepare_the_data(name: str) -> None:
    text = __import__(type(tasks.make(name)).__module__, fromlist=["*"]).__doc__
    sets = {"text/tldr": ["tldr", "tldr-posts"], "text/bolt": ["bolt"], "text/helpful-shp": ["shp"]}.get(name, ["hh"])
    assert all(f"pe-rlhf data prepare {data} --from FOLDER" in text for data in sets)


# --- long texts ---------------------------------------------------------------------------------------------------


def slow_cut(text: str, most: int) -> str:
    """The loop of the authors of TL;DR: off with the last line, or with a letter if it is the only one."""
    while len(text) > most:
        place = -1
        if "\n" in text:
            place = text.rindex("\n")
        text = text[:place]
    return text


def test_long_texts_are_cut_as_the_original_does() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices("ab \n", weights=[5, 5, 2, rng.choice([0, 1])], k=rng.randint(0, 40)))
        most = rng.randint(0, 40)
        assert small.cut_at_paragraph(text, most) == slow_cut(text, most), (text, most)


# --- TL;DR --------------------------------------------------------------------------------------------------------


def test_tldr_prompts_are_as_published() -> None:
    assert tldr.prompt({"subreddit": "Advice", "title": "Lost key", "post": "I lost it.\nWhat now?"}) == (
        "SUBREDDIT: r/Advice\n\nTITLE: Lost key\n\nPOST: I lost it.\nWhat now?\n\nTL;DR:"
    )


def test_only_the_post_of_a_long_prompt_is_cut() -> None:
    text = tldr.prompt({"subreddit": "s", "title": "t" * 300, "post": "first\n\n" + "x" * 1990 + "\nlast"})
    assert text == f"SUBREDDIT: r/s\n\nTITLE: {'t' * 300}\n\nPOST: first\n\n{'x' * 1990}\n\nTL;DR:"


@pytest.mark.usefixtures("everything")
def test_tldr_samples_are_posts_with_their_authors_summaries() -> None:
    samples = list(tldr.TLDR().samples("validation"))
    assert [sample.id for sample in samples] == ["t3_fake10", "t3_fake11", "t3_fake12"]
    first = samples[0]
    assert first.target == " Lost key 10, want help."  # with the space that continues the prompt's last line
    assert first.messages == (
        Message(
            "user",
            "SUBREDDIT: r/Advice\n\nTITLE: Lost key 10\n\nPOST: I lost my key number 10.\nWhat now?\n\nTL;DR:",
        ),
    )
    assert tldr.TLDR().solve(first) == [first.target]


def test_tldr_preferences_follow_choice_and_confidence(tmp_path: Path, ready: Prepare) -> None:
    rows = [
        files.tldr_row(0, choice=1),
        files.tldr_row(1, choice=0, extra={}),
        files.tldr_row(2, choice=0, extra={"confidence": 1}),
        files.tldr_row(3, summaries=[{"text": " Same.", "policy": p, "note": None} for p in ("a", "b")]),
        files.tldr_row(4, split="valid1"),
        files.tldr_row(5, split="valid2"),
        files.cnndm_row(6),
    ]
    files.write_tldr(tmp_path / "published", rows)
    ready("tldr")
    pairs = list(tldr.TLDR().preferences("train"))
    assert [(p.chosen, p.rejected) for p in pairs] == [
        (" Where is key 0?", " Lost key 0, want help."),
        (" Lost key 1, want help.", " Where is key 1?"),
        (" Lost key 2, want help.", " Where is key 2?"),
    ]
    assert [p.margin for p in pairs] == [7 / 8, 0, 0]
    assert [p.metadata for p in pairs] == [
        {"domain": "Advice", "confidence": 8},
        {"domain": "Advice"},
        {"domain": "Advice", "confidence": 1},
    ]
    assert [p.cluster for p in pairs] == ["t3_fake00", "t3_fake01", "t3_fake02"]
    assert [p.cluster for p in tldr.TLDR().preferences("validation")] == ["t3_fake04"]
    assert [p.cluster for p in tldr.TLDR().preferences("test")] == ["t3_fake05"]


@pytest.mark.parametrize(("confidence", "margin"), [(0, 0), (1, 0), (5, 0.5), (9, 1)])
def test_margins_run_from_0_to_1(confidence: int, margin: float) -> None:
    assert tldr.margin(confidence) == margin


# --- BOLT ---------------------------------------------------------------------------------------------------------


def test_bolt_keeps_what_was_written(tmp_path: Path, ready: Prepare) -> None:
    spoken = [
        ("120035", "", "lunch at 12 & \ue415 coffee?"),
        ("120041", "", "yes!\ncall ####"),
        ("120035", "", "k"),
        ("99", "", "me too"),
    ]
    for n in range(40):
        files.write_bolt(tmp_path / "published", f"SMS_ENG_20120903.{n:04d}", [*spoken, ("99", "", str(n))])
    ready("bolt")
    samples = [sample for split in SPLITS for sample in bolt.Bolt().samples(split)]
    assert len(samples) == 40
    for sample in samples:
        number = int(sample.id.rpartition(".")[2])
        assert sample.messages[0].content == (
            f"A: lunch at 12 & \ue415 coffee?\nB: yes! call ####\nA: k\nC: me too\nC: {number}\n\nSummarize:"
        )
        assert (sample.target, bolt.Bolt().solve(sample)) == (None, None)


def test_of_a_long_conversation_whole_messages_are_read() -> None:
    text = bolt.prompt({"speakers": ["A", "B", "A"], "texts": ["x" * 900, "y" * 900, "z" * 900]})
    assert text == f"A: {'x' * 900}\nB: {'y' * 900}\n\nSummarize:"


@pytest.mark.usefixtures("everything")
def test_without_references_bolt_is_unscored_and_not_zero() -> None:
    outcomes = [Outcome(sample, ["A summary."]) for sample in bolt.Bolt().samples("train")]
    metric = summarize("text/bolt@1", outcomes, bolt.Bolt.evaluators).headline
    assert (metric.n, metric.unscored) == (0, len(outcomes))


def test_bolt_has_no_preferences() -> None:
    assert not hasattr(bolt.Bolt(), "preferences")


# --- SHP ----------------------------------------------------------------------------------------------------------


def shp_rows(*pairs: tuple[str, str, int, float], post: str = "p1") -> list[dict[str, Any]]:
    """(comment A, comment B, 1 if A is preferred, ratio)"""
    return [
        files.shp_row(
            post_id=post, history=f"Post {post}?", human_ref_A=a, human_ref_B=b, labels=label, score_ratio=ratio
        )
        for a, b, label, ratio in pairs
    ]


def test_shp_keeps_clear_pairs_and_five_of_a_post(tmp_path: Path, ready: Prepare) -> None:
    many = [(f"a{n}", f"b{n}", n % 2, 1.5 if n == 0 else 2.0 + n) for n in range(8)]
    rows = [*shp_rows(*many), *shp_rows(("good", "bad", 1, 2.0), ("good", "odd", 1, 1.99), post="p2")]
    files.write_shp(tmp_path / "published", "train", rows)
    ready("shp")
    pairs = list(helpful_shp.HelpfulSHP().preferences("train"))
    assert [(p.chosen, p.rejected, p.cluster) for p in pairs] == [
        ("a1", "b1", "p1"),
        ("b2", "a2", "p1"),
        ("a3", "b3", "p1"),
        ("b4", "a4", "p1"),
        ("a5", "b5", "p1"),
        ("good", "bad", "p2"),
    ]
    assert pairs[1].margin == pytest.approx(2.0)  # log2 of 4
    assert pairs[-1].margin == pytest.approx(1.0)
    assert pairs[0].metadata == {"domain": "askbaking"}
    assert pairs[-1].messages == (Message("user", "Post p2?"),)


def test_shp_samples_are_posts_with_their_best_comment(tmp_path: Path, ready: Prepare) -> None:
    rows = [
        *shp_rows(("middle", "low", 1, 3.0), ("middle", "high", 0, 1.2), ("low", "high", 0, 4.0)),
        *shp_rows(("no", "yes", 0, 2.0), post="p2"),
        *shp_rows(("late", "low", 1, 2.0)),  # p1 again, out of place
    ]
    files.write_shp(tmp_path / "published", "train", rows)
    ready("shp")
    samples = list(helpful_shp.HelpfulSHP().samples("train"))
    assert [(sample.id, sample.target) for sample in samples] == [("p1", "high"), ("p2", "yes")]


def test_in_a_circle_the_first_preferred_comment_is_taken() -> None:
    circle = [("a", "b"), ("b", "c"), ("c", "a")]
    rows = [{"reply_a": better, "reply_b": worse, "label": 1} for better, worse in circle]
    assert helpful_shp.best_reply(rows) == "a"


# --- HH -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("everything")
def test_the_two_tasks_share_the_rows_between_them() -> None:
    for split, counts in (("test", (5, 10)), ("train", None)):
        found = [list(tasks.make(name).preferences(split)) for name in ("text/harmless", "text/helpful-hh")]
        domains = [{pair.metadata["domain"] for pair in pairs} for pairs in found]
        assert domains == [{"harmless-base"}, {"helpful-base", "helpful-online"}]
        assert counts is None or tuple(map(len, found)) == counts


@pytest.mark.usefixtures("everything")
def test_a_transcript_becomes_messages() -> None:
    (pair, *_), (sample, *_) = (list(tasks.make("text/harmless").__getattribute__(what)("test")) for what in PARTS)
    assert (
        pair.messages
        == sample.messages
        == (
            Message("user", "Hi"),
            Message("assistant", "Hello!"),
            Message("user", "How do I boil 500 eggs?"),
        )
    )
    assert (pair.chosen, pair.rejected) == ("Ten minutes in boiling water.", "No idea.")
    assert sample.target == pair.chosen
    assert sample.cluster == pair.cluster


PARTS = ("preferences", "samples")


def test_rows_about_one_prompt_are_samples_of_one_cluster(tmp_path: Path, ready: Prepare) -> None:
    head = "\n\nHuman: Hi\n\nAssistant:"
    pairs = [(f"{head} {one}", f"{head} {other}") for one, other in itertools.permutations("abc", 2)]
    files.write_hh(tmp_path / "published", "harmless-base", "test", pairs)
    ready("hh")
    samples = list(tasks.make("text/harmless").samples("test"))
    assert len({sample.id for sample in samples}) == 6
    assert len({sample.cluster for sample in samples}) == 1


def test_a_subset_that_is_missing_is_named(tmp_path: Path, ready: Prepare) -> None:
    files.write_hh(tmp_path / "published", "helpful-base", "test", [files.hh_pair(1)])
    ready("hh")
    with pytest.raises(UserError, match=r"no rows of harmless in test.*pe-rlhf data prepare hh"):
        next(iter(tasks.make("text/harmless").samples("test")))


def test_of_a_long_conversation_the_last_exchanges_are_read() -> None:
    turns = ["q1" + "x" * 2000, "a1", "q2" + "x" * 2000, "a2", "q3"]
    roles = ["user", "assistant"] * 2 + ["user"]
    kept = hh.conversation({"roles": roles, "turns": turns})
    assert [message.content[:2] for message in kept] == ["q2", "a2", "q3"]
    assert [message.role for message in kept] == ["user", "assistant", "user"]


def test_the_last_question_is_read_whatever_its_length() -> None:
    turns = ["q1", "a1", "q2" * 3000]
    kept = hh.conversation({"roles": ["user", "assistant", "user"], "turns": turns})
    assert [message.content for message in kept] == ["q2" * 3000]
