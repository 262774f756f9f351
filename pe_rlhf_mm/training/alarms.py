"""Early warnings of RL that goes wrong: each is one function of what has been measured so far.

An alarm is no proof. It says what was seen, once, so that somebody looks before the hours are paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

WINDOW = 10
"""Steps that are averaged, so that one odd batch alarms nobody."""
COLLAPSED, FAR, FALLEN, DOUBTED = 0.1, 10.0, 0.05, 0.25
"""A share of the entropy at the start; nats a reply; points of the validation score; deviations of a control reward."""


def entropy_collapse(entropies: Sequence[float]) -> str | None:
    """The policy has become certain of everything: it draws no other reply that it could learn from."""
    if len(entropies) < 2 * WINDOW:
        return None
    first, last = fmean(entropies[:WINDOW]), fmean(entropies[-WINDOW:])
    if last >= COLLAPSED * first:
        return None
    return (
        f"entropy fell from {first:.3f} to {last:.3f} nats a token: nothing but one reply is tried any more. "
        "A higher rl.beta or rl.temperature, or a lower rl.learning_rate, keeps others alive."
    )


def kl_runaway(divergences: Sequence[float]) -> str | None:
    """The policy is far from its anchor, and twice as far as it was a moment ago."""
    if len(divergences) < 2 * WINDOW:
        return None
    before, last = fmean(divergences[-2 * WINDOW : -WINDOW]), fmean(divergences[-WINDOW:])
    if last < max(FAR, 2 * before):
        return None
    return (
        f"KL to the SFT policy went from {before:.1f} to {last:.1f} nats a reply in {WINDOW} steps: it runs away. "
        "A higher rl.beta or a lower rl.learning_rate holds it."
    )


def reward_hacking(rewards: Sequence[float], controls: Sequence[float]) -> str | None:
    """The reward that is trained on rises while the score that it stands for falls, twice in a row.

    `rewards`: the mean since the evaluation before; `controls`: the validation score, of the same evaluations.
    """
    best = _parted(rewards, controls, FALLEN)
    if best is None:
        return None
    return (
        f"the reward rose from {rewards[best]:.3f} to {rewards[-1]:.3f} while the validation score fell from "
        f"{controls[best]:.3f} to {controls[-1]:.3f}: the policy may have found what the reward gets wrong."
    )


def control_falls(rewards: Sequence[float], controls: Sequence[float]) -> str | None:
    """The reward that is trained on rises while a reward model that is kept out of it finds replies worse, twice in a
    row, each time over a window. Both of every step; the control was trained on the same labels and shares faults that
    these have, so its silence proves nothing.
    """
    ends = range(WINDOW, len(controls) + 1, WINDOW)
    paid, found = ([fmean(values[end - WINDOW : end]) for end in ends] for values in (rewards, controls))
    best = _parted(paid, found, DOUBTED)
    if best is None:
        return None
    return (
        f"the reward rose from {paid[best]:.3f} to {paid[-1]:.3f} while the control reward, which nothing is trained "
        f"on, fell from {found[best]:.3f} to {found[-1]:.3f}: the policy may have found what the reward gets wrong."
    )


def _parted(rewards: Sequence[float], controls: Sequence[float], fallen: float) -> int | None:
    """When controls were at their best, if they were further below it the last two times, and rewards above."""
    if len(controls) < 3:
        return None
    best = max(range(len(controls)), key=controls.__getitem__)
    later = range(max(best + 1, len(controls) - 2), len(controls))
    if len(later) < 2 or any(controls[best] - controls[i] <= fallen or rewards[i] <= rewards[best] for i in later):
        return None
    return best


class Alarms:
    """An observer of RL that tells of every alarm once."""

    def __init__(self, *tell: Callable[[str], None]):
        self._tell = tell
        self._told: set[Callable[..., str | None]] = set()
        self._entropies: list[float] = []
        self._divergences: list[float] = []
        self._rewards: list[float] = []
        self._rewards_then: list[float] = []
        self._scores: list[float] = []
        self._words: tuple[list[float], list[float]] = ([], [])

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if stage != "rl":
            return
        self._entropies.append(metrics["entropy"])
        self._divergences.append(metrics["kl"])
        for name in ("reward", "scored"):  # but for a task's own reward, which is what it stands for
            self._rewards += [metrics[name]] if name in metrics else []
        if "control" in metrics:
            for words, name in zip(self._words, ("reward", "control"), strict=True):
                words.append(metrics[name])
            self._hear(step, control_falls, *self._words)
        self._hear(step, entropy_collapse, self._entropies)
        self._hear(step, kl_runaway, self._divergences)

    def note(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if stage != "rl" or "validation_accuracy" not in metrics or not self._rewards:
            return
        self._rewards_then.append(fmean(self._rewards))
        self._rewards.clear()
        self._scores.append(metrics["validation_accuracy"])
        self._hear(step, reward_hacking, self._rewards_then, self._scores)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Hears what a run that goes on has measured so far, as it stands in `metrics.jsonl`."""
        for line in lines:
            (self.step if "loss" in line else self.note)(line["stage"], line["step"], line)

    def _hear(self, step: int, alarm: Callable[..., str | None], *measured: Sequence[float]) -> None:
        said = None if alarm in self._told else alarm(*measured)
        if said is not None:
            self._told.add(alarm)
            for tell in self._tell:
                tell(f"RL step {step}: {said}")
