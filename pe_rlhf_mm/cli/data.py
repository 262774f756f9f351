"""`pe-rlhf data`: published data sets prepared, listed and shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.cli.upsetting import length_of, notice
from pe_rlhf_mm.data.prepared import data_home, folder_of, preparation
from pe_rlhf_mm.data.published.catalogue import PLACES, published
from pe_rlhf_mm.data.published.description import REPORT
from pe_rlhf_mm.data.sources.source import BadRow
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import to_json

SHOWN_CHARACTERS, SHOWN_PLACES = 300, 5
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]


@dataclass(frozen=True)
class Prepare:
    """Prepares a published data set for training. Interrupted, the same command goes on where it was."""

    name: Name
    """One of those that `pe-rlhf data list` names."""
    source: Annotated[str, tyro.conf.arg(name="from", metavar="FOLDER")]
    """The folder with the published files, or Parquet files of the same columns; or hf:org/name[:config] (extra hf)."""
    out: Path | None = None
    """The folder of prepared data sets (default: $PE_RLHF_DATA, or ~/.cache/pe_rlhf_mm/data)."""
    skip_bad: bool = False
    """Leave rows out that cannot be read, and list them, instead of stopping at the first one."""
    overwrite: bool = False
    """Replace what was prepared from other files."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Show:
    """Shows a prepared data set: its counts, its fields, its licence and its first records."""

    name: Name
    """One of those that `pe-rlhf data list` names."""
    split: str | None = None
    """Whose records are shown (default: the first one there is)."""
    n: int = 3
    """How many records are shown."""
    reveal: bool = False
    """Print the texts of a data set that calls them upsetting."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Listing:
    """Lists the data sets that can be prepared, and those that are."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Imitate:
    """Writes an open stand-in in the format of a published data set, for want of the data set itself."""

    name: Name
    """One of the stand-ins."""
    out: Path
    """The folder to make."""
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None
    """The folder of the data that it is made from, where those do not come with a package."""


def prepare(arguments: Sequence[str]) -> None:
    """Prepares, with a progress bar, and says what is unpacked, and what was read, kept and set aside."""
    options = parse(Prepare, arguments, prog="pe-rlhf data prepare")
    described, home = published(options.name), options.out or data_home()
    from pe_rlhf_mm.data.preparation import building

    choices = {"skip_bad": options.skip_bad, "overwrite": options.overwrite}
    try:
        with _bar(options.name) as (tick, say):
            report = building.prepare(described, options.source, home, **choices, tick=tick, say=say)
    except BadRow as error:
        raise UserError(f"{error} With --skip-bad such rows are left out and listed.") from error
    folder = folder_of(options.name, home)
    print(to_json({"name": options.name, "folder": str(folder)} | report) if options.json else _counts(report, folder))


def _counts(report: Mapping[str, Any], folder: Path) -> str:
    """What was read, kept and set aside, line by line."""
    kept = report["kept"]
    lines = [f"read       {report['read']:>11,} rows", f"kept       {sum(kept.values()):>11,}"]
    lines += [f"  {split:<15} {rows:>6,}" for split, rows in kept.items()]
    for reason, group in sorted(report["set_aside"].items(), key=lambda item: -item[1]["rows"]):
        lines += _group(f"set aside  {group['rows']:>11,} {reason}", group["where"], group["rows"])
    if report["skipped"]:
        skipped = report["skipped"]
        headline = f"bad        {len(skipped):>11,} skipped; all are listed in {folder / REPORT}"
        lines += _group(headline, skipped, len(skipped))
    lines += [f"no {name}: the files have none" for name in report["lacks"]]
    return "\n".join([*lines, str(folder)])


def _group(headline: str, where: Sequence[str], rows: int) -> list[str]:
    shown = list(where[:SHOWN_PLACES])
    return [headline, *(f"    {place}" for place in shown), *["    ..."] * (rows > len(shown))]


