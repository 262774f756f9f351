"""What tokenizing made, kept on disk by content: the next run encodes nothing, and a killed one goes on.

Examples are taken in blocks. A block's file is named by a hash of what is in the block and of what encoded it, so it
is never out of date; it appears whole or not at all, and a damaged one is made again. Files are mapped into memory:
processes share what they read of them, and one that another process removes stays readable.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import os
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image as Pillow
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.models.config import with_attention
from pe_rlhf_mm.types import Image

LIMIT = 20 * 2**30
"""Bytes that the folder may hold."""
ABANDONED = 86_400
"""Seconds after which a file that is not whole belongs to a process that was killed."""


class Ragged(NamedTuple):
    """Rows of different lengths, one after another: row i is values[offsets[i] : offsets[i + 1]]."""

    values: np.ndarray
    offsets: Int[np.ndarray, " n+1"]


Columns = Mapping[str, Ragged | np.ndarray]
"""What a block of examples is encoded into: by name, a row for each example."""
Block = Mapping[str, Any]
"""Columns taken apart into arrays, in memory or mapped: `name.values` and `name.offsets`, or `name`."""


def ragged(rows: Sequence[Any], dtype: Any = np.int32) -> Ragged:
    """Rows of different lengths as one array."""
    parts = [np.asarray(row, dtype) for row in rows]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return Ragged(np.concatenate(parts) if parts else np.zeros(0, dtype), offsets)


def cache_folder(of: str = "encoded") -> Path:
    """$PE_RLHF_CACHE, or else ~/.cache/pe_rlhf_mm, and in it the folder of what is kept."""
    return Path(os.environ.get("PE_RLHF_CACHE") or Path.home() / ".cache" / "pe_rlhf_mm") / of


def processor_fingerprint(processor: Processor) -> str:
    """A hash of all that decides what a processor makes of a text: tokenizer, template, model, versions."""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    versions = [importlib.metadata.version(name) for name in ("pe-rlhf-mm", "tokenizers", "transformers", "pillow")]
    config = replace(with_attention(processor.config, "auto"), name="")  # neither says anything of texts
    settings = (tokenizer.chat_template, tokenizer.special_tokens_map, config, versions)
    return hashlib.sha256(repr((content, settings)).encode()).hexdigest()


def encode_once(
    examples: Iterable[Any],
    encode_block: Callable[[list[Any]], Columns],
    *,
    key: str,
    folder: Path | None = None,
    block: int = 1024,
    limit: int = LIMIT,
) -> Table:
    """Encodes examples a block at a time, those blocks only that are not in `folder` (None: `cache_folder()`).

    `key` stands for all that `encode_block` depends on besides the examples, such as `processor_fingerprint` and its
    own settings. Examples are text, numbers, pictures, and what is built of them; a picture counts by its content.
    Where the folder cannot be written, a warning says so once, and what is encoded stays in memory. Above `limit` bytes
    the blocks that were not used for longest go, but for those of this table. Raises TypeError for an example that
    holds something else.
    """
    folder, stream = folder or cache_folder(), iter(examples)
    known: list[Block] = []
    count, paths, full = 0, set[Path](), False
    while group := list(itertools.islice(stream, block)):
        count += len(group)
        path = folder / f"{digest(key, group)}.safetensors"
        paths.add(path)
        found = _opened(path)
        if found is None:
            arrays = _arrays(encode_block(group), len(group))
            full = full or not _written(path, arrays)
            found = None if full else _opened(path)
        known.append(arrays if found is None else found)
    _trim(folder, limit, paths)
    return Table(known, block, count)


class RememberingProcessor(Processor):
    """A processor that keeps what it tokenizes on disk: of the same texts, the next run tokenizes none.

    Fewer than `few` texts at once are not worth a file.
    """

    def __init__(self, processor: Processor, *, folder: Path | None = None, few: int = 1024):
        super().__init__(processor.tokenizer, processor.config)
        self._folder, self._few = folder, few

    def tokenize(self, texts: Sequence[str]) -> Sequence[list[int]]:
        """The ids of rendered texts, out of the cache where they are in it."""
        if len(texts) < self._few:
            return super().tokenize(texts)
        tokenized = super().tokenize
        key = processor_fingerprint(self)
        table = encode_once(texts, lambda block: {"ids": ragged(tokenized(block))}, key=key, folder=self._folder)
        return [ids.tolist() for ids in table.column("ids")]


class Table:
    """Encoded examples by column and number. Copies of it in other processes map the same files."""

    def __init__(self, blocks: Sequence[Block], block: int, count: int):
        self._blocks, self._block, self._count = blocks, block, count

    def __len__(self) -> int:
        return self._count

    def column(self, name: str) -> Column:
        """One column. Raises KeyError if there is none of that name."""
        return Column([_parts(block, name) for block in self._blocks], self._block, self._count)


class Column(Sequence):
    """The rows of one column, by number."""

    def __init__(self, parts: Sequence[tuple[Any, Int[np.ndarray, " n+1"] | None]], block: int, count: int):
        self._parts, self._block, self._count = parts, block, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < self._count:
            raise IndexError(f"row {i} of {self._count}")
        number, row = divmod(i, self._block)
        values, offsets = self._parts[number]
        if offsets is None:
            return values[row : row + 1][0]
        return values[int(offsets[row]) : int(offsets[row + 1])]

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """The length of every row of a ragged column, without reading one."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(o) for _, o in self._parts if o is not None)])


