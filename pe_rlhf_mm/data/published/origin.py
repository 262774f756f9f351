"""Where the rows of a data set come from: a folder of its published files, or a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published import huggingface
from pe_rlhf_mm.data.published.description import Part, Published
from pe_rlhf_mm.data.published.finding import Found, Say, find, unpacked
from pe_rlhf_mm.errors import UserError

HUB = "hf:"


@dataclass(frozen=True)
class Origin:
    """Rows yet to be read, from `place`; `parts(folder, say)` finds them, and may unpack into the folder.

    Whoever has the same `fingerprint` has the same rows.
    """

    place: str
    fingerprint: str
    parts: Callable[[Path, Say], Sequence[Part]]


def origin_of(published: Published, source: str) -> Origin:
    """What `--from` names: a folder, or hf:org/name[:configuration]. Raises UserError where it is not there."""
    if source.startswith(HUB):
        return _saved(published, source, huggingface.from_hub(source.removeprefix(HUB)))
    found = find(Path(source).absolute())
    if huggingface.is_saved(found.folder):
        return _saved(published, str(found.folder), huggingface.from_disk(found.folder))
    return Origin(str(found.folder), found.fingerprint(), partial(_parts, published, found))


def _saved(published: Published, place: str, splits: huggingface.Splits) -> Origin:
    return Origin(place, huggingface.fingerprint(splits), lambda folder, say: huggingface.parts(published, splits))


def _parts(published: Published, found: Found, folder: Path, say: Say) -> Sequence[Part]:
    files = unpacked(found, published.archives, folder, say)
    parts = published.parts(files) or huggingface.parquet_parts(published, found)
    if not parts:
        raise UserError(
            f"no file of {published.name} is in {found.folder} or in a folder below: looked for "
            f"{', '.join(published.files)}, and for *.parquet of the same columns. {published.where_to_get_it}"
        )
    return parts
