"""Tiny synthetic recordings of screens in exactly the published formats, one writer a data set.

Accessibility forests are written by Google's own protocol buffers, so that whoever reads them here reads theirs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.published_files import Row, picture, write_json_document, write_parquet, write_tfrecord, written

# --- accessibility forests ----------------------------------------------------------------------------------------

RECT = ("left", "top", "right", "bottom")
NODE = {
    "unique_id": (1, "INT32"),
    "bounds_in_screen": (2, "Rect"),
    "class_name": (3, "STRING"),
    "content_description": (4, "STRING"),
    "hint_text": (5, "STRING"),
    "package_name": (6, "STRING"),
    "text": (7, "STRING"),
    "text_selection_start": (8, "INT64"),
    "view_id_resource_name": (10, "STRING"),
    "is_checkable": (12, "BOOL"),
    "is_clickable": (14, "BOOL"),
    "is_editable": (15, "BOOL"),
    "is_enabled": (16, "BOOL"),
    "is_long_clickable": (19, "BOOL"),
    "is_visible_to_user": (23, "BOOL"),
    "child_ids": (25, "INT32"),
    "depth": (27, "INT32"),
}
"""Some fields of android_accessibility_node_info.proto of the package android_env, by their numbers."""


@functools.cache
def _forest() -> Any:
    """The message AndroidAccessibilityForest, as far as it is told here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="forest.proto", package="fake", syntax="proto3")

    def message(name: str, fields: Mapping[str, tuple[int, str]], repeated: Sequence[str] = ()) -> None:
        made = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            added = made.field.add(name=label, number=number)
            added.label = field.LABEL_REPEATED if label in repeated else field.LABEL_OPTIONAL
            if kind.isupper():
                added.type = getattr(field, f"TYPE_{kind}")
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f".fake.{kind}"

    message("Rect", {name: (number, "INT32") for number, name in enumerate(RECT, start=1)})
    message("Node", NODE, repeated=("child_ids",))
    message("Tree", {"nodes": (1, "Node")}, repeated=("nodes",))
    message("Window", {"bounds_in_screen": (1, "Rect"), "title": (5, "STRING"), "tree": (11, "Tree")})
    message("Forest", {"windows": (1, "Window")}, repeated=("windows",))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fake.Forest"))


Box = tuple[int, int, int, int]


def node(box: Box, text: str = "", **fields: Any) -> dict[str, Any]:
    """A node that can be seen; everything else is false or empty, and thus not written."""
    return {"bounds_in_screen": box, "text": text, "is_visible_to_user": True} | fields


def forest(*windows: Iterable[dict[str, Any]]) -> bytes:
    """A forest of the nodes of each window."""
    made = _forest()()
    for nodes in windows:
        window = made.windows.add(title="Clock")
        for number, fields in enumerate(nodes):
            new = window.tree.nodes.add(unique_id=number, depth=number % 3, child_ids=[number + 1, 300])
            for name, value in fields.items():
                if name == "bounds_in_screen":
                    for side, place in zip(RECT, value, strict=True):
                        setattr(new.bounds_in_screen, side, place)
                else:
                    setattr(new, name, value)
    return made.SerializeToString()


# --- AndroidControl -----------------------------------------------------------------------------------------------

ACTIONS: tuple[Row, ...] = (
    {"action_type": "open_app", "app_name": "Clock"},
    {"action_type": "click", "x": 30, "y": 60},
    {"action_type": "input_text", "text": "Tea"},
    {"action_type": "scroll", "direction": "down"},
)


def clock(width: int, height: int) -> bytes:
    """A screen with a button that has a label in it, and a text field below; fields of zero are absent."""
    return forest(
        [
            node((0, 0, width, height), class_name="android.widget.FrameLayout"),
            node((20, 50, 40, 70), class_name="android.widget.Button", is_clickable=True),
            node((25, 55, 35, 65), "Add", class_name="android.widget.TextView"),
            node((0, 80, width, 95), hint_text="Name", class_name="android.widget.EditText", is_editable=True),
            node((20, 50, 40, 70), "behind", is_clickable=True, is_visible_to_user=False),
        ]
    )


