"""What settings are refused for: a type that is not the declared one, or a number out of its range."""

from __future__ import annotations

import math
from dataclasses import is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from pe_rlhf_mm.errors import OutOfRange


def refuse_other_types(settings: object) -> None:
    """Python does not hold a setting to its declared type. Raises OutOfRange for the first that has another."""
    for name, declared in get_type_hints(type(settings)).items():
        value, where = getattr(settings, name), f"{type(settings).__name__}.{name}"
        if get_origin(declared) is Literal and value not in get_args(declared):
            raise OutOfRange(f"{where} must be one of {', '.join(map(str, get_args(declared)))}, not {value!r}")
        if declared is int and type(value) is not int:
            raise OutOfRange(f"{where} must be a whole number, not {value!r}")
        if declared is float and not (type(value) in (int, float) and math.isfinite(value)):
            raise OutOfRange(f"{where} must be a finite number, not {value!r}")
        if declared is str and type(value) is not str:
            raise OutOfRange(f"{where} must be text, not {value!r:.80}")
        if declared is bool and type(value) is not bool:
            raise OutOfRange(f"{where} must be True or False, not {value!r}")
        if isinstance(declared, type) and is_dataclass(declared) and not isinstance(value, declared):
            raise OutOfRange(f"{where} must be made by {declared.__name__}(..), not {value!r:.80}")


def positive(owner: object, *names: str) -> None:
    """Raises OutOfRange for the first of the named settings that is not above 0."""
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise OutOfRange(f"{type(owner).__name__}.{name} must be above 0, not {value}")


def not_negative(owner: object, *names: str) -> None:
    """Raises OutOfRange for the first of the named settings that is below 0."""
    for name in names:
        value = getattr(owner, name)
        if value < 0:
            raise OutOfRange(f"{type(owner).__name__}.{name} must be 0 or more, not {value}")
