"""Environments side by side: each on its thread, faults that cost an episode and no more, an end to all of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from pe_rlhf_mm.envs.pool import PATIENCE, Counts, EnvPool, pool_of
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.testing import ToyEnvironment, ToyTask
from pe_rlhf_mm.types import Environment, Message, Sample, Step

ONE = Sample("one", (Message("system", "Count."),), target=1)
HANGS = 30.0
"""Seconds after which a test that would hang for ever fails instead; nothing is measured against it."""


class Watched(ToyEnvironment):
    """Remembers the threads it was called on."""

    def __init__(self) -> None:
        self.threads = [threading.get_ident()]
        self.closed = 0

    def reset(self, sample: Sample, *, seed: int) -> Step:
        self.threads.append(threading.get_ident())
        return super().reset(sample, seed=seed)

    def step(self, reply: str) -> Step:
        self.threads.append(threading.get_ident())
        return super().step(reply)

    def close(self) -> None:
        self.threads.append(threading.get_ident())
        self.closed += 1


class Faulty(Watched):
    """Raises at the replies that a test names, and where a sample's target is "reset"."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        if sample.target == "reset":
            raise ConnectionError("no page")
        return super().reset(sample, seed=seed)

    def step(self, reply: str) -> Step:
        if reply == "crash":
            raise ConnectionError("the page is gone")
        if reply == "misuse":
            raise UserError("there is no such file")
        if reply == "lose":
            return Step([], truncated=True, info={"lost": "the browser is gone"})
        return super().step(reply)


def made(kind: Callable[[], Any]) -> tuple[list[Any], Callable[[], Environment]]:
    """A maker of environments, and all that it has made."""
    all_of_them: list[Any] = []

    def make() -> Environment:
        all_of_them.append(kind())
        return all_of_them[-1]

    return all_of_them, make


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("environment-")]


def play(pool: EnvPool, *replies: str, slot: int = 0, sample: Sample = ONE) -> list[Step]:
    return [f.result(HANGS) for f in (pool.reset(slot, sample, 0), *(pool.step(slot, reply) for reply in replies))]


# --- threads ----------------------------------------------------------------------------------------------------


def test_an_environment_lives_on_one_thread_of_its_own() -> None:
    environments, make = made(Watched)
    with EnvPool(make, 3) as pool:
        for _ in range(2):
            for slot in range(3):
                play(pool, "up", "done", slot=slot)
    assert len(environments) == 3
    assert all(len(set(environment.threads)) == 1 for environment in environments)
    assert len({environment.threads[0] for environment in environments} | {threading.get_ident()}) == 4
    assert [environment.closed for environment in environments] == [1, 1, 1]


def test_environments_are_made_when_they_are_needed() -> None:
    environments, make = made(Watched)
    with EnvPool(make, 3) as pool:
        assert not environments
        play(pool, slot=1)
        assert len(environments) == 1


def test_all_slots_work_at_the_same_time() -> None:
    """Each reset waits for the other one: were they made one after the other, neither would come to an end."""
    together = threading.Barrier(2)

    class Meets(ToyEnvironment):
        def reset(self, sample: Sample, *, seed: int) -> Step:
            together.wait(HANGS)
            return super().reset(sample, seed=seed)

    with EnvPool(Meets, 2) as pool:
        begun = [pool.reset(slot, ONE, 0) for slot in range(2)]
        assert [f.result().observation[0].content for f in begun] == ["Bring the counter from 0 to 1."] * 2


def test_a_call_returns_before_it_is_carried_out() -> None:
    """What is asked of a slot is done in order, while the caller does something else."""
    go_on = threading.Event()

    class Waits(ToyEnvironment):
        def reset(self, sample: Sample, *, seed: int) -> Step:
            go_on.wait(HANGS)
            return super().reset(sample, seed=seed)

    with EnvPool(Waits, 1) as pool:
        asked = [pool.reset(0, ONE, 0), pool.step(0, "up"), pool.step(0, "done")]
        assert not any(f.done() for f in asked)
        go_on.set()
        assert [f.result(HANGS).reward for f in asked] == [0, 0, 1]


def test_an_episode_can_be_left_for_the_next() -> None:
    with EnvPool(ToyEnvironment, 1) as pool:
        play(pool, "up")
        assert play(pool, "up", "done")[-1].reward == 1
        assert pool.counts == Counts(episodes=2, steps=3, lost=0, remade=0)


