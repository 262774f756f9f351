"""Pairs and ratings as a file: what an AI judge, or a person, writes down for a reward model to be trained on.

JSON Lines in UTF-8, by gzip or not. Each line is one label, and says what it is in which version of this format:

    {"version": 1, "type": "preference", "messages": [..], "chosen": REPLY, "rejected": REPLY,
     "probability": 0.8, "margin": 0.0, "cluster": null, "metadata": {"judge": "..", "confidence": 3}}
    {"version": 1, "type": "rating", "messages": [..], "reply": REPLY, "label": 1.0, "cluster": null, "metadata": {}}

The fields are those of `Preference` and `Rated`; probability, margin, cluster and metadata may be left out, as there. A
message is {"role": "user", "content": REPLY}, and a REPLY is a string or a list of parts:

    {"type": "text", "text": ".."}
    {"type": "image", "path": "images/7.png"}    relative to the folder of the file
    {"type": "image", "data": "iVBORw0KGgo.."}   a PNG or JPEG file in base64, for a picture that is in no file

What is read back is what was written; a picture that was pixels in memory comes back as a PNG of them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import IO, Any, get_args

from pe_rlhf_mm.data.sources.json_row import as_row, json_type, parse_json
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Image, Message, Preference, Rated, Reply, Role, Text

VERSION = 1
"""Of the format."""
Label = Preference | Rated
KINDS: dict[str, type[Preference] | type[Rated]] = {"preference": Preference, "rating": Rated}
HIGHEST = {"probability": 1.0, "margin": sys.float_info.max, "label": 1.0}
"""The lowest is 0."""


def fault(label: Label) -> str | None:
    """What is wrong with the numbers of a label, in words, or None."""
    for name in (field.name for field in dataclasses.fields(label) if field.name in HIGHEST):
        value, highest = getattr(label, name), HIGHEST[name]
        known = isinstance(value, Real)
        if not known or not 0 <= value <= highest:
            limits = "from 0 to 1" if highest == 1 else "of 0 or more"
            return f"{name} is {value!r:.80}; expected a number {limits}"
    return None


def _refuse_fault(label: Label) -> None:
    if (wrong := fault(label)) is not None:
        raise ValueError(f"{wrong}.")


# --- writing ----------------------------------------------------------------------------------------------------


def write_labels(path: str | Path, labels: Iterable[Label]) -> None:
    """Writes labels, replacing an older file only when the new one is complete.

    Raises UserError for a label that would not come back as it is, and for a place that cannot be written.
    """
    path = Path(path)
    folder = os.path.realpath(path.parent)
    with _replaced(path) as file:
        for number, label in enumerate(labels):
            try:
                # In ASCII: many readers of lines take U+2028 for the end of one.
                line = json.dumps(_record(label, folder), allow_nan=False).encode("ascii")
                _label(as_row(parse_json(line)), folder)  # whatever it holds can be read back
                file.write(line + b"\n")
            except (TypeError, ValueError) as error:
                raise UserError(f"label {number} cannot be written to {path}: {str(error).rstrip('.')}.") from error


def _record(label: Label, folder: str) -> dict[str, Any]:
    kind = next((name for name, kind in KINDS.items() if isinstance(label, kind)), None)
    if kind is None:
        raise TypeError(f"it is a {type(label).__name__}; expected a Preference or a Rated")
    _refuse_fault(label)
    fields = [field.name for field in dataclasses.fields(label)]
    return {"version": VERSION, "type": kind, **{n: _FIELDS[n].write(getattr(label, n), folder) for n in fields}}


def _write_content(content: Reply, folder: str) -> str | list[dict[str, str]]:
    return content if isinstance(content, str) else [_write_part(part, folder) for part in content]


def _write_part(part: Text | Image, folder: str) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if not isinstance(part, Image):
        raise TypeError(f"it has a {type(part).__name__} among its parts; expected Text or Image")
    source = part.source
    if isinstance(source, str | Path):
        return {"type": "image", "path": Path(os.path.relpath(os.path.abspath(source), folder)).as_posix()}
    if not isinstance(source, bytes):
        from pe_rlhf_mm.data.images import encode_png, open_image  # which is slow to import

        source = encode_png(open_image(part))
    return {"type": "image", "data": base64.b64encode(source).decode("ascii")}


def _write_messages(messages: Sequence[Message], folder: str) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": _write_content(message.content, folder)} for message in messages]


def _write_metadata(value: Mapping[str, Any], _: str) -> dict[str, Any]:
    plain = dict(value)
    if json.loads(json.dumps(plain, allow_nan=False)) != plain:
        raise ValueError("metadata has a value, a tuple perhaps, that would not come back from JSON as it is")
    return plain


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which takes its name once the block has ended without an error."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Give another place.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


# --- reading ----------------------------------------------------------------------------------------------------


def read_labels(path: str | Path) -> list[Label]:
    """Reads labels, in the order of their lines.

    Raises UserError for a file that cannot be read or is empty, and for a line that is not exactly what is described
    above, by file and line. It never quotes a line, which may be private or upsetting.
    """
    from pe_rlhf_mm.data.sources.json_lines import JsonLines  # it brings NumPy, and checks of tasks are instant

    lines, folder, labels = JsonLines(path), os.path.realpath(Path(path).parent), []
    for number in range(len(lines)):
        try:
            labels.append(_label(lines[number], folder))
        except ValueError as error:
            raise UserError(f"{lines.where(number)}: {error}") from error
    if not labels:
        raise UserError(f"{path} holds nothing but empty lines; expected one label a line.")
    return labels


def _label(row: dict[str, Any], folder: str) -> Label:
    version, kind = row.get("version"), row.get("type")
    _expect(version == VERSION, f'"version" is {version!r:.20}; this release reads version {VERSION}.')
    _expect(isinstance(kind, str) and kind in KINDS, f'"type" is {kind!r:.20}; expected {" or ".join(KINDS)}.')
    label = _filled(KINDS[str(kind)], {n: value for n, value in row.items() if n not in ("version", "type")}, folder)
    _refuse_fault(label)
    return label


def _filled(kind: type[Preference] | type[Rated], given: dict[str, Any], folder: str) -> Label:
    """A label of the given fields; those that have a default may be missing."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [name for name in given if name not in fields]
    _expect(not unknown, f"it has {', '.join(map(repr, unknown)):.80}; its fields are {', '.join(fields)}.")
    needed = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING and n not in given]
    _expect(not needed, f"it has no {' and no '.join(needed)}.")
    values = {}
    for name, value in given.items():
        try:
            values[name] = _FIELDS[name].read(value, folder)
        except ValueError as error:
            raise ValueError(f'"{name}" {error}') from error
    return kind(**values)


