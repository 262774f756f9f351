"""`pe-rlhf tasks` and `evaluators`: what there is, and whether it conforms. Listing imports none of them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pe_rlhf_mm import registry
from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.cli.upsetting import length_of, notice
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.types import Image, Text

SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Listing:
    """Lists ids, and the package each comes from."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Named:
    """One thing."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """An id, or path.py:Class, or package.module:Class."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Show(Named):
    """A task's documentation, and its first training sample."""

    reveal: bool = False
    """Print the texts of a task that calls them upsetting."""


def _list(entries: registry.Registry, arguments: Sequence[str], prog: str) -> None:
    options = parse(Listing, arguments, prog=prog)
    rows = [{"id": id, "from": entries.owner(id)} for id in entries]
    print(to_json(rows) if options.json else "\n".join(f"{r['id']:<38} {r['from']}" for r in rows))


def list_tasks(arguments: Sequence[str]) -> None:
    """All tasks."""
    _list(registry.tasks, arguments, "pe-rlhf tasks list")


def list_evaluators(arguments: Sequence[str]) -> None:
    """All evaluators."""
    _list(registry.evaluators, arguments, "pe-rlhf evaluators list")


def show_task(arguments: Sequence[str]) -> None:
    """A task's documentation, and its first training sample; of texts that it calls `upsetting` the lengths."""
    options = parse(Show, arguments, prog="pe-rlhf tasks show")
    task = registry.tasks.make(options.name)
    warning = "" if options.reveal else getattr(task, "upsetting", "")
    text_of = length_of if warning else str
    told: dict[str, Any] = {"evaluators": list(task.evaluators)}
    for sample in itertools.islice(task.samples("train"), 1):
        told["first sample"] = sample.id
        told["messages"] = [(m.role, " ".join(_shown(part, text_of) for part in m.parts)) for m in sample.messages]
        told["target"] = length_of(str(sample.target)) if warning else repr(sample.target)
    _tell(registry.tasks.resolve(options.name), (type(task).__doc__ or "").strip(), told, as_json=options.json)
    if warning and not options.json:
        print(f"\n{notice(warning)}")


def _tell(id: str, documentation: str, told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(to_json({"id": id, "documentation": documentation, **told}))
        return
    print(f"{registry.title(id)}\n{documentation}".replace("\n", "\n  "))
    rows = [row for name, value in told.items() for row in (value if name == "messages" else [(name, value)])]
    for what, value in rows:
        written = value if isinstance(value, str) else ", ".join(value)
        print(f"  {what:<14}{written[:SHOWN_CHARACTERS]}")


def _shown(part: Text | Image, text_of: Callable[[str], str]) -> str:
    if isinstance(part, Text):
        return text_of(part.text)
    return f"<image {part.source}>" if isinstance(part.source, str | Path) else "<image>"


def show_evaluator(arguments: Sequence[str]) -> None:
    """An evaluator's documentation, and what it must be given."""
    options = parse(Named, arguments, prog="pe-rlhf evaluators show", description="One evaluator.")
    asked = [f"--{option.replace('_', '-')}" for option in registry.evaluators.asks(options.name)]
    documentation = inspect.getdoc(registry.evaluators.factory(options.name)) or ""
    told = {"asks for": asked} if asked else {}
    _tell(registry.evaluators.resolve(options.name), documentation, told, as_json=options.json)


def _tell_problems(name: str, problems: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print(to_json({"id": name, "conforms": not problems, "problems": problems}))
    if problems:
        raise UserError(f"{name} does not conform:\n  - " + "\n  - ".join(problems))
    if not as_json:
        print(f"{name} conforms")


def check_task(arguments: Sequence[str]) -> None:
    """Runs the conformance checks on a task."""
    options = parse(Named, arguments, prog="pe-rlhf tasks check", description="Runs the conformance checks on a task.")
    from pe_rlhf_mm.testing import check_task

    _tell_problems(options.name, check_task(options.name), as_json=options.json)


@dataclass(frozen=True)
class CheckEvaluator(Named):
    """Runs the conformance checks on an evaluator, which scores the outcomes of a toy task."""

    judge: str | None = None
    """For one that asks a judge: as of `pe-rlhf eval run`."""
    reward: str | None = None
    """For one that asks a reward model: a run folder."""


def check_evaluator(arguments: Sequence[str]) -> None:
    """Runs the conformance checks on an evaluator."""
    options = parse(CheckEvaluator, arguments, prog="pe-rlhf evaluators check")
    from pe_rlhf_mm.judging.load import load_judge
    from pe_rlhf_mm.testing import check_evaluator

    offered: dict[str, Any] = {"judge": None, "reward": None}
    if options.judge is not None:
        offered["judge"] = load_judge(options.judge)
    if options.reward is not None:
        from pe_rlhf_mm.training.reward_model import load_run_reward

        offered["reward"] = load_run_reward(options.reward)
    evaluator = registry.evaluators.make(options.name, offered)
    _tell_problems(options.name, check_evaluator(evaluator), as_json=options.json)
