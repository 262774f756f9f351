"""`pe-rlhf tasks` and `evaluators`: what there is, and whether it conforms. Listing imports none of them."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pe_rlhf_mm import registry
from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.cli.upsetting import length_of, notice
from pe_rlhf_mm.errors import UserError
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


@dataclass(frozen=True)
class Show(Named):
    """A task's documentation, and its first training sample."""

    reveal: bool = False
    """Print the texts of a task that calls them upsetting."""


def _list(entries: registry.Registry, arguments: Sequence[str], prog: str) -> None:
    options = parse(Listing, arguments, prog=prog)
    rows = [{"id": id, "from": entries.owner(id)} for id in entries]
    print(json.dumps(rows, indent=1) if options.json else "\n".join(f"{r['id']:<38} {r['from']}" for r in rows))


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
    rows = [("evaluators", ", ".join(task.evaluators))]
    for sample in itertools.islice(task.samples("train"), 1):
        rows += [("first sample", sample.id)]
        rows += [(m.role, " ".join(_shown(part, text_of) for part in m.parts)) for m in sample.messages]
        rows += [("target", length_of(str(sample.target)) if warning else repr(sample.target))]
    print(registry.tasks.resolve(options.name))
    print(f"  {(type(task).__doc__ or '').strip()}")
    print("\n".join(f"  {what:<14}{text[:SHOWN_CHARACTERS]}" for what, text in rows))
    if warning:
        print(f"\n{notice(warning)}")


def _shown(part: Text | Image, text_of: Callable[[str], str]) -> str:
    if isinstance(part, Text):
        return text_of(part.text)
    return f"<image {part.source}>" if isinstance(part.source, str | Path) else "<image>"


def show_evaluator(arguments: Sequence[str]) -> None:
    """An evaluator's documentation, and what it must be given."""
    name = parse(Named, arguments, prog="pe-rlhf evaluators show", description="One evaluator.").name
    factory = registry.evaluators.factory(name)
    print(registry.evaluators.resolve(name))
    print(f"  {inspect.getdoc(factory) or ''}".replace("\n", "\n  "))
    asked = registry.evaluators.asks(name)
    if asked:
        print(f"  asks for      {', '.join(f'--{option}' for option in asked).replace('_', '-')}")


def _report(problems: list[str], name: str) -> None:
    if problems:
        raise UserError(f"{name} does not conform:\n  - " + "\n  - ".join(problems))
    print(f"{name} conforms")


def _check(kind: str, arguments: Sequence[str], check: Callable[[str], list[str]]) -> None:
    name = parse(
        Named, arguments, prog=f"pe-rlhf {kind} check", description=f"Runs the conformance checks on one of the {kind}."
    ).name
    _report(check(name), name)


def check_task(arguments: Sequence[str]) -> None:
    """Runs the conformance checks on a task."""
    from pe_rlhf_mm.testing import check_task

    _check("tasks", arguments, check_task)


def check_evaluator(arguments: Sequence[str]) -> None:
    """Runs the conformance checks on an evaluator."""
    from pe_rlhf_mm.testing import check_evaluator

    _check("evaluators", arguments, check_evaluator)
