"""The log of an evaluation: a folder to which every outcome is written as it is finished, so that it can go on.

run.json        what was evaluated, by what, when, and how it ended: schema, task, policy, fingerprint, split, seed, ..
samples.jsonl   a line for every finished outcome: {"id", "repeat", "seed", "cluster", "messages", "replies", "steps"}
images/         pictures of prompts and screens as they came, by the SHA-256 of their bytes
scores.jsonl    a line a sample: {"id", "repeat", "cluster", "scores": {evaluator: {"value", "why", "parts"}}}
results.json    of every evaluator: value, 95 % interval, n, unscored; the judge; wins; how episodes went

A line is written whole by one call; where a process was killed within it, what stands there is cut off by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm import __version__
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.attempts import Attempt
from pe_rlhf_mm.json_files import read_json, to_json, write_json
from pe_rlhf_mm.locks import locked
from pe_rlhf_mm.types import Image, Message, Outcome, Sample, Step, Text

if TYPE_CHECKING:
    from pe_rlhf_mm.evaluation.scoring import Evaluation

SCHEMA = 1
SAME = ("schema", "task", "fingerprint", "split", "seed", "max_tokens", "temperature")
"""What must be the same for a log to be gone on with. `limit` and `repeats` need not: more may be asked for."""


class EvalLog:
    """An open log, which this process alone writes to."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]):
        """Begins a log, or goes on with the one that is there. What of `facts` is in SAME must be as it was.

        Raises UserError if the folder cannot be written, holds something else, the log of another evaluation or what
        cannot be read, or if another process is writing there.
        """
        self.folder, self._facts, self._begun = folder, {"schema": SCHEMA, **facts}, False
        self._pictures: dict[tuple[object, ...], str] = {}  # by the state of a file, what it is called here
        try:
            with contextlib.ExitStack() as undo:
                self._lock = undo.enter_context(_locked(folder))
                self._go_on_from(self._refuse_other())
                self._known = _finished(folder)
                self._file = (folder / "samples.jsonl").open("ab", buffering=0)
                undo.pop_all()
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}. Give another --out.") from error

    def __enter__(self) -> EvalLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun:
            self._say(
                "finished" if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
            )
        self._file.close()
        self._lock.close()

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Says what else is known now, as the policy once it is loaded. Raises UserError where it is another one."""
        self._facts |= facts
        self._refuse_other()
        self._begun = True
        self._say("running")

    def _say(self, status: str) -> None:
        write_json(self.folder / "run.json", {**self._facts, "status": status})

    def _go_on_from(self, there: Mapping[str, Any]) -> None:
        """What earlier processes asked for has been asked for, and when the first of them began stays as it is."""
        for name in ("samples", "repeats"):
            if there:
                self._facts[name] = max(there.get(name) or 0, self._facts.get(name) or 0) or None
        self._facts["begun"] = there.get("begun") or datetime.now(UTC).isoformat(timespec="seconds")
        self._facts["version"] = __version__

    def _refuse_other(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        there = read_json(path) if path.exists() else {}
        for name in SAME:
            if name in self._facts and there.get(name, self._facts[name]) != self._facts[name]:
                its, ours = (f"{facts[name]!r}{_whose(name, facts)}" for facts in (there, self._facts))
                raise UserError(
                    f"{self.folder} is the log of another evaluation: its {name} is {its}, and that of this one is "
                    f"{ours}. Give another --out."
                )
        return there

    @property
    def asked(self) -> int | None:
        """Of how many samples outcomes have been asked for; None where an older log does not tell."""
        found: int | None = self._facts.get("samples")
        return found

    @property
    def finished(self) -> int:
        """How many outcomes it had when it was opened."""
        return len(self._known)

    def left(self) -> int:
        """How many outcomes were asked for and are not finished."""
        return max(0, (self._facts.get("samples") or 0) * (self._facts.get("repeats") or 0) - len(self._known))

    def refuse_strangers(self, ids: Collection[str]) -> None:
        """Raises UserError where a sample is finished that the task has no more: old and new would be mixed."""
        strangers = list(dict.fromkeys(id for id, _ in self._known if id not in ids))
        if strangers:
            raise UserError(
                f"{self.folder} has finished samples that the task has no more, such as {strangers[0]!r} "
                f"({len(strangers)} of {len({id for id, _ in self._known})}). The task has changed: give another --out."
            )

    def outcomes(self, attempts: Sequence[Attempt]) -> dict[int, Outcome]:
        """What is known of attempts from earlier, by their number.

        Raises UserError where two samples have the same id, or where one asks otherwise, or of another picture, than it
        did.
        """
        for (id, _), times in Counter((a.sample.id, a.repeat) for a in attempts).most_common(1):
            if times > 1:
                raise UserError(f"{times} samples have the id {id!r}; a log needs an id of its own for each.")
        known = {i: line for i, a in enumerate(attempts) if (line := self._known.get((a.sample.id, a.repeat)))}
        for i, line in known.items():
            self._refuse_other_prompt(line, attempts[i].sample)
        return {i: outcome_of(line, attempts[i].sample, self.folder) for i, line in known.items()}

    def _refuse_other_prompt(self, line: Mapping[str, Any], sample: Sample) -> None:
        was = _read_messages(line["messages"], self.folder)
        asked, asks = (_texts(messages) for messages in (was, sample.messages))
        if asked != asks:
            raise UserError(
                f"{self.folder}: sample {sample.id!r} asked {' '.join(asked)!r:.200}, and now it asks "
                f"{' '.join(asks)!r:.200}. The task has changed: give another --out."
            )
        pairs = list(itertools.zip_longest(_pictures(was), _pictures(sample.messages)))
        for number, (kept, image) in enumerate(pairs, start=1):
            if kept is None or image is None or not self._shows(image, Path(kept.source)):
                raise UserError(
                    f"{self.folder}: picture {number} of sample {sample.id!r} is not what it was when it was answered. "
                    "The task has changed: give another --out."
                )

    def _shows(self, image: Image, kept: Path) -> bool:
        """Whether a picture is the one that was kept: by its bytes or, as two encoders may differ, by its pixels."""
        from pe_rlhf_mm.data.images import open_image

        seen = _state_of(image.source)
        if seen is not None and self._pictures.get(seen) == f"images/{kept.name}":
            return True
        content = _bytes_of(image)
        same = hashlib.sha256(content).hexdigest() == kept.name
        if seen is not None and same and kept.is_file():
            self._pictures[seen] = f"images/{kept.name}"
        if same or not kept.is_file():
            return same
        one, other = open_image(image), open_image(Image(kept))
        return one.size == other.size and one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()

    def tries(self) -> int:
        """How often the sample was tried that was tried most often."""
        return 1 + max((repeat for _, repeat in self._known), default=0)

    def write(self, outcome: Outcome, seed: int) -> None:
        """Adds an outcome. Raises UserError where the disk takes no more."""
        try:
            left = to_json(self._line(outcome, seed), indent=None).encode() + b"\n"
            while left:  # a file without a buffer may take a part of it
                left = left[self._file.write(left) :]
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written: {error.strerror}. What is finished is kept: make room, and give the "
                "same command again."
            ) from error

    def _line(self, outcome: Outcome, seed: int) -> dict[str, Any]:
        sample = outcome.sample
        return {
            "id": sample.id,
            "repeat": outcome.repeat,
            "seed": seed,
            "cluster": sample.cluster,
            "messages": self._messages(sample.messages),
            "replies": list(outcome.replies),
            "steps": [self._step(step) for step in outcome.steps],
        }

    def finish(self, found: Evaluation) -> None:
        """Writes the scores and the results. `found` is of all samples, those of earlier included."""
        partial = self.folder / "scores.jsonl.partial"
        with partial.open("w") as file:
            for i, outcome in enumerate(found.outcomes):
                scores = {id: given[i] for id, given in found.scores.items()}
                sample = outcome.sample
                line = {"id": sample.id, "repeat": outcome.repeat, "cluster": sample.cluster, "scores": scores}
                file.write(to_json(line, indent=None) + "\n")
        os.replace(partial, self.folder / "scores.jsonl")
        episodes = {} if found.episodes is None else {"episodes": found.episodes._asdict()}
        rates = {"win_rates": found.win_rates} if found.win_rates else {}
        results = {"task": found.task, "metrics": found.metrics, **found.given, **rates, **episodes}
        write_json(self.folder / "results.json", results)

    def _messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        return [{"role": m.role, "content": [self._part(part) for part in m.parts]} for m in messages]

    def _part(self, part: Text | Image) -> dict[str, str]:
        return {"text": part.text} if isinstance(part, Text) else {"image": self._kept(part)}

    def _kept(self, image: Image) -> str:
        """The path of a picture in the folder. Many samples may show one file, which is read again if it changes."""
        seen = _state_of(image.source)
        if seen is None:
            return self._written(_bytes_of(image))
        if seen not in self._pictures:
            self._pictures[seen] = self._written(_bytes_of(image))
        return self._pictures[seen]

    def _written(self, content: bytes) -> str:
        """A picture of which a killed process has left a part is shorter, and written again: no line names it yet."""
        name = f"images/{hashlib.sha256(content).hexdigest()}"
        path = os.path.join(self.folder, name)
        if not os.path.exists(path) or os.path.getsize(path) != len(content):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).write_bytes(content)
        return name

    def _step(self, step: Step) -> dict[str, Any]:
        return {
            "observation": self._messages(step.observation),
            "reward": step.reward,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "info": json.loads(json.dumps(dict(step.info), default=_told)),
        }


def outcome_of(line: Mapping[str, Any], sample: Sample, folder: Path) -> Outcome:
    """A line of `samples.jsonl` as the outcome it was written from. `info` of steps comes back as JSON has it."""
    steps = [Step(**{**step, "observation": _read_messages(step["observation"], folder)}) for step in line["steps"]]
    return Outcome(sample, list(line["replies"]), steps or (), line["repeat"])


def _read_messages(messages: Sequence[Mapping[str, Any]], folder: Path) -> list[Message]:
    def part(told: Mapping[str, str]) -> Text | Image:
        return Text(told["text"]) if "text" in told else Image(folder / told["image"])

    return [Message(message["role"], [part(told) for told in message["content"]]) for message in messages]


def _pictures(messages: Sequence[Message]) -> list[Image]:
    return [part for message in messages for part in message.parts if isinstance(part, Image)]


def _texts(messages: Sequence[Message]) -> list[str]:
    return [part.text for message in messages for part in message.parts if isinstance(part, Text)]


def read_log(folder: Path) -> dict[str, Any]:
    """`run.json` of a log. Raises UserError for a folder that is none, or is one of another release."""
    if not (folder / "run.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/run.json"))
        hint = f" It holds the logs of several tasks: name one of them, {', '.join(inside)}." if inside else ""
        raise UserError(f"{folder} is no log of `pe-rlhf eval run --out`: it has no run.json.{hint}")
    facts = read_json(folder / "run.json")
    if facts.get("schema") != SCHEMA:
        raise UserError(f"{folder} is a log of schema {facts.get('schema')!r}; this release reads {SCHEMA}.")
    return facts


def read_replies(folder: Path, task: str, split: str) -> dict[str, list[str]]:
    """The replies of a log by sample, the first try each. Raises UserError for one of another task or split, and one
    without any."""
    facts, samples = read_log(folder), folder / "samples.jsonl"
    for name, expected in (("task", task), ("split", split)):
        if facts.get(name) != expected:
            raise UserError(
                f"{folder} cannot be compared with: its {name} is {facts.get(name)!r}, and that of this evaluation is "
                f"{expected!r}. Give another --against."
            )
    lines = _lines(samples) if samples.is_file() else ()
    replies = {line["id"]: list(line["replies"]) for line in lines if line["repeat"] == 0}
    if not replies:
        raise UserError(f"{folder} has no finished sample to compare with. Give another --against.")
    return replies


def read_scores(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of `scores.jsonl` by sample, one for each try. Raises UserError for a folder without any."""
    if not (folder / "scores.jsonl").is_file():
        raise UserError(f"{folder} has no scores.jsonl: it is no finished log of `pe-rlhf eval run --out`.")
    found: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(folder / "scores.jsonl"):
        found.setdefault(line["id"], []).append(line)
    return found


