"""Prepared data sets read back: any record by its number, in any process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.data.published.description import REPORT, VERSION, Record
from pe_rlhf_mm.data.sources.array_records import ArrayRecords
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json


class Unprepared(UserError):
    """A data set that has not been prepared yet."""


def data_home() -> Path:
    """Where prepared data sets are: $PE_RLHF_DATA, or else ~/.cache/pe_rlhf_mm/data."""
    return Path(os.environ.get("PE_RLHF_DATA") or "~/.cache/pe_rlhf_mm/data").expanduser()


def tfds_name(name: str) -> str:
    """The name that TFDS knows a data set by; it takes no hyphens."""
    return name.replace("-", "_")


def folder_of(name: str, home: Path | None = None) -> Path:
    """Where a data set is once it is prepared."""
    return (home or data_home()) / tfds_name(name) / VERSION


def preparation(name: str, home: Path | None = None) -> dict[str, Any]:
    """What was said about a preparation when it was made. Raises Unprepared, and UserError for an unknown name."""
    folder, set = folder_of(name, home), published(name)
    if not folder.is_dir():
        raise Unprepared(
            f"{name} is not prepared in {home or data_home()}. {set.where_to_get_it} Then: pe-rlhf data prepare {name} "
            "--from FOLDER. (Prepared data sets are looked for where PE_RLHF_DATA says.)"
        )
    return read_json(folder / REPORT)


class Records(ArrayRecords, Sequence[Record]):
    """The records of a split, in any order, some 40,000 texts a second."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return super().__getitem__(index)


def prepared(name: str, split: str) -> Sequence[Record]:
    """The records of a split; an image is an absolute path, the same one for all rows that show the same image.

    Raises Unprepared where the data set is not there, and UserError for a split it does not have.
    """
    from pe_rlhf_mm.data.preparation.examples import decode

    preparation(name)
    folder = folder_of(name).absolute()
    splits = {row["name"]: row["shardLengths"] for row in read_json(folder / "dataset_info.json").get("splits", [])}
    if split not in splits:
        raise UserError(f"{name} has no split {split!r} in {folder}; it has {', '.join(splits)}.")
    start, lengths = f"{tfds_name(name)}-{split}.array_record", splits[split]
    paths = [folder / f"{start}-{i:05d}-of-{len(lengths):05d}" for i in range(len(lengths))]
    return Records(paths, partial(decode, features=published(name).features, folder=str(folder)))
