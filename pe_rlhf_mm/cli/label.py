"""`pe-rlhf label`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pe_rlhf_mm import registry
from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.cli.evaluation import exit_code, refuse_no_share
from pe_rlhf_mm.json_files import to_json


@dataclass(frozen=True)
class Label:
    """Has a judge say which reply of every pair of a task is better, for --reward.labels and --preferences.labels.

    Each pair is asked about in both orders. The same command goes on after a crash. Exit code 3: more than
    `--max-unscored` of the pairs are without a label.
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Id of a task, or path.py:Class, or package.module:Class."""
    judge: str
    """A server's http://host:port/v1#model, or a run folder, or the name or folder of a model, or path.py:Class."""
    out: str
    """File of labels in JSON Lines; what the report says stands beside it, in OUT.json."""
    split: str | None = None
    """Of the task: train, unless told otherwise. Of --replies it is that of the log."""
    replies: str | None = None
    """Folder of a log of `pe-rlhf eval run TASK --split train --repeats 2 --temperature 1`: in place of the task's own
    pairs, of the tries at each sample the first one and the next one that says something else."""
    limit: int | None = None
    """Only the first so many pairs."""
    seed: int = 0
    """That the task draws its pairs by, where it draws any."""
    evaluator: str = "pe/judge-win-rate"
    """What puts the pairs to the judge: one that compares two replies."""
    judge_calls: int = 10_000
    """Questions that a server is asked at most, two a pair; the same command goes on with as many more."""
    judge_tokens: int = 2048
    """Tokens of its answers at most, thoughts included."""
    rationale: bool = False
    """The judge writes down its reasons before it chooses: four questions a pair."""
    max_unscored: float = 0.05
    """Share of pairs that may be without a label."""
    json: bool = False
    """Print JSON."""


def label(arguments: Sequence[str]) -> int:
    """Prints what the labels are worth."""
    options = parse(Label, arguments, prog="pe-rlhf label")
    refuse_no_share(options.max_unscored)
    from pe_rlhf_mm.judging import labelling
    from pe_rlhf_mm.training.progress import ProgressBar

    with ProgressBar() as bar:
        found = labelling.label(
            options.task,
            options.judge,
            options.out,
            split=options.split,
            limit=options.limit,
            seed=options.seed,
            replies=options.replies,
            evaluator=options.evaluator,
            judge_calls=options.judge_calls,
            judge_tokens=options.judge_tokens,
            rationale=options.rationale,
            tick=None if options.json else bar.counter("labels"),
        )
    written = f"labels: {options.out}" if found.labelled else "no label, and so no file"
    print(to_json(found) if options.json else f"{found.text()}\n{written}")
    of = registry.title(registry.tasks.resolve(options.task))
    return exit_code(of, options.evaluator, found.unlabelled, found.labelled, options.max_unscored)
