"""Settings of adapters: of their sizes, of what they stand beside, and of mixtures of them.

Nothing here imports jax: the command line reads these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pe_rlhf_mm.adapters.targets import ATTENTION, GROUPS, MLP, TARGETS, adapted
from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.training.checks import not_negative, positive, refuse_other_types


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of every role."""

    rank: int = 16
    """Rank of the sft and policy adapters, and of the value model's, which begins as the SFT policy."""
    reward_rank: int = 4
    """Rank of the reward model's adapter."""
    value_rank: int = 0
    """Rank of adapters of the value model's own: it begins as the backbone then. 0 with no value_targets: as above."""
    alpha: float = 16.0
    """Numerator of the scale (ours)."""
    scaling: Literal["lora", "rslora"] = "lora"
    """Of an adapter: alpha / rank, or, rank-stabilised, alpha / √rank."""
    kind: Literal["lora", "dora"] = "lora"
    """`dora`: the length of every column of an adapted matrix is learned apart from its direction."""
    targets: tuple[str, ...] = ATTENTION
    """Adapted matrices of every decoder layer, out of q k v o (or `attention`) and gate up down (or `mlp`); and of the
    `tower`, or tower.q and so on, and of the `projector` behind it."""
    reward_targets: tuple[str, ...] = ()
    """Those of the reward model's adapter; none named: the same."""
    value_targets: tuple[str, ...] = ()
    """Those of the value model's own adapters, if it has any; none named: the same."""
    dropout: float = 0.0
    """Dropout on the adapters' input while the SFT policy is trained (ours)."""
    experts: tuple[str, ...] = ()
    """Make the SFT policy, and what begins as it, a mixture of these adapters instead of fresh ones: of runs, each RUN
    or RUN:role, or of folders in PEFT's layout. They stay as they are, and gates learn which of them to follow."""
    gates: Literal["block", "layer"] = "block"
    """Of a mixture: a gate before every block, or one before its attention and one before its MLP."""
    balance: float = 0.5
    """Of a mixture: how much it weighs that all experts are used alike; 0: nothing."""

    def __post_init__(self) -> None:
        refuse_other_types(self)
        positive(self, "rank", "reward_rank", "alpha")
        not_negative(self, "value_rank", "balance")
        for name in ("targets", "reward_targets", "value_targets"):
            named = getattr(self, name) or self.targets
            if not isinstance(named, tuple | list) or not named or any(target not in TARGETS for target in named):
                known = ", ".join([*ATTENTION, *MLP, *GROUPS])
                raise OutOfRange(f"LoraConfig.{name} must name some of {known}, not {named!r}")
        if not 0 <= self.dropout < 1:
            raise OutOfRange(f"LoraConfig.dropout must be in [0, 1), not {self.dropout}")

    @property
    def fresh(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Rank and targets of every role that begins with fresh adapters."""
        found = {"sft": (self.rank, self.targets), "reward": (self.reward_rank, self.reward_targets or self.targets)}
        if self.value_rank or self.value_targets:
            found["value"] = (self.value_rank or self.rank, self.value_targets or self.targets)
        return found

    def adapted(self, config: VLMConfig) -> set[str]:
        """The matrices of a model that any role adapts."""
        return {name for _, targets in self.fresh.values() for name in adapted(config, targets)}
