"""The whole job on one page: SFT, reward model, RL against the learned reward, examination against ground truth.

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
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import SHIPPED, Model, load_model
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.examine import answer, examine
from pe_rlhf_mm.training.observer import Observer, Observers
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.reinforce import reinforce
from pe_rlhf_mm.training.reward import train_reward_model
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.training.sft import sft
from pe_rlhf_mm.types import PreferenceTask


def tune(
    task: str,
    *,
    model: str | Path = "tiny-vlm",
    out: str | Path,
    config: TuneConfig | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Tunes a model on a task by PE-RLHF and returns the run's summary; everything is kept in the folder `out`.

    Without `config` the task's own settings are used, or the paper's. Raises UserError (UnknownId, PromptTooLong,
    TrainingDiverged, ..) for what the user can mend; what was on disk before is intact then.
    """
    id = registry.tasks.resolve(task)
    instance = registry.tasks.make(task)
    if not isinstance(instance, PreferenceTask):
        raise UserError(f"{id} has no preferences(split, seed), so no reward model can be trained for it")
    config = settings_of(instance) if config is None else config
    loaded = load_model(model, quantize=config.quantize)
    values = {"task": id, "model": lasting_name(model), "settings": dataclasses.asdict(config)}
    run = Run.create(Path(out), values, overwrite=overwrite)
    with ExitStack() as stack:
        stack.enter_context(_ending(run))
        observer: Observer = run if quiet else Observers([run, stack.enter_context(ProgressBar())])
        return _stages(id, instance, loaded, config, run, observer)


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
    id: str, task: PreferenceTask, model: Model, config: TuneConfig, run: Run, observer: Observer
) -> dict[str, Any]:
    watch, processor, remat, seed = _Stopwatch(), model.processor, config.remat, config.seed
    roles, data = attach(model, config), prepare(task, model, config)
    gallery = data.gallery

    with watch.of("sft"):
        shown, dropout = data.demonstrations, config.lora.dropout
        roles = sft(
            roles, processor, gallery, shown, config.sft, dropout=dropout, remat=remat, seed=seed, observer=observer
        )
        run.save(roles, model.config, "sft")

    with watch.of("reward_model"):
        pairs = (data.pairs, data.validation_pairs)
        roles = train_reward_model(
            roles, processor, gallery, *pairs, config.reward, remat=remat, seed=seed, observer=observer
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
