"""JSON on disk: read with an error that says what is wrong, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pe_rlhf_mm.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError for a file that is missing or holds something else."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}. The file is damaged; copy or make it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}; expected a JSON object.")
    return values


def to_json(values: object, *, indent: int | None = 1) -> str:
    """JSON that every reader accepts: what is no finite number is null, and a dataclass is an object of its fields.
    Without `indent` it is one line."""
    try:
        return json.dumps(values, indent=indent, allow_nan=False, default=_as_object)
    except ValueError:  # not finite, which is rare: to look for it first would take longer than all the rest
        return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _as_object(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _finite(values: Any) -> Any:
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        values = _as_object(values)
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def write_json(path: Path, values: object) -> None:
    """Writes JSON so that the file is always either the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(to_json(values) + "\n")
    os.replace(partial, path)
