"""Reddit TL;DR: posts with the summaries of their authors, and human comparisons of two summaries (OpenAI, 2020).

N. Stiennon et al., Learning to summarize from human feedback, https://arxiv.org/abs/2009.01325. The comparisons are
JSON Lines although their names end in .json; a row belongs to the split that it names, whatever its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pe_rlhf_mm.data.published.description import (
    Part,
    Published,
    Record,
    SetAside,
    WrongRow,
    choice,
    take,
    texts,
)
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import Row

COMPARISON_SPLITS = {"train": "train", "valid1": "validation", "valid2": "test"}
"""The authors chose models on valid1 and report on valid2."""
POST_FILES = {"train.jsonl": "train", "valid.jsonl": "validation", "test.jsonl": "test"}


def comparison(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """Two summaries of a post and which one a person preferred; rows about news articles are set aside."""
    info = take(row, "info", dict)
    if info.get("post") is None and info.get("article") is not None:
        raise SetAside("CNN/DM article")
    named = take(row, "split", str)
    if named not in COMPARISON_SPLITS:
        raise WrongRow(f"the field 'split' is {named!r}; expected one of {', '.join(COMPARISON_SPLITS)}")
    summaries = take(row, "summaries", list)
    if len(summaries) != 2:
        raise WrongRow(f"there are {len(summaries)} summaries; expected 2")
    extra = row.get("extra") or {}
    return COMPARISON_SPLITS[named], _post(info) | {
        "summaries": texts([take(summary, "text", str) for summary in summaries], "text"),
        "policies": [take(summary, "policy", str) for summary in summaries],
        "choice": choice(row, "choice"),
        "confidence": 0 if extra.get("confidence") is None else take(extra, "confidence", int),
        "worker": take(row, "worker", str),
    }


def post(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A post and the summary that its author wrote."""
    return split, _post(row) | {"summary": take(row, "summary", str)}


def _post(fields: Row) -> Record:
    return {name: take(fields, name, str) for name in ("id", "subreddit", "title", "post")}


def _comparisons(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_lines import JsonLines

    meaning = partial(comparison, split="", subset="")
    return [Part(JsonLines(path), meaning) for path in found.named(*COMPARISONS.files)]


def _posts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_lines import JsonLines

    return [
        Part(JsonLines(path), partial(post, split=POST_FILES[path.name], subset=""))
        for path in found.named(*POST_FILES)
    ]


LICENCE = "none stated by the publisher; the posts are Reddit users'. Not to be passed on"

COMPARISONS = Published(
    name="tldr",
    title="Reddit TL;DR: human comparisons of two summaries",
    licence=LICENCE,
    where_to_get_it=(
        "Download comparisons/*.json from https://openaipublic.blob.core.windows.net/summarize-from-feedback/dataset/ "
        "(the list is in the README of https://github.com/openai/summarize-from-feedback)."
    ),
    files=("batch*.json", "cnndm*.json", "edit_b2_eval_test.json"),
    features={
        "id": "text",
        "subreddit": "text",
        "title": "text",
        "post": "text",
        "summaries": "texts",
        "policies": "texts",
        "choice": "int",
        "confidence": "int",
        "worker": "text",
    },
    prompt=("subreddit", "title", "post"),
    parts=_comparisons,
    row=comparison,
)

POSTS = Published(
    name="tldr-posts",
    title="Reddit TL;DR: posts with their authors' summaries",
    licence=LICENCE,
    where_to_get_it=(
        "Download train.jsonl, valid.jsonl and test.jsonl from "
        "https://openaipublic.blob.core.windows.net/summarize-from-feedback/datasets/tldr_3_filtered/."
    ),
    files=tuple(POST_FILES),
    features={"id": "text", "subreddit": "text", "title": "text", "post": "text", "summary": "text"},
    prompt=("subreddit", "title", "post"),
    parts=_posts,
    row=post,
)
