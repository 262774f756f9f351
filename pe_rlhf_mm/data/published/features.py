"""The values of a tf.train.Example by feature, each of the kind and as many as are expected.

A feature that is absent has no values: an Example says no more of an empty one. All raise WrongRow otherwise.
"""

from __future__ import annotations

from typing import Any

from pe_rlhf_mm.data.published.description import WrongRow
from pe_rlhf_mm.data.sources.source import Row


def byte_strings(row: Row, name: str, count: int | None = None) -> list[bytes]:
    """The values of a feature that holds bytes; of any number where there is no `count`."""
    values = row.get(name, [])
    if not isinstance(values, list):
        raise WrongRow(f"the feature {name!r} holds numbers; expected byte strings")
    return _counted(values, name, count)


def texts(row: Row, name: str, count: int | None = None) -> list[str]:
    """The values of a feature that holds UTF-8."""
    try:
        return [value.decode() for value in byte_strings(row, name, count)]
    except UnicodeDecodeError as error:
        raise WrongRow(f"the feature {name!r} is not UTF-8 at byte {error.start + 1}") from error


def text(row: Row, name: str) -> str:
    """The one value of a feature that holds UTF-8."""
    return texts(row, name, 1)[0]


def floats(row: Row, name: str, count: int | None = None) -> list[float]:
    """The values of a feature that holds numbers with fractions."""
    return _numbers(row, name, "float32", count)


def integers(row: Row, name: str, count: int | None = None) -> list[int]:
    """The values of a feature that holds whole numbers."""
    return _numbers(row, name, "int64", count)


def integer(row: Row, name: str) -> int:
    """The one value of a feature that holds whole numbers."""
    return integers(row, name, 1)[0]


def _numbers(row: Row, name: str, dtype: str, count: int | None) -> list[Any]:
    values = row.get(name, [])
    if len(values) and str(getattr(values, "dtype", "")) != dtype:
        expected = "whole numbers" if dtype == "int64" else "numbers with fractions"
        raise WrongRow(f"the feature {name!r} holds something else; expected {expected}")
    return _counted([value.item() for value in values], name, count)


def _counted(values: list[Any], name: str, count: int | None) -> list[Any]:
    if count is not None and len(values) != count:
        raise WrongRow(f"the feature {name!r} has {len(values)} values; expected {count}")
    return values
