"""What the rows of Android in the Wild mean, on tiny files in exactly the published format."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.errors import UserError
from tests.published_files import picture, write_json_document, write_tfrecord
from tests.published_rows import bad, loads, only, reason, records, rows_of
from tests.published_ui_files import (
    aitw_step,
    unused,
    write_aitw,
)


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
