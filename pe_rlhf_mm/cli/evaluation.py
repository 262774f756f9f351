"""`pe-rlhf eval`."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pe_rlhf_mm import registry
from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.json_files import to_json

if TYPE_CHECKING:
    from pe_rlhf_mm.evaluation.evaluate import Tick
    from pe_rlhf_mm.evaluation.given import Given
    from pe_rlhf_mm.evaluation.scoring import Evaluation
    from pe_rlhf_mm.training.reward_model import RewardModel

UNSCORED = 3
"""Exit code where more could not be scored than may be."""


@dataclass(frozen=True, kw_only=True)
class Aids:
    """What evaluators such as pe/judge-win-rate ask for."""

    judge: str | None = None
    """A server's http://host:port/v1#model, or a run folder, or the name or folder of a model, or path.py:Class."""
    judge_calls: int = 10_000
    """Questions that a server is asked at most; what is over is not scored."""
    judge_tokens: int = 2048
    """Tokens of its answers at most, thoughts included."""
    against: str | None = None
    """Folder of a log whose replies are compared with."""
    reward: str | None = None
    """A run folder, whose reward model scores replies."""
    anchor: str | None = None
    """A policy that drift is measured from: a run folder, RUN:sft, or the name or folder of a model."""

    def load(self) -> Given:
        """What is named, loaded."""
        from pe_rlhf_mm.evaluation.given import Given
        from pe_rlhf_mm.judging.load import load_judge

        judge = (
            None if self.judge is None else load_judge(self.judge, calls=self.judge_calls, max_tokens=self.judge_tokens)
        )
        return Given(judge, self.against, self._reward(), self._anchor())

    def _reward(self) -> RewardModel | None:
        if self.reward is None:
            return None
        from pe_rlhf_mm.training.reward_model import load_run_reward

        return load_run_reward(self.reward)

    def _anchor(self) -> Any:
        """Loaded once, however many tasks there are."""
        if self.anchor is None:
            return None
        from pe_rlhf_mm.rollout.load import policy_from

        return policy_from(self.anchor)


@dataclass(frozen=True)
class EvalRun(Aids):
    """Evaluates a policy on tasks: a table with n, value and a clustered 95 % interval.

    Exit code 3: more than `--max-unscored` of the scores of a task are missing.
    """

    tasks: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK ..", help_behavior_hint="(required)")
    ]
    """Ids of tasks, or path.py:Class, or package.module:Class."""
    policy: str
    """A run folder, the name or folder of a model, a server's http://host:port/v1#model, or a function from messages to
    text: path.py:name or module:name."""
    split: str = "test"
    limit: int | None = None
    """Only the first so many samples."""
    repeats: int = 1
    """Tries at every sample; the best of them is told too."""
    temperature: float = 0.0
    """Of the replies; 0: the likeliest one, always."""
    max_tokens: int = 16
    seed: int = 0
    environments: int = 4
    """How many environments are played at once, where the task has one."""
    evaluator: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """In place of the task's: an id, or path.py:Class, or package.module:Class; may be given several times."""
    out: str | None = None
    """Folder of a log: what is finished there already is not done again, so the same command goes on after a crash. Of
    several tasks each has a folder in it."""
    max_unscored: float = 0.05
    """Share of scores that may be missing."""
    json: bool = False
    """Print JSON: an object, or of several tasks a list of them."""


