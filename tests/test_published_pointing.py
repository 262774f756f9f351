"""What the rows of ScreenSpot and of UIBert's expressions mean, on tiny files in exactly the published format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.errors import UserError
from tests.published_files import picture, write_tfrecord
from tests.published_rows import bad, loads, only, records, rows_of
from tests.published_ui_files import (
    screenspot_row,
    uibert_row,
    write_screenspot,
    write_screenspot_parquet,
    write_uibert,
)

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