def _read_messages(values: Any, folder: str) -> tuple[Message, ...]:
    _expect_type(isinstance(values, list), values, "a list of messages")
    _expect(values, "is empty; expected one message at least.")
    return tuple(_read_message(value, folder) for value in values)


def _read_message(value: Any, folder: str) -> Message:
    known = isinstance(value, dict) and value.keys() == {"role", "content"}
    _expect(known, 'has something else than messages of "role" and "content".')
    role, roles = value["role"], get_args(Role)
    _expect(role in roles, f"has a message of role {role!r:.20}; there are {', '.join(roles)}.")
    return Message(role, _read_content(value["content"], folder))


def _read_content(value: Any, folder: str) -> Reply:
    _expect_type(isinstance(value, str | list), value, "a string or a list of parts")
    return value if isinstance(value, str) else tuple(_read_part(part, folder) for part in value)


def _read_part(part: Any, folder: str) -> Text | Image:
    told = part if isinstance(part, dict) and all(isinstance(value, str) for value in part.values()) else {}
    match told:
        case {"type": "text", "text": text, **rest} if not rest:
            return Text(text)
        case {"type": "image", "path": name, **rest} if not rest:
            path = Path(os.path.normpath(os.path.join(folder, name)))
            _expect(path.is_file(), f"names a picture that is not there: {path}.")
            return Image(path)
        case {"type": "image", "data": data, **rest} if not rest:
            return Image(_decoded(data))
    raise ValueError("has a part that is neither a text nor an image with a path or with data.")


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"has a picture whose data is no base64: {error}.") from error


def _read_number(value: Any, _: str) -> float:
    _expect_type(type(value) in (int, float), value, "a number")
    return math.inf if abs(value) > 1e300 else float(value)


def _read_cluster(value: Any, _: str) -> str | None:
    _expect_type(value is None or isinstance(value, str), value, "a string or null")
    return None if value is None else str(value)


def _read_metadata(value: Any, _: str) -> dict[str, Any]:
    _expect_type(isinstance(value, dict), value, "an object")
    return dict(value)


def _expect(holds: object, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


def _expect_type(holds: bool, value: Any, expected: str) -> None:
    _expect(holds, f"is {json_type(value)}; expected {expected}.")


@dataclasses.dataclass(frozen=True)
class _Field:
    """How a field is written and read; pictures are found from the folder of the file."""

    write: Callable[[Any, str], Any]
    read: Callable[[Any, str], Any]


_NUMBER, _CONTENT = _Field(lambda value, _: float(value), _read_number), _Field(_write_content, _read_content)
_FIELDS = {
    "messages": _Field(_write_messages, _read_messages),
    "chosen": _CONTENT,
    "rejected": _CONTENT,
    "reply": _CONTENT,
    "probability": _NUMBER,
    "margin": _NUMBER,
    "label": _NUMBER,
    "cluster": _Field(lambda value, _: value, _read_cluster),
    "metadata": _Field(_write_metadata, _read_metadata),
}