def show(arguments: Sequence[str]) -> None:
    """Counts, fields, licence and first records of a prepared data set."""
    options = parse(Show, arguments, prog="pe-rlhf data show")
    described, report = published(options.name), preparation(options.name)
    split = options.split or next(iter(report["kept"]))
    hidden = () if options.reveal else described.upsetting
    values = {
        "name": described.name,
        "title": described.title,
        "licence": described.licence,
        "folder": str(folder_of(described.name)),
        "splits": report["kept"],
        "fields": dict(described.features),
        "split": split,
        "records": [{k: _shown(v, k in hidden) for k, v in record.items()} for record in _first(options, split)],
    }
    if options.json:
        print(to_json(values))
        return
    print("\n".join(f"{name:<10} {_line(values[name])}" for name in list(values)[:-1]))
    for record in values["records"]:
        print("\n" + "\n".join(f"  {name:<14} {_line(value)}" for name, value in record.items()))
    if hidden:
        print(f"\n{notice(described.warning)}")


def _first(options: Show, split: str) -> Iterator[Mapping[str, Any]]:
    from pe_rlhf_mm.data.prepared import prepared

    records = prepared(options.name, split)
    return (records[i] for i in range(min(options.n, len(records))))


def _shown(value: Any, hidden: bool) -> Any:
    """A field for people and for JSON: a text that is hidden as its length."""
    match value:
        case str() if hidden:
            return length_of(value)
        case list():
            return [_shown(item, hidden) for item in value]
        case _:
            return value


def _line(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {item:,}" if isinstance(item, int) else f"{name} ({item})" for name, item in value.items()
        )
    text = " | ".join(map(str, value)) if isinstance(value, list) else str(value)
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[: SHOWN_CHARACTERS - 3]}..."


def list_sets(arguments: Sequence[str]) -> None:
    """The data sets that can be prepared, and how many rows those have that are."""
    options = parse(Listing, arguments, prog="pe-rlhf data list")
    rows = [{"name": name, "title": published(name).title, "rows": _rows(name)} for name in PLACES]
    if options.json:
        print(to_json({"home": str(data_home()), "sets": rows}))
        return
    print(f"prepared in {data_home()}:\n")
    for row in rows:
        count = "not prepared" if row["rows"] is None else f"{row['rows']:,} rows"
        print(f"  {row['name']:<16} {count:>16}  {row['title']}")


def _rows(name: str) -> int | None:
    """How many rows are prepared, all splits together."""
    return sum(preparation(name)["kept"].values()) if folder_of(name).is_dir() else None


def stand_in(arguments: Sequence[str]) -> None:
    """Writes a stand-in, and says what it is."""
    options = parse(Imitate, arguments, prog="pe-rlhf data stand-in")
    from pe_rlhf_mm.data.standins import STAND_INS

    if options.name not in STAND_INS:
        raise UserError(f"there is no stand-in {options.name!r}. There are: {', '.join(STAND_INS)}.")
    chosen = STAND_INS[options.name]
    written = chosen.write(options.out, options.source)
    print(f"{chosen.title}: {', '.join(f'{number:,} {what}' for what, number in written.items())}")
    print(options.out)


@contextmanager
def _bar(name: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A bar with rate and time left; where nobody watches, a line every tenth of the way. And what prints a line."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(name),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} rows/s"),
    )
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=None, rate="")
        begun, first, said = time.monotonic(), -1, 0

        def tick(done: int, total: int) -> None:
            nonlocal first, said
            first = done if first < 0 else first
            rate = (done - first) / max(time.monotonic() - begun, 1e-6)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.0f}")
            if not console.is_terminal and (done * 10 // total > said):
                said = done * 10 // total
                say(f"{done:,}/{total:,}  {rate:,.0f} rows/s")

        def say(line: str) -> None:
            console.print(f"{name} {line}", highlight=False, markup=False, soft_wrap=True)

        yield tick, say
