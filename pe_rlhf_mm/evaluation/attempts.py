"""Tries at samples, each with seeds of its own: it comes out the same with whichever others it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.types import Sample


class Attempt(NamedTuple):
    """One try. `seed` is that of its episode, the same in every try at a sample; `draws` that of its replies."""

    sample: Sample
    repeat: int
    seed: int
    draws: int


def attempts_at(samples: Sequence[Sample], repeats: int, *, seed: int) -> list[Attempt]:
    """All samples once, then all of them again, and so on."""
    return [
        Attempt(sample, repeat, seed + number, reply_seed(seed, sample.id, repeat))
        for repeat in range(repeats)
        for number, sample in enumerate(samples)
    ]


def reply_seed(*of: object) -> int:
    """32 bits that depend on all of it."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, of)).encode()).digest()[:4], "big")
