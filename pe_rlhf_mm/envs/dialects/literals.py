"""Calls and JSON objects read out of a reply as data.

Nothing is evaluated: a call is a name and a flat list of numbers, texts, True, False, None and lists of those, found by
one pass over its tokens. Depth and length of a reply thus cost no stack. All numbers are floats, finite or not: a range
check refuses the latter.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pe_rlhf_mm.envs.actions import LONGEST_REPLY, ActionError

Scalar = float | str | bool | None
Value = Scalar | tuple[Scalar, ...]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number> [+-]? (?: [0-9]+ \.? [0-9]* | \. [0-9]+ ) (?: [eE] [+-]? [0-9]+ )? )
      | (?P<text> "(?: [^"\\] | \\. )*" | '(?: [^'\\] | \\. )*' )
      | (?P<name> [A-Za-z_] [A-Za-z_0-9]* )
      | (?P<mark> [()\[\],=] )
    )""",
    re.VERBOSE | re.DOTALL,
)
_CALL = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\(.*\)", re.DOTALL)
_LABEL = re.compile(r"^.*?\baction\s*:", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "/": "/"}
_CONSTANTS: dict[str, Scalar] = {"True": True, "False": False, "None": None}
_UNTYPABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Token = tuple[str, str]
"""The group of _TOKEN that matched, and its text."""


@dataclass(frozen=True)
class Call:
    """A call as it was written: `click(1, y=2)` has the values (1.0,) and the named value y."""

    name: str
    values: tuple[Value, ...] = ()
    named: Mapping[str, Value] = field(default_factory=dict)

    def flat(self) -> Call:
        """The call with its lists spliced in: `click([1, 2])` is `click(1, 2)`."""
        spliced = [item for value in self.values for item in (value if isinstance(value, tuple) else (value,))]
        return Call(self.name, tuple(spliced), self.named)

    def bind(self, parameters: Sequence[str], required: int) -> dict[str, Value]:
        """The values by parameter, of which the first `required` must be there. Raises ActionError for others."""
        bound = dict(zip(parameters, self.values, strict=False))
        unknown = self.named.keys() - (set(parameters) - bound.keys())
        missing = set(parameters[:required]) - bound.keys() - self.named.keys()
        if len(self.values) > len(parameters) or unknown or missing:
            takes = ", ".join(parameters) or "nothing"
            needed = f", the first {required} of which it needs" if required < len(parameters) else ""
            raise ActionError(f"{self.name} takes ({takes}){needed}; it was given other arguments")
        return {**bound, **self.named}


def short(reply: str) -> str:
    """The reply itself. Raises ActionError if it is longer than 10,000 characters."""
    if len(reply) > LONGEST_REPLY:
        raise ActionError(f"the reply has {len(reply)} characters; an action has {LONGEST_REPLY} at most")
    return reply


def last_call(reply: str) -> Call:
    """The last line of a reply that is a call and nothing else, whatever was said before and after it.

    A line may begin with words that end in "Action:", and stand between back quotes. Raises ActionError if no line is a
    call, or if that last one cannot be read: what stands above it was not the last word.
    """
    for line in reversed(short(reply).split("\n")):
        for candidate in (line, _LABEL.sub("", line)):
            bare = candidate.strip(" \t\r`;.")
            if _CALL.fullmatch(bare):
                return _read(bare)
    raise ActionError('no line of the reply is an action; end it with a line such as click(3, 4) or type("text")')


def last_object(reply: str) -> dict[str, Any]:
    """The last JSON object of a reply that is in no other one. Raises ActionError if there is none."""
    decoder, text = json.JSONDecoder(parse_int=float, parse_constant=float), short(reply)
    found: dict[str, Any] | None = None
    place = text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except ValueError:
            end = place + 1
        except RecursionError:
            raise ActionError("the reply nests brackets too deep; an action is a flat JSON object") from None
        place = text.find("{", end)
    if found is None:
        raise ActionError('the reply has no JSON object; end it with one such as {"action_type": "wait"}')
    return found


