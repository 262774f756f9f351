"""What settings are held to where they are given, in Python as on the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from pe_rlhf_mm.errors import OutOfRange


def refuse_other_types(settings: object) -> None:
    """Python does not hold a setting to its declared type. Raises OutOfRange, as all that is here."""
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
    """The named settings are above 0."""
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise OutOfRange(f"{type(owner).__name__}.{name} must be above 0, not {value}")


def not_negative(owner: object, *names: str) -> None:
    """The named settings are 0 or more."""
    for name in names:
        value = getattr(owner, name)
        if value < 0:
            raise OutOfRange(f"{type(owner).__name__}.{name} must be 0 or more, not {value}")


def within(owner: object, name: str, values: Sequence[float], least: float, most: float) -> None:
    """Finite numbers of [least, most), of a setting that names several."""
    for value in values:
        if type(value) not in (int, float) or not (math.isfinite(value) and least <= value < most):
            raise OutOfRange(f"{type(owner).__name__}.{name} must be numbers in [{least}, {most}), not {value!r}")
