"""LoRA against full tuning: seconds and peak memory of the reward-model step and of the RL step, side by side.

    python benchmarks/lora_against_full.py [--steps 15] [--json]

Both modes run in one process, in turn, step by step (lora, full, lora, full, ..), on the same batches of pe/easy-vqa
with tiny-vlm. Seconds are medians of the steps after two that are not counted, with the quartiles. Peak memory is what
the compiler says that the training step holds at once (arguments + results - results that reuse an argument's memory +
temporaries: weights, optimizer state, batch, activations), and in RL also the weights of the anchor and of the reward
model, which lie beside it.
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

from pe_rlhf_mm.models.model import Model, load_model
from pe_rlhf_mm.registry import tasks
from pe_rlhf_mm.training import reinforce, reward
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.policy_gradient import begun
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.scorers import LEARNED
from pe_rlhf_mm.training.step import new_state, train_step
from pe_rlhf_mm.types import PreferenceTask

Timed = Callable[[], float]


def compiled_peak(*arguments: Any, **static: Any) -> float:
    """MiB that the compiled training step holds at once, by the compiler's account."""
    memory = train_step.lower(*arguments, **static).compile().memory_analysis()
    assert memory is not None  # every backend that JAX comes with has an account
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return float(held + memory.temp_size_in_bytes) / 2**20


def reward_step(model: Model, config: TuneConfig, data: Any) -> tuple[Timed, float]:
    """One step of reward modelling, and its peak memory."""
    roles, processor = attach(model, config), model.processor
    stream = reward.feed(processor, data.gallery, data.judged, batch_size=config.reward.batch_size, seed=0).batches(0)
    loss = functools.partial(reward.pairwise, model.config, config.reward.dropout, config.remat)
    optimizer = adam(config.reward.learning_rate, config.reward.steps)
    state = new_state(roles.pick("reward"), roles, optimizer, jax.random.key(0))
    peak = compiled_peak(state, roles, next(stream), loss=loss, optimizer=optimizer)

    def step() -> float:
        nonlocal state
        batch, start = next(stream), time.perf_counter()
        state, metrics = train_step(state, roles, batch, loss=loss, optimizer=optimizer)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return step, peak


def rl_step(model: Model, config: TuneConfig, data: Any) -> tuple[Timed, float]:
    """One iteration of RL (sampling, scoring, anchor and update), and the peak memory of its update."""
    settings, processor = config.rl, model.processor
    roles = attach(model, config)
    roles = begun(roles.put(roles.pick("sft", "reward")), model.config, settings)
    stream = reinforce.feed(processor, data.gallery, data.prompts, settings, seed=0).batches(0)
    trainable = roles.pick("policy", "value")
    optimizer = reinforce.optimizer_for(settings, trainable)
    loss = functools.partial(reinforce.loss, model.config, settings, config.remat)
    state = new_state(trainable, roles, optimizer, jax.random.key(0))
    key = jax.random.key(1)
    collect = functools.partial(reinforce.collect, model.config, roles)
    rollout, _ = collect(state.trainable, next(stream), settings, LEARNED, key, settings.beta)
    frozen = [part.get(role) for part in (roles.slots, roles.copies, roles.heads) for role in ("anchor", "reward")]
    beside = sum(x.nbytes for x in jax.tree.leaves(frozen)) / 2**20
    peak = compiled_peak(state, roles, rollout, loss=loss, optimizer=optimizer) + beside

    def step() -> float:
        nonlocal state
        prompts, start = next(stream), time.perf_counter()
        rollout, _ = collect(state.trainable, prompts, settings, LEARNED, key, settings.beta)
        state, metrics = train_step(state, roles, rollout, loss=loss, optimizer=optimizer)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return step, peak


def measure(name: str, make: Callable[..., tuple[Timed, float]], setups: dict[str, tuple], steps: int) -> list[dict]:
    """Runs the modes in turn and returns a row for each."""
    made = {mode: make(*setup) for mode, setup in setups.items()}
    seconds: dict[str, list[float]] = {mode: [] for mode in made}
    for number in range(steps + 2):
        for mode, (step, _) in made.items():
            taken = step()
            if number >= 2:
                seconds[mode].append(taken)
    rows = []
    for mode, (_, peak) in made.items():
        low, median, high = statistics.quantiles(seconds[mode], n=4)
        rows.append({"step": name, "mode": mode, "seconds": median, "quartiles": [low, high], "peak_mib": peak})
    return rows


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    task, model = tasks.make("pe/easy-vqa"), load_model("tiny-vlm")
    assert isinstance(task, PreferenceTask)
    setups = {}
    for mode in ("lora", "full"):
        config = replace(settings_of(task), mode=mode)
        setups[mode] = (model, config, prepare(task, model, config))
    rows = [
        *measure("reward model", reward_step, setups, options.steps),
        *measure("RL", rl_step, setups, options.steps),
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'step':<14}{'mode':<6}{'seconds':>9}{'quartiles':>18}{'peak MiB':>10}")
    for r in rows:
        low, high = r["quartiles"]
        print(
            f"{r['step']:<14}{r['mode']:<6}{r['seconds']:>9.3f}{f'{low:.3f} .. {high:.3f}':>18}{r['peak_mib']:>10.1f}"
        )


if __name__ == "__main__":
    main()
