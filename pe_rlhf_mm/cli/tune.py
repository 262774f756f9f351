"""`pe-rlhf tune` and `pe-rlhf report`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.errors import Terminated
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.training.config import SAVE_EVERY, TuneConfig
from pe_rlhf_mm.training.machines import HostsConfig

PROG = "pe-rlhf tune"
GIVE_AGAIN = 75
"""The exit code (EX_TEMPFAIL of sysexits.h) of a run that was asked to end, and goes on by the same command."""


@dataclass(frozen=True)
class Tune:
    """SFT, then a reward model, then RL against the learned reward, then evaluation on test questions.

    With --method dpo, ipo or slic the policy learns from the preference pairs themselves instead, right after SFT; with
    kto from replies that are right or wrong.
    A task may bring settings of its own: `pe-rlhf tune TASK --help` shows its defaults.
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Id of a task, or path.py:Class, or package.module:Class."""
    settings: Annotated[TuneConfig, tyro.conf.arg(name="")]
    model: str = "tiny-vlm"
    """Name of a shipped model, or a checkpoint folder."""
    start_from: Path | None = None
    """Run folder, of the same model, whose SFT policy (and reward model) is taken instead of training a new one."""
    out: Path | None = None
    """Run folder; runs/<task>-<mode>-<seed> if not given."""
    overwrite: bool = False
    """Start an existing run folder anew."""
    resume: bool = False
    """Go on with a run that was killed, from what it saved last; begin it if there is none."""
    save_every: float = SAVE_EVERY
    """Seconds from one save to the next: what a crash costs at most."""
    json: bool = False
    """Print the summary as JSON, and no progress."""
    hosts: HostsConfig = field(default_factory=HostsConfig)


def tune(arguments: Sequence[str]) -> int:
    """Runs a whole tuning and returns its exit code.

    Options not given come from the task's own settings, or from the paper.
    """
    try:
        _tune(arguments)
    except Terminated:
        print("asked to end; give the same command with --resume to go on", file=sys.stderr)
        return GIVE_AGAIN
    return 0


def read_options(arguments: Sequence[str]) -> Tune:
    """What a command line asks for, the task's own settings where it says nothing. Raises UserError for nonsense."""
    from pe_rlhf_mm import registry
    from pe_rlhf_mm.training.presets import settings_of

    named = next((a for a in arguments[:1] if not a.startswith("-")), None)
    if named is None:  # options stand before the task
        named = parse(Tune, arguments, prog=PROG, default=Tune(task=tyro.MISSING, settings=TuneConfig())).task
    settings = settings_of(registry.tasks.make(named))
    return parse(Tune, arguments, prog=PROG, default=Tune(task=named, settings=settings))


def _tune(arguments: Sequence[str]) -> None:
    options = read_options(arguments)
    from pe_rlhf_mm import hosts

    with hosts.joined(**dataclasses.asdict(options.hosts)):
        _run(options)


def _run(options: Tune) -> None:
    """Of several hosts the first one says how it went."""
    from pe_rlhf_mm import hosts, registry
    from pe_rlhf_mm.training.run import is_finished
    from pe_rlhf_mm.training.tune import tune as run_tuning

    settings = options.settings
    name = registry.tasks.resolve(options.task).partition("@")[0].rpartition(":")[2].replace("/", "-")
    out = options.out or Path("runs") / f"{name}-{settings.mode}-{settings.seed}"
    finished = options.resume and is_finished(out)
    summary = run_tuning(
        options.task,
        model=options.model,
        out=out,
        config=settings,
        start_from=options.start_from,
        overwrite=options.overwrite,
        resume=options.resume,
        save_every=options.save_every,
        quiet=options.json,
    )
    if not hosts.first():
        return
    if options.json:
        print(to_json(summary))
    else:
        print(f"{out} is finished: {out / 'report.html'}" if finished else _table(summary, out))


def _table(summary: Mapping[str, Any], out: Path) -> str:
    from pe_rlhf_mm.evaluation.intervals import or_dash
    from pe_rlhf_mm.reports.methods import METHODS

    stage, tuned_by = METHODS[summary["method"]]
    lines = [f"{'':<14}{'accuracy':>9}   {'95 % interval':<18}{'n':>6}"]
    for name, key in (("SFT", "sft"), ("reward model", "reward_model"), (tuned_by, stage)):
        row = summary[key]
        if row is not None:
            value = or_dash(row["accuracy"], ".1%")
            lines.append(f"{name:<14}{value:>9}   {row['interval'].text('.1%'):<16}{row['n']:>6}")
    gain, played, reward = summary["gain"], "episodes" in summary, summary.get("learned_reward")
    lines.append(f"{f'gain by {tuned_by}':<14}{or_dash(gain['accuracy'], '+.1%'):>9}   {gain['interval'].text('+.1%')}")
    if reward is not None:
        lines.append(_learned_reward(reward))
    # An estimate may fall below 0; -0.00, which z turns round, would look like a fault.
    lines.append(
        f"KL to the SFT policy {summary[stage]['kl']:z.2f} nats {'an episode' if played else 'a reply'}; "
        f"{summary['trainable_fraction']:.1%} of the weights trained; {summary['seconds']:.0f} s; "
        f"peak memory {summary['peak_rss_gib']:.2f} GiB"
    )
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _learned_reward(found: Mapping[str, Any]) -> str:
    from pe_rlhf_mm.evaluation.intervals import or_dash

    before, after, gain = (or_dash(found[name]["mean"], "+z.3f") for name in ("sft", "rl", "gain"))
    ends = found["gain"]["interval"].text("+.3f")
    return f"learned reward {before} by SFT, {after} by RL: {gain} {ends} deviations"


@dataclass(frozen=True)
class Report:
    """Writes report.html and report.md of a run folder again, finished or not."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    figures: bool = False
    """Write figures/*.png into it too (extra figures)."""


def report(arguments: Sequence[str]) -> None:
    """Prints the paths of what it wrote."""
    options = parse(Report, arguments, prog="pe-rlhf report")
    from pe_rlhf_mm.reports.page import write_report

    for path in write_report(options.run, figures=options.figures):
        print(path)
