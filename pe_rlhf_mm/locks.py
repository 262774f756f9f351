"""One process at a time: a lock on a file, which ends with the process however that ends."""

from __future__ import annotations

import fcntl
import io
from pathlib import Path

from pe_rlhf_mm.errors import UserError


def locked(path: Path, said: str) -> io.TextIOWrapper:
    """The open file, locked until it is closed. Raises UserError, which says `said`, while another process has it."""
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(said) from error
    return lock