def run(arguments: Sequence[str]) -> int:
    """Evaluates, with a progress bar."""
    options = parse(EvalRun, arguments, prog="pe-rlhf eval run")
    refuse_no_share(options.max_unscored)
    from pe_rlhf_mm.rollout.load import policy_from
    from pe_rlhf_mm.training.progress import ProgressBar

    # A wrong name is said before a model is loaded.
    ids = [registry.tasks.resolve(task) for task in options.tasks]
    if len(set(ids)) < len(ids) or not ids:
        raise UserError("name one task at least, and each of them once: pe-rlhf eval run TASK .. --policy POLICY")
    if options.out is not None and len({*map(_folder_of, ids)}) < len(ids):
        raise UserError("two of these tasks would share a folder in --out; evaluate each with an --out of its own.")
    given, policy, found = options.load(), policy_from(options.policy), []
    gc.freeze()  # or every full collection walks all that was imported
    with ProgressBar() as bar:
        for id in ids:
            tick = None if options.json else bar.counter("evaluation" if len(ids) == 1 else id)
            found.append(_evaluate(options, id, policy, given, tick))
    _show(found, as_json=options.json)
    return _told_unscored(found, options.max_unscored)


def _evaluate(options: EvalRun, id: str, policy: Any, given: Given, tick: Tick | None) -> Evaluation:
    from pe_rlhf_mm.evaluation.evaluate import evaluate

    out = options.out if options.out is None or len(options.tasks) == 1 else Path(options.out, _folder_of(id))
    return evaluate(
        id,
        policy,
        split=options.split,
        limit=options.limit,
        repeats=options.repeats,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
        environments=options.environments,
        evaluators=options.evaluator,
        given=given,
        out=out,
        tick=tick,
    )


def _folder_of(id: str) -> str:
    """A name for a task's log: `pe-easy-vqa`."""
    return re.sub(r"[^\w.-]+", "-", id.partition("@")[0] if ".py" not in id else Path(id).name)


def _told_unscored(found: Sequence[Evaluation], most: float) -> int:
    """The exit code of all."""
    metrics = [(evaluation.task, metric) for evaluation in found for metric in evaluation.metrics]
    return max(exit_code(registry.title(task), m.evaluator, m.unscored, m.n, most) for task, m in metrics)


def exit_code(of: str, evaluator: str, unscored: int, scored: int, most: float) -> int:
    """0, or UNSCORED after saying how many scores are missing."""
    share = unscored / max(scored + unscored, 1)
    if share <= most:
        return 0
    told = f"{100 * share:.1f} % of {registry.title(evaluator)} could not be scored"
    print(f"error: {of}: {told}, and --max-unscored allows {100 * most:g} %", file=sys.stderr)
    return UNSCORED


def refuse_no_share(most: float) -> None:
    """Raises OutOfRange for what --max-unscored cannot be."""
    if not 0 <= most <= 1:
        raise OutOfRange(f"--max-unscored must be a share from 0 to 1, not {most:g}")


def _show(found: Sequence[Evaluation], *, as_json: bool) -> None:
    if as_json:
        told = [_json(evaluation) for evaluation in found]
        print(to_json(told[0] if len(told) == 1 else told))
    else:
        print("\n\n".join(evaluation.table() for evaluation in found))


def _json(found: Evaluation) -> dict[str, Any]:
    rows = [m.__dict__ | {"interval": list(m.interval)} for m in found.metrics]
    played = {} if found.episodes is None else {"episodes": found.episodes._asdict()}
    rates = {"win_rates": found.win_rates} if found.win_rates else {}
    left = {name: n for name, n in (("left", found.left), ("unasked", found.unasked)) if n}
    return {"task": found.task, "metrics": rows, **found.given, **rates, **played, **left}


