"""Reddit TL;DR: summarise a post in a sentence or two (Stiennon et al., 2020; arXiv 2009.01325).

Prompts are written as there, and long posts cut as there: at the last line break that leaves few enough characters.
Samples are the filtered posts with the summaries of their authors, preferences the comparisons made by people; of
those, valid1 is for validation and valid2 for test. Summaries begin with a space, since they continue a line.

    pe-rlhf data prepare tldr-posts --from FOLDER      the posts: {train,valid,test}.jsonl
    pe-rlhf data prepare tldr --from FOLDER            the comparisons: batch3.json, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.text.small import cut_at_paragraph, tuning
from pe_rlhf_mm.types import Message, Preference, Sample


def prompt(post: Mapping[str, Any]) -> str:
    """A post with what stands over and under it; from post, title and subreddit."""
    text = cut_at_paragraph(post["post"])
    return f"SUBREDDIT: r/{post['subreddit']}\n\nTITLE: {post['title']}\n\nPOST: {text}\n\nTL;DR:"


def margin(confidence: int) -> float:
    """How much better the preferred summary is, 0 to 1: confidence runs from 1 to 9, and is 0 where it is not known."""
    return (confidence - 1) / 8 if confidence else 0.0


@register_task("text/tldr@1")
class TLDR:
    """A post; the summary of its author is the reference."""

    evaluators: Sequence[str] = ("pe/rouge",)
    tuning = tuning(max_tokens=48)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The posts of a split, in the published order."""
        for post in prepared("tldr-posts", split):
            yield Sample(
                id=post["id"],
                messages=(Message("user", prompt(post)),),
                target=f" {post['summary']}",
                metadata={"domain": post["subreddit"]},
            )

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """The comparisons of a split, in the published order; those of two equal summaries say nothing."""
        for row in prepared("tldr", split):
            chosen, rejected = (row["summaries"][place] for place in (row["choice"], 1 - row["choice"]))
            if chosen != rejected:
                known = {"confidence": row["confidence"]} if row["confidence"] else {}
                yield Preference(
                    (Message("user", prompt(row)),),
                    chosen,
                    rejected,
                    margin=margin(row["confidence"]),
                    cluster=row["id"],
                    metadata={"domain": row["subreddit"], **known},
                )

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str]:
        """The summary of the post's author."""
        return [sample.target]
