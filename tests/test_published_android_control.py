"""What the rows of AndroidControl mean, on tiny files in exactly the published format."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.published.accessibility import Node, visible_nodes
from pe_rlhf_mm.data.published.android_control import Steps
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.data.published.description import WrongRow
from pe_rlhf_mm.data.published.shards import Shards
from pe_rlhf_mm.data.sources.tfrecord import TFRecord
from pe_rlhf_mm.errors import UserError
from tests.published_files import write_json_document
from tests.published_rows import bad, loads, only, reason, records, rows_of
from tests.published_ui_files import (
    ACTIONS,
    clock,
    control_episode,
    forest,
    node,
    write_android_control,
)


def one_step(folder: Path, action: dict[str, Any]) -> Path:
    return write_android_control(folder, [control_episode(actions=[action])])


# --- accessibility forests ----------------------------------------------------------------------------------------


def test_nodes_that_can_be_seen() -> None:
    """Zero is absent in proto3: the first box has a right and a bottom edge only, and nothing is said of the third."""
    content = forest(
        [
            node((0, 0, 30, 40), "Go", class_name="android.widget.Button", is_clickable=True, package_name="x" * 300),
            node((1, 2, 3, 4), " ", content_description="Menu", hint_text="no", class_name="View", is_checkable=True),
            node((1, 2, 3, 4)),
            node((5, 5, 6, 6), "hidden", is_visible_to_user=False),
            node((7, 7, 7, 9), "no width"),
            node((9, 9, 8, 9), "turned over"),
        ],
        [],
        [
            node((-5, 0, 200_000, 1), "Grüße 🙂", is_editable=True, is_enabled=True),
            node((0, 0, 1, 1), hint_text="Name"),
        ],
    )
    assert visible_nodes(content) == [
        Node((0, 0, 30, 40), "Go", "Button", True),
        Node((1, 2, 3, 4), "Menu", "View", True),
        Node((1, 2, 3, 4), "", "", False),
        Node((-5, 0, 200_000, 1), "Grüße 🙂", "", True),
        Node((0, 0, 1, 1), "Name", "", False),
    ]
    assert visible_nodes(b"") == []


def test_a_forest_that_is_cut_off_is_refused_or_ends_between_two_windows() -> None:
    content = forest([node((0, 0, 30, 40), "Go")], [node((1, 1, 2, 2), "Stop")])
    whole = {len(forest([node((0, 0, 30, 40), "Go")])): 1, 0: 0, len(content): 2}
    for end in range(len(content) + 1):
        if end in whole:
            assert len(visible_nodes(content[:end])) == whole[end]
        else:
            with pytest.raises(WrongRow, match="accessibility tree cannot be read"):
                visible_nodes(content[:end])


def test_bytes_that_are_no_forest_are_refused_or_have_no_nodes() -> None:
    rng, content = random.Random(0), clock(100, 200)
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(3):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            visible_nodes(bytes(broken))
        except WrongRow as error:
            assert "Download the file again" in str(error)  # noqa: PT017
    with pytest.raises(WrongRow, match="a number has no end"):
        visible_nodes(b"\xff" * 1000)


# --- AndroidControl -----------------------------------------------------------------------------------------------


def test_android_control(tmp_path: Path) -> None:
    """Four actions, five screens: four records, each with a screen and its size; the last screen is no step."""
    episode = control_episode(1)
    write_android_control(tmp_path, [episode], splits={"test": [1]}, subsplits={"task_unseen": [1], "app_unseen": [1]})
    found = records("android-control", tmp_path)
    assert [split for split, _ in found] == ["test"] * 4
    record = found[1][1]
    assert loads(record.pop("elements")) == [
        {"box": [0, 0, 1, 1], "text": "", "kind": "FrameLayout", "acted_on": False},
        {"box": [0.166667, 0.25, 0.333333, 0.35], "text": "", "kind": "Button", "acted_on": True},
        {"box": [0.208333, 0.275, 0.291667, 0.325], "text": "Add", "kind": "TextView", "acted_on": False},
        {"box": [0, 0.4, 1, 0.475], "text": "Name", "kind": "EditText", "acted_on": True},
    ]
    assert loads(record.pop("actions")) == [
        {"kind": "open_app", "text": "Clock"},
        {"kind": "click", "point": [0.25, 0.3]},  # 30 of 120, 60 of 200: the size of the second screen
        {"kind": "type", "text": "Tea"},
        {"kind": "scroll", "direction": "down"},
    ]
    assert record == {
        "episode_id": "1",
        "step": 1,
        "goal": "Set alarm 1",
        "instruction": "Instruction 1",
        "subsplits": "app_unseen, task_unseen",
        "width": 120,
        "height": 200,
        "image": episode["screenshots"][1],
    }
    assert [record["step"] for _, record in found] == [0, 1, 2, 3]
    assert found[0][1]["actions"] == found[3][1]["actions"]  # whatever the size of their own screens


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"action_type": "long_press", "x": 50, "y": 0}, {"kind": "long_press", "point": [0.5, 0]}),
        ({"action_type": "click", "x": 100, "y": 200}, {"kind": "click", "point": [1, 1]}),
        ({"action_type": "scroll", "direction": "left"}, {"kind": "scroll", "direction": "left"}),
        ({"action_type": "input_text", "text": ""}, {"kind": "type", "text": ""}),
        ({"action_type": "navigate_back"}, {"kind": "back"}),
        ({"action_type": "navigate_home"}, {"kind": "home"}),
        ({"action_type": "wait"}, {"kind": "wait"}),
    ],
    ids=lambda value: value.get("action_type") or "",
)
def test_android_control_actions(said: dict[str, Any], kept: dict[str, Any], tmp_path: Path) -> None:
    one_step(tmp_path, said)
    assert loads(only("android-control", tmp_path)[1]["actions"]) == [kept]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"action_type": "teleport"}, "action teleport"),
        ({"action_type": "type", "x": 1, "y": 1, "text": "a"}, "action type"),
        ({"action_type": "click", "x": 101, "y": 1}, "point outside the screen"),
        ({"action_type": "click", "x": 1, "y": -1}, "point outside the screen"),
    ],
)
def test_android_control_actions_that_are_set_aside(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    one_step(tmp_path, said)
    assert reason("android-control", tmp_path) == why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"action_type": "click", "x": 1}, "there is no field 'y'"),
        ({"action_type": "click", "x": 1, "y": "2"}, "the field 'y' holds a str"),
        ({"action_type": "scroll", "direction": "sideways"}, "a scroll goes 'sideways'"),
        ({"kind": "click"}, "there is no field 'action_type'"),
        ([], "it is a list; expected a JSON object"),
    ],
)
def test_android_control_actions_that_are_none(said: Any, why: str, tmp_path: Path) -> None:
    path = one_step(tmp_path, said)
    message = bad("android-control", tmp_path)
    assert message.startswith(f"{path}, record 1, step 1: ")
    assert why in message


def test_android_control_counts_what_it_sets_aside(tmp_path: Path) -> None:
    """An unknown action is one step less; the other steps of its episode stay, and do not know what was done there."""
    odd = control_episode(3, [ACTIONS[1], {"action_type": "teleport"}, ACTIONS[3]])
    empty = control_episode(4, [])
    del empty["actions"], empty["step_instructions"]  # as published, a feature without values is absent
    write_android_control(tmp_path / "a", [odd, empty, control_episode(5)], splits={"train": [3, 4], "test": []})
    report = prepare(published("android-control"), str(tmp_path / "a"), tmp_path / "home")
    assert report["read"] == 3 + 1 + 4
    assert report["kept"] == {"train": 2}
    reasons = {why: group["rows"] for why, group in report["set_aside"].items()}
    assert reasons == {"action teleport": 1, "episode without actions": 1, "episode in no split": 4}
    read = rows_of("android-control", tmp_path / "a").read(2)
    assert [action and action["kind"] for action in loads(read.record["actions"])] == ["click", None, "scroll"]


@pytest.mark.parametrize("name", ["screenshots", "accessibility_trees", "screenshot_widths", "screenshot_heights"])
def test_android_control_has_one_screen_more_than_actions(name: str, tmp_path: Path) -> None:
    episode = control_episode()
    write_android_control(tmp_path, [episode | {name: episode[name][:-1]}])
    assert f"the feature '{name}' has 4 values; expected 5" in bad("android-control", tmp_path)


def test_android_control_features_of_other_kinds(tmp_path: Path) -> None:
    for changes, why in (
        ({"step_instructions": ["one"]}, "'step_instructions' has 1 values; expected 4"),
        ({"goal": [1]}, "'goal' holds numbers; expected byte strings"),
        ({"goal": b"\xff"}, "'goal' is not UTF-8 at byte 1"),
        ({"screenshot_widths": [1.0] * 5}, "'screenshot_widths' holds something else; expected whole numbers"),
        ({"screenshot_widths": [0, 1, 1, 1, 1]}, "a screenshot has no width or no height"),
        ({"screenshots": [b"none"] * 5}, "cannot be read: cannot identify image file"),
        ({"accessibility_trees": [b"\x0a\xff"] * 5}, "its accessibility tree cannot be read"),
    ):
        write_android_control(tmp_path, [control_episode(**changes)])
        assert why in bad("android-control", tmp_path)


def test_android_control_elements_end_with_the_screen(tmp_path: Path) -> None:
    nodes = [node((-50, 150, 50, 250), "cut"), node((200, 0, 300, 10), "right of it"), node((50, 0, 60, 10), "in")]
    episode = control_episode(actions=[{"action_type": "wait"}], accessibility_trees=[forest(nodes, nodes), b""])
    write_android_control(tmp_path, [episode])
    elements = loads(only("android-control", tmp_path)[1]["elements"])
    assert [(e["box"], e["text"]) for e in elements] == [([0, 0.75, 0.5, 1], "cut"), ([0.5, 0, 0.6, 0.05], "in")]


def test_android_control_without_its_splits(tmp_path: Path) -> None:
    write_android_control(tmp_path)
    (tmp_path / "test_subsplits.json").unlink()
    rows = rows_of("android-control", tmp_path)
    assert rows.lacks == ["subsplits"]
    assert "subsplits" not in rows.features
    (tmp_path / "splits.json").unlink()
    with pytest.raises(UserError, match=r"has episodes and no splits\.json, which says their splits"):
        rows_of("android-control", tmp_path)


@pytest.mark.parametrize(
    ("document", "why"),
    [({"train": 3}, "holds something else than lists"), ({"a": []}, "names none of train"), ([], "expected a JSON")],
)
def test_splits_that_are_none(document: object, why: str, tmp_path: Path) -> None:
    write_android_control(tmp_path)
    write_json_document(tmp_path / "splits.json", document)
    with pytest.raises(UserError, match=why):
        rows_of("android-control", tmp_path)


def test_an_episode_in_two_splits_is_tested_with(tmp_path: Path) -> None:
    write_android_control(tmp_path, splits={"test": [7], "train": [7], "validation": [7]})
    assert {split for split, _ in records("android-control", tmp_path)} == {"test"}


def test_android_control_shards_one_after_the_other(tmp_path: Path) -> None:
    for shard in range(3):
        write_android_control(tmp_path, [control_episode(2 * shard), control_episode(2 * shard + 1)], shard=shard)
    write_json_document(tmp_path / "splits.json", {"train": list(range(6))})
    found = records("android-control", tmp_path)
    assert [record["episode_id"] for _, record in found] == [str(i // 4) for i in range(24)]
    rows = rows_of("android-control", tmp_path)
    assert rows.where(13) == f"{tmp_path}/android_control-00001-of-00020, record 2, step 2"


def test_of_all_shards_one_is_unpacked_at_a_time(tmp_path: Path) -> None:
    files = [Steps(TFRecord(write_android_control(tmp_path, [control_episode(n)], shard=n))) for n in range(3)]
    shards = Shards(files)
    for index in (0, 11, 5, 4):
        assert shards[index]["episode_id"].tolist() == [index // 4]
        assert ["_spans" in file.episodes.__dict__ for file in files] == [n == index // 4 for n in range(3)]


def test_android_control_files_that_end_too_early(tmp_path: Path) -> None:
    """Of two episodes the first is whole; what is lost is one row that says so."""
    path = write_android_control(tmp_path, [control_episode(1), control_episode(2)])
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5]))
    assert len(rows_of("android-control", tmp_path)) == 4 + 1
    assert f"{path}, record 2: the file ends in the middle of it" in bad("android-control", tmp_path, 4)
    report = prepare(published("android-control"), str(tmp_path), tmp_path / "home", skip_bad=True)
    assert report["kept"] == {"train": 4}
    assert len(report["skipped"]) == 1


def test_android_control_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = write_android_control(tmp_path, [control_episode(1), control_episode(2)])
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[40] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    assert f"{path}, record 1: its checksum is wrong" in bad("android-control", tmp_path, 0)
    assert rows_of("android-control", tmp_path).read(1).record["episode_id"] == "2"


def test_a_screen_of_a_goal_is_in_one_split(tmp_path: Path) -> None:
    """Train and test show the same screen on the way to the same goal: the training rows go."""
    one, other = (control_episode(n) | {"goal": "the same"} for n in (1, 2))
    write_android_control(
        tmp_path, [one, other | {"screenshots": one["screenshots"]}], splits={"train": [1], "test": [2]}
    )
    report = prepare(published("android-control"), str(tmp_path), tmp_path / "home")
    assert report["kept"] == {"test": 4}
    assert report["set_aside"]["prompt is in test"]["rows"] == 4
