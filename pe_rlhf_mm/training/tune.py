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
import functools
import resource
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from pe_rlhf_mm import hosts, registry
from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.cache import RememberingProcessor
from pe_rlhf_mm.envs.pool import pool_of
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models.model import SHIPPED, Model, load_model
from pe_rlhf_mm.models.sharding import make_mesh, using
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.training.agents import agent_stages
from pe_rlhf_mm.training.alarms import Alarms
from pe_rlhf_mm.training.config import SAVE_EVERY, TuneConfig
from pe_rlhf_mm.training.examine import answer, examine
from pe_rlhf_mm.training.given import mixture_of, refuse_other_adapters
from pe_rlhf_mm.training.job import Job
from pe_rlhf_mm.training.judged import label_source, preference_source
from pe_rlhf_mm.training.jury import jury_of, missing
from pe_rlhf_mm.training.observer import Observer, Observers
from pe_rlhf_mm.training.policy_gradient import ALGORITHMS
from pe_rlhf_mm.training.preferences import optimize_preferences
from pe_rlhf_mm.training.prepare import Data, prepare
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.reinforce import reinforce
from pe_rlhf_mm.training.reward_stage import reward_stage
from pe_rlhf_mm.training.run import Run, is_finished, open_run, refuse_folder, refuse_other
from pe_rlhf_mm.training.run_keeper import RunKeeper
from pe_rlhf_mm.training.scorers import evaluator_reward, learned_by, reward_by
from pe_rlhf_mm.training.sft import sft
from pe_rlhf_mm.training.start import Start, inherited, read_start
from pe_rlhf_mm.training.stopwatch import Stopwatch
from pe_rlhf_mm.training.termination import together
from pe_rlhf_mm.types import Task


def tune(
    task: str,
    *,
    model: str | Path = "tiny-vlm",
    out: str | Path,
    config: TuneConfig | None = None,
    start_from: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    save_every: float = SAVE_EVERY,
    quiet: bool = False,
) -> dict[str, Any]:
    """Tunes a model on a task and returns the run's summary; everything is kept in the folder `out`.

    Without `config` the task's own settings are used, or the paper's. With `start_from`, the folder of a run of the
    same model, the SFT policy and the reward model come from there, with the settings they were trained with; what that
    run does not have is trained here.

    With `resume`, a run in `out` that was begun alike and is not finished goes on from what it saved last, which it
    does every `save_every` seconds; where there is none, it begins; and of one that is finished the summary is read.

    Raises UserError (UnknownId, PromptTooLong, TrainingDiverged, ..) for what the user can mend; what was on disk
    before is intact then.
    """
    _refuse_at_odds(overwrite=overwrite, resume=resume, save_every=save_every)
    id = registry.tasks.resolve(task)
    instance = registry.tasks.make(task)
    config = settings_of(instance) if config is None else config
    config, start = _starting(start_from, lasting_name(model), config, Path(out))
    values: dict[str, Any] = {"task": id, "model": lasting_name(model), "settings": dataclasses.asdict(config)}
    values["start_from"] = start and start.remembered()
    if hosts.led(lambda: _is_finished(Path(out), values, overwrite=overwrite, resume=resume)):
        return read_json(Path(out) / "summary.json")
    pool = pool_of(instance, config.rl.environments)
    _refuse_impossible(instance, config, given=() if start is None else start.roles, played=pool is not None)
    evaluator = evaluator_reward(config.rl) if config.method == "rlhf" else None
    alone = config.mesh.devices == 1 and jax.process_count() == 1
    mesh = None if alone else make_mesh(**dataclasses.asdict(config.mesh))
    loaded = _loaded(model, config, mesh, given=() if start is None else start.roles)
    run = open_run(Path(out), values, overwrite=overwrite, resume=resume)
    with ExitStack() as stack:
        stack.callback(run.release)
        stack.enter_context(_ending(run))
        stack.enter_context(together())
        watch, bar = Stopwatch(), stack.enter_context(ProgressBar()) if hosts.first() and not quiet else None
        observer, keeper = _listeners(run, watch, bar, save_every=save_every)
        stack.enter_context(using(mesh))
        if pool is not None:
            stack.enter_context(pool)
        stack.enter_context(keeper)  # the last: a save does not wait until environments are closed
        job = Job(id, instance, loaded, config, start, run, observer, keeper, watch, evaluator)
        results = _stages(job) if pool is None else agent_stages(job, pool)
        summary = _summary(job, *results)
        run.write_summary(summary)
        return summary


