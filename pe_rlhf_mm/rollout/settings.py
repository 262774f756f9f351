"""How tokens are drawn, as data. Nothing here imports jax: the command line reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pe_rlhf_mm.errors import OutOfRange


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise OutOfRange(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k < 0:
            raise OutOfRange(f"top_k must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise OutOfRange(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.max_tokens < 1:
            raise OutOfRange(f"max_tokens must be at least 1, not {self.max_tokens}")

    @property
    def truncates(self) -> bool:
        return self.top_k > 0 or self.top_p < 1
