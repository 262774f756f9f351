"""The runs of a sweep: one for every combination of the values that options are given, and for every seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.reports.sweep import SEED

MEANS = {"rank": ("lora.rank", "lora.reward-rank")}
"""Options of a sweep that stand for several of a tuning."""


class Point(NamedTuple):
    """One run: what it is called, the options that tell it from the others, and all that it is given, by option."""

    name: str
    axes: list[str]
    given: dict[str, list[str]]

    @property
    def options(self) -> list[str]:
        """As `pe-rlhf tune` takes them."""
        named = [(one, words) for name, words in self.given.items() for one in MEANS.get(name, (name,))]
        return [word for name, words in named for word in (f"--{name}", *words)]


def read_options(words: Sequence[str]) -> dict[str, list[str]]:
    """`--name a b` and `--name=a` by name, without dashes. Raises UserError for anything else, or a name twice."""
    found: dict[str, list[str]] = {}
    for word in words:
        if not word.startswith("--"):
            if not found:
                raise UserError(f"{word!r} stands before any option; a sweep is: TASK --OPTION VALUE,VALUE ...")
            found[next(reversed(found))].append(word)
            continue
        name, given, value = word[2:].partition("=")
        name = name.replace("_", "-")
        if name in found:
            raise UserError(f"--{name} is given twice; give its values once, with commas between them.")
        found[name] = [value] if given else []
    return found


def points(options: Mapping[str, Sequence[str]], seeds: int) -> list[Point]:
    """All combinations of the values that stand with commas between them, each with the seeds 0 to `seeds` - 1.

    What says something of adapters makes no difference to mode `full`, which is run without it, and once. An option
    behind a swept value and a colon, `full:sft.learning-rate`, is for the runs with that value, and goes before the
    same option without. Raises UserError for no seeds, an empty value, one that is not swept before a colon, and two
    runs that would have one name.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; a sweep needs 1 at least.")
    axes = {
        name: _values(name, words[0])
        for name, words in options.items()
        if len(words) == 1 and "," in words[0] and ":" not in name
    }
    if SEED in options:
        raise UserError("--seed is for one run; a sweep takes --seeds N, and runs the seeds 0 to N - 1.")
    _refuse_values_of_nothing(options, axes)
    axes[SEED] = [str(seed) for seed in range(seeds)]
    found: dict[str, Point] = {}
    for values in itertools.product(*axes.values()):
        point = _point(options, dict(zip(axes, values, strict=True)))
        known = found.setdefault(point.name, point)
        if known.given != point.given:
            raise UserError(f"two runs would be called {point.name}; name one of their values otherwise.")
    return [*found.values()]


def _values(name: str, word: str) -> list[str]:
    values = word.split(",")
    if "" in values or len(set(values)) < len(values):
        raise UserError(f"--{name} is {word!r}: between commas there must be a value, and each of them once.")
    return values


def _refuse_values_of_nothing(options: Mapping[str, Sequence[str]], axes: Mapping[str, Sequence[str]]) -> None:
    swept = [value for values in axes.values() for value in values]
    for name in options:
        value, colon, own = name.rpartition(":")
        if colon and (value not in swept or own in axes):
            raise UserError(
                f"--{name} is for the runs with a value that is swept, and sets an option that is not; swept are "
                f"{', '.join(swept) or 'none'}."
            )


def _point(options: Mapping[str, Sequence[str]], chosen: dict[str, str]) -> Point:
    given = {name: list(words) for name, words in options.items() if ":" not in name}
    given |= {name: [value] for name, value in chosen.items()}
    for name, words in options.items():
        value, colon, own = name.rpartition(":")
        if colon and value in chosen.values():
            given[own] = list(words)
    if given.get("mode") == ["full"]:
        given = {name: words for name, words in given.items() if not _of_adapters(name)}
    axes = [name for name in chosen if name in given]
    return Point("_".join(f"{name}-{_short(chosen[name])}" for name in axes), axes, given)


def _of_adapters(name: str) -> bool:
    return name in MEANS or name.startswith("lora.")


def _short(value: str) -> str:
    """What stands for a value in the name of a folder: of a path its last part."""
    return re.sub(r"[^\w.+-]", "-", value.rstrip("/").rpartition("/")[2])
