"""Hugging Face data sets with the published columns: Parquet files, what `save_to_disk` wrote, or the hub.

Parquet is read without the package `datasets`; the others need it (the extra hf).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pe_rlhf_mm.data.published.description import Part, Published
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import BadRow, Row
from pe_rlhf_mm.errors import UserError

NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What splits are called in the names of files, and what they are called here."""
Splits = Mapping[str, Any]
"""A datasets.Dataset for each split."""


class Saved:
    """The rows of a datasets.Dataset, images as the bytes of their files."""

    def __init__(self, dataset: Any, split: str):
        from datasets import Image

        for name, feature in dataset.features.items():
            if isinstance(feature, Image):
                dataset = dataset.cast_column(name, Image(decode=False))
        self.dataset, self.split = dataset, split

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Row:
        try:
            row: Row = self.dataset[index]
        except (OSError, ValueError) as error:
            raise BadRow(f"{self.where(index)}: it cannot be read ({error}). Download the data set again.") from error
        return row

    def where(self, index: int) -> str:
        return f"split {self.split}, row {index + 1}"


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def from_disk(folder: Path) -> Splits:
    """What `save_to_disk` wrote; a single data set is a training split. Raises UserError where it cannot be read."""
    return _splits(_datasets().load_from_disk, str(folder))


def from_hub(name: str) -> Splits:
    """A data set of the hub, or of its cache here: org/name, or org/name:configuration.

    Raises UserError where it cannot be had.
    """
    place, _, configuration = name.partition(":")
    return _splits(partial(_datasets().load_dataset, name=configuration or None), place)


def fingerprint(splits: Splits) -> str:
    """What changes as soon as the rows do."""
    return hashlib.sha256(repr([(name, splits[name]._fingerprint) for name in sorted(splits)]).encode()).hexdigest()


def parts(published: Published, splits: Splits) -> list[Part]:
    """The rows of every split whose name is known. Raises UserError where there is none."""
    known = {name: NAMES[name] for name in splits if name in NAMES}
    if not known:
        raise UserError(f"the data set has the splits {', '.join(splits)}; expected one of {', '.join(NAMES)}.")
    return [Part(Saved(splits[name], name), partial(published.row, split=s, subset="")) for name, s in known.items()]


def parquet_parts(published: Published, found: Found) -> list[Part]:
    """The rows of all Parquet files, whose split stands in the name of the file or of a folder around it."""
    from pe_rlhf_mm.data.sources.parquet import Parquet

    return [
        Part(Parquet(path), partial(published.row, split=_split_of(path.relative_to(found.folder)), subset=""))
        for path in found.named("*.parquet")
    ]


def _split_of(path: Path) -> str:
    for name in reversed(path.parts):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in NAMES:
                return NAMES[word]
    raise UserError(f"{path} does not say its split; expected one of {', '.join(NAMES)} in its name.")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "a Hugging Face data set needs the package datasets, which is not installed: pip install 'pe-rlhf-mm[hf]'. "
            "A folder of its Parquet files needs no package."
        ) from error
    return datasets


def _splits(load: Any, what: str) -> Splits:
    try:
        loaded = load(what)
    except Exception as error:  # network, naming and format errors have no common class
        raise UserError(f"the data set {what} cannot be had: {type(error).__name__}: {error!s:.300}") from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}