def number_of(arguments: Mapping[str, Any], name: str) -> float:
    """The number of that name. Raises ActionError if it is something else, or not there."""
    value = arguments.get(name)
    if not isinstance(value, float):
        raise ActionError(f"{name} must be a number, not {_shown(value)}")
    return value


def text_of(arguments: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """The text of that name. Raises ActionError if it is something else, or holds what no keyboard can type."""
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise ActionError(f"{name} must be a text in quotes, not {_shown(value)}")
    return typable(value)


def typable(text: str) -> str:
    """The text itself. Raises ActionError for control characters, but for tab and newline, and for half characters."""
    wrong = _UNTYPABLE.search(text)
    if wrong is not None:
        raise ActionError(f"a text holds the character {wrong[0]!r}, which cannot be typed; leave it out")
    return text


def quoted(text: str) -> str:
    """The text as `last_call` reads it: in double quotes, on one line."""
    return json.dumps(typable(text), ensure_ascii=False)


def _shown(value: object) -> str:
    """The beginning of what was given, for a message."""
    return "nothing" if value is None else f"{value!r:.40}"


def _read(line: str) -> Call:
    tokens = _tokens(line)
    name = tokens.popleft()[1]
    tokens.popleft()  # the bracket that _CALL saw
    values: list[Value] = []
    named: dict[str, Value] = {}
    while tokens and tokens[0][1] != ")":
        if len(tokens) > 1 and tokens[0][0] == "name" and tokens[1] == ("mark", "="):
            keyword = tokens.popleft()[1]
            tokens.popleft()
            if keyword in named:
                raise _unreadable(line)
            named[keyword] = _value(tokens, line)
        elif named:  # as in Python, what has a name comes last
            raise _unreadable(line)
        else:
            values.append(_value(tokens, line))
        _expect(tokens, ",", ")", line)
    if len(tokens) != 1:
        raise _unreadable(line)
    return Call(name, tuple(values), named)


def _tokens(line: str) -> deque[Token]:
    tokens: deque[Token] = deque()
    place = 0
    while place < len(line):
        found = _TOKEN.match(line, place)
        if found is None or found.lastgroup is None:
            raise _unreadable(line)
        tokens.append((found.lastgroup, found[found.lastgroup]))
        place = found.end()
    return tokens


def _expect(tokens: deque[Token], separator: str, end: str, line: str) -> None:
    """Takes the separator before another value, and leaves the end where it is."""
    if tokens and tokens[0] == ("mark", separator):
        tokens.popleft()
    elif not tokens or tokens[0] != ("mark", end):
        raise _unreadable(line)


def _value(tokens: deque[Token], line: str) -> Value:
    """A scalar, or one list of scalars in round or square brackets."""
    if not tokens or tokens[0] not in (("mark", "("), ("mark", "[")):
        return _scalar(tokens, line)
    end = ")" if tokens.popleft()[1] == "(" else "]"
    items: list[Scalar] = []
    while tokens and tokens[0] != ("mark", end):
        items.append(_scalar(tokens, line))
        _expect(tokens, ",", end, line)
    if not tokens:
        raise _unreadable(line)
    tokens.popleft()
    return tuple(items)


def _scalar(tokens: deque[Token], line: str) -> Scalar:
    kind, text = tokens.popleft() if tokens else ("mark", "")
    if kind == "number":
        return float(text)
    if kind == "text":
        return _ESCAPE.sub(_unescaped, text[1:-1])
    if kind == "name" and text in _CONSTANTS:
        return _CONSTANTS[text]
    raise _unreadable(line)


def _unescaped(found: re.Match[str]) -> str:
    """What an escape stands for; one that is not known stands for itself, as in Python."""
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(found[3], found[0])


def _unreadable(line: str) -> ActionError:
    return ActionError(f"{line[:60]!r} cannot be read; write plain numbers and texts in quotes between the brackets")
