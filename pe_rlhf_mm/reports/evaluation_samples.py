"""The samples of a log as data for its page, and what had to be left out so that it opens in any browser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pe_rlhf_mm.registry import title
from pe_rlhf_mm.reports.evaluation_log import Answer, Key, LogRecord
from pe_rlhf_mm.reports.pictures import FORMATS, Album
from pe_rlhf_mm.reports.records import Record, at, number, text
from pe_rlhf_mm.reports.strips import Strip, Turn, strip
from pe_rlhf_mm.reports.wording import SPACE, count

MOST_SAMPLES = 20_000
TEXTS = 20_000_000
"""Characters of prompts and replies on a page, all together."""
LONGEST = 20_000
"""Characters of any one of them."""
PICTURES = 16_000_000
"""Characters of encoded pictures on a page, all together."""


class Samples(NamedTuple):
    """`data` is what the script of the page reads, `style` holds the pictures, and `notes` tell what is left out."""

    data: dict[str, Any]
    style: str
    notes: list[str]


def evaluators_of(logs: Sequence[LogRecord]) -> list[str]:
    """Every evaluator that scored a sample, the headline first."""
    given = (at(line, "scores") for log in logs for line in log.scores.values())
    return list(dict.fromkeys(name for scores in given if isinstance(scores, Mapping) for name in scores))


def page_samples(logs: Sequence[LogRecord]) -> Samples:
    """The samples of one log, or those of two side by side."""
    evaluators, every = evaluators_of(logs), list(dict.fromkeys(key for log in logs for key in log.answers))
    keys = every[:MOST_SAMPLES]
    lengths = [len(told) for log in logs for key in keys if key in log.answers for told in _texts(log.answers[key])]
    longest = min(LONGEST, _fair_length(lengths, TEXTS))
    album = Album(*(log.folder for log in logs), budget=PICTURES)
    made = {key: _sample(logs, key, evaluators, album, longest) for key in _worst_first(logs, keys, evaluators)}
    data = {
        "logs": ["A", "B"][: len(logs)],
        "evaluators": [title(name) for name in evaluators],
        "best": [max([1, *(value for log in logs for value in log.values(name).values())]) for name in evaluators],
        "samples": [made[key] for key in keys],
    }
    cut, kinds = sum(length > longest for length in lengths), f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    left_out = {
        f"Samples that are not on this page, which has the first {count(MOST_SAMPLES)}": len(every) - len(keys),
        f"Texts that are cut at {count(longest)} characters": cut,
        f"Pictures that are missing, or no {kinds}, and so left out": album.unreadable,
        f"Pictures that are not on this page, but in the folder images of the log, since {count(len(album))} fill the "
        f"{PICTURES / 1e6:.0f}{SPACE}MB there are for them, the samples of the lowest scores first": album.beyond,
    }
    return Samples(data, album.rules, [f"{what}: {count(n)}." for what, n in left_out.items() if n])


def _worst_first(logs: Sequence[LogRecord], keys: Sequence[Key], evaluators: Sequence[str]) -> list[Key]:
    """What went wrong is looked at most, and so its pictures come before there is no more room."""

    def lowest(key: Key) -> float:
        return min((value for values in known if (value := values.get(key)) is not None), default=math.inf)

    known = [log.values(name) for log in logs for name in evaluators[:1]]
    return sorted(keys, key=lowest)


def _fair_length(lengths: Sequence[int], budget: int) -> int:
    """The length at which texts are cut so that all together keep to a budget: short ones stay whole."""
    left = budget
    for i, length in enumerate(sorted(lengths)):
        if length * (len(lengths) - i) > left:
            return left // (len(lengths) - i)
        left -= length
    return max(lengths, default=0)


def _texts(answer: Answer) -> Iterator[str]:
    """What a line says that can be long; of a played one the strip is short by itself."""
    for part in (part for _, parts in _messages(answer.line) for part in parts):
        if at(part, "image") is None:
            yield text(part, "text", longest=LONGEST)
    if answer.episode is None:
        yield from (text({"reply": reply}, "reply", longest=LONGEST) for reply in answer.line["replies"])


def _messages(line: Record) -> Iterator[tuple[str, list[Any]]]:
    """(role, parts) of every message of the prompt."""
    messages = at(line, "messages")
    for message in messages if isinstance(messages, list) else []:
        parts = at(message, "content")
        yield text(message, "role"), parts if isinstance(parts, list) else []


def _sample(
    logs: Sequence[LogRecord], key: Key, evaluators: Sequence[str], album: Album, longest: int
) -> dict[str, Any]:
    answer = next(log.answers[key] for log in logs if key in log.answers)
    messages = [
        {"role": role, "parts": [_part(part, album, longest) for part in parts]}
        for role, parts in _messages(answer.line)
    ]
    return {
        "id": key[0],
        "repeat": key[1],
        "cluster": text(answer.line, "cluster"),
        "messages": messages,
        "goal": text({"goal": answer.goal}, "goal", longest=longest),
        "sides": [_side(log, key, evaluators, album, longest) if key in log.answers else None for log in logs],
    }


def _part(part: object, album: Album, longest: int) -> dict[str, Any]:
    """A text, a picture of the page, or the path of one that is left out."""
    name = at(part, "image")
    if name is None:
        return {"text": text(part, "text", longest=longest)}
    screen = album.add(name)
    return {"left_out": text(part, "image")} if screen is None else {"screen": screen}


def _side(log: LogRecord, key: Key, evaluators: Sequence[str], album: Album, longest: int) -> dict[str, Any]:
    answer, given = log.answers[key], log.scores.get(key)
    scores = [_score(at(given, "scores", name)) for name in evaluators]
    if answer.episode is not None:
        told = strip(album, {"episodes": {"": answer.episode}}, "", "", None)
        return {"scores": scores, "strip": _strip(told)}
    replies = [text({"reply": reply}, "reply", longest=longest) for reply in answer.line["replies"]]
    return {"scores": scores, "replies": replies}


def _score(score: object) -> dict[str, Any] | None:
    if not isinstance(score, Mapping):
        return None
    parts = at(score, "parts")
    known = {
        str(name): value
        for name in (parts if isinstance(parts, Mapping) else {})
        if (value := number(parts, name)) is not None
    }
    return {"value": number(score, "value"), "why": text(score, "why"), "parts": known}


def _strip(told: Strip) -> dict[str, Any]:
    turns = {"turns": [_turn(turn) for turn in told.turns], "last": [_turn(turn) for turn in told.last]}
    return told._asdict() | turns


def _turn(turn: Turn) -> dict[str, Any]:
    """Without what is empty, since there are many: but an empty reply is one, and None is none."""
    return {name: value for name, value in turn._asdict().items() if value or name == "reply"}