def _finished(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    path = folder / "samples.jsonl"
    if not path.exists():
        return {}
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)
    return {(line["id"], line["repeat"]): line for line in _lines(path)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield {"id": None, "repeat": 0, **json.loads(line)}
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"line {number} of {path} is damaged: {error}. Take the line out, and what it told is made again."
                ) from error


def _locked(folder: Path) -> io.TextIOWrapper:
    """The open lock of a log folder, which is made if it is not there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; a log needs a folder. Give another --out.")
    is_log = (folder / ".lock").exists() and not (folder / "config.json").exists()  # which the folder of a tuning has
    if folder.is_dir() and any(folder.iterdir()) and not is_log:
        raise UserError(f"{folder} is not empty and is no log of an evaluation. Give another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    said = f"another process is writing to {folder}. Wait until it has ended, or give another --out."
    return locked(folder / ".lock", said)


def _whose(name: str, facts: Mapping[str, Any]) -> str:
    """Whose fingerprint it is: by itself it tells a reader nothing."""
    policy = facts.get("policy", facts[name])
    return f" (of {policy})" if name == "fingerprint" and policy != facts[name] else ""


def _state_of(source: object) -> tuple[object, ...] | None:
    """What is another one as soon as a file has changed; None for what is no file."""
    try:
        found = os.stat(source) if isinstance(source, str | Path) else None
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return None
    return None if found is None else (str(source), found.st_ino, found.st_size, found.st_ctime_ns)


def _bytes_of(image: Image) -> bytes:
    """A picture as it came where that was a file, and otherwise as PNG. Raises ImageError."""
    from pe_rlhf_mm.data.images import encode_png, open_image

    source = image.source
    if isinstance(source, bytes):
        return source
    if isinstance(source, str | Path) and Path(source).is_file():
        return Path(source).read_bytes()
    return encode_png(open_image(image))


def _told(value: object) -> object:
    """What JSON has no word for: a data class by its fields, anything else by what it says of itself."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)
