"""BOLT English SMS and Chat: private conversations, without summaries (LDC2018T19).

One XML file a conversation. Speakers become A, B, ... in the order in which they first speak. There are no published
splits: a tenth of the conversations each is for test and for validation, by a hash of their id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from xml.sax.saxutils import unescape

from pe_rlhf_mm.data.published.description import (
    Part,
    Published,
    Record,
    SetAside,
    WrongRow,
    held_out,
    take,
    train_or_validation,
)
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import Row

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def conversation(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """A conversation, message by message; one without a message is set aside."""
    root: Any = row["root"]
    if root.tag != "conversation":
        raise WrongRow(f"its root is <{root.tag}>; expected <conversation>")
    id, medium = (_attribute(root.attrib, name, root.tag) for name in ("id", "medium"))
    messages = list(root.iter("message"))
    if not messages:
        raise SetAside("no messages")
    speakers = [_attribute(message.attrib, "participant", message.tag) for message in messages]
    return "test" if held_out(f"bolt-test/{id}") else train_or_validation(f"bolt/{id}"), {
        "id": id,
        "medium": medium,
        "speakers": _lettered(speakers),
        "texts": [_body(message) for message in messages],
        "times": [message.get("time", "") for message in messages],
    }


def _attribute(attributes: Mapping[str, Any], name: str, tag: str) -> str:
    try:
        return take(attributes, name, str)
    except WrongRow as error:
        raise WrongRow(f"a <{tag}> has no attribute {name!r}") from error


def _body(message: Any) -> str:
    """The text of a message; a few are published escaped twice (&amp;amp;)."""
    return unescape((message.findtext("body") or "").strip(), {"&quot;": '"', "&apos;": "'"})


def _lettered(speakers: Sequence[str]) -> list[str]:
    """A for who speaks first, and so on; P27 after Z."""
    numbers = {speaker: number for number, speaker in enumerate(dict.fromkeys(speakers))}
    return [LETTERS[numbers[s]] if numbers[s] < len(LETTERS) else f"P{numbers[s] + 1}" for s in speakers]


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.xml_folder import XmlFolder

    folders = dict.fromkeys(path.parent for path in found.named(*BOLT.files))
    return [Part(XmlFolder(folder), partial(conversation, split="", subset="")) for folder in folders]


BOLT = Published(
    name="bolt",
    title="BOLT English SMS and Chat",
    licence="LDC user agreement. Not to be passed on",
    where_to_get_it="The Linguistic Data Consortium sells it as LDC2018T19, https://catalog.ldc.upenn.edu/LDC2018T19.",
    files=("*.conv.xml",),
    archives=("LDC2018T19*.zip", "LDC2018T19*.tgz", "LDC2018T19*.tar.gz", "bolt*.zip", "bolt*.tgz", "bolt*.tar.gz"),
    features={"id": "text", "medium": "text", "speakers": "texts", "texts": "texts", "times": "texts"},
    prompt=("speakers", "texts"),
    parts=_parts,
    row=conversation,
)
