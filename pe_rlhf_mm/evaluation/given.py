"""What evaluators may ask for besides outcomes: a judge, other replies, a reward model, an anchor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.log import read_replies
from pe_rlhf_mm.types import Judge, Rewards

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy


@dataclass(frozen=True)
class Given:
    """Each is handed to the evaluators that ask for it by name.

    `judge`: of `load_judge`. `against`: the folder of a log, whose replies are compared with. `reward`: a reward model,
    of `load_reward`. `anchor`: a Policy, or what names one, from which drift is measured.
    """

    judge: Judge | None = None
    against: str | Path | None = None
    reward: Rewards | None = None
    anchor: Policy | str | Path | None = None

    def offered(self, *, task: str, split: str) -> dict[str, Any]:
        """By name, ready to be handed over, None where there is nothing.

        Raises UserError for what is no judge, no reward model or no policy, and for the log of something else.
        """
        for name, thing, kind, wanted in (
            ("judge", self.judge, Judge, "pe.load_judge(..), or an object with id and choose"),
            ("reward", self.reward, Rewards, "pe.load_reward(..), or an object with name and score"),
        ):
            if thing is not None and not isinstance(thing, kind):
                raise UserError(f"{name}={thing!r:.80} is no {name}; expected {wanted}.")
        return {
            "judge": self.judge,
            "against": None if self.against is None else read_replies(Path(self.against), task, split),
            "reward": self.reward,
            "anchor": None if self.anchor is None else self._anchor(self.anchor),
        }

    def _anchor(self, anchor: Policy | str | Path) -> Policy:
        from pe_rlhf_mm.rollout.load import policy_from
        from pe_rlhf_mm.rollout.policy import Policy

        found = policy_from(anchor)
        if not isinstance(found, Policy):
            raise UserError(f"anchor={anchor!r:.80} tells no probabilities; name a run or a model.")
        return found

    def told(self) -> Mapping[str, str]:
        """What a log says of it."""
        named = {
            "judge": self.judge and self.judge.id,
            "against": self.against,
            "reward": self.reward and self.reward.name,
            "anchor": getattr(self.anchor, "name", self.anchor),
        }
        return {name: str(value) for name, value in named.items() if value is not None}
