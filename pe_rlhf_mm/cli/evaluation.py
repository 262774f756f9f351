"""`pe-rlhf eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.json_files import to_json


@dataclass(frozen=True)
class EvalRun:
    """Evaluates a policy on a task: a table with n, value and a clustered 95 % interval."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Id of a task, or path.py:Class, or package.module:Class."""
    policy: str
    """A run folder, the name or folder of a model, or a function from messages to text: path.py:name or module:name."""
    split: str = "test"
    limit: int | None = None
    """Only the first so many samples."""
    max_tokens: int = 16
    seed: int = 0
    environments: int = 4
    """How many environments are played at once, where the task has one."""
    json: bool = False
    """Print JSON."""


def run(arguments: Sequence[str]) -> None:
    """Evaluates, with a progress bar."""
    options = parse(EvalRun, arguments, prog="pe-rlhf eval run")
    from pe_rlhf_mm import registry
    from pe_rlhf_mm.evaluation.evaluate import evaluate
    from pe_rlhf_mm.training.progress import ProgressBar

    registry.tasks.resolve(options.task)  # a wrong name is said before a bar is drawn
    with ProgressBar() as bar:
        found = evaluate(
            options.task,
            options.policy,
            split=options.split,
            limit=options.limit,
            max_tokens=options.max_tokens,
            seed=options.seed,
            environments=options.environments,
            tick=None if options.json else bar.counter("evaluation"),
        )
    if options.json:
        rows = [m.__dict__ | {"interval": list(m.interval)} for m in found.metrics]
        played = {} if found.episodes is None else {"episodes": found.episodes._asdict()}
        print(to_json({"task": found.task, "metrics": rows, **played}))
    else:
        print(found.table())
