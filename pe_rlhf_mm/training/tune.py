"""The whole job on one page: SFT, reward model, RL against the learned reward, examination against ground truth.

Or, by another method: SFT, preference optimisation on the pairs themselves, and the same examination. A run may start
from another one's SFT policy and reward model instead of training its own (`training/start.py`).

Tasks that are played in an environment go another way (`training/agents.py`).

Who sees what: SFT sees demonstrations of the training split; the reward model, or preference optimisation, sees pairs
of the training split; RL sees prompts of the training split and *nothing else*; the validation split draws the accuracy
curve and chooses which checkpoint of the reward model and of the policy is kept; the test split is met after all
training is over.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.cache import RememberingProcessor
from pe_rlhf_mm.envs.pool import pool_of
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import SHIPPED, load_model
from pe_rlhf_mm.models.sharding import make_mesh, using
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.training.agents import agent_stages
from pe_rlhf_mm.training.alarms import Alarms
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.examine import answer, examine
from pe_rlhf_mm.training.job import Job, attach
from pe_rlhf_mm.training.judged import label_source, pair_source
from pe_rlhf_mm.training.observer import Observer, Observers
from pe_rlhf_mm.training.preferences import optimize_preferences
from pe_rlhf_mm.training.prepare import Data, prepare
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.reinforce import ALGORITHMS, reinforce
from pe_rlhf_mm.training.reward import train_reward_model
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.training.sft import sft
from pe_rlhf_mm.training.start import inherited, load_start, read_start
from pe_rlhf_mm.training.stopwatch import Stopwatch
from pe_rlhf_mm.types import Task


def tune(
    task: str,
    *,
    model: str | Path = "tiny-vlm",
    out: str | Path,
    config: TuneConfig | None = None,
    start_from: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Tunes a model on a task and returns the run's summary; everything is kept in the folder `out`.

    Without `config` the task's own settings are used, or the paper's. With `start_from`, the folder of a run of the
    same model, the SFT policy and the reward model come from there, with the settings they were trained with; what that
    run does not have is trained here. Raises UserError (UnknownId, PromptTooLong, TrainingDiverged, ..) for what the
    user can mend; what was on disk before is intact then.
    """
    id = registry.tasks.resolve(task)
    instance = registry.tasks.make(task)
    config = settings_of(instance) if config is None else config
    start = None if start_from is None else read_start(start_from, lasting_name(model), config)
    if start is not None:
        if Path(out).resolve() == start.run:
            raise UserError(f"{out} is the run to start from, and would be overwritten. Give another --out.")
        config = inherited(config, start)
    pool = pool_of(instance, config.rl.environments)
    _refuse_other_turns(instance, config, played=pool is not None)
    _refuse_without_labels(instance, config, given=() if start is None else start.roles)
    _refuse_uneven(config, played=pool is not None)
    mesh = make_mesh(**dataclasses.asdict(config.mesh)) if config.mesh.devices > 1 else None
    loaded = load_model(model, quantize=config.quantize, mesh=mesh)
    loaded = dataclasses.replace(loaded, processor=RememberingProcessor(loaded.processor))
    values: dict[str, Any] = {"task": id, "model": lasting_name(model), "settings": dataclasses.asdict(config)}
    values["start_from"] = start and start.remembered()
    run = Run.create(Path(out), values, overwrite=overwrite)
    with ExitStack() as stack:
        stack.enter_context(_ending(run))
        stack.enter_context(using(mesh))
        observer = _observers(run, None if quiet else stack.enter_context(ProgressBar()))
        job, watch = Job(id, instance, loaded, config, start, run, observer), Stopwatch()
        results = _stages(job, watch) if pool is None else agent_stages(job, stack.enter_context(pool), watch)
        summary = _summary(job, watch, *results)
        run.write_summary(summary)
        return summary


def _observers(run: Run, bar: ProgressBar | None) -> Observer:
    return Observers([run, Alarms(run.warn)] if bar is None else [run, bar, Alarms(run.warn, bar.warn)])


def _refuse_other_turns(task: Task, config: TuneConfig, *, played: bool) -> None:
    if config.method != "rlhf" and played:
        raise UserError(
            f"{type(task).__name__} is played in an environment, and the method {config.method} is for tasks of one "
            "turn: its pairs are of single replies. Take --method rlhf."
        )
    if config.rl.reward == "task" and not played:
        raise UserError(
            f"{type(task).__name__} is not played in an environment, so there is no reward of its own; leave rl.reward "
            "at learned."
        )


def _refuse_without_labels(task: Task, config: TuneConfig, *, given: Collection[str]) -> None:
    """Or there is nothing to train a reward model, or the policy, on."""
    if config.method != "rlhf":
        if not config.preferences.labels:
            pair_source(task, config.method)
    elif config.rl.reward == "learned" and "reward" not in given:
        label_source(task, config.reward.loss)