def control_episode(number: int = 7, actions: Sequence[Row] = ACTIONS, **changes: Any) -> Row:
    """An episode: n actions, and n + 1 screens of which each is larger than the one before."""
    sizes = [(100 + 20 * step, 200) for step in range(len(actions) + 1)]
    return {
        "episode_id": [number],
        "goal": f"Set alarm {number}",
        "screenshots": [picture(number * 5 + step, format="PNG", size=size) for step, size in enumerate(sizes)],
        "accessibility_trees": [clock(*size) for size in sizes],
        "screenshot_widths": [width for width, _ in sizes],
        "screenshot_heights": [height for _, height in sizes],
        "actions": [json.dumps(action) for action in actions],
        "step_instructions": [f"Instruction {step}" for step in range(len(actions))],
    } | changes


def write_android_control(
    folder: Path,
    episodes: Sequence[Mapping[str, object]] | None = None,
    *,
    shard: int = 0,
    splits: Mapping[str, Sequence[int]] | None = None,
    subsplits: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """`android_control-00000-of-00020`, GZIP without a suffix; splits.json says train where nothing else is said."""
    episodes = [control_episode()] if episodes is None else episodes
    numbers = [episode["episode_id"][0] for episode in episodes]  # type: ignore[index]
    write_json_document(folder / "splits.json", splits or {"train": numbers, "validation": [], "test": []})
    write_json_document(folder / "test_subsplits.json", subsplits or {"IDD": [], "app_unseen": [1], "task_unseen": []})
    return write_tfrecord(folder / f"android_control-{shard:05d}-of-00020", episodes, compressed=True)


# --- Android in the Wild ------------------------------------------------------------------------------------------


def aitw_step(step: int = 0, *, length: int = 1, episode: str = "e1", **changes: Any) -> Row:
    """A tap on the word "Clock"; a screen of 30 x 60 raw pixels."""
    red = (step * 40) % 256
    return {
        "android_api_level": [33],
        "current_activity": "com.android.launcher",
        "device_type": "pixel_4",
        "episode_id": episode,
        "episode_length": [length],
        "goal_info": f"open clock for {episode}",
        "image/channels": [3],
        "image/height": [60],
        "image/width": [30],
        "image/encoded": bytes([red, 7, 9]) * 30 * 59 + bytes([1, 2, 3]) * 30,
        "image/ui_annotations_positions": [0.1, 0.2, 0.05, 0.3, 0.5, 0.5, 0.1, 0.7],
        "image/ui_annotations_text": ["Clock", ""],
        "image/ui_annotations_ui_types": ["TEXT", "ICON_PLUS"],
        "results/action_type": [4],
        "results/type_action": "",
        "results/yx_touch": [0.12, 0.3],
        "results/yx_lift": [0.12, 0.3],
        "step_id": [step],
    } | changes


def unused(kind: int, typed: str = "") -> dict[str, Any]:
    """An action without a gesture, whose places are published as -1."""
    places = {f"results/yx_{name}": [-1.0, -1.0] for name in ("touch", "lift")}
    return {"results/action_type": [kind], "results/type_action": typed, **places}


def write_aitw(
    folder: Path,
    steps: Sequence[Mapping[str, object]] | None = None,
    *,
    set: str = "general",
    shard: int = 0,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """`general/general-00000-of-00321`, GZIP without a suffix, and `splits/standard.json`: test if nothing is said."""
    steps = [aitw_step()] if steps is None else steps
    episodes = list(dict.fromkeys(str(step["episode_id"]) for step in steps))
    document = splits or {"train": [], "validation": [], "test": episodes}
    write_json_document(folder / "splits" / "standard.json", document)
    return write_tfrecord(folder / set / f"{set}-{shard:05d}-of-00321", steps, compressed=True)


# --- ScreenSpot ---------------------------------------------------------------------------------------------------


def screenspot_row(number: int = 0, **changes: Any) -> Row:
    """A box of pixels as x, y, width, height, on a picture of 80 x 40."""
    return {
        "img_filename": f"mobile_{number}.png",
        "bbox": [8, 4, 16, 8],
        "instruction": f"open settings {number}",
        "data_type": "icon",
        "data_source": "android",
    } | changes


def write_screenspot(
    folder: Path,
    rows: Sequence[Row] | None = None,
    *,
    platform: str = "mobile",
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """`screenspot_mobile.json` and `screenspot_imgs/*.png`."""
    rows = [screenspot_row()] if rows is None else rows
    names = dict.fromkeys(row["img_filename"] for row in rows)
    made = {name: picture(number, format="PNG", size=(80, 40)) for number, name in enumerate(names)}
    for name, content in (made if pictures is None else pictures).items():
        written(folder / "screenspot_imgs" / name, content)
    return write_json_document(folder / f"screenspot_{platform}.json", rows)


def write_screenspot_parquet(folder: Path, rows: Sequence[Row], *, name: str = "test-00000-of-00001") -> Path:
    """As on the Hugging Face hub: the image inside, and the box as edges in fractions."""
    made = []
    for number, row in enumerate(rows):
        x, y, width, height = row["bbox"]
        content = picture(number, format="PNG", size=(80, 40))
        made.append(
            {
                "file_name": row["img_filename"],
                "bbox": [x / 80, y / 40, (x + width) / 80, (y + height) / 40],
                **{field: row[field] for field in ("instruction", "data_type", "data_source")},
                "image": {"bytes": content, "path": row["img_filename"]},
            }
        )
    return write_parquet(folder / "data" / f"{name}.parquet", made)


# --- UIBert -------------------------------------------------------------------------------------------------------

EDGES = ("xmin", "ymin", "xmax", "ymax")
ELEMENTS = ((0.1, 0.5, 0.4, 0.6), (0.1, 0.1, 0.4, 0.2), (0.5, 0.1, 0.9, 0.2))
NODES = (
    ((0.1, 0.1, 0.41, 0.2), "web search", "", "TEXT_VIEW", "item"),
    ((0.1, 0.5, 0.4, 0.61), "", "play", "IMAGE_BUTTON", ""),
    ((0.0, 0.0, 1.0, 1.0), "all", "", "VIEW", "background"),
)


def uibert_row(number: int = 0, **changes: Any) -> Row:
    """Three elements, of which the first is meant, and three nodes of the view hierarchy."""
    boxes, words = [box for box, *_ in NODES], list(zip(*(said for _, *said in NODES), strict=True))
    names = ("text", "description", "class/name", "id/name")
    return {
        "image/id": str(61654 + number),
        "image/ref_exp/text": f"click the play button {number}",
        "image/ref_exp/label": [0],
        "image/object/num": [float(len(ELEMENTS))],
        **{f"image/object/bbox/{edge}": [box[i] for box in ELEMENTS] for i, edge in enumerate(EDGES)},
        **{f"image/view_hierarchy/bbox/{edge}": [box[i] for box in boxes] for i, edge in enumerate(EDGES)},
        **{f"image/view_hierarchy/{name}": list(said) for name, said in zip(names, words, strict=True)},
        "image/view_hierarchy/class/label": [1, 4, 0],
    } | changes


def write_uibert(folder: Path, rows: Sequence[Mapping[str, object]] | None = None, *, split: str = "dev") -> Path:
    """`ref_exp/{train,dev,test}.tfrecord`, plain."""
    return write_tfrecord(folder / "ref_exp" / f"{split}.tfrecord", [uibert_row()] if rows is None else rows)
