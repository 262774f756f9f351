"""Several reward models at once: what they cost against as many runs apart, and how right their average is (WARM).

    python benchmarks/reward_members.py cost [--members 4] [--steps 15] [--json]
    python benchmarks/reward_members.py study [--members 4] [--steps 150] [--seeds 0 1 2] [--flip 0.25] [--pairs 2048]

`cost` runs in one process, in turn, step by step, on batches of pe/easy-vqa with tiny-vlm: one reward model; members
one after another (`--reward.passes apart`); members in one pass (`together`). Seconds are medians of the steps after
two that are not counted, with the quartiles, on the wall, and those of the processor, which others on the machine
change least. Peak memory is what the compiler says that the step holds at once. As many runs apart take as many times
what one takes: of memory where they run side by side, of seconds in any case.

`study` trains members on few pairs, of which a share has its labels flipped, and asks all of them, their average, their
ensemble and what lies between two of them about test pairs, whose labels are right. The last step is asked, not the
best: nothing is chosen.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pe_rlhf_mm.adapters.averages import with_average
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.models.model import Model, load_model
from pe_rlhf_mm.registry import tasks
from pe_rlhf_mm.training import members, reward
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.judged import judge
from pe_rlhf_mm.training.jury import Jury, members_of
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.observer import Silent
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.reward import Judged, score_judged
from pe_rlhf_mm.training.step import new_state, train_step
from pe_rlhf_mm.types import PreferenceTask

Timed = Callable[[], tuple[float, float]]
BETWEEN = (0.0, 0.25, 0.5, 0.75, 1.0)
RATES, DROPOUTS = (4e-3, 2e-3), (0.05, 0.1)
"""In turn, as in WARM; of the size that tiny-vlm learns with."""


# --- what it costs ----------------------------------------------------------------------------------------------


def one_step(model: Model, config: TuneConfig, judged: Any, gallery: Gallery) -> tuple[Timed, float]:
    """A step of one reward model, or of several, and its peak memory."""
    settings, processor = config.reward, model.processor
    roles, names = attach(model, config), members_of(config.reward)
    how: dict[str, Any] = {"batch_size": settings.batch_size, "seed": 0}
    trainable = roles.pick(*names)
    if settings.members == 1:
        stream: Any = reward.feed(processor, gallery, judged, **how).batches(0)
        loss: Any = functools.partial(reward.pairwise, model.config, settings.dropout, config.remat)
        optimizer = adam(settings.learning_rate, settings.steps)
    else:
        stream = reward.feed_each(len(names), processor, gallery, judged, **how).batches(0)
        loss = functools.partial(members.loss, model.config, settings, config.remat)
        optimizer = members.optimizer_for(settings, trainable)
    state = new_state(trainable, roles, optimizer, jax.random.key(0))
    memory = train_step.lower(state, roles, next(stream), loss=loss, optimizer=optimizer).compile().memory_analysis()
    assert memory is not None  # every backend that JAX comes with has an account
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

    def step() -> tuple[float, float]:
        nonlocal state
        batch, wall, used = next(stream), time.perf_counter(), time.process_time()
        state, metrics = train_step(state, roles, batch, loss=loss, optimizer=optimizer)
        jax.block_until_ready(metrics)
        return time.perf_counter() - wall, time.process_time() - used

    return step, float(held + memory.temp_size_in_bytes) / 2**20


def cost(model: Model, config: TuneConfig, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for one reward model, and for each way to train several."""
    data = prepare(tasks.make("pe/easy-vqa"), model, config)
    several = {
        f"{options.members} {passes}": replace(config.reward, members=options.members, passes=passes)
        for passes in ("apart", "together")
    }
    made = {
        name: one_step(model, replace(config, reward=settings), data.judged, data.gallery)
        for name, settings in {"1": config.reward, **several}.items()
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for number in range(options.steps + 2):
        for name, (step, _) in made.items():
            found = step()
            taken[name] += [found] if number >= 2 else []
    rows = []
    for name, (_, peak) in made.items():
        wall, used = zip(*taken[name], strict=True)
        low, median, high = statistics.quantiles(wall, n=4)
        processor = statistics.median(used)
        row = {"members": name, "seconds": median, "quartiles": [low, high], "processor": processor, "peak_mib": peak}
        rows.append(row)
    return rows


# --- how right it is --------------------------------------------------------------------------------------------


def study(model: Model, config: TuneConfig, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each seed: accuracy on test pairs of members, their average, their ensemble, and between two."""
    task = tasks.make("pe/easy-vqa")
    assert isinstance(task, PreferenceTask)
    names, rows = members_of(config.reward), []
    for seed in options.seeds:
        now = replace(config, seed=seed)
        data = prepare(task, model, now)
        known = judge(pick(list(task.preferences("test")), options.test, seed=0), model.processor, data.gallery, room=1)
        turned = [example for example in data.judged if example.labels[0] < 0.5]
        roles = with_average(_trained(model, now, data), "reward", names)
        right = functools.partial(_right, model, data.gallery, known, roles)
        alone = [right(Jury((name,))) for name in names]
        between = [with_average(roles, "reward", names[:2], (1 - share, share)) for share in BETWEEN]
        row = {
            "seed": seed,
            "members": alone,
            "mean member": float(np.mean(alone)),
            "warm": right(Jury()),
            "ensemble": right(Jury(names)),
            "between": [_right(model, data.gallery, known, middle, Jury()) for middle in between],
        }
        if turned:
            believed = functools.partial(_right, model, data.gallery, turned, roles)
            row["flipped labels believed"] = {
                "mean member": float(np.mean([believed(Jury((name,))) for name in names])),
                "warm": believed(Jury()),
                "ensemble": believed(Jury(names)),
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _trained(model: Model, config: TuneConfig, data: Any) -> Roles:
    """The members after the last step, their heads standardised."""
    settings, processor, gallery = config.reward, model.processor, data.gallery
    roles, names = attach(model, config), members_of(settings)
    trainable = roles.pick(*names)
    trained = train(
        "reward_model",
        roles,
        trainable,
        reward.feed_each(len(names), processor, gallery, data.judged, batch_size=settings.batch_size, seed=config.seed),
        functools.partial(members.loss, model.config, settings, config.remat),
        members.optimizer_for(settings, trainable),
        steps=settings.steps,
        key=jax.random.key(config.seed),
        observer=Silent(),
    )
    roles = roles.put(trained)
    for name in names:
        roles = reward.standardised(roles, processor, gallery, data.validation_judged, name)
    return roles


def _right(model: Model, gallery: Gallery, examples: list[Judged], roles: Roles, jury: Jury) -> float:
    return float(score_judged(roles, model.processor, gallery, examples, jury).right.mean())


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cost", "study"])
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--steps", type=int, default=0, help="15 of cost, 150 of study, unless told otherwise")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--flip", type=float, default=0.25)
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=32, help="of study")
    parser.add_argument("--test", type=int, default=512)
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model, config = load_model("tiny-vlm"), settings_of(tasks.make("pe/easy-vqa"))
    if options.what == "study":
        settings = replace(
            config.reward, members=options.members, steps=options.steps or 150, pairs=options.pairs, flip=options.flip,
            batch_size=options.batch_size, learning_rates=tuple(options.rates), dropouts=DROPOUTS,
        )  # fmt: skip
        study(model, replace(config, reward=settings), options)
        return
    options.steps = options.steps or 15
    rows = cost(model, config, options)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'members':<14}{'seconds':>9}{'quartiles':>18}{'processor':>11}{'peak MiB':>10}")
    for r in rows:
        low, high = r["quartiles"]
        spread = f"{low:.3f} .. {high:.3f}"
        print(f"{r['members']:<14}{r['seconds']:>9.3f}{spread:>18}{r['processor']:>11.3f}{r['peak_mib']:>10.1f}")


if __name__ == "__main__":
    main()
