"""The files that say which episodes are of which split: {"train": [episode, ..], "validation": [..], "test": [..]}."""

from __future__ import annotations

from pathlib import Path

from pe_rlhf_mm.data.published.description import SPLITS
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json


def split_by_episode(found: Found, name: str) -> dict[str, str]:
    """The split of each episode, by the file of that name; one that stands in several is tested with, and no more.

    Raises UserError where the file is missing or is not as published.
    """
    paths = found.named(name)
    if not paths:
        raise UserError(
            f"{found.folder} has episodes and no {name}, which says their splits. Download it from where they are, "
            "and put it beside them."
        )
    groups = episodes_by_group(paths[0])
    if not set(groups) & set(SPLITS):
        raise UserError(f"{paths[0]} names none of {', '.join(SPLITS)}. Is it the right file?")
    return {episode: split for split in SPLITS for episode in groups.get(split, [])}


def episodes_by_group(path: Path) -> dict[str, list[str]]:
    """The episodes of each group that a file names. Raises UserError for a file that is not as published."""
    groups = read_json(path)
    if not all(isinstance(episodes, list) for episodes in groups.values()):
        raise UserError(f"{path} holds something else than lists of episodes. Download it again.")
    return {name: [str(episode) for episode in episodes] for name, episodes in groups.items()}
