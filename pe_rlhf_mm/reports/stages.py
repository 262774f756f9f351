"""What a run came to: its headline, and the table of its stages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.reports.folder import RunRecord
from pe_rlhf_mm.reports.methods import STAGES, Method, method_of, reward_of
from pe_rlhf_mm.reports.records import Record, at, interval, number, text
from pe_rlhf_mm.reports.strips import was_played
from pe_rlhf_mm.reports.wording import DASH, SPACE, count, decimal, duration, gained, percent, points, reward

_SETTINGS = {"sft": "sft", "reward_model": "reward", "rl": "rl", "preferences": "preferences"}
_ROLES = {"sft": "sft", "reward_model": "reward"}
_ENDINGS = {
    "running": "it was still running when this page was written",
    "interrupted": "it was interrupted",
    "failed": "it failed",
}


class Bar(NamedTuple):
    """An interval and its middle on a scale from 0 to 100."""

    low: float
    value: float
    high: float


class Row(NamedTuple):
    """One line of the table of stages."""

    stage: str
    label: str
    measure: str
    value: str
    extra: str
    n: str
    interval: str
    bar: Bar | None
    steps: str
    time: str


def headline(run: RunRecord) -> str:
    """What came out, in plain words."""
    if not run.finished:
        return _unfinished(run)
    return _outcome(run.summary, method_of(run.config), "episodes" if was_played(run.samples) else "questions")


def _outcome(summary: Record, method: Method, kind: str) -> str:
    before, after, gain = (number(summary, stage, "accuracy") for stage in ("sft", method.stage, "gain"))
    if before is None or after is None:
        return _outcome_by_reward(summary, method)
    n = number(summary, method.stage, "n")
    where = f"on the test {kind}" if n is None else f"on {count(n)} test {kind}"
    gain = after - before if gain is None else gain
    ends = interval(summary, "gain", "interval")
    sentence = f"Accuracy {where} was {percent(before)} after SFT and is {percent(after)} after {method.name}"
    sentence = f"{sentence}: {points(gain)}"
    if ends is None:
        return f"{sentence} points."
    return f"{sentence} points (95{SPACE}% interval {points(ends[0])} to {points(ends[1])}).{doubt(*ends)}"


def _outcome_by_reward(summary: Record, method: Method) -> str:
    """What is left to say where replies cannot be called right or wrong."""
    before, after, gain = (number(summary, "learned_reward", name, "mean") for name in ("sft", "rl", "gain"))
    if before is None or after is None:
        return f"The run is finished, but its summary names no accuracy before and after {method.name}."
    sentence = (
        "The evaluator scored no reply. The mean learned reward of the test replies was "
        f"{reward(before)} after SFT and is {reward(after)} after RL: {gained(gain)} deviations of the reward model"
    )
    ends = interval(summary, "learned_reward", "gain", "interval")
    if ends is None:
        return f"{sentence}."
    return f"{sentence} (95{SPACE}% interval {gained(ends[0])} to {gained(ends[1])}).{doubt(*ends)}"


def doubt(low: float, high: float) -> str:
    """A sentence for an interval that includes zero, with a space before it; else nothing."""
    return " The interval includes zero, so this may be chance." if low <= 0 <= high else ""


def _unfinished(run: RunRecord) -> str:
    ending = _ENDINGS.get(text(run.config, "status"), "there is no summary")
    sentence = f"This run is unfinished: {ending}, {_place(run)}."
    stage, name = method_of(run.config)
    checks = [(number(line, "step"), number(line, "validation_accuracy")) for line in _of(run.metrics, stage)]
    known = [(step, accuracy) for step, accuracy in checks if step is not None and accuracy is not None]
    if len(known) < 2:
        return sentence
    (first, before), (last, now) = min(known), max(known)
    start = f"before {name}" if first == 0 else f"at {name} step {count(first)}"
    found = f"Validation accuracy was {percent(before)} {start} and {percent(now)} at {name} step {count(last)}."
    return f"{sentence} {found}"


def _place(run: RunRecord) -> str:
    names = _stages(run)
    stage = next((stage for stage in reversed(names) if _of(run.metrics, stage)), None)
    return "before the first step" if stage is None else f"in stage {names[stage]} at step {_steps(run, stage)}"


def _stages(run: RunRecord) -> dict[str, str]:
    """Those that the run has, and what they are called: without a reward model, where the reward comes otherwise."""
    stages = STAGES[method_of(run.config).stage]
    return stages if reward_of(run.config) == "learned" else {s: n for s, n in stages.items() if s != "reward_model"}


def stage_rows(run: RunRecord) -> list[Row]:
    """The stages in order, with what is known of each."""
    return [_row(run, stage) for stage in _stages(run)]


def _row(run: RunRecord, stage: str) -> Row:
    accuracy, ends = number(run.summary, stage, "accuracy"), interval(run.summary, stage, "interval")
    return Row(
        stage=stage,
        label=_stages(run)[stage],
        measure=_measure(run, stage),
        value=percent(accuracy),
        extra=_extra(run, stage),
        n=count(number(run.summary, stage, "n")),
        interval=DASH if ends is None else f"{percent(ends[0])} to {percent(ends[1])}",
        bar=None if ends is None or accuracy is None else _bar(ends[0], accuracy, ends[1]),
        steps=_steps(run, stage),
        time=duration(_seconds(run, stage)),
    )


def _bar(*shares: float) -> Bar | None:
    """None for what is no share, and would lie outside."""
    return Bar(*(100 * share for share in shares)) if all(0 <= share <= 1 for share in shares) else None


def _measure(run: RunRecord, stage: str) -> str:
    if stage == "evaluation":
        return "all of the above, on the test split"
    if stage == "reward_model":
        return "test pairs ranked right, or ratings met"
    return "test episodes that succeeded" if was_played(run.samples) else "test questions answered right"


def _extra(run: RunRecord, stage: str) -> str:
    """What else there is to say of a stage."""
    kl, given = number(run.summary, stage, "kl"), at(run.config, "start_from", "roles")
    if isinstance(given, list) and _ROLES.get(stage) in given:
        return f"trained by a run on {text(run.config, 'start_from', 'task')}"
    of = "episode" if was_played(run.samples) else "reply"
    return "" if kl is None else f"KL to SFT {decimal(kl)} nats per {of}"


def _steps(run: RunRecord, stage: str) -> str:
    """Steps done, and of how many where that is known and not reached."""
    done = [step for line in _of(run.metrics, stage) if (step := number(line, "step")) is not None]
    planned = number(at(run.config, "settings", _SETTINGS.get(stage, "")), "steps")
    if not done:
        return DASH
    return count(max(done)) if planned is None or max(done) == planned else f"{count(max(done))} of {count(planned)}"


def _seconds(run: RunRecord, stage: str) -> float | None:
    """The stage's time from the summary; in an unfinished run, from the end of the stage before to its last line."""
    known = number(run.summary, "stages", stage)
    if known is not None or not _of(run.metrics, stage):
        return known
    earlier = itertools.takewhile(lambda other: other != stage, _stages(run))
    start = max((_last_second(run, other) for other in earlier), default=0.0)
    return _last_second(run, stage) - start


def _last_second(run: RunRecord, stage: str) -> float:
    return max((number(line, "seconds") or 0.0 for line in _of(run.metrics, stage)), default=0.0)


def _of(metrics: Sequence[Record], stage: str) -> list[Record]:
    return [line for line in metrics if at(line, "stage") == stage]
