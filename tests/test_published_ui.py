"""What the rows of published recordings of screens mean, on tiny files in exactly the published formats."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.data.published.accessibility import Node, visible_nodes
from pe_rlhf_mm.data.published.android_control import Steps
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.data.published.description import WrongRow
from pe_rlhf_mm.data.published.shards import Shards
from pe_rlhf_mm.data.sources.tfrecord import TFRecord
from pe_rlhf_mm.errors import UserError
from tests.published_files import picture, write_json_document, write_tfrecord
from tests.published_rows import bad, only, reason, records, rows_of
from tests.published_ui_files import (
    ACTIONS,
    aitw_step,
    clock,
    control_episode,
    forest,
    node,
    screenspot_row,
    uibert_row,
    write_aitw,
    write_android_control,
    write_screenspot,
    write_screenspot_parquet,
    write_uibert,
)


def loads(texts: list[str]) -> list[Any]:
    return [json.loads(text) if text else None for text in texts]


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


# --- Android in the Wild ------------------------------------------------------------------------------------------


def test_aitw(tmp_path: Path) -> None:
    """Positions are published as y, x, height, width, and places as y, x; the screen is raw pixels."""
    row = aitw_step(1, length=2, **{"results/yx_lift": [0.14, 0.33]})
    write_aitw(tmp_path, [aitw_step(0, length=2), row])
    split, record = records("aitw", tmp_path)[1]
    assert split == "test"
    pixels = np.asarray(Pillow.open(io.BytesIO(record.pop("image"))))
    assert pixels.shape == (60, 30, 3)
    assert pixels.tobytes() == row["image/encoded"]
    assert loads(record.pop("elements")) == [
        {"box": [0.2, 0.1, 0.5, 0.15], "text": "Clock", "kind": "TEXT", "acted_on": True},
        {"box": [0.5, 0.5, 1, 0.6], "text": "", "kind": "ICON_PLUS", "acted_on": True},  # as much as is on the screen
    ]
    assert loads(record.pop("actions")) == [{"kind": "click", "point": [0.3, 0.12]}] * 2
    assert record == {
        "episode_id": "e1",
        "step": 1,
        "goal": "open clock for e1",
        "set": "general",
        "width": 30,
        "height": 60,
    }


def test_aitw_boxes_that_are_none(tmp_path: Path) -> None:
    nan = float("nan")
    write_aitw(tmp_path, [aitw_step(**{"image/ui_annotations_positions": [nan, 0.2, 0.05, 0.3, 0.5, 0.5, 0.1, 0.0]})])
    assert only("aitw", tmp_path)[1]["elements"] == []


def unused(kind: int, typed: str = "") -> dict[str, Any]:
    """An action without a gesture, whose places are published as -1."""
    places = {f"results/yx_{name}": [-1.0, -1.0] for name in ("touch", "lift")}
    return {"results/action_type": [kind], "results/type_action": typed, **places}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (unused(3, "tea time"), {"kind": "type", "text": "tea time"}),
        (unused(5), {"kind": "back"}),
        (unused(6), {"kind": "home"}),
        (unused(7), {"kind": "key", "text": "Enter"}),
        (unused(10), {"kind": "done"}),
        (unused(11), {"kind": "infeasible"}),
        ({"results/yx_lift": [0.12, 0.339]}, {"kind": "click", "point": [0.3, 0.12]}),
        ({"results/yx_lift": [0.12, 0.341]}, {"kind": "drag", "point": [0.3, 0.12], "to": [0.341, 0.12]}),
        ({"results/yx_lift": [0.9, 0.3]}, {"kind": "drag", "point": [0.3, 0.12], "to": [0.3, 0.9]}),
    ],
)
def test_aitw_actions(changes: dict[str, Any], kept: dict[str, Any], tmp_path: Path) -> None:
    write_aitw(tmp_path, [aitw_step(**changes)])
    assert loads(only("aitw", tmp_path)[1]["actions"]) == [kept]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (unused(8), "action type 8"),
        (unused(4), "point outside the screen"),
        ({"results/yx_lift": [1.2, 0.3]}, "point outside the screen"),
    ],
)
def test_aitw_actions_that_are_set_aside(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    write_aitw(tmp_path, [aitw_step(**changes)])
    assert reason("aitw", tmp_path) == why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image/encoded": picture(1)}, "pixels of 3 channels; expected raw pixels of 3 bytes each"),
        ({"image/channels": [4]}, "30 x 60 pixels of 4 channels; expected raw pixels"),
        ({"image/ui_annotations_positions": [0.1] * 7}, "'image/ui_annotations_positions' has 7 values; expected 8"),
        ({"image/ui_annotations_ui_types": "TEXT"}, "'image/ui_annotations_ui_types' has 1 values; expected 2"),
        ({"step_id": [1]}, "step_id is 1 of an episode_length of 1"),
        ({"episode_length": [10**12]}, "step_id is 0 of an episode_length of 1000000000000"),
        ({"results/yx_touch": [0.1]}, "'results/yx_touch' has 1 values; expected 2"),
    ],
)
def test_aitw_rows_that_are_bad(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = write_aitw(tmp_path, [aitw_step(**changes)])
    message = bad("aitw", tmp_path)
    assert message.startswith(f"{path}, record 1: ")
    assert why in message


def test_aitw_steps_know_their_episode(tmp_path: Path) -> None:
    """Of an episode with a damaged, an unknown and a missing step the others know what there is to know."""
    steps = [
        aitw_step(0, length=2, episode="before", **unused(5)),
        aitw_step(1, length=2, episode="before", **unused(10)),
        aitw_step(0, length=5, episode="broken", **unused(3, "a")),
        aitw_step(1, length=5, episode="broken", **unused(3, "b")),
        aitw_step(2, length=5, episode="broken", **unused(9)),
        aitw_step(3, length=5, episode="broken", **unused(6)),
        aitw_step(0, length=1, episode="after", **unused(11)),
    ]
    path = write_aitw(tmp_path, steps)
    content = bytearray(gzip.decompress(path.read_bytes()))
    place = content.index(b"open clock for broken", content.index(b"open clock for broken") + 1)
    content[place] ^= 1  # of the second step of three
    path.write_bytes(gzip.compress(bytes(content)))
    rows = rows_of("aitw", tmp_path)
    assert "record 4: its checksum is wrong" in bad("aitw", tmp_path, 3)

    def kinds(number: int) -> list[str | None]:
        return [action and action["kind"] for action in loads(rows.read(number).record["actions"])]

    assert kinds(0) == kinds(1) == ["back", "done"]
    assert kinds(2) == kinds(5) == ["type", None, None, "home", None]
    assert kinds(6) == ["infeasible"]
    assert kinds(0) == ["back", "done"]  # in any order


def test_aitw_sets_are_told_by_their_folder_or_their_name(tmp_path: Path) -> None:
    write_aitw(tmp_path, [aitw_step(episode="a")], set="install")
    path = write_aitw(tmp_path, [aitw_step(episode="b")], set="single")
    path.rename(tmp_path / "single-00000-of-00010")
    write_tfrecord(tmp_path / "general" / "x-00000-of-00001", [aitw_step(episode="c")], compressed=True)
    write_json_document(tmp_path / "splits" / "standard.json", {"train": ["a"], "validation": ["b"], "test": ["c"]})
    found = {(split, record["set"], record["episode_id"]) for split, record in records("aitw", tmp_path)}
    assert found == {("train", "install", "a"), ("validation", "single", "b"), ("test", "general", "c")}


def test_aitw_without_its_splits(tmp_path: Path) -> None:
    write_aitw(tmp_path)
    (tmp_path / "splits" / "standard.json").unlink()
    with pytest.raises(UserError, match=r"has episodes and no standard\.json"):
        rows_of("aitw", tmp_path)


# --- ScreenSpot ---------------------------------------------------------------------------------------------------


def test_screenspot(tmp_path: Path) -> None:
    """[8, 4, 16, 8] on 80 x 40 pixels is from a tenth to three tenths, across and down."""
    write_screenspot(tmp_path)
    split, record = only("screenspot", tmp_path)
    content = (tmp_path / "screenspot_imgs" / "mobile_0.png").read_bytes()
    assert split == "test"
    assert record.pop("id").startswith("mobile_0.png-")
    assert [record.pop(edge) for edge in ("left", "top", "right", "bottom")] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert record == {
        "instruction": "open settings 0",
        "platform": "mobile",
        "kind": "icon",
        "width": 80,
        "height": 40,
        "image": content,
    }


def test_screenspot_from_the_hub_is_the_same(tmp_path: Path) -> None:
    sources = {"android": "mobile", "ios": "mobile", "windows": "desktop", "macos": "desktop", "shop": "web"}
    rows = [screenspot_row(n, data_source=source) for n, source in enumerate(sources)]
    write_screenspot_parquet(tmp_path / "hub", rows)
    hub = [record for _, record in records("screenspot", tmp_path / "hub")]
    assert [record["platform"] for record in hub] == list(sources.values())
    for platform in ("mobile", "desktop", "web"):
        some = [row for row in rows if sources[row["data_source"]] == platform]
        pictures = {row["img_filename"]: picture(rows.index(row), format="PNG", size=(80, 40)) for row in some}
        write_screenspot(tmp_path / "own", some, platform=platform, pictures=pictures)
    own = {record["id"]: record for _, record in records("screenspot", tmp_path / "own")}
    for record in hub:
        assert own[record["id"]] == pytest.approx(record)


def test_screenspot_elements_of_one_screen_have_ids_of_their_own(tmp_path: Path) -> None:
    rows = [screenspot_row(), screenspot_row(instruction="other"), screenspot_row(bbox=[9, 4, 16, 8])]
    write_screenspot(tmp_path, rows)
    assert len({record["id"] for _, record in records("screenspot", tmp_path)}) == 3


@pytest.mark.parametrize("box", [[8, 4, 0, 8], [8, 4, 16, -1], [8, 4, 16], [8, 4, 16, "8"]])
def test_screenspot_boxes_that_are_none(box: list[Any], tmp_path: Path) -> None:
    path = write_screenspot(tmp_path, [screenspot_row(bbox=box)])
    assert f"{path}, row 1: the field 'bbox'" in bad("screenspot", tmp_path)


def test_screenspot_images_that_are_missing(tmp_path: Path) -> None:
    write_screenspot(tmp_path, pictures={"other.png": picture(0, format="PNG")})
    assert "its image mobile_0.png is not in" in bad("screenspot", tmp_path)
    write_screenspot(tmp_path / "none", pictures={})
    with pytest.raises(UserError, match="no images of screens"):
        rows_of("screenspot", tmp_path / "none")


# --- UIBert -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "split"), [("train", "train"), ("dev", "validation"), ("test", "test")])
def test_uibert(file: str, split: str, tmp_path: Path) -> None:
    write_uibert(tmp_path, split=file)
    found, record = only("uibert", tmp_path)
    assert found == split
    assert loads(record.pop("elements")) == [[0.1, 0.5, 0.4, 0.6], [0.1, 0.1, 0.4, 0.2], [0.5, 0.1, 0.9, 0.2]]
    assert loads(record.pop("nodes"))[:2] == [
        {"box": [0.1, 0.1, 0.41, 0.2], "text": "web search", "description": "", "kind": "TEXT_VIEW", "name": "item"},
        {"box": [0.1, 0.5, 0.4, 0.61], "text": "", "description": "play", "kind": "IMAGE_BUTTON", "name": ""},
    ]
    assert record == {"id": f"{split}-0", "screen": "61654", "expression": "click the play button 0", "meant": 0}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image/ref_exp/label": [3]}, "'image/ref_exp/label' is 3 of 3 elements"),
        ({"image/ref_exp/label": [-1]}, "'image/ref_exp/label' is -1 of 3 elements"),
        ({"image/object/bbox/ymax": [0.1]}, "'image/object/bbox/*' have 3, 3, 3, 1 values"),
        ({"image/view_hierarchy/text": ["a"]}, "'image/view_hierarchy/text' has 1 values; expected 3"),
        ({"image/object/bbox/xmin": [1, 2, 3]}, "'image/object/bbox/xmin' holds something else; expected numbers with"),
    ],
)
def test_uibert_rows_that_are_bad(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = write_uibert(tmp_path, [uibert_row(**changes)])
    assert f"{path}, record 1: " in bad("uibert", tmp_path)
    assert why in bad("uibert", tmp_path)


def test_uibert_files_beside_each_other(tmp_path: Path) -> None:
    write_uibert(tmp_path).rename(tmp_path / "ref_exp-dev.tfrecord")
    write_tfrecord(tmp_path / "other" / "test.tfrecord", [uibert_row()])  # in no folder ref_exp: somebody else's
    assert only("uibert", tmp_path)[0] == "validation"


@pytest.mark.skipif("PE_RLHF_REAL_DATA" not in os.environ, reason="PE_RLHF_REAL_DATA names no folder of real data")
def test_the_real_uibert_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole: read, prepared, and read again."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path))
    report = prepare(published("uibert"), str(Path(os.environ["PE_RLHF_REAL_DATA"]) / "uibert"), tmp_path)
    assert report["kept"] == {"validation": 509, "test": 616}
    assert (report["set_aside"], report["skipped"]) == ({}, [])
    found = [record for split in report["kept"] for record in prepared("uibert", split)]
    assert sum(len(record["elements"]) for record in found) == 21104
    assert found[0]["expression"] == "click on option below 50"
    assert json.loads(found[0]["elements"][found[0]["meant"]]) == [0.038889, 0.4625, 0.961111, 0.528125]