def test_a_prepared_episode_is_begun_once_and_given_to_who_asks_for_it() -> None:
    with EnvPool(ToyEnvironment, 1) as pool:
        pool.prepare(0, ONE, 0)
        assert play(pool, "up", "done")[-1].reward == 1
        assert pool.counts == Counts(episodes=1, steps=2, lost=0, remade=0)


def test_what_was_prepared_is_left_if_something_else_is_asked_for() -> None:
    """Another sample, another seed, a second time the same, and one that has been played on: each is begun anew."""
    two = Sample("two", ONE.messages, target=2)
    with EnvPool(ToyEnvironment, 1) as pool:
        for sample, seed in ((two, 0), (ONE, 1), (ONE, 0)):
            pool.prepare(0, sample, seed)
            assert play(pool, "up", "done")[-1].reward == 1
        assert pool.counts.episodes == 5
        assert play(pool, "up", "done")[-1].reward == 1
        pool.prepare(0, ONE, 0)
        pool.step(0, "up")
        assert play(pool, "up", "done")[-1].reward == 1
        assert pool.counts.episodes == 8


# --- the end ----------------------------------------------------------------------------------------------------


def test_closing_ends_all_threads_and_may_be_repeated() -> None:
    environments, make = made(Watched)
    pool = EnvPool(make, 4)
    for slot in range(4):
        play(pool, slot=slot)
    assert len(threads()) == 4
    pool.close()
    pool.close()
    assert not threads()
    assert [environment.closed for environment in environments] == [1] * 4
    with pytest.raises(RuntimeError):
        pool.reset(0, ONE, 0)


def test_closing_waits_for_what_is_under_way_and_cancels_what_is_not() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Waits(Watched):
        def step(self, reply: str) -> Step:
            entered.set()
            go_on.wait(HANGS)
            return super().step(reply)

    environments, make = made(Waits)
    pool = EnvPool(make, 1)
    play(pool)
    under_way, not_begun = pool.step(0, "up"), pool.step(0, "up")
    assert entered.wait(HANGS)
    closing = threading.Thread(target=pool.close)
    closing.start()
    while not pool._closed:
        time.sleep(0.001)
    go_on.set()
    closing.join(HANGS)
    assert under_way.result().observation[0].content == "The counter stands at 1."
    with pytest.raises(CancelledError):
        not_begun.result()
    assert (environments[0].count, environments[0].closed) == (1, 1)


def test_an_environment_that_cannot_be_closed_keeps_no_other_from_it() -> None:
    class Stuck(Watched):
        def close(self) -> None:
            super().close()
            raise ConnectionError("no answer")

    environments, make = made(Stuck)
    pool = EnvPool(make, 2)
    for slot in range(2):
        play(pool, slot=slot)
    with pytest.warns(RuntimeWarning, match="could not be closed: ConnectionError"):
        pool.close()
    assert [environment.closed for environment in environments] == [1, 1]
    assert not threads()


# --- faults -----------------------------------------------------------------------------------------------------


def test_an_environment_that_raises_loses_its_episode_and_is_made_anew() -> None:
    environments, make = made(Faulty)
    with EnvPool(make, 1) as pool:
        last = play(pool, "up", "crash")[-1]
        assert (last.observation, last.reward, last.terminated, last.truncated) == ([], 0.0, False, True)
        assert last.info["lost"].startswith("ConnectionError: the page is gone (step, line ")
        assert play(pool, "up", "done")[-1].reward == 1
        assert pool.counts == Counts(episodes=2, steps=4, lost=1, remade=1)
        assert [environment.closed for environment in environments] == [1, 0]
        assert environments[0].threads[-1] == environments[1].threads[0]


def test_a_reset_that_raises_is_a_lost_episode() -> None:
    with EnvPool(Faulty, 1) as pool:
        assert "no page" in play(pool, sample=Sample("bad", (), target="reset"))[0].info["lost"]
        with pytest.raises(RuntimeError, match="reset it first"):
            pool.step(0, "up").result(HANGS)


def test_an_environment_that_cannot_be_made_is_tried_again() -> None:
    attempts = iter([ConnectionError("no browser yet"), None])

    def make() -> Environment:
        error = next(attempts)
        if error is not None:
            raise error
        return ToyEnvironment()

    with EnvPool(make, 1) as pool:
        assert "no browser yet" in play(pool)[0].info["lost"]
        assert play(pool, "up", "done")[-1].reward == 1
        assert pool.counts == Counts(episodes=2, steps=2, lost=1, remade=1)


