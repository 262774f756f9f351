"""Two logs of one task, sample by sample: what is left of a difference once both have met the same problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import Bounds, Interval, clustered_mean, of_differences, or_dash
from pe_rlhf_mm.evaluation.log import read_log, read_scores
from pe_rlhf_mm.json_files import read_json


@dataclass(frozen=True)
class Difference:
    """What one evaluator says of B against A, over the `n` samples that both have a score of: the mean over its tries.

    `difference` is the mean of B - A, and `interval` its 95 % interval, clustered as the samples are; `better`, `same`
    and `worse` count samples by its sign. `unpaired`: samples that only one of them has a score of.
    """

    evaluator: str
    n: int
    a: float
    b: float
    difference: float
    interval: Interval
    better: int
    same: int
    worse: int
    unpaired: int


def compare(a: Path, b: Path, *, seed: int = 0) -> list[Difference]:
    """Every evaluator that both logs have.

    Raises UserError where they are of different tasks or splits, or have no evaluator or no sample in common.
    """
    one, other = read_log(a), read_log(b)
    for name in ("task", "split"):
        if one.get(name) != other.get(name):
            raise UserError(f"{a} and {b} cannot be compared: the {name} is {one.get(name)!r} and {other.get(name)!r}.")
    lines = read_scores(a), read_scores(b)
    both = [id for id in lines[0] if id in lines[1]]
    if not both:
        raise UserError(f"{a} and {b} have no sample in common.")
    named: list[str] = [name for name in lines[0][both[0]][0]["scores"] if name in lines[1][both[0]][0]["scores"]]
    if not named:
        raise UserError(f"{a} and {b} have no evaluator in common. `pe-rlhf eval score` scores a log once more.")
    return [_difference(name, *lines, _bounds(a, name), seed=seed) for name in named]


def _bounds(log: Path, name: str) -> Bounds:
    """What an evaluator's values lie between, as the results of a log have it."""
    metrics = read_json(log / "results.json").get("metrics", []) if (log / "results.json").is_file() else []
    found = next((metric.get("bounds") for metric in metrics if metric.get("evaluator") == name), None)
    return None if found is None else (found[0], found[1])


def _difference(
    name: str, a: Mapping[str, Sequence[Any]], b: Mapping[str, Sequence[Any]], bounds: Bounds, *, seed: int
) -> Difference:
    one, other = (
        {id: _mean(known) for id, tries in lines.items() if (known := _values(tries, name))} for lines in (a, b)
    )
    ids = [id for id in one if id in other]
    changes = [other[id] - one[id] for id in ids]
    clusters = [a[id][0]["cluster"] or id for id in ids]
    mean, interval = clustered_mean(changes, clusters, bounds=of_differences(bounds), seed=seed)
    worse, better = sum(change < 0 for change in changes), sum(change > 0 for change in changes)
    return Difference(
        name,
        len(ids),
        _mean([one[id] for id in ids]),
        _mean([other[id] for id in ids]),
        mean,
        interval,
        better,
        len(ids) - better - worse,
        worse,
        len(one.keys() ^ other.keys()),
    )


def _values(tries: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Of the tries that have one."""
    found = [line["scores"].get(name, {}).get("value") for line in tries]
    return [value for value in found if value is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def table(differences: Sequence[Difference]) -> str:
    """As text."""
    head = f"{'evaluator':<24} {'n':>7} {'A':>7} {'B':>7} {'B - A':>7}   95 % interval        better / same / worse"
    lines, title = [head], registry.title
    for d in differences:
        numbers = " ".join(f"{or_dash(x, form):>7}" for x, form in ((d.a, ".3f"), (d.b, ".3f"), (d.difference, "+.3f")))
        counts = f"{d.better} / {d.same} / {d.worse}"
        left = f"   ({d.unpaired} samples have a score in one of them only)" if d.unpaired else ""
        lines.append(f"{title(d.evaluator):<24} {d.n:>7} {numbers}   {d.interval.text('+.3f'):<20} {counts}{left}")
    return "\n".join(lines)
