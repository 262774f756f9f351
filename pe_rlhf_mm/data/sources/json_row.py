"""One row written as JSON: read strictly, and refused with the reason."""

from __future__ import annotations

import json
from typing import Any

from pe_rlhf_mm.data.sources.source import Row


def parse_json(content: bytes) -> Any:
    """The value that UTF-8 bytes spell, with or without a byte-order mark.

    Raises ValueError with the reason, by byte or column from 1, if they spell none. So it does for half a surrogate
    pair ("\\ud83d" alone): that is no text, and whoever writes it later would fail without naming the row.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1} (0x{error.object[error.start]:02x}) is not UTF-8"
        raise ValueError(f"{wrong}. Convert the file to UTF-8, or take the row out.") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a surrogate pair. Repair the row, or take it out.") from error
    except json.JSONDecodeError as error:
        wrong = f"broken JSON at column {error.colno} ({error.msg})"
        raise ValueError(f"{wrong}. Expected one whole JSON object; download the file again.") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be read. Take the row out.") from error
    return value


def as_row(value: Any) -> Row:
    """The value itself. Raises ValueError unless it is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"it is {json_type(value)}; expected a JSON object.")
    return value


def json_type(value: Any) -> str:
    """What JSON calls a value."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return "a string"
        case None:
            return "null"
        case bool():
            return "true or false"
        case _:
            return "a number"
