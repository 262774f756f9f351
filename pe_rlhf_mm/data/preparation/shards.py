"""Rows turned into records, a fixed number at a time: what is finished stays on disk and is not made again.

A shard is a folder that appears whole: for each split the records (`train.array_record`) and their digests
(`train.npy`), the images of all its rows (`images`), and the counts (`tally.json`).
"""

from __future__ import annotations

import bisect
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pe_rlhf_mm.data.preparation.duplicates import DIGESTS, digest
from pe_rlhf_mm.data.preparation.examples import encode
from pe_rlhf_mm.data.preparation.images import IMAGES, Kept, looked_at
from pe_rlhf_mm.data.preparation.tally import Tally
from pe_rlhf_mm.data.published.description import SPLITS, Kind, Part, Published, Record, SetAside, WrongRow
from pe_rlhf_mm.data.sources.source import BadRow
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, write_json

ROWS = 4096
"""Rows that a shard is made of, kept or not; with five questions a photograph it comes to some 130 MB."""
STRETCHES, STRETCH = 8, 32
"""The size of all is estimated from so many stretches of so many rows: rows of one image stand side by side."""
RECORD, FILE = 150, 1 << 17
"""Bytes that a record takes beyond its own, digests included, and that a file takes at most beyond its records."""
Tick = Callable[[int, int], None]
"""Told of rows done and rows in all."""


class Read(NamedTuple):
    """A row that was read: its split, its record as it is kept, that record as bytes, and the images that it shows."""

    split: str
    record: Record
    encoded: bytes
    images: tuple[Kept, ...]


class Rows:
    """The rows of all parts of a data set, one part after the other."""

    def __init__(self, published: Published, parts: Sequence[Part]):
        self.published, self.parts = published, parts
        self._starts = list(itertools.accumulate((len(part.source) for part in parts), initial=0))
        self.lacks = sorted({name for part in parts for name in part.lacks})
        self.features: Mapping[str, Kind] = {n: k for n, k in published.features.items() if n not in self.lacks}

    def __len__(self) -> int:
        return self._starts[-1]

    def _place(self, number: int) -> tuple[Part, int]:
        part = bisect.bisect_right(self._starts, number) - 1
        return self.parts[part], number - self._starts[part]

    def where(self, number: int) -> str:
        """File and line of a row."""
        part, index = self._place(number)
        return part.source.where(index)

    def read(self, number: int) -> Read:
        """A row. Raises SetAside, or BadRow that says file, line and reason."""
        part, index = self._place(number)
        try:
            split, record = part.convert(part.source[index])
            images = {name: looked_at(record[name]) for name, kind in self.features.items() if kind == "image"}
            record |= {name: image.path for name, image in images.items()}
            return Read(split, record, encode(record, self.features), tuple(images.values()))
        except WrongRow as error:
            raise BadRow(f"{part.source.where(index)}: {error}.") from error


def make_shards(rows: Rows, folder: Path, *, skip_bad: bool = False, tick: Tick | None = None) -> list[Path]:
    """Makes the shards that are not in the folder yet; returns all of them in order.

    Raises BadRow for the first row that is not as published, unless `skip_bad`; UserError if the disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stretches = {
        folder / f"{start // ROWS:06d}": range(start, min(start + ROWS, len(rows)))
        for start in range(0, len(rows), ROWS)
    }
    waiting = [shard for shard in stretches if not _finished(shard, skip_bad)]
    _require_room(rows, [stretches[shard] for shard in waiting], folder)
    done = len(rows) - sum(len(stretches[shard]) for shard in waiting)
    for shard in waiting:
        for read in _make(rows, stretches[shard], shard, skip_bad):
            if tick is not None:
                tick(done + read, len(rows))
        done += len(stretches[shard])
    return list(stretches)


def tally_of(shard: Path) -> Tally:
    """The counts of a finished shard."""
    return Tally.from_json(read_json(shard / "tally.json"))


def _finished(shard: Path, skip_bad: bool) -> bool:
    """Whether it needs not be made; one that skipped bad rows counts only where that is wanted."""
    return shard.is_dir() and (skip_bad or not tally_of(shard).skipped)


def _make(rows: Rows, numbers: range, shard: Path, skip_bad: bool) -> Iterator[int]:
    """Makes a shard, and says now and then how many rows are read."""
    partial = shard.with_name(f"{shard.name}.partial")
    for leftover in (partial, shard):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    with _Writers(partial) as writers:
        tally = Tally()
        for number in numbers:
            tally.read += 1
            try:
                row = rows.read(number)
            except SetAside as error:
                tally.put_aside(error.reason, [rows.where(number)])
            except BadRow as error:
                if not skip_bad:
                    raise
                tally.skipped.append(str(error))
            else:
                tally.keep(row.split)
                described = rows.published
                content, prompt = (digest(row.record, names) for names in (described.content, described.prompt))
                writers.write(row, (number, content, prompt))
            if tally.read % 64 == 0:
                yield tally.read
    write_json(partial / "tally.json", tally.to_json())
    os.replace(partial, shard)
    yield tally.read


class _Writers:
    """Records and digests of a shard, a file each for every split, and its images, each once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._digests: dict[str, list[tuple[int, bytes, bytes]]] = {}
        self._images: set[str] = set()

    def __enter__(self) -> _Writers:
        return self

    def write(self, row: Read, digests: tuple[int, bytes, bytes]) -> None:
        if row.split not in self._files:
            path = self._folder / f"{row.split}.array_record"
            self._files[row.split] = self._open.enter_context(array_record(path))
            self._digests[row.split] = []
        self._files[row.split](row.encoded)
        self._digests[row.split].append(digests)
        for image in row.images:
            if image.file not in self._images:
                (self._folder / IMAGES).mkdir(exist_ok=True)
                (self._folder / IMAGES / image.file).write_bytes(image.content)
                self._images.add(image.file)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._open.close()
        for split, digests in self._digests.items():
            np.save(self._folder / f"{split}.npy", np.array(digests, DIGESTS))


@contextmanager
def array_record(path: Path) -> Iterator[Callable[[bytes], Any]]:
    """A function that writes one record. Raises OSError where the disk has no room."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")  # any record is read without its neighbours
    try:
        try:
            yield writer.write
        finally:
            writer.close()
    except RuntimeError as error:
        if not writer.ok():
            raise OSError(str(error)) from error
        raise


def _require_room(rows: Rows, stretches: Sequence[range], folder: Path) -> None:
    """Refuses to begin what would not fit: stretches of rows, spread evenly, tell the size of all."""
    numbers = [number for stretch in stretches for number in stretch]
    starts = range(0, len(numbers), max(STRETCH, len(numbers) // STRETCHES))
    sample = [number for start in starts for number in numbers[start : start + STRETCH]]
    records, images = 0, dict[str, int]()
    for number in sample:
        with suppress(SetAside, BadRow):
            row = rows.read(number)
            records += len(row.encoded)
            images |= {image.file: image.room for image in row.images}
    each = (records + sum(images.values())) / max(len(sample), 1) + RECORD
    needed, free = each * len(numbers) + FILE * len(SPLITS) * len(stretches), shutil.disk_usage(folder).free
    if needed > free:
        showing = f" with {len(images):,} images" if images else ""
        raise UserError(
            f"{rows.published.name} needs about {_size(needed)} more (estimated from {len(sample)} of {len(numbers):,} "
            f"rows{showing}), and {_size(free)} are free. Make room, or give another folder with --out."
        )


def _size(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 2e8 else f"{number / 1e6:.1f} MB"