def _starting(
    start_from: str | Path | None, model: str, config: TuneConfig, out: Path
) -> tuple[TuneConfig, Start | None]:
    """The settings of a run that goes on from another, and what it goes on from. Raises UserError if it cannot."""
    if start_from is None:
        return config, None
    start = read_start(start_from, model, config)
    if out.resolve() == start.run:
        raise UserError(f"{out} is the run to start from, and would be overwritten. Give another --out.")
    if config.sft.start_from:
        raise UserError("the SFT policy comes from --start-from, so nothing is left for --sft.start-from: give one.")
    return inherited(config, start), start


def _loaded(model: str | Path, config: TuneConfig, mesh: Mesh | None, *, given: Collection[str]) -> Model:
    """What is tuned, which remembers what it has tokenized. Raises UserError for adapters that are not its own."""
    found = load_model(model, quantize=config.quantize, attention=config.attention, mesh=mesh)
    if config.mode == "lora":
        config.lora.adapted(found.config)
    if config.sft.start_from and "sft" not in given:
        refuse_other_adapters(config, found)
    if config.lora.experts and "sft" not in given:
        mixture_of(config.lora, found)
    return dataclasses.replace(found, processor=RememberingProcessor(found.processor))


def _is_finished(folder: Path, values: Mapping[str, Any], *, overwrite: bool, resume: bool) -> bool:
    """Whether a run that is to go on came to its end. Raises UserError if it was begun with other values, and for a
    folder that cannot be that of a run."""
    if not (resume and is_finished(folder)):
        refuse_folder(folder, values, overwrite=overwrite, resume=resume)
        return False
    refuse_other(folder, values)
    return True


def _refuse_at_odds(*, overwrite: bool, resume: bool, save_every: float) -> None:
    if overwrite and resume:
        raise UserError("a run cannot both go on and start anew: give either --resume or --overwrite.")
    if not save_every >= 0:
        raise OutOfRange(f"save_every must not be negative, and is {save_every}")


def _listeners(run: Run, watch: Stopwatch, bar: ProgressBar | None, *, save_every: float) -> tuple[Observer, RunKeeper]:
    """Who is told of a run, and who keeps it: of one that goes on, all of them know what was."""
    tell = [run.warn] if bar is None else [run.warn, bar.warn]
    alarms, keeper = Alarms(*tell), RunKeeper(run, watch, *tell, every=save_every)
    alarms.replay(keeper.kept)
    if bar is not None and keeper.place:
        bar.say(f"{run.folder} goes on: {keeper.place}")
    return Observers([run, alarms] if bar is None else [run, bar, alarms]), keeper


def _refuse_impossible(task: Task, config: TuneConfig, *, given: Collection[str], played: bool) -> None:
    """Raises UserError for settings that this task cannot be tuned with."""
    _refuse_other_turns(task, config, played=played)
    _refuse_without_labels(task, config, given=given)
    _refuse_uneven(config, played=played)


def _refuse_other_turns(task: Task, config: TuneConfig, *, played: bool) -> None:
    if config.method != "rlhf" and played:
        raise UserError(
            f"{type(task).__name__} is played in an environment, and the method {config.method} is for tasks of one "
            "turn: its pairs are of single replies. Take --method rlhf."
        )
    if config.accumulate > 1 and played:
        raise UserError(
            f"{type(task).__name__} is played in an environment, and RL finds the tokens of an episode among all rows, "
            "which cannot be split then. Leave --accumulate out; fewer --rl.prompts take less memory."
        )
    if config.rl.reward == "task" and not played:
        raise UserError(
            f"{type(task).__name__} is not played in an environment, so there is no reward of its own; leave rl.reward "
            "at learned, or name an evaluator."
        )


def _refuse_without_labels(task: Task, config: TuneConfig, *, given: Collection[str]) -> None:
    """Or there is nothing to train a reward model, or the policy, on."""
    if config.method != "rlhf":
        if not config.preferences.labels:
            preference_source(task, config.method)
    elif config.learns_reward and missing(config.reward, given):
        label_source(task, config.reward.loss)


