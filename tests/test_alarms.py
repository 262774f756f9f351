"""Alarms of RL: each fires where it was planted, once, and is silent in runs that go well."""

from __future__ import annotations

import pytest

from pe_rlhf_mm.training.alarms import Alarms, entropy_collapse, kl_runaway, reward_hacking

STEADY = [1.0] * 10


def test_entropy_that_falls_below_a_tenth_of_the_start_has_collapsed() -> None:
    assert entropy_collapse(STEADY + [0.11] * 10) is None
    said = entropy_collapse(STEADY + [0.09] * 10)
    assert said is not None
    assert "from 1.000 to 0.090" in said
    assert entropy_collapse([0.0] * 10 + [0.0] * 10) is None, "what was certain from the start has not collapsed"
    assert entropy_collapse(STEADY + [0.0] * 9) is None, "too early to say"


def test_one_odd_batch_is_no_collapse() -> None:
    assert entropy_collapse(STEADY + [1.0] * 9 + [0.0]) is None


def test_a_divergence_that_is_large_and_doubles_runs_away() -> None:
    said = kl_runaway([6.0] * 10 + [12.0] * 10)
    assert said is not None
    assert "from 6.0 to 12.0" in said
    assert kl_runaway([0.5] * 10 + [5.0] * 10) is None, "as in any beginning"
    assert kl_runaway([11.0] * 10 + [12.0] * 10) is None, "far, and staying there"
    assert kl_runaway([0.0] * 100 + [6.0] * 10 + [12.0] * 10) is not None


@pytest.mark.parametrize(
    ("rewards", "controls", "alarm"),
    [
        ([0, 1, 2, 3], [0.5, 0.7, 0.6, 0.55], True),
        ([0, 1, 2, 3], [0.5, 0.7, 0.66, 0.55], False),  # the fall before the last was too small to mean anything
        ([0, 1, 0.9, 3], [0.5, 0.7, 0.6, 0.55], False),  # the reward fell too
        ([0, 1, 2, 3], [0.5, 0.55, 0.6, 0.7], False),
        ([0, 1, 2], [0.5, 0.7, 0.5], False),  # once is no twice
        ([0, 1, 2], [0.7, 0.6, 0.5], True),
        ([0, 1], [0.7, 0.5], False),
    ],
)
def test_a_reward_that_rises_while_what_it_stands_for_falls(
    rewards: list[float], controls: list[float], alarm: bool
) -> None:
    assert (reward_hacking(rewards, controls) is not None) == alarm


def run_with(controls: list[float], *, entropy: float = 1.0, kl: float = 0.0, reward: bool = True) -> list[str]:
    """What is told of a run of as many evaluations, ten steps each, whose reward rises all the time."""
    told: list[str] = []
    alarms = Alarms(told.append)
    alarms.begin("rl", 10 * len(controls))
    for number, control in enumerate(controls):
        for step in range(10 * number + 1, 10 * number + 11):
            late = number >= 1
            metrics = {"entropy": entropy if late else 1.0, "kl": kl if late else 0.0}
            alarms.step("rl", step, metrics | ({"reward": step / 10} if reward else {"earned": 0.5}))
            alarms.step("reward_model", step, {"loss": 1.0})
        alarms.note("rl", 10 * (number + 1), {"validation_accuracy": control})
    return told


def test_a_run_that_goes_well_is_told_nothing_of() -> None:
    assert run_with([0.5, 0.6, 0.7, 0.68, 0.71], entropy=0.3, kl=3.0) == []


def test_every_alarm_is_told_once_with_its_step() -> None:
    assert [said.split(":")[0] for said in run_with([0.7, 0.6, 0.5, 0.4, 0.3])] == ["RL step 30"]
    assert [said[:25] for said in run_with([0.5] * 5, entropy=0.01)] == ["RL step 20: entropy fell "]
    assert [said[:18] for said in run_with([0.5] * 5, kl=20.0)] == ["RL step 20: KL to "]


def test_the_evaluation_before_the_first_step_is_no_control() -> None:
    """No reward has been given by then to compare with."""
    told: list[str] = []
    alarms = Alarms(told.append)
    alarms.note("rl", 0, {"validation_accuracy": 0.9})
    alarms.note("rl", 0, {"padding_share": 0.1})
    assert run_with([0.5, 0.5, 0.5]) == told == []


def test_a_tasks_own_reward_cannot_be_hacked_so() -> None:
    assert run_with([0.7, 0.6, 0.5, 0.4], reward=False) == []