def _parts(block: Block, name: str) -> tuple[Any, Int[np.ndarray, " n+1"] | None]:
    if name in block:
        return block[name], None
    return block[f"{name}.values"], np.asarray(block[f"{name}.offsets"][:])


# --- files ------------------------------------------------------------------------------------------------------


class _Mapped(Mapping):
    """The arrays of a file, read where and when they are indexed. No file stays open; a copy maps it anew."""

    def __init__(self, path: Path):
        self._path, self._file = path, safe_open(path, "numpy")
        self._slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118  no dictionary

    def __getitem__(self, name: str) -> Any:
        return self._slices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)

    def __reduce__(self) -> Any:
        return _Mapped, (self._path,)

    @property
    def whole(self) -> bool:
        """Whether it holds what was written."""
        return self._file.metadata() == _checksum({name: self._file.get_tensor(name) for name in self})


def _checksum(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: str(zlib.crc32(np.ascontiguousarray(array).data)) for name, array in arrays.items()}


def _opened(path: Path) -> _Mapped | None:
    """A block that is there and whole, marked as used."""
    try:
        found = _Mapped(path)
        if not found.whole:
            return None
        os.utime(path)
    except (OSError, SafetensorError):
        return None
    return found


def _written(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    """Writes a block, whole or not at all; warns and returns False where there is no room or no permission."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(save(dict(arrays), metadata=_checksum(arrays)))
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"{path.parent} cannot be written ({error.strerror or error}): what is encoded is not kept for the next "
            "run. Make room, or set PE_RLHF_CACHE to another folder.",
            stacklevel=3,
        )
        return False
    return True


def _arrays(columns: Columns, rows: int) -> dict[str, np.ndarray]:
    """Columns taken apart. Trap: safetensors refuses an empty slice at the end of an array: hence a spare row."""
    arrays: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            found, spare = len(column.offsets) - 1, np.zeros_like(column.values, shape=(1, *column.values.shape[1:]))
            arrays |= {f"{name}.values": np.concatenate([column.values, spare]), f"{name}.offsets": column.offsets}
        else:
            found, arrays[name] = len(column), np.ascontiguousarray(column)
        if found != rows:
            raise ValueError(f"the column {name!r} has {found} rows for {rows} examples")
    return arrays


def _trim(folder: Path, limit: int, keep: set[Path]) -> None:
    """Removes what killed processes left, and the blocks used longest ago, until `limit` bytes are left."""
    try:
        found = sorted((entry.stat().st_mtime, entry.stat().st_size, Path(entry.path)) for entry in os.scandir(folder))
        total = sum(size for _, size, _ in found)
        for used, size, path in found:
            if path.suffix == ".partial" and used < time.time() - ABANDONED:
                path.unlink(missing_ok=True)
            elif path.suffix == ".safetensors" and total > limit and path not in keep:
                path.unlink(missing_ok=True)
                total -= size
    except OSError:  # another process tidies up too, or the folder could not be made
        return


# --- what a block is known by -----------------------------------------------------------------------------------


def digest(key: str, examples: list[Any]) -> str:
    """A hash of a key and of the content of examples, their pictures included."""
    seen = hashlib.sha256()
    _feed(seen.update, (key, examples))
    return seen.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """Writes a value so that different values are written differently: a kind, a length, and the content."""
    match value:
        case str():
            content = value.encode("utf-8", "surrogatepass")
            update(b"s%d:" % len(content) + content)
        case bytes():
            update(b"b%d:" % len(value) + value)
        case None | bool() | int() | float() | np.generic():
            _feed(update, f"{type(value).__name__} {value!r}")
        case Image():
            update(b"p" + _picture(value.source))
        case list() | tuple():
            update(b"l%d:" % len(value))
            for item in value:
                _feed(update, item)
        case Mapping():
            update(b"m%d:" % len(value))
            for item in sorted(value.items()):
                _feed(update, item)
        case np.ndarray():
            _feed(update, ("array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()))
        case _ if is_dataclass(value):
            _feed(update, (type(value).__qualname__, [getattr(value, field.name) for field in fields(value)]))
        case _:
            raise TypeError(
                f"an example holds a {type(value).__name__}, which the cache of encoded data cannot tell apart"
            )


def _picture(source: Any) -> bytes:
    """A hash of a picture's content."""
    match source:
        case bytes():
            return hashlib.sha256(source).digest()
        case Pillow.Image():
            described = f"{source.mode} {source.size} {source.getpalette()}".encode()
            return hashlib.sha256(described + source.tobytes()).digest()
        case str() | Path() if os.path.isfile(source):
            state = os.stat(source)
            return _file(str(source), state.st_mtime_ns, state.st_size)
        case _:  # whatever it is, the encoder is going to say what is wrong with it
            return hashlib.sha256(repr(source).encode()).digest()


@functools.lru_cache(maxsize=2**16)
def _file(path: str, changed: int, size: int) -> bytes:
    """Pictures are asked many questions: each file is read once."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
