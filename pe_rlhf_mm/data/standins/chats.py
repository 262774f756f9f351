"""The chats of the package `chitchat-dataset` (7,168 of two people each, MIT licence), as read for stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.json_files import read_json

TURNS = 4
"""Chats with fewer turns are no conversations: in most of them nobody answered."""


class Message(NamedTuple):
    """What somebody sent at once; `time` as 2018-05-02T19:38:15Z."""

    sender: str
    time: str
    text: str


class Chat(NamedTuple):
    """A chat, turn by turn: messages of one person, then of the other."""

    id: str
    turns: list[list[Message]]

    def text(self, turn: int) -> str:
        """A turn's messages as one text."""
        return " ".join(message.text for message in self.turns[turn])


def read_chats(source: Path) -> list[Chat]:
    """The chats of four turns and more, in the published order.

    Messages without a word are left out, and so are chats in which they are a whole turn.
    """
    chats = [Chat(id, _turns(chat["messages"])) for id, chat in read_json(source / "dataset.json").items()]
    return [chat for chat in chats if len(chat.turns) >= TURNS and all(chat.turns)]


def _turns(groups: list[list[dict[str, str]]]) -> list[list[Message]]:
    spoken = ([Message(m["sender"], m["timestamp"], m["text"].strip()) for m in group] for group in groups)
    return [[message for message in turn if message.text] for turn in spoken]
