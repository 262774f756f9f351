"""Exceptions of the user's own code: shown from where that code begins, without the frames that led there."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

import pe_rlhf_mm.evaluators
import pe_rlhf_mm.tasks

OTHERS = [
    *(
        Path(place).resolve()
        for package in (pe_rlhf_mm, pe_rlhf_mm.tasks, pe_rlhf_mm.evaluators)
        for place in package.__path__
    ),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
]
"""Where code lies that is not the user's."""


def of_the_user(error: BaseException) -> str | None:
    """The trace from the user's first frame on; None where no code of the user's took part: the fault is ours then."""
    if isinstance(error, SyntaxError):  # it names the file and the line itself
        return "".join(traceback.format_exception_only(error))
    trace = error.__traceback__
    while trace is not None and not _is_the_users(trace):
        trace = trace.tb_next
    return None if trace is None else "".join(traceback.format_exception(type(error), error, trace))


def _is_the_users(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_code.co_filename
    path = Path(name).resolve()
    return not name.startswith("<") and not any(path.is_relative_to(other) for other in OTHERS)
