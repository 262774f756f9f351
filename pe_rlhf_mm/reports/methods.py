"""How a run goes on from its SFT policy: the stage under which its records have that, and what a reader calls it."""

from __future__ import annotations

from typing import NamedTuple

from pe_rlhf_mm.reports.records import Record, text


class Method(NamedTuple):
    """`stage`: the key of the tuned policy in metrics, samples and summary. `name`: what it was tuned by."""

    stage: str
    name: str


RLHF = Method("rl", "RL")
METHODS = {
    "rlhf": RLHF,
    "dpo": Method("preferences", "DPO"),
    "ipo": Method("preferences", "IPO"),
    "slic": Method("preferences", "SLiC"),
    "kto": Method("preferences", "KTO"),
}
STAGES = {
    "rl": {"sft": "SFT", "reward_model": "Reward model", "rl": "RL", "evaluation": "Evaluation"},
    "preferences": {"sft": "SFT", "preferences": "Preferences", "evaluation": "Evaluation"},
}
"""What the stages of a run are called, in their order, by the one that tunes the policy."""


def reward_of(config: Record) -> str:
    """What RL was rewarded by; a config that says nothing is of a release that had learned rewards only."""
    return text(config, "settings", "rl", "reward") or "learned"


def method_of(config: Record) -> Method:
    """By the config of a run; one that says nothing is of a release that had no other method."""
    return METHODS.get(text(config, "settings", "method"), RLHF)