def _refuse_uneven(config: TuneConfig, *, played: bool) -> None:
    """Batches whose rows the mesh does not divide: a row more or less is for the user to choose. Rows of episodes are
    filled up by themselves."""
    sizes = {"sft.batch_size": config.sft.batch_size}
    if config.method != "rlhf":
        sizes["preferences.batch_size"] = config.preferences.batch_size
    elif config.rl.reward == "learned":
        sizes["reward.batch_size"] = config.reward.batch_size
    if config.method == "rlhf" and not played:
        sizes["rl.prompts"] = config.rl.prompts
    rows = config.mesh.rows
    for name, size in sizes.items():
        if size % rows:
            raise UserError(
                f"{name} is {size}, and a mesh of data {config.mesh.data} and fsdp {config.mesh.fsdp} deals rows to "
                f"{rows} devices, as many to each. Take a multiple of {rows}: {rows * max(1, round(size / rows))}."
            )


def lasting_name(model: str | Path) -> str:
    """What names a model from any folder: a path in full, or the name of a shipped or published one."""
    return str(Path(model).resolve()) if Path(model).is_dir() and str(model) not in SHIPPED else str(model)


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    """Whatever happens, the run folder says how it ended and has a page to look at."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide the error that is being reported
            run.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            write_report(run.folder)
        raise
    run.close("finished")
    write_report(run.folder)


def _stages(job: Job, watch: Stopwatch) -> tuple[Roles, dict[str, Any]]:
    """SFT, what the method makes of it, and examination, of a task of one turn: the last roles, and the numbers."""
    id, task, model, config, start, run, observer = job
    given = () if start is None else start.roles
    roles, data = attach(model, config), prepare(task, model, config, given=given)
    roles = roles if start is None else load_start(roles, start, model.config)

    if "sft" not in given:
        with watch.of("sft"):
            shown, dropout = data.demonstrations, config.lora.dropout
            roles = sft(roles, model.processor, data.gallery, shown, config.sft, dropout=dropout, **job.how)
    run.save(roles, model.config, "sft")

    roles = (_by_reward if config.method == "rlhf" else _by_preferences)(job, roles, data, watch)

    with watch.of("evaluation"):
        return roles, examine(id, task, model, roles, config, run, observer)


def _by_reward(job: Job, roles: Roles, data: Data, watch: Stopwatch) -> Roles:
    """A reward model, unless it was trained elsewhere, and RL against it."""
    model, config, run, processor = job.model, job.config, job.run, job.model.processor
    if job.start is None or "reward" not in job.start.roles:
        with watch.of("reward_model"):
            labels = (data.judged, data.validation_judged)
            roles = train_reward_model(roles, processor, data.gallery, *labels, config.reward, **job.how)
    run.save(roles, model.config, "reward")

    with watch.of("rl"):
        learning = ALGORITHMS[config.rl.algorithm].roles
        monitor = _monitor(job, data, *learning)
        roles = reinforce(roles, processor, data.gallery, data.prompts, config.rl, monitor=monitor, **job.how)
        run.save(roles, model.config, *learning)
    return roles


def _by_preferences(job: Job, roles: Roles, data: Data, watch: Stopwatch) -> Roles:
    """Preference optimisation on the pairs themselves."""
    config, processor, monitor = job.config, job.model.processor, _monitor(job, data, "policy")
    with watch.of("preferences"):
        how = (config.method, config.preferences)
        roles = optimize_preferences(roles, processor, data.gallery, data.judged, *how, monitor=monitor, **job.how)
        job.run.save(roles, job.model.config, "policy")
    return roles


def _monitor(job: Job, data: Data, *learning: str) -> Callable[[Roles], float]:
    """Saves what is being trained, and scores the policy on the validation split."""
    id, task, model, config, *_ = job

    def monitor(now: Roles) -> float:
        job.run.save(now, model.config, *learning)
        answers = answer(id, task, now, "policy", model.processor, data.validation, config.rl.max_tokens)
        return answers.evaluation.headline.value

    return monitor


def _summary(job: Job, watch: Stopwatch, roles: Roles, results: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": job.id,
        "model": job.model.name,
        "mode": job.config.mode,
        "method": job.config.method,
        "seed": job.config.seed,
        "start_from": job.start and job.start.remembered(),
        **results,
        "trainable_fraction": role_table.count(roles.pick("policy")) / role_table.count(job.model.state),
        "seconds": round(job.run.seconds, 1),
        "peak_rss_gib": round(peak_rss_gib(), 3),
        "stages": watch.seconds,
    }


def peak_rss_gib() -> float:
    """The largest resident set of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