@dataclass(frozen=True)
class EvalScore(Aids):
    """Scores a log once more, by the task's evaluators or by others: nothing is generated.

    Exit code 3: more than `--max-unscored` of the scores are missing.
    """

    log: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")]
    """Folder of a log."""
    evaluator: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Id of an evaluator, or path.py:Class, or package.module:Class; may be given several times."""
    max_unscored: float = 0.05
    """Share of scores that may be missing."""
    json: bool = False
    """Print JSON."""


def score(arguments: Sequence[str]) -> int:
    """Writes the scores and the results of a log anew."""
    options = parse(EvalScore, arguments, prog="pe-rlhf eval score")
    refuse_no_share(options.max_unscored)
    from pe_rlhf_mm.evaluation.evaluate import rescore

    found = rescore(options.log, options.evaluator, given=options.load())
    _show([found], as_json=options.json)
    return _told_unscored([found], options.max_unscored)


@dataclass(frozen=True)
class EvalAgreement:
    """How often a judge says what people said of pairs or ratings: its accuracy, with a 95 % interval.

    Exit code 3: more than `--max-unscored` of the labels are without a verdict.
    """

    labels: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LABELS")]
    """File of labels in JSON Lines, as --reward.labels takes it."""
    judge: str
    """A server's http://host:port/v1#model, or a run folder, or the name or folder of a model, or path.py:Class."""
    evaluator: str = "pe/judge-win-rate"
    """What puts the labels to the judge: pairs need one that compares."""
    judge_calls: int = 10_000
    """Questions that a server is asked at most."""
    judge_tokens: int = 2048
    """Tokens of its answers at most, thoughts included."""
    max_unscored: float = 0.05
    """Share of labels that may be without a verdict."""
    json: bool = False
    """Print JSON."""


def agreement(arguments: Sequence[str]) -> int:
    """Prints how often they agree."""
    options = parse(EvalAgreement, arguments, prog="pe-rlhf eval agreement")
    refuse_no_share(options.max_unscored)
    from pe_rlhf_mm.data.labels import read_labels
    from pe_rlhf_mm.judging import agreement as agreeing
    from pe_rlhf_mm.judging.load import load_judge

    labels = read_labels(options.labels)
    judge = load_judge(options.judge, calls=options.judge_calls, max_tokens=options.judge_tokens)
    found = agreeing.agreement(labels, options.evaluator, judge)
    print(to_json(found) if options.json else f"{registry.title(options.evaluator)} {found.text()}")
    return exit_code(options.labels, options.evaluator, found.unscored, found.n, options.max_unscored)


@dataclass(frozen=True)
class EvalReward:
    """Tests the reward model of a run on a task's pairs and ratings: how often right, on what, and how sure of it."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Id of a task, or path.py:Class, or package.module:Class."""
    reward: str
    """A run folder with a reward model."""
    split: str = "test"
    limit: int | None = None
    """Only the first so many pairs, and ratings."""
    seed: int = 0
    json: bool = False
    """Print JSON, with the bins of the calibration."""


def reward(arguments: Sequence[str]) -> None:
    """Prints a table."""
    options = parse(EvalReward, arguments, prog="pe-rlhf eval reward")
    from pe_rlhf_mm.training import reward_accuracy
    from pe_rlhf_mm.training.reward_model import load_run_reward

    task = registry.tasks.resolve(options.task)
    tested = load_run_reward(options.reward)
    found = reward_accuracy.evaluate_reward(task, tested, split=options.split, limit=options.limit, seed=options.seed)
    print(to_json(found) if options.json else reward_accuracy.table(found))


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


@dataclass(frozen=True)
class EvalReport:
    """Writes a log, or two side by side, as one page that needs no network, and its tables in Markdown beside it."""

    log: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")]
    """Folder of a log, finished or not."""
    log_b: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="LOG_B")] = None
    """Folder of another one of the same task, to be shown beside it."""
    out: str | None = None
    """The page, in place of report.html in LOG; its name ends in .html."""
    figures: bool = False
    """Write figures/*.png beside the page too (extra figures)."""
    json: bool = False
    """Print JSON."""


def report(arguments: Sequence[str]) -> None:
    """Prints the paths of what it wrote."""
    options = parse(EvalReport, arguments, prog="pe-rlhf eval report")
    from pe_rlhf_mm.reports.evaluation_page import write_evaluation_report

    other, out = (None if given is None else Path(given) for given in (options.log_b, options.out))
    paths = [str(p) for p in write_evaluation_report(Path(options.log), other, out, figures=options.figures)]
    print(to_json(paths) if options.json else "\n".join(paths))
