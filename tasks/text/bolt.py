"""BOLT: summarise a conversation by text messages (LDC2018T19; PE-RLHF, arXiv 2403.10704, A.2.4).

There are no summaries and no preferences: prompts only, whose replies the reward model of TL;DR scores, as in the
paper. Nothing is cleaned: digits, the # that stands for what was blacked out, and emoji outside Unicode are kept. Of a
long conversation the messages are read that fit, from the first one on.

    pe-rlhf data prepare bolt --from FOLDER
    pe-rlhf tune text/bolt --start-from runs/tldr      the sft policy and the reward model of a run of text/tldr
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.text.small import cut_at_paragraph, tuning
from pe_rlhf_mm.types import Message, Sample


def prompt(conversation: dict[str, Any]) -> str:
    """A line a message, with the speaker's letter; a line break inside a message becomes a space."""
    spoken = zip(conversation["speakers"], conversation["texts"], strict=True)
    lines = "\n".join(f"{speaker}: {' '.join(text.splitlines())}" for speaker, text in spoken)
    return f"{cut_at_paragraph(lines)}\n\nSummarize:"


@register_task("text/bolt@1")
class Bolt:
    """A conversation, and no reference: ROUGE leaves every reply unscored, a judge can score it."""

    evaluators: Sequence[str] = ("pe/rouge",)
    tuning = tuning(max_tokens=48)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The conversations of a split."""
        for row in prepared("bolt", split):
            yield Sample(row["id"], (Message("user", prompt(row)),), metadata={"domain": row["medium"]})

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> None:
        """Nobody wrote a summary."""
