"""Android in the Wild: demonstrations on Android emulators, five sets of them, with what was read off the screens.

C. Rawles et al., https://arxiv.org/abs/2307.10088; the format is described in android_in_the_wild/README.md of
https://github.com/google-research/google-research. A record is a step, the steps of an episode stand one after the
other, and a screen is raw pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published.description import Part, Published, Record, SetAside, WrongRow
from pe_rlhf_mm.data.published.episode_splits import split_by_episode
from pe_rlhf_mm.data.published.features import byte_strings, floats, integer, text, texts
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.recorded_steps import DIGITS, FEATURES, PROMPT, UNKNOWN, action, element
from pe_rlhf_mm.data.published.shards import File, Shards
from pe_rlhf_mm.data.sources.source import BadRow, Row

SETS = ("google_apps", "install", "web_shopping", "general", "single")
FILES, SPLIT_FILE = tuple(f"{name}/*-of-*" for name in SETS), "standard.json"
TYPE, GESTURE = 3, 4
WITHOUT_ARGUMENTS = {
    5: action("back"),
    6: action("home"),
    7: action("key", text="Enter"),
    10: action("done"),
    11: action("infeasible"),
}
"""The published numbers of actions."""
TAP = 0.04
"""A finger that leaves the screen no further from where it touched it has tapped; a fraction of the screen."""
LONGEST = 10_000
"""Steps of an episode; a record that tells of more is damaged."""


class WithEpisode:
    """The steps of a file, each with the actions of its whole episode as `actions`."""

    def __init__(self, steps: File):
        self.steps = steps
        self._last: tuple[tuple[str, int], list[str]] = (("", -1), [])

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Row:
        row = self.steps[index]
        try:
            episode, step, length = _episode(row), *_place(row)
        except WrongRow:
            return row  # whoever reads it says what is wrong
        if self._last[0] != (episode, index - step):
            actions = [self._action(index - step + number, episode, number) for number in range(length)]
            self._last = (episode, index - step), actions
        return {**row, "actions": self._last[1]}

    def _action(self, index: int, episode: str, step: int) -> str:
        """What was done at a step of an episode, which stands there if it stands anywhere in the file."""
        try:
            if not 0 <= index < len(self):
                return UNKNOWN
            row = self.steps[index]
            return _action(row) if (_episode(row), _place(row)[0]) == (episode, step) else UNKNOWN
        except (BadRow, SetAside, WrongRow):
            return UNKNOWN

    def where(self, index: int) -> str:
        return self.steps.where(index)

    def close(self) -> None:
        """Lets go of the file."""
        self.steps.close()


def step(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A step: screen, goal, and what was done; `subset` is the one of the five sets that it is of."""
    number, length = _place(row)
    width, height = (integer(row, f"image/{side}") for side in ("width", "height"))
    actions = list(row.get("actions") or [UNKNOWN] * length)
    actions[number] = _action(row)
    return split, {
        "episode_id": _episode(row),
        "step": number,
        "goal": text(row, "goal_info"),
        "set": subset,
        "actions": actions,
        "elements": _elements(row),
        "width": width,
        "height": height,
        "image": _png(row, width, height),
    }


def _episode(row: Row) -> str:
    return text(row, "episode_id")


def _place(row: Row) -> tuple[int, int]:
    """The number of a step and how many its episode has. Raises WrongRow where that cannot be."""
    step, length = (integer(row, name) for name in ("step_id", "episode_length"))
    if not 0 <= step < length <= LONGEST:
        raise WrongRow(f"step_id is {step} of an episode_length of {length}; expected a smaller number from 0 on")
    return step, length


def _action(row: Row) -> str:
    """What was done. Raises SetAside for a type that is not published, and for a gesture that leaves the screen."""
    kind = integer(row, "results/action_type")
    if kind == TYPE:
        return action("type", text=text(row, "results/type_action"))
    if kind != GESTURE:
        if kind not in WITHOUT_ARGUMENTS:
            raise SetAside(f"action type {kind}")
        return WITHOUT_ARGUMENTS[kind]
    touch, lift = (_point(row, f"results/yx_{name}") for name in ("touch", "lift"))
    if math.dist(touch, lift) <= TAP:
        return action("click", point=touch)
    return action("drag", point=touch, to=lift)


def _point(row: Row, name: str) -> tuple[float, float]:
    """A point, published as (y, x); -1 where there is none, which no gesture should have."""
    y, x = floats(row, name, 2)
    return round(x, DIGITS), round(y, DIGITS)


def _elements(row: Row) -> list[str]:
    """What was read off the screen: icons and pieces of text, whose boxes are published as (y, x, height, width)."""
    said = texts(row, "image/ui_annotations_text")
    kinds = texts(row, "image/ui_annotations_ui_types", len(said))
    sides = floats(row, "image/ui_annotations_positions", 4 * len(said))
    elements = []
    for number, (words, kind) in enumerate(zip(said, kinds, strict=True)):
        y, x, height, width = sides[4 * number : 4 * number + 4]
        left, top, right, bottom = (round(side, DIGITS) for side in (x, y, x + width, y + height))
        elements.append(element((left, top, right, bottom), words, kind, acted_on=True))
    return list(dict.fromkeys(kept for kept in elements if kept is not None))


def _png(row: Row, width: int, height: int) -> bytes:
    """The screen as a PNG file of the same pixels."""
    from PIL import Image as Pillow

    from pe_rlhf_mm.data.images import encode_png

    (raw,), channels = byte_strings(row, "image/encoded", 1), integer(row, "image/channels")
    if channels != 3 or min(width, height) < 1 or len(raw) != width * height * channels:
        raise WrongRow(
            f"the feature 'image/encoded' has {len(raw)} bytes for {width} x {height} pixels of {channels} channels; "
            "expected raw pixels of 3 bytes each"
        )
    return encode_png(Pillow.frombytes("RGB", (width, height), raw))


def _row(row: Row, splits: Mapping[str, str], subset: str) -> tuple[str, Record]:
    episode = _episode(row)
    if episode not in splits:
        raise SetAside("episode in no split")
    return step(row, splits[episode], subset)


def _files(found: Found, name: str) -> list[Path]:
    """The files of one set: in the folder that is called so, or with names that begin so."""
    return [path for path in found.named("*-of-*") if path.parent.name == name or path.name.startswith(f"{name}-")]


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.tfrecord import TFRecord

    paths = {name: files for name in SETS if (files := _files(found, name))}
    splits = split_by_episode(found, SPLIT_FILE) if paths else {}
    return [
        Part(Shards([WithEpisode(TFRecord(path)) for path in files]), partial(_row, splits=splits, subset=name))
        for name, files in paths.items()
    ]


AITW = Published(
    name="aitw",
    title="Android in the Wild: demonstrations on Android emulators, step by step",
    licence="as its publisher states; see the repository before passing anything on",
    where_to_get_it=(
        f"Download any files of the folders {', '.join(SETS)}, and splits/{SPLIT_FILE}, from "
        "https://console.cloud.google.com/storage/browser/gresearch/android-in-the-wild."
    ),
    files=FILES,
    features={**FEATURES, "set": "text"},
    prompt=PROMPT,
    parts=_parts,
    row=step,
)
