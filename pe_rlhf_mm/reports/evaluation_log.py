"""Reading the log of an evaluation for its page: finished or not, while it is written, and without changing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pe_rlhf_mm.evaluation.log import outcome_of, read_log
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.reports.episodes import goal_of, record_of
from pe_rlhf_mm.reports.folder import read_lines
from pe_rlhf_mm.reports.records import Record, at, number, text
from pe_rlhf_mm.types import Sample

Key = tuple[str, int]
"""The id of a sample, and which try at it."""


class Answer(NamedTuple):
    """A line of `samples.jsonl`; of a played one also the goal, and the record of the episode."""

    line: Record
    goal: str
    episode: dict[str, Any] | None


class LogRecord(NamedTuple):
    """What a log has so far. `known`: what evaluators gave, by name; `unreadable` counts the lines left out."""

    folder: Path
    facts: Record
    results: Record
    answers: dict[Key, Answer]
    scores: dict[Key, Record]
    known: dict[str, dict[Key, float]]
    unreadable: dict[str, int]

    @property
    def finished(self) -> bool:
        """Whether the evaluation came to its end and has its numbers."""
        return at(self.facts, "status") == "finished" and bool(self.results)

    def values(self, evaluator: str) -> dict[Key, float]:
        """All that an evaluator gave: nothing where nothing could be said, or nothing has been scored yet."""
        return self.known.get(evaluator, {})


def read_evaluation(folder: Path) -> LogRecord:
    """Reads what is there, samples in the order of the task. Raises UserError for a folder that is no log."""
    facts = read_log(folder)
    results = read_json(folder / "results.json") if (folder / "results.json").is_file() else {}
    lines, torn = read_lines(folder / "samples.jsonl")
    scored, torn_scores = read_lines(folder / "scores.jsonl")
    lines.sort(key=lambda line: number(line, "seed") or 0)
    answers = {_key(line): answer for line in lines if (answer := _answer(line)) is not None}
    unreadable = {"samples.jsonl": torn + len({*map(_key, lines)}) - len(answers), "scores.jsonl": torn_scores}
    scores = {_key(line): line for line in scored}
    return LogRecord(folder, facts, results, answers, scores, _values(scores), unreadable)


def _values(scores: Mapping[Key, Record]) -> dict[str, dict[Key, float]]:
    found: dict[str, dict[Key, float]] = {}
    for key, line in scores.items():
        given = at(line, "scores")
        for name in given if isinstance(given, dict) else ():
            value = number(given, name, "value")
            if value is not None:
                found.setdefault(name, {})[key] = value
    return found


def _key(line: Record) -> Key:
    return text(line, "id"), int(number(line, "repeat") or 0)


def _answer(line: Record) -> Answer | None:
    """None for a line that tells of no outcome."""
    try:
        outcome = outcome_of({"repeat": 0, **line}, Sample(line["id"], ()), Path())
        if not outcome.steps:
            return Answer(line, "", None)
        return Answer(line, goal_of(outcome), record_of(outcome, lambda image: str(image.source)))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
