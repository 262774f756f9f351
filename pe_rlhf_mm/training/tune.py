"""The whole job on one page: SFT, reward model, RL against the learned reward, examination against ground truth.

A run may start from another one's SFT policy and reward model instead of training its own (`training/start.py`).

Who sees what: SFT sees demonstrations of the training split; the reward model sees pairs of the training split; RL
sees prompts of the training split and *nothing else*; the validation split chooses the reward model's checkpoint and
draws the accuracy curve; the test split is met after all training is over.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from pe_rlhf_mm import registry
from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles
from pe_rlhf_mm.data.cache import RememberingProcessor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import SHIPPED, Model, load_model
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.examine import answer, examine
from pe_rlhf_mm.training.judged import label_source
from pe_rlhf_mm.training.observer import Observer, Observers
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.reinforce import reinforce
from pe_rlhf_mm.training.reward import train_reward_model
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.training.sft import sft
from pe_rlhf_mm.training.start import Start, inherited, load_start, read_start
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
    """Tunes a model on a task by PE-RLHF and returns the run's summary; everything is kept in the folder `out`.

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
    if start is None or "reward" not in start.roles:
        label_source(instance, config.reward.loss)  # or there is nothing to train a reward model on
    loaded = load_model(model, quantize=config.quantize)
    loaded = dataclasses.replace(loaded, processor=RememberingProcessor(loaded.processor))
    values: dict[str, Any] = {"task": id, "model": lasting_name(model), "settings": dataclasses.asdict(config)}
    values["start_from"] = start and start.remembered()
    run = Run.create(Path(out), values, overwrite=overwrite)
    with ExitStack() as stack:
        stack.enter_context(_ending(run))
        observer: Observer = run if quiet else Observers([run, stack.enter_context(ProgressBar())])
        return _stages(id, instance, loaded, config, start, run, observer)


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


class _Stopwatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - start, 1)


def _stages(
    id: str, task: Task, model: Model, config: TuneConfig, start: Start | None, run: Run, observer: Observer
) -> dict[str, Any]:
    watch, processor, remat, seed = _Stopwatch(), model.processor, config.remat, config.seed
    given = () if start is None else start.roles
    roles, data = attach(model, config), prepare(task, model, config, given=given)
    roles, gallery = roles if start is None else load_start(roles, start, model.config), data.gallery

    if "sft" not in given:
        with watch.of("sft"):
            shown, dropout = data.demonstrations, config.lora.dropout
            roles = sft(
                roles, processor, gallery, shown, config.sft, dropout=dropout, remat=remat, seed=seed, observer=observer
            )
    run.save(roles, model.config, "sft")

    if "reward" not in given:
        with watch.of("reward_model"):
            labels = (data.judged, data.validation_judged)
            roles = train_reward_model(
                roles, processor, gallery, *labels, config.reward, remat=remat, seed=seed, observer=observer
            )
    run.save(roles, model.config, "reward")

    def monitor(now: Roles) -> float:
        run.save(now, model.config, "policy", "value")
        answers = answer(id, task, now, "policy", processor, data.validation, config.rl.max_tokens)
        return answers.evaluation.headline.value

    with watch.of("rl"):
        prompts = data.prompts
        roles = reinforce(
            roles, processor, gallery, prompts, config.rl, monitor=monitor, remat=remat, seed=seed, observer=observer
        )
        run.save(roles, model.config, "policy", "value")

    with watch.of("evaluation"):
        results = examine(id, task, model, roles, config, run, observer)
    summary = {
        "task": id,
        "model": model.name,
        "mode": config.mode,
        "seed": config.seed,
        "start_from": start and start.remembered(),
        **results,
        "trainable_fraction": role_table.count(roles.pick("policy")) / role_table.count(model.state),
        "seconds": round(run.seconds, 1),
        "peak_rss_gib": round(peak_rss_gib(), 3),
        "stages": watch.seconds,
    }
    run.write_summary(summary)
    return summary


def attach(model: Model, config: TuneConfig) -> Roles:
    """The roles before any training: `sft` and `reward` equal the backbone; `policy` and `value` start from `sft`."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    roles = role_table.only_backbone(model.state)
    for role, rank, key in (("sft", config.lora.rank, keys[0]), ("reward", config.lora.reward_rank, keys[1])):
        if config.mode == "full":
            roles = roles.start(role, BACKBONE)
        else:
            alpha, targets = config.lora.alpha, config.lora.targets
            roles = role_table.new_slot_role(
                roles, role, model.config, rank=rank, alpha=alpha, targets=targets, key=key
            )
    width = model.config.decoder.width
    return roles.with_head("reward", jax.random.normal(keys[2], (width,)) * width**-0.5)


def peak_rss_gib() -> float:
    """The largest resident set of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