def test_an_episode_that_its_environment_gives_up_is_counted_and_the_environment_stays() -> None:
    environments, make = made(Faulty)
    with EnvPool(make, 1) as pool:
        assert play(pool, "lose")[-1].info["lost"] == "the browser is gone"
        play(pool, "up")
        assert len(environments) == 1
        assert pool.counts == Counts(episodes=2, steps=2, lost=1, remade=0)


def test_faults_of_one_slot_leave_the_others_alone() -> None:
    with EnvPool(Faulty, 2) as pool:
        going_on = pool.reset(0, ONE, 0), pool.step(0, "up")
        play(pool, "crash", slot=1)
        assert pool.step(0, "done").result(HANGS).reward == 1
        assert all(f.done() for f in going_on)


def test_a_thousand_episodes_with_a_fault_every_twenty() -> None:
    """Fifty are lost, and every other one is what it would have been."""
    with EnvPool(Faulty, 4) as pool:
        ends = []
        for i in range(1000):
            replies = ("up", "crash") if i % 20 == 7 else ("up", "done") if i % 3 else ("done",)
            ends.append(play(pool, *replies, slot=i % 4)[-1])
        steps = sum(2 if i % 20 == 7 or i % 3 else 1 for i in range(1000))
        assert pool.counts == Counts(episodes=1000, steps=steps, lost=50, remade=50)
    assert [i for i, step in enumerate(ends) if "lost" in step.info] == list(range(7, 1000, 20))
    rewards = [step.reward for i, step in enumerate(ends) if i % 20 != 7]
    assert rewards == [float(i % 3 > 0) for i in range(1000) if i % 20 != 7]


def test_a_broken_task_is_no_endless_row_of_lost_episodes() -> None:
    """The resets go well, and what comes next never does: what it raises is raised, with its own traceback."""
    with EnvPool(Faulty, 2) as pool:
        for i in range(2 * PATIENCE - 1):
            assert "lost" in play(pool, "up", "crash", slot=i % 2)[-1].info
        with pytest.raises(ConnectionError, match="the page is gone") as caught:
            play(pool, "crash", slot=1)
        assert "8 episodes in a row were lost" in caught.value.__notes__[0]


@pytest.mark.parametrize("replies", [("up", "done"), ("up",)], ids=["played to its end", "left by its player"])
def test_an_episode_that_goes_well_ends_the_row(replies: tuple[str, ...]) -> None:
    with EnvPool(Faulty, 1) as pool:
        for _ in range(3):
            for _ in range(PATIENCE - 1):
                play(pool, "crash")
            play(pool, *replies)
        assert pool.counts.lost == 3 * (PATIENCE - 1)


def test_an_environment_that_gives_up_for_ever_is_told_to_the_user() -> None:
    with EnvPool(Faulty, 1) as pool:
        for _ in range(PATIENCE - 1):
            play(pool, "lose")
        with pytest.raises(UserError, match="4 episodes in a row were lost, the last one because: the browser is gone"):
            play(pool, "lose")


def test_what_the_user_did_wrong_is_said_at_once() -> None:
    with EnvPool(Faulty, 1) as pool, pytest.raises(UserError, match="there is no such file"):
        play(pool, "misuse")


def test_an_answer_that_is_no_step_is_refused() -> None:
    class Old(ToyEnvironment):
        def step(self, reply: str) -> Step:
            return (None, 0.0, True, {})  # type: ignore[return-value]

    with EnvPool(Old, 1) as pool, pytest.raises(UserError, match="answered with a tuple; expected"):
        play(pool, "up")


@pytest.mark.parametrize("size", [0, -1])
def test_a_pool_of_nothing_is_refused(size: int) -> None:
    with pytest.raises(OutOfRange, match=f"1 environment at least, not {size}"):
        EnvPool(ToyEnvironment, size)


# --- of a task --------------------------------------------------------------------------------------------------


def test_a_task_of_one_turn_has_no_pool() -> None:
    assert pool_of(ToyTask(), 4) is None


def test_the_environment_made_to_ask_for_it_is_closed() -> None:
    environments, make = made(Watched)
    task = ToyTask()
    task.environment = make  # type: ignore[method-assign]
    pool = pool_of(task, 2)
    assert pool is not None
    with pool:
        play(pool)
    assert [environment.closed for environment in environments] == [1, 1]
    assert threading.get_ident() not in environments[1].threads
