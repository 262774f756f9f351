"""Tables in Markdown, in which nothing that comes from models or data is read as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKUP = re.compile(r"([\\`*_\[\]|<>&~])")


def plain(words: str) -> str:
    """A text on one line, shown as it is."""
    return _MARKUP.sub(r"\\\1", " ".join(words.split()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
