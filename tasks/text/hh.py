"""Anthropic HH: what its two tasks share. A row is a conversation, the answer people chose, and one they rejected.

The headline is likeness to the chosen answer (ROUGE-L): a stand-in that needs no judge, and NOT a measure of how
helpful or harmless a reply is. The texts are upsetting by design, those of the harmless part most of all; nothing here
prints them, and `upsetting` keeps `pe-rlhf tasks show` from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.data.published.hh import HH as PUBLISHED
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.tasks.text.small import tuning
from pe_rlhf_mm.types import Message, Preference, Sample

CONVERSATION = 4000
"""Characters of a conversation that are read, at most: its oldest exchanges are left out, never its last question."""


def conversation(row: dict[str, Any]) -> tuple[Message, ...]:
    """The turns before the answer; of a long conversation the last ones, from a question of the user on."""
    messages = [Message(role, text) for role, text in zip(row["roles"], row["turns"], strict=True)]
    questions = [place for place, message in enumerate(messages) if message.role == "user"]
    for start in questions:
        if sum(len(message.content) for message in messages[start:]) <= CONVERSATION:
            return tuple(messages[start:])
    return tuple(messages[questions[-1] :])


def digest(*texts: str) -> str:
    """A name for what has none: of a prompt, and of a row."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


class HH:
    """Conversations of some subsets; `subsets` is what their names begin with."""

    subsets: ClassVar[str]
    evaluators: Sequence[str] = ("pe/rouge",)
    tuning = tuning(max_tokens=96)
    upsetting = PUBLISHED.warning

    def _rows(self, split: str) -> Iterator[dict[str, Any]]:
        found = False
        for row in prepared("hh", split):
            if row["subset"].startswith(self.subsets):
                found = True
                yield row
        if not found:
            raise UserError(
                f"the prepared set 'hh' has no rows of {self.subsets} in {split}. Put {self.subsets}*/"
                "{train,test}.jsonl.gz into the folder and prepare it again: pe-rlhf data prepare hh --from FOLDER"
            )

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The conversations of a split, in the published order; the chosen answer is the target."""
        for row in self._rows(split):
            yield Sample(
                id=digest(*row["turns"], row["chosen"], row["rejected"]),
                messages=conversation(row),
                target=row["chosen"],
                cluster=digest(*row["turns"]),
                metadata={"domain": row["subset"]},
            )

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """The pairs of a split, in the published order."""
        for row in self._rows(split):
            yield Preference(
                conversation(row),
                row["chosen"],
                row["rejected"],
                cluster=digest(*row["turns"]),
                metadata={"domain": row["subset"]},
            )

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str]:
        """The answer that people chose."""
        return [sample.target]
