"""Replies in chats (`chitchat-dataset`) as Stanford Human Preferences.

The post is the first three turns of a chat, the better comment is the fourth turn, and the other one is the fourth
turn of another chat; each post has two such pairs. As with votes, some labels are wrong, most of them where the votes
are close: 30 in 100 at a score ratio of 1.5, 5 in 100 at 2 and at 4. One pair in five has the ratio 1.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pe_rlhf_mm.data.standins.chats import Chat, read_chats
from pe_rlhf_mm.data.standins.draws import one_of, others, share
from pe_rlhf_mm.data.standins.files import write_json_lines

SPLITS = ("train",) * 8 + ("validation", "test")
PAIRS = 2
RATIOS = (1.5, 2.0, 2.0, 4.0, 4.0)
WRONG = {1.5: 0.3, 2.0: 0.05, 4.0: 0.05}
"""Shares of labels that are the wrong way round, by score ratio."""


def fill(source: Path, folder: Path) -> dict[str, int]:
    """Writes `chitchat/{train,validation,test}.json` (JSON Lines) out of the package's `dataset.json`."""
    by_split: dict[str, list[Chat]] = {split: [] for split in dict.fromkeys(SPLITS)}
    for chat in read_chats(source):
        by_split[one_of(SPLITS, "shp", chat.id)].append(chat)
    return {
        f"pairs ({split})": write_json_lines(folder / "chitchat" / f"{split}.json", _pairs(chats, split))
        for split, chats in by_split.items()
    }


def _pairs(chats: Sequence[Chat], split: str) -> Iterator[dict[str, Any]]:
    for place, chat in enumerate(chats):
        for other in others(chats, place, PAIRS, "shp-other", chat.id):
            if other.text(3) != chat.text(3):
                yield {"domain": f"chitchat_{split}", **_pair(chat, other)}


def _pair(chat: Chat, other: Chat) -> dict[str, Any]:
    key = f"{chat.id}/{other.id}"
    ratio = one_of(RATIOS, "ratio", key)
    mistaken = share("mistaken", key) < WRONG[ratio]
    first = share("place", key) < 0.5  # whether comment A is the right one
    a_wins = first != mistaken
    a, b = (chat, other) if first else (other, chat)
    winner, loser = int(10 * ratio), 10
    return {
        "post_id": chat.id,
        "upvote_ratio": 0.9,
        "history": "\n".join(f"{'AB'[turn % 2]}: {chat.text(turn)}" for turn in range(3)),
        "c_root_id_A": a.id,
        "c_root_id_B": b.id,
        "created_at_utc_A": 0,
        "created_at_utc_B": 0,
        "score_A": winner if a_wins else loser,
        "score_B": loser if a_wins else winner,
        "human_ref_A": a.text(3),
        "human_ref_B": b.text(3),
        "labels": int(a_wins),
        "seconds_difference": 0.0,
        "score_ratio": ratio,
    }
