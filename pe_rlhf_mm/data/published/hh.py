"""Anthropic HH: conversations with two last answers, the more helpful or the more harmless one chosen.

Y. Bai et al., https://arxiv.org/abs/2204.05862; https://github.com/anthropics/hh-rlhf. The texts are upsetting by
design.

A row is two whole transcripts. Up to the last answer they must be the same text, which becomes the conversation: the
turns marked by a blank line and "Human:" or "Assistant:" (the words alone mark nothing). Turns of one role in a row are
one turn, a blank line between them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published.description import Part, Published, Record, SetAside, take, train_or_validation
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import Row

SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
MARK = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
ANSWER = "\n\nAssistant:"


def pair(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A conversation and two answers to it; one in ten conversations of the training file is for validation.

    Of several reasons to set a row aside the first one counts: different prompts; no conversation, that is, one that
    does not begin and end with a person's turn; an empty answer; equal answers.
    """
    (prompt, chosen), (other, rejected) = (_cut(take(row, name, str)) for name in ("chosen", "rejected"))
    if prompt != other:
        raise SetAside("different prompts")
    roles, turns = _turns(prompt)
    if not roles or roles[0] != "user" or roles[-1] != "user" or MARK.search(chosen) or MARK.search(rejected):
        raise SetAside("no conversation")
    if not chosen or not rejected:
        raise SetAside("empty answer")
    if chosen == rejected:
        raise SetAside("equal answers")
    return train_or_validation(f"hh/{prompt}") if split == "train" else "test", {
        "subset": subset,
        "roles": roles,
        "turns": turns,
        "chosen": chosen,
        "rejected": rejected,
    }


def _cut(transcript: str) -> tuple[str, str]:
    """What comes before the last answer, and the last answer."""
    prompt, _, answer = transcript.rpartition(ANSWER)
    return prompt, answer.strip()


def _turns(prompt: str) -> tuple[list[str], list[str]]:
    """Roles and texts, in turn."""
    before, *marked = MARK.split(prompt)
    roles: list[str] = []
    turns: list[str] = []
    for name, text in zip(marked[::2], marked[1::2], strict=True):
        if roles and roles[-1] == ROLES[name]:
            turns[-1] = f"{turns[-1]}\n\n{text.strip()}"
        else:
            roles.append(ROLES[name])
            turns.append(text.strip())
    return ([], []) if before.strip() else (roles, turns)


def _where(path: Path) -> tuple[str, str] | None:
    """Split and subset, from folder/train.jsonl.gz or folder-train.jsonl.gz; None for files of something else."""
    stem = path.name.partition(".")[0]
    for subset in SUBSETS:
        for split in ("train", "test"):
            if stem == f"{subset}-{split}" or (stem == split and path.parent.name == subset):
                return split, subset
    return None


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_lines import JsonLines

    names = [f"*{split}.jsonl{packed}" for split in ("train", "test") for packed in ("", ".gz")]
    places = [(path, _where(path)) for path in found.named(*names)]
    return [Part(JsonLines(path), partial(pair, split=place[0], subset=place[1])) for path, place in places if place]


HH = Published(
    name="hh",
    title="Anthropic HH: helpfulness and harmlessness",
    licence="MIT",
    where_to_get_it=(
        "Download the folders of https://huggingface.co/datasets/Anthropic/hh-rlhf, for instance with "
        "`hf download Anthropic/hh-rlhf --repo-type dataset --local-dir FOLDER`."
    ),
    files=tuple(f"{subset}/{{train,test}}.jsonl.gz" for subset in SUBSETS),
    features={"subset": "text", "roles": "texts", "turns": "texts", "chosen": "text", "rejected": "text"},
    prompt=("roles", "turns"),
    parts=_parts,
    row=pair,
    ignored=("subset",),
    upsetting=("turns", "chosen", "rejected"),
    warning="The texts are upsetting by design.",
)