def _refuse_uneven(config: TuneConfig, *, played: bool) -> None:
    """Batches whose rows the mesh does not divide: a row more or less is for the user to choose. Rows of episodes are
    filled up by themselves."""
    sizes = {"sft.batch_size": config.sft.batch_size}
    if config.method != "rlhf":
        sizes["preferences.batch_size"] = config.preferences.batch_size
    elif config.learns_reward:
        sizes["reward.batch_size"] = config.reward.batch_size
    if config.method == "rlhf" and not played:
        sizes["rl.prompts"] = config.rl.prompts
    rows, parts = config.mesh.rows, config.accumulate
    why = f"a mesh of data {config.mesh.data} and fsdp {config.mesh.fsdp} deals rows to {rows} devices, as many to each"
    if parts > 1:
        why = f"--accumulate {parts} works through them in as many parts" + (
            f", each of which {why}" if rows > 1 else ""
        )
    for name, size in sizes.items():
        if size % (rows * parts):
            nearest = rows * parts * max(1, round(size / (rows * parts)))
            raise UserError(f"{name} is {size}, and {why}. Take a multiple of {rows * parts}: {nearest}.")


def lasting_name(model: str | Path) -> str:
    """What names a model from any folder: a path in full, or the name of a shipped or published one."""
    return str(Path(model).resolve()) if Path(model).is_dir() and str(model) not in SHIPPED else str(model)


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    """Whatever happens, the run folder says how it ended and has a page to look at."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError, UserError):  # a full disk must not hide the error that is being reported
            run.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            _report(run)
        raise
    run.close("finished")
    _report(run)


def _report(run: Run) -> None:
    if hosts.first():
        write_report(run.folder)


def _stages(job: Job) -> tuple[Roles, dict[str, Any]]:
    """SFT, what the method makes of it, and examination, of a task of one turn: the last roles, and the numbers."""
    task, model, config = job.task, job.model, job.config
    begun, data = job.begun(), prepare(task, model, config, given=job.given)
    imitate = functools.partial(
        sft, begun, model.processor, data.gallery, data.demonstrations, config.sft, dropout=config.lora.dropout
    )
    roles = job.stage("sft", ["sft"], begun, lambda: imitate(**job.how))
    roles = (_by_reward if config.method == "rlhf" else _by_preferences)(job, roles, data)
    with job.watch.of("evaluation"):
        return roles, examine(job.id, task, model, roles, config, job.run, job.observer)


def _by_reward(job: Job, roles: Roles, data: Data) -> Roles:
    """A reward model, unless it was trained elsewhere or an evaluator takes its place, and RL against it."""
    config, processor, gallery = job.config, job.model.processor, data.gallery
    learning = ALGORITHMS[config.rl.algorithm].roles
    if config.learns_reward:
        roles = reward_stage(job, roles, gallery, data.judged, data.validation_judged)
    learned = learned_by(jury_of(config.reward))
    scorer = learned if job.evaluator is None else reward_by(job.evaluator, processor, data.samples)
    roles, monitor = roles.start("anchor", "sft"), _monitor(job, data, *learning)
    asked = (processor, gallery, data.prompts, config.rl)
    improve = functools.partial(reinforce, roles, *asked, scorer=scorer, monitor=monitor)
    return job.stage("rl", learning, roles, lambda: improve(**job.how))


def _by_preferences(job: Job, roles: Roles, data: Data) -> Roles:
    """Preference optimisation on the pairs themselves."""
    config, processor, monitor = job.config, job.model.processor, _monitor(job, data, "policy")
    roles = roles.start("anchor", "sft")
    how = (config.method, config.preferences)
    prefer = functools.partial(optimize_preferences, roles, processor, data.gallery, data.judged, *how, monitor=monitor)
    return job.stage("preferences", ["policy"], roles, lambda: prefer(**job.how))


def _monitor(job: Job, data: Data, *learning: str) -> Callable[[Roles], float]:
    """Saves what is being trained, and scores the policy on the validation split."""
    id, task, model, config, *_ = job

    def monitor(now: Roles) -> float:
        job.run.save(now, model.config, *learning)
        answers = answer(id, task, now, "policy", model.processor, data.validation, config.rl.max_tokens)
        return answers.evaluation.headline.value

    return monitor


def _summary(job: Job, roles: Roles, results: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": job.id,
        "model": job.model.name,
        "mode": job.config.mode,
        "method": job.config.method,
        "seed": job.config.seed,
        "start_from": job.start and job.start.remembered(),
        **results,
        "trainable_fraction": role_table.count(jax.eval_shape(lambda: roles.pick("policy")))
        / role_table.count(job.model.state),
        "seconds": round(job.run.seconds, 1),
        "peak_rss_gib": round(peak_rss_gib(), 3),
        "stages": job.watch.seconds,
    }


def peak_rss_gib() -> float:
    """The largest resident set of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
