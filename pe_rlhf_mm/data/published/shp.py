"""Stanford Human Preferences: two comments on a Reddit post, and which one found more approval.

K. Ethayarajh et al., https://arxiv.org/abs/2110.08420; https://huggingface.co/datasets/stanfordnlp/SHP (SHP-2 has the
same fields). JSON Lines although their names end in .json; `domain` is "askbaking_train": a subreddit and a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pe_rlhf_mm.data.published.description import SPLITS, Part, Published, Record, WrongRow, choice, take
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import Row


def pair(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """Two comments; `label` is 1 where the first one is preferred."""
    domain, _, named = take(row, "domain", str).rpartition("_")
    if named not in SPLITS or not domain:
        raise WrongRow(f"the field 'domain' is {row['domain']!r}; expected a name and a split, as in 'askbaking_train'")
    return named, {
        "post_id": take(row, "post_id", str),
        "domain": domain,
        "history": take(row, "history", str),
        "reply_a": take(row, "human_ref_A", str),
        "reply_b": take(row, "human_ref_B", str),
        "label": choice(row, "labels"),
        "score_ratio": take(row, "score_ratio", float),
        "upvote_ratio": take(row, "upvote_ratio", float),
    }


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_lines import JsonLines

    meaning = partial(pair, split="", subset="")
    return [Part(JsonLines(path), meaning) for path in found.named(*SHP.files)]


SHP = Published(
    name="shp",
    title="Stanford Human Preferences",
    licence="Reddit's API terms, for research. Not to be passed on",
    where_to_get_it=(
        "Download the folders of https://huggingface.co/datasets/stanfordnlp/SHP, for instance with "
        "`hf download stanfordnlp/SHP --repo-type dataset --local-dir FOLDER`."
    ),
    files=("train.json", "validation.json", "test.json"),
    features={
        "post_id": "text",
        "domain": "text",
        "history": "text",
        "reply_a": "text",
        "reply_b": "text",
        "label": "int",
        "score_ratio": "float",
        "upvote_ratio": "float",
    },
    prompt=("history",),
    parts=_parts,
    row=pair,
)
