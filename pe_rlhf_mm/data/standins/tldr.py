"""Summaries of papers (`aclsum`: 250 papers, each with three summaries of one sentence) as Reddit TL;DR.

A post is the text of a paper, and its "subreddit" is the aspect to be summarised: r/challenge, r/approach or r/outcome.
The right summary is the one that a person wrote of this paper and aspect. It is compared four times: with the two of
the other aspects, and with those of the same aspect of two other papers. As with people, some labels are wrong: 15 in
100 of the first kind and 5 in 100 of the second; they come with a confidence of 1 to 3, right ones with 4 to 9 and with
6 to 9. So the best reward model there can be is right in 90 of 100 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pe_rlhf_mm.data.sources.json_lines import JsonLines
from pe_rlhf_mm.data.standins.draws import one_of, others, share
from pe_rlhf_mm.data.standins.files import rows_of, write_json_lines

ASPECTS = ("challenge", "approach", "outcome")
SECTIONS = ("abstract", "introduction", "conclusion")
SPLITS = {  # of the package; of the posts; of the comparisons, and the file they are in
    "train": ("train", "train", "batch3"),
    "val": ("valid", "valid1", "batch4"),
    "test": ("test", "valid2", "batch5"),
}
WRONG = {"other-aspect": 0.15, "other-paper": 0.05}
"""Shares of labels that are the wrong way round."""
SURE = {"other-aspect": range(4, 10), "other-paper": range(6, 10)}
UNSURE = range(1, 4)

Paper = dict[str, Any]


def fill(source: Path, folder: Path) -> dict[str, int]:
    """Writes `tldr_3_filtered/*.jsonl` and `comparisons/*.json` out of the package's `dataset/*.jsonl`."""
    counts = {}
    for name, (posts, split, batch) in SPLITS.items():
        papers = rows_of(JsonLines(source / "dataset" / f"{name}.jsonl"))
        counts[f"posts ({posts})"] = write_json_lines(folder / "tldr_3_filtered" / f"{posts}.jsonl", _posts(papers))
        comparisons = ({**row, "batch": batch, "split": split} for row in _comparisons(papers))
        counts[f"comparisons ({split})"] = write_json_lines(folder / "comparisons" / f"{batch}.json", comparisons)
    return counts


def _info(paper: Paper, aspect: str) -> dict[str, str]:
    """Abstract, introduction and conclusion as paragraphs: long posts are cut between them."""
    text = "\n\n".join(" ".join(paper["sentences"][section]) for section in SECTIONS)
    return {"id": f"t3_{paper['id']}-{aspect}", "subreddit": aspect, "title": paper["title"], "post": text}


def _posts(papers: Sequence[Paper]) -> Iterator[dict[str, str]]:
    for paper in papers:
        for aspect in ASPECTS:
            yield {**_info(paper, aspect), "summary": paper["summary"][aspect]}


def _comparisons(papers: Sequence[Paper]) -> Iterator[dict[str, Any]]:
    for place, paper in enumerate(papers):
        for aspect in ASPECTS:
            info, right = _info(paper, aspect), paper["summary"][aspect]
            wrong = [("other-aspect", paper["summary"][other]) for other in ASPECTS if other != aspect]
            strangers = others(papers, place, 2, "tldr", info["id"])
            wrong += [("other-paper", stranger["summary"][aspect]) for stranger in strangers]
            for policy, text in wrong:
                yield {"info": info, **_compare(right, text, policy, key=f"{info['id']}/{text}")}


def _compare(right: str, wrong: str, policy: str, *, key: str) -> dict[str, Any]:
    """A comparison: the right summary in either place, and a label that is wrong now and then."""
    mistaken = share("mistaken", key) < WRONG[policy]
    place = one_of((0, 1), "place", key)
    # Published comparisons begin with a space, published posts' summaries do not.
    summaries = [{"text": f" {text}", "policy": by, "note": None} for text, by in ((right, "ref"), (wrong, policy))]
    return {
        "summaries": summaries if place == 0 else summaries[::-1],
        "choice": 1 - place if mistaken else place,
        "worker": "stand-in",
        "extra": {"confidence": one_of(UNSURE if mistaken else SURE[policy], "confidence", key)},
    }
