"""Policy and environment taking turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pe_rlhf_mm.envs.episode import play
from pe_rlhf_mm.testing import ToyEnvironment
from pe_rlhf_mm.types import Message, Sample

TO_TWO = Sample("two", (Message("system", "Count."),), target=2)


def script(*replies: str) -> tuple[list[list[Message]], object]:
    """A policy that says one thing after another, and what it was shown each time."""
    shown: list[list[Message]] = []
    left = iter(replies)

    def policy(messages: Sequence[Message]) -> str:
        shown.append(list(messages))
        return next(left)

    return shown, policy


def test_the_conversation_grows_by_reply_and_observation() -> None:
    shown, policy = script("up", "up", "done")
    outcome = play(policy, ToyEnvironment(), TO_TWO, seed=0)
    assert [m.content for m in shown[-1]] == [
        "Count.",
        "Bring the counter from 0 to 2.",
        "up",
        "The counter stands at 1.",
        "up",
        "The counter stands at 2.",
    ]
    assert [m.role for m in shown[-1]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert outcome.replies == ["up", "up", "done"]
    assert [step.reward for step in outcome.steps] == [0, 0, 0, 1]
    assert outcome.steps[-1].terminated


def test_what_a_policy_was_shown_is_not_changed_afterwards() -> None:
    shown, policy = script("up", "done")
    play(policy, ToyEnvironment(), TO_TWO, seed=0)
    assert [len(messages) for messages in shown] == [2, 4]


def test_a_reply_that_is_no_action_goes_on_with_a_remark() -> None:
    shown, policy = script("jump", "up", "up", "done")
    outcome = play(policy, ToyEnvironment(), TO_TWO, seed=0)
    assert outcome.steps[1].info["action_error"] == "no action 'jump'"
    assert "There is no action 'jump'" in str(shown[1][-1].content)
    assert outcome.steps[-1].reward == 1


def test_an_episode_out_of_turns_is_truncated_and_not_terminated() -> None:
    _, policy = script(*["up"] * 10)
    outcome = play(policy, ToyEnvironment(), TO_TWO, seed=0, max_turns=3)
    assert outcome.replies == ["up"] * 3
    assert (outcome.steps[-1].terminated, outcome.steps[-1].truncated) == (False, True)
    assert outcome.steps[-1].info["out_of_turns"]


def test_an_episode_that_ends_with_its_last_turn_is_not_truncated() -> None:
    _, policy = script("up", "up", "done")
    assert not play(policy, ToyEnvironment(), TO_TWO, seed=0, max_turns=3).steps[-1].truncated


def test_what_the_policy_raises_is_not_hidden() -> None:
    def broken(messages: Sequence[Message]) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(broken, ToyEnvironment(), TO_TWO, seed=0)
