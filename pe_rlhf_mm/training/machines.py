"""Settings of where a run goes on: the devices it is laid over, and the hosts that these are of.

Nothing here imports jax: the command line reads these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.training.checks import not_negative, positive, refuse_other_types


@dataclass(frozen=True)
class MeshConfig:
    """Several devices, of one machine or of several; 1, 1 and 1 is a single device."""

    data: int = 1
    """Rows of a batch are dealt to so many groups of devices, each of which holds all weights."""
    fsdp: int = 1
    """Rows are dealt within a group too, and each of its so many devices keeps a part of every weight."""
    model: int = 1
    """Matrices are cut over so many devices, which work on the same rows."""

    def __post_init__(self) -> None:
        refuse_other_types(self)
        positive(self, "data", "fsdp", "model")

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.model

    @property
    def rows(self) -> int:
        """The number of rows of a batch must be a multiple of it."""
        return self.data * self.fsdp


@dataclass(frozen=True)
class HostsConfig:
    """Several machines that run the same command; nothing given is one machine. No setting of a run: it may go on on
    others."""

    coordinator: str = ""
    """HOST:PORT of the first of them, or `auto`: JAX finds out, on slices of TPUs and under Slurm, Open MPI and
    Kubernetes."""
    count: int = 0
    """How many processes there are, where JAX does not find out."""
    index: int = -1
    """Which of them this one is, from 0."""

    def __post_init__(self) -> None:
        refuse_other_types(self)
        not_negative(self, "count")
        if self.coordinator not in ("", "auto") and not re.fullmatch(r".+:\d+", self.coordinator):
            raise OutOfRange(
                f"HostsConfig.coordinator must be HOST:PORT of the first host, or auto, not {self.coordinator!r}"
            )
        if self.index < -1 or (self.count and self.index >= self.count):
            raise OutOfRange(f"HostsConfig.index must be one of 0 to {self.count - 1}, not {self.index}")
