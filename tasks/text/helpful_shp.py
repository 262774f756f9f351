"""Stanford Human Preferences: the more helpful of two comments on Reddit (Ethayarajh et al., 2022; arXiv 2110.08420).

The paper's helpful set. A comment is preferred that got more votes in less time. Pairs are chosen as the authors
advise: one comment has at least twice the votes of the other, and no post gives more than five. The margin is log2 of
the ratio of the votes.

    pe-rlhf data prepare shp --from FOLDER
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.text.small import cut_at_paragraph, tuning
from pe_rlhf_mm.types import Message, Preference, Sample

RATIO = 2.0
"""Votes of the better comment over those of the other, at least: below it people disagree."""
PAIRS = 5
"""So many pairs of one post at most: a few posts have hundreds of comments."""


def prompt(row: dict[str, Any]) -> tuple[Message, ...]:
    """The post, cut at a paragraph if it is long."""
    return (Message("user", cut_at_paragraph(row["history"])),)


def ranked(row: dict[str, Any]) -> tuple[str, str]:
    """The preferred comment and the other one."""
    return (row["reply_a"], row["reply_b"]) if row["label"] == 1 else (row["reply_b"], row["reply_a"])


def best_reply(rows: Sequence[dict[str, Any]]) -> str:
    """Of the comments on a post: the first that is preferred to some, and to which none is preferred."""
    pairs = [ranked(row) for row in rows]
    worse = {rejected for _, rejected in pairs}
    return next((chosen for chosen, _ in pairs if chosen not in worse), pairs[0][0])


@register_task("text/helpful-shp@1")
class HelpfulSHP:
    """A post; the comment that most agreed with is the reference."""

    evaluators: Sequence[str] = ("pe/rouge",)
    tuning = tuning(max_tokens=96)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The posts of a split, each once. Rows of one post stand side by side in the published files."""
        seen: set[str] = set()
        for post, rows in groupby(prepared("shp", split), key=lambda row: row["post_id"]):
            if post not in seen:
                seen.add(post)
                first, *more = rows
                best = best_reply([first, *more])
                yield Sample(post, prompt(first), target=best, metadata={"domain": first["domain"]})

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """The pairs of a split that are clear enough, in the published order."""
        of_post = Counter[str]()
        for row in prepared("shp", split):
            chosen, rejected = ranked(row)
            if row["score_ratio"] >= RATIO and chosen != rejected and of_post[row["post_id"]] < PAIRS:
                of_post[row["post_id"]] += 1
                yield Preference(
                    prompt(row),
                    chosen,
                    rejected,
                    margin=math.log2(row["score_ratio"]),
                    cluster=row["post_id"],
                    metadata={"domain": row["domain"]},
                )

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str]:
        """The best comment."""
        return [sample.target]
