"""AndroidControl: 15,283 demonstrations on Android devices, with instructions for the whole and for each step.

W. Li et al., https://arxiv.org/abs/2406.03679; the format is described in android_control/README.md of
https://github.com/google-research/google-research. A published record is an episode: n actions, n instructions, and
n + 1 screens, of which the last is what the last action led to. A prepared one is a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

from pe_rlhf_mm.data.published.accessibility import visible_nodes
from pe_rlhf_mm.data.published.description import Part, Published, Record, SetAside, WrongRow, take
from pe_rlhf_mm.data.published.episode_splits import episodes_by_group, split_by_episode
from pe_rlhf_mm.data.published.features import byte_strings, integer, integers, text, texts
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.recorded_steps import FEATURES, PROMPT, UNKNOWN, action, element, fraction
from pe_rlhf_mm.data.published.shards import File, Shards
from pe_rlhf_mm.data.sources.json_row import as_row, parse_json
from pe_rlhf_mm.data.sources.source import BadRow, Row

FILES, SPLIT_FILE, SUBSPLIT_FILE = "android_control-*-of-*", "splits.json", "test_subsplits.json"
WITHOUT_ARGUMENTS = {"navigate_back": "back", "navigate_home": "home", "wait": "wait"}
DIRECTIONS = ("up", "down", "left", "right")
Size = tuple[int, int]


class Steps:
    """A row for each step of the episodes in a file: what the episode holds, and the number of the step as `step`.

    An episode that cannot be read is one row, and so is one without actions, of which there are nine.
    """

    def __init__(self, episodes: File):
        self.episodes = episodes
        self._last: tuple[int, Row] = (-1, {})

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        return [(number, step) for number in range(len(self.episodes)) for step in range(self._steps(number))]

    def _steps(self, number: int) -> int:
        try:
            return max(1, len(self.episodes[number].get("actions", [])))
        except BadRow:
            return 1

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Row:
        number, step = self._places[index]
        if self._last[0] != number:  # tens of megabytes, which all of its steps need
            self._last = number, self.episodes[number]
        return {**self._last[1], "step": step}

    def where(self, index: int) -> str:
        """Names a row: `android_control-00000-of-00020, record 17, step 3`."""
        number, step = self._places[index]
        return f"{self.episodes.where(number)}, step {step + 1}"

    def close(self) -> None:
        """Lets go of the file; what was counted stays."""
        self._last = (-1, {})
        self.episodes.close()


def step(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A step: screen, goal, instruction, and what was done; `subset` names the parts of the test split it is in."""
    if not (done := texts(row, "actions")):
        raise SetAside("episode without actions")
    number, screens = take(row, "step", int), len(done) + 1
    pictures, trees = (byte_strings(row, name, screens) for name in ("screenshots", "accessibility_trees"))
    widths, heights = (integers(row, f"screenshot_{side}", screens) for side in ("widths", "heights"))
    if min(*widths, *heights) < 1:
        raise WrongRow("a screenshot has no width or no height")
    sizes = list(zip(widths, heights, strict=True))
    actions = [_known(said, size) for said, size in zip(done, sizes, strict=False)]
    actions[number] = _action(done[number], sizes[number])
    return split, {
        "episode_id": _episode(row),
        "step": number,
        "goal": text(row, "goal"),
        "instruction": texts(row, "step_instructions", len(done))[number],
        "subsplits": subset,
        "actions": actions,
        "elements": _elements(trees[number], sizes[number]),
        "width": widths[number],
        "height": heights[number],
        "image": pictures[number],
    }


def _action(said: str, size: Size) -> str:
    """An action of the published JSON. Raises SetAside for one that no UIAction can say, WrongRow for one that is none.

    The published list also has `type`, which is a click, typing and enter in one.
    """
    try:
        fields = as_row(parse_json(said.encode()))
    except ValueError as error:
        raise WrongRow(f"an action is not as published: {error}") from error
    match take(fields, "action_type", str):
        case "click" | "long_press" as kind:
            x, y = (fraction(take(fields, name, float), side) for name, side in zip("xy", size, strict=True))
            return action(kind, point=(x, y))
        case "scroll":
            direction = take(fields, "direction", str)
            if direction not in DIRECTIONS:
                raise WrongRow(f"a scroll goes {direction!r}; expected one of {', '.join(DIRECTIONS)}")
            return action("scroll", direction=direction)
        case "input_text":
            return action("type", text=take(fields, "text", str))
        case "open_app":
            return action("open_app", text=take(fields, "app_name", str))
        case kind if kind in WITHOUT_ARGUMENTS:
            return action(WITHOUT_ARGUMENTS[kind])
        case kind:
            raise SetAside(f"action {kind:.40}")


def _known(said: str, size: Size) -> str:
    """An action of another step, of which nothing depends on it that it can be told."""
    try:
        return _action(said, size)
    except (SetAside, WrongRow):
        return UNKNOWN


def _elements(tree: bytes, size: Size) -> list[str]:
    """The visible nodes of a screen, in their order; one that stands there twice, once."""
    elements = []
    for node in visible_nodes(tree):
        left, top, right, bottom = (fraction(side, size[i % 2]) for i, side in enumerate(node.box))
        elements.append(element((left, top, right, bottom), node.text, node.kind, node.acted_on))
    return list(dict.fromkeys(kept for kept in elements if kept is not None))


def _episode(row: Row) -> str:
    return str(integer(row, "episode_id"))


def _row(row: Row, splits: Mapping[str, str], subsplits: Mapping[str, str]) -> tuple[str, Record]:
    episode = _episode(row)
    if episode not in splits:
        raise SetAside("episode in no split")
    return step(row, splits[episode], subsplits.get(episode, ""))


def _subsplits(found: Found) -> dict[str, str]:
    """The parts of the test split that each episode is in, by name, with commas: they overlap."""
    groups: dict[str, list[str]] = {}
    for path in found.named(SUBSPLIT_FILE):
        for name, episodes in episodes_by_group(path).items():
            for episode in episodes:
                groups.setdefault(episode, []).append(name)
    return {episode: ", ".join(sorted(set(names))) for episode, names in groups.items()}


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.tfrecord import TFRecord

    paths = found.named(FILES)
    if not paths:
        return []
    subsplits = _subsplits(found)
    convert = partial(_row, splits=split_by_episode(found, SPLIT_FILE), subsplits=subsplits)
    steps = Shards([Steps(TFRecord(path)) for path in paths])
    return [Part(steps, convert, lacks=() if subsplits else ("subsplits",))]


ANDROID_CONTROL = Published(
    name="android-control",
    title="AndroidControl: demonstrations on Android devices, step by step",
    licence="Apache 2.0",
    where_to_get_it=(
        f"Download android_control-000NN-of-00020 (any of the 20), {SPLIT_FILE} and {SUBSPLIT_FILE} from "
        "https://console.cloud.google.com/storage/browser/gresearch/android_control."
    ),
    files=(FILES,),
    features={**FEATURES, "instruction": "text", "subsplits": "text"},
    prompt=PROMPT,
    parts=_parts,
    row=step,
)
