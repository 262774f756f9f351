"""`pe-rlhf eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.json_files import to_json

if TYPE_CHECKING:
    from pe_rlhf_mm.evaluation.evaluate import Evaluation


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
    evaluator: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """In place of the task's: an id, or path.py:Class, or package.module:Class; may be given several times."""
    out: str | None = None
    """Folder of a log: what is finished there already is not done again, so the same command goes on after a crash."""
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
            evaluators=options.evaluator,
            out=options.out,
            tick=None if options.json else bar.counter("evaluation"),
        )
    _show(found, as_json=options.json)


def _show(found: Evaluation, *, as_json: bool) -> None:
    if as_json:
        rows = [m.__dict__ | {"interval": list(m.interval)} for m in found.metrics]
        played = {} if found.episodes is None else {"episodes": found.episodes._asdict()}
        print(to_json({"task": found.task, "metrics": rows, **played}))
    else:
        print(found.table())


@dataclass(frozen=True)
class EvalScore:
    """Scores a log once more, by the task's evaluators or by others: nothing is generated."""

    log: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")]
    """Folder of a log."""
    evaluator: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Id of an evaluator, or path.py:Class, or package.module:Class; may be given several times."""
    json: bool = False
    """Print JSON."""


def score(arguments: Sequence[str]) -> None:
    """Writes the scores and the results of a log anew."""
    options = parse(EvalScore, arguments, prog="pe-rlhf eval score")
    from pe_rlhf_mm.evaluation.evaluate import rescore

    _show(rescore(options.log, options.evaluator), as_json=options.json)


@dataclass(frozen=True)
class EvalCompare:
    """Compares two logs of one task, sample by sample: what B does better than A, and how sure that is."""

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Folder of a log."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Folder of another one."""
    json: bool = False
    """Print JSON."""


def compare(arguments: Sequence[str]) -> None:
    """Prints paired differences."""
    options = parse(EvalCompare, arguments, prog="pe-rlhf eval compare")
    from pe_rlhf_mm.evaluation import comparison

    found = comparison.compare(Path(options.a), Path(options.b))
    print(to_json(found) if options.json else comparison.table(found))
