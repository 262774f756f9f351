"""Chats (`chitchat-dataset`) as BOLT conversations: one XML file each, under the names that the corpus uses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from pe_rlhf_mm.data.standins.chats import Chat, Message, read_chats


def fill(source: Path, folder: Path) -> dict[str, int]:
    """Writes `data/CHT_ENG_<day>.<number>.conv.xml` out of the package's `dataset.json`."""
    chats, of_day, messages = read_chats(source), Counter[str](), 0
    (folder / "data").mkdir()
    for chat in chats:
        day = chat.turns[0][0].time[:10].replace("-", "")
        id = f"CHT_ENG_{day}.{of_day[day]:04d}"
        of_day[day] += 1
        messages += sum(map(len, chat.turns))
        (folder / "data" / f"{id}.conv.xml").write_text(_xml(id, chat), encoding="utf-8")
    return {"conversations": len(chats), "messages": messages}


def _xml(id: str, chat: Chat) -> str:
    said = [message for turn in chat.turns for message in turn]
    numbers = {sender: 120_000 + number for number, sender in enumerate(dict.fromkeys(m.sender for m in said))}
    lines = [_message(number, message, numbers[message.sender]) for number, message in enumerate(said)]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<conversation id={quoteattr(id)} medium="CHT" donated="true">\n'
        f"  <messages>\n{''.join(lines)}  </messages>\n</conversation>\n"
    )


def _message(number: int, message: Message, participant: int) -> str:
    time = message.time.replace("T", " ").replace("Z", " UTC")
    return (
        f'    <message id="m{number:04d}" time={quoteattr(time)} participant="{participant}">\n'
        f"      <body>{escape(message.text)}</body>\n    </message>\n"
    )
