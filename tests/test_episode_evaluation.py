"""Episodes in waves, and the evaluation of policies that play them."""

from __future__ import annotations

import functools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli import evaluation as eval_command
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.envs.episode import Episode, ending, play
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.envs.waves import PolicyOfMany, play_all
from pe_rlhf_mm.errors import OutOfRange, PromptTooLong, UserError
from pe_rlhf_mm.evaluation.attempts import attempts_at
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts, answers_of, count_episodes, play_samples
from pe_rlhf_mm.rollout.load import load_policy
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.testing import ToyEnvironment
from pe_rlhf_mm.types import Environment, Message, Outcome, Sample, Score, Step

Conversation = Sequence[Message]


def counting(id: str, target: int) -> Sample:
    return Sample(id, (Message("system", "Count."),), target=target)


@functools.cache
def tiny_vlm() -> Policy:
    return load_policy("tiny-vlm")


def straight(conversation: Conversation) -> str:
    """Counts up to the goal, which the second message ends with, and says that it is done."""
    goal = int(str(conversation[1].content).removesuffix(".").split()[-1])
    return "up" if sum(m.role == "assistant" for m in conversation) < goal else "done"


def one_by_one(policy: Callable[[Conversation], str]) -> PolicyOfMany:
    return lambda conversations, _: [policy(conversation) for conversation in conversations]


def erratic(conversation: Conversation) -> str:
    """Anything, decided by all that was said so far: one message too many or too few would show."""
    rng = random.Random(repr([(m.role, m.content) for m in conversation]))
    return rng.choice(["up", "up", "down", "jump", "done"])


class Waves:
    """A policy of many that remembers which conversations came together, by their episodes' numbers and lengths."""

    def __init__(self, policy: Callable[[Conversation], str] = straight):
        self.policy = policy
        self.seen: list[list[tuple[int, int]]] = []

    def __call__(self, conversations: Sequence[Conversation], numbers: Sequence[int]) -> list[str]:
        self.seen.append([(n, len(told)) for n, told in zip(numbers, conversations, strict=True)])
        return [self.policy(conversation) for conversation in conversations]


SAMPLES = [counting(f"s{i}", i % 4) for i in range(12)]


# --- waves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_outcomes_do_not_depend_on_the_size_of_the_pool(size: int) -> None:
    alone = [play(erratic, ToyEnvironment(), sample, seed=0, max_turns=6) for sample in SAMPLES]
    assert {len(outcome.replies) for outcome in alone} == {2, 3, 6}
    with EnvPool(ToyEnvironment, size) as pool:
        assert play_all(one_by_one(erratic), pool, SAMPLES, [0] * 12, max_turns=6) == alone


def test_every_reply_of_a_wave_comes_from_one_call_and_waves_stay_full() -> None:
    """Episodes of 1, 3, 2, 1 and 1 replies in two slots.

    a b · then a is over and c begins: c b · c b end nothing yet: c is at its 2nd reply when b is at its 3rd, both end,
    and d e begin. In messages: a new conversation has 2, and each turn adds 2.
    """
    samples = [counting(id, n - 1) for id, n in zip("abcde", (1, 3, 2, 1, 1), strict=True)]
    waves = Waves()
    with EnvPool(ToyEnvironment, 2) as pool:
        outcomes = play_all(waves, pool, samples, range(5))
    assert waves.seen == [[(0, 2), (1, 2)], [(1, 4), (2, 2)], [(1, 6), (2, 4)], [(3, 2), (4, 2)]]
    assert [len(outcome.replies) for outcome in outcomes] == [1, 3, 2, 1, 1]
    assert [outcome.sample.id for outcome in outcomes] == list("abcde")


def test_slow_environments_change_neither_waves_nor_outcomes() -> None:
    rng = random.Random(0)

    class Slow(ToyEnvironment):
        def step(self, reply: str) -> Step:
            time.sleep(rng.random() / 200)
            return super().step(reply)

    found = []
    for environment in (ToyEnvironment, Slow, Slow):
        waves = Waves(erratic)
        with EnvPool(environment, 3) as pool:
            found.append((play_all(waves, pool, SAMPLES, [0] * 12, max_turns=6), waves.seen))
    assert found[0] == found[1] == found[2]


def test_room_is_filled_before_the_slowest_environment_is_done() -> None:
    """The step of one waits for the episode that takes the place of the other; else it would wait in vain."""
    third = threading.Event()

    class Waits(ToyEnvironment):
        def reset(self, sample: Sample, *, seed: int) -> Step:
            if sample.id == "third":
                third.set()
            return super().reset(sample, seed=seed)

        def step(self, reply: str) -> Step:
            return super().step(reply if self.target == 0 or third.wait(30) else "the third has not begun")

    with EnvPool(Waits, 2) as pool:
        samples = [counting("slow", 1), counting("quick", 0), counting("third", 0)]
        outcomes = play_all(one_by_one(straight), pool, samples, range(3))
    assert [outcome.steps[-1].reward for outcome in outcomes] == [1, 1, 1]
    assert not any(step.info for outcome in outcomes for step in outcome.steps)


class Seeded(ToyEnvironment):
    """Says its sample and its seed, and is over."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        return Step([Message("user", f"{sample.id} {seed}")], terminated=True)


def test_seeds_go_to_their_samples() -> None:
    with EnvPool(Seeded, 3) as pool:
        outcomes = play_all(one_by_one(straight), pool, SAMPLES, range(100, 112))
        evaluated = play_samples(straight, pool, attempts_at(SAMPLES, 1, seed=100), max_tokens=1)
    assert [o.steps[0].observation[0].content for o in outcomes] == [f"s{i} {100 + i}" for i in range(12)]
    assert all(not outcome.replies for outcome in outcomes)
    assert evaluated == outcomes


def test_nothing_is_played_where_there_are_no_samples() -> None:
    with EnvPool(ToyEnvironment, 2) as pool:
        assert play_all(one_by_one(straight), pool, [], []) == []


def test_lost_episodes_stay_in_their_place_and_the_others_go_on() -> None:
    class Faulty(ToyEnvironment):
        def step(self, reply: str) -> Step:
            if self.target == 2 and reply == "done":
                raise ConnectionError
            return super().step(reply)

    with EnvPool(Faulty, 3) as pool:
        outcomes = play_all(one_by_one(straight), pool, SAMPLES, range(12))
    assert ["lost" if ending(o) == "lost" else o.steps[-1].reward for o in outcomes] == [1, 1, "lost", 1] * 3
    assert outcomes[2].replies == ["up", "up", "done"]


def test_every_outcome_is_told_when_it_is_over() -> None:
    told: dict[int, Outcome] = {}
    with EnvPool(ToyEnvironment, 5) as pool:
        outcomes = play_all(one_by_one(straight), pool, SAMPLES, range(12), keep=told.__setitem__)
    assert [told[i] for i in range(12)] == outcomes


# --- conversations that do not fit ------------------------------------------------------------------------------


def forgetful(conversation: Conversation) -> str:
    """Has no room for more than four messages."""
    if len(conversation) > 4:
        raise PromptTooLong(f"{len(conversation)} messages")
    return straight(conversation)


def test_a_conversation_that_outgrows_the_context_ends_its_episode_and_no_other() -> None:
    """Of targets 0, 1, 2, 3: the first two need one and two replies; the others are cut at their third."""
    alone = [play(forgetful, ToyEnvironment(), sample, seed=0) for sample in SAMPLES]
    assert [ending(outcome) for outcome in alone] == [
        "terminated",
        "terminated",
        "out_of_context",
        "out_of_context",
    ] * 3
    last = alone[2].steps[-1]
    assert (alone[2].replies, last.truncated, last.terminated) == (["up", "up"], True, False)
    assert last.info == {"out_of_context": True}
    with EnvPool(ToyEnvironment, 3) as pool:
        assert play_all(answers_of(forgetful, 16), pool, SAMPLES, [0] * 12) == alone


def test_a_first_prompt_that_does_not_fit_is_an_error() -> None:
    def tiny(conversation: Conversation) -> str:
        raise PromptTooLong("2 messages, and there is room for 1")

    with pytest.raises(PromptTooLong, match="room for 1"):
        play(tiny, ToyEnvironment(), SAMPLES[0], seed=0)
    with EnvPool(ToyEnvironment, 3) as pool, pytest.raises(PromptTooLong, match="room for 1"):
        play_all(answers_of(tiny, 16), pool, SAMPLES, range(12))


# --- policies that break their contract -------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [None, 3, ["up"]])
def test_a_reply_that_is_no_string_is_refused(reply: object) -> None:
    with EnvPool(ToyEnvironment, 1) as pool, pytest.raises(UserError, match=f"sample s0 with a {type(reply).__name__}"):
        play_all(lambda conversations, _: [reply for _ in conversations], pool, SAMPLES, range(12))


def test_what_a_policy_raises_comes_through_with_the_samples_named() -> None:
    def broken(conversations: Sequence[Conversation], numbers: Sequence[int]) -> list[str]:
        raise ZeroDivisionError

    with EnvPool(ToyEnvironment, 2) as pool, pytest.raises(ZeroDivisionError) as caught:
        play_all(broken, pool, SAMPLES, range(12))
    assert caught.value.__notes__ == ["(the policy was answering s0, s1)"]


def test_a_policy_of_many_must_answer_all() -> None:
    with EnvPool(ToyEnvironment, 2) as pool, pytest.raises(ValueError, match="shorter"):
        play_all(lambda conversations, _: ["up"], pool, SAMPLES, range(12))


def test_what_a_policy_was_shown_does_not_grow_afterwards() -> None:
    shown: list[Conversation] = []

    def keeps(conversation: Conversation) -> str:
        shown.append(conversation)
        return straight(conversation)

    two = counting("two", 2)
    play(keeps, ToyEnvironment(), two, seed=0)
    with EnvPool(ToyEnvironment, 1) as pool:
        play_all(one_by_one(keeps), pool, [two], [0])
    assert [len(conversation) for conversation in shown] == [2, 4, 6] * 2


# --- how episodes went ------------------------------------------------------------------------------------------


def outcome(replies: int, *infos: dict[str, object], terminated: bool = False, truncated: bool = False) -> Outcome:
    steps = [Step([], info=info) for info in infos[:-1]] + [Step([], 0.0, terminated, truncated, infos[-1])]
    return Outcome(SAMPLES[0], ["x"] * replies, steps)


OUTCOMES = [
    outcome(2, {}, {"action_error": "what?"}, {}, terminated=True),
    outcome(1, {}, {"action_error": "what?", "replays": 1}, truncated=True),
    outcome(1, {}, {"out_of_steps": True}, terminated=True),
    outcome(1, {}, {"out_of_turns": True}, truncated=True),
    outcome(1, {}, {"out_of_context": True}, truncated=True),
    outcome(1, {"replays": 1}, {"replays": 2}, terminated=True),
    outcome(0, {"lost": "no browser"}, truncated=True),
]


def test_episodes_are_counted_by_their_ends() -> None:
    assert [ending(o) for o in OUTCOMES] == [
        "terminated",
        "out_of_steps",
        "out_of_steps",
        "out_of_turns",
        "out_of_context",
        "terminated",
        "lost",
    ]
    counts = count_episodes(OUTCOMES)
    assert counts == EpisodeCounts(
        episodes=7,
        replies=7,
        action_errors=2,
        replays=3,
        terminated=2,
        out_of_steps=2,
        out_of_turns=1,
        out_of_context=1,
        lost=1,
    )
    assert counts.text() == (
        "7 episodes, 7 replies, 2 (28.6 %) not carried out; "
        "2 ended by the task, 2 out of steps, 1 out of turns, 1 out of context, 1 lost"
    )
    assert (
        count_episodes([OUTCOMES[-1]]).text() == "1 episodes, 0 replies, 0 not carried out; 0 ended by the task, 1 lost"
    )


def test_an_episode_that_is_over_is_not_cut_at_its_last_turn() -> None:
    episode = Episode(SAMPLES[0])
    episode.see(Step([], terminated=True), max_turns=0)
    assert ending(episode.outcome()) == "terminated"


# --- evaluation -------------------------------------------------------------------------------------------------


class Reached:
    """The reward of the last step."""

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [Score(outcome.steps[-1].reward) for outcome in outcomes]


class Counting:
    """Eight counters to bring to 0, 1, 2 or 3."""

    evaluators = (f"{__name__}:Reached",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        yield from SAMPLES[:8]

    def environment(self) -> Environment:
        return ToyEnvironment()

    def solve(self, sample: Sample) -> Sequence[str]:
        return [*["up"] * sample.target, "done"]


class Losing(Counting):
    """Every fourth episode is lost."""

    def environment(self) -> Environment:
        class Faulty(ToyEnvironment):
            def step(self, reply: str) -> Step:
                return {}[3] if self.target == 3 else super().step(reply)

        return Faulty()


class LosingAll(Counting):
    def environment(self) -> Environment:
        class Broken(ToyEnvironment):
            def reset(self, sample: Sample, *, seed: int) -> Step:
                return Step([], truncated=True, info={"lost": "the browser would not start"})

        return Broken()


def hasty(conversation: Conversation) -> str:
    """Never goes beyond 1."""
    return "jump" if len(conversation) == 2 else "up" if len(conversation) == 4 else "done"


def test_a_function_is_evaluated_on_episodes() -> None:
    found = pe.evaluate(f"{__name__}:Counting", hasty, environments=3)
    assert (found.headline.value, found.headline.n, found.headline.unscored) == (0.25, 8, 0)
    assert [outcome.replies for outcome in found.outcomes] == [["jump", "up", "done"]] * 8
    assert [len(outcome.steps) for outcome in found.outcomes] == [4] * 8
    counted = "8 episodes, 24 replies, 8 (33.3 %) not carried out; 8 ended by the task"
    assert found.table().splitlines()[-1] == counted


def test_lost_episodes_are_unscored_whatever_the_evaluator_says_of_them() -> None:
    """Of targets 0, 1, 2, 3, 0, 1, 2, 3 the hasty one meets the ones; the threes are lost: 2 of 6."""
    found = pe.evaluate(f"{__name__}:Losing", hasty)
    assert (found.headline.value, found.headline.n, found.headline.unscored) == (2 / 6, 6, 2)
    (scores,) = found.scores.values()
    assert [score.value for score in scores] == [0, 1, 0, None] * 2
    assert scores[3].why.startswith("the episode was lost: KeyError: 3 (step, line ")
    assert found.episodes is not None
    assert found.episodes.lost == 2
    assert found.table().splitlines()[-1].endswith("6 ended by the task, 2 lost")


def test_where_every_episode_is_lost_nothing_is_said_of_the_policy() -> None:
    with pytest.raises(UserError, match="all 2 episodes were lost, the first one because: the browser would not start"):
        pe.evaluate(f"{__name__}:LosingAll", hasty, limit=2)


class Telling(Counting):
    """A tale after every reply, as long as the target is large, and an end after the second."""

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        yield from (counting("short", 1), counting("long", 20))

    def environment(self) -> Environment:
        class Tells(ToyEnvironment):
            def reset(self, sample: Sample, *, seed: int) -> Step:
                self.turns = 0
                return super().reset(sample, seed=seed)

            def step(self, reply: str) -> Step:
                self.turns += 1
                return Step([Message("user", "blue " * 40 * self.target)], truncated=self.turns == 2)

        return Tells()


class Asked(NamedTuple):
    """A policy that encodes its prompts as a model does, and then answers without one."""

    processor: Processor

    def generate(self, conversations: Sequence[Conversation], *, max_tokens: int, **_: object) -> list[list[str]]:
        self.processor.encode(conversations, Gallery(self.processor.config), room=max_tokens)
        return [[f"{len(conversation)} messages"] for conversation in conversations]

    def __call__(self, conversation: Conversation) -> str:
        raise AssertionError("a policy that can generate is asked for many replies at once")


def test_a_models_conversation_that_outgrows_its_context_does_not_disturb_the_others() -> None:
    """After one turn the long tale fills tiny-vlm's 512 tokens."""
    found = pe.evaluate(f"{__name__}:Telling", Asked(tiny_vlm().processor), environments=2)
    short, long = found.outcomes
    assert (short.replies, ending(short)) == (["2 messages", "4 messages"], "out_of_steps")
    assert (long.replies, ending(long)) == (["2 messages"], "out_of_context")


def test_the_replies_of_a_model_are_its_greedy_ones() -> None:
    with EnvPool(Telling().environment, 2) as pool:
        outcomes = play_samples(tiny_vlm(), pool, attempts_at(SAMPLES[1:3], 1, seed=0), max_tokens=3, max_turns=1)
    prompts = [[*outcome.sample.messages, *outcome.steps[0].observation] for outcome in outcomes]
    assert [outcome.replies for outcome in outcomes] == tiny_vlm().generate(prompts, max_tokens=3)


def test_the_command_prints_how_episodes_went(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"{__name__}:Losing", "--policy", f"{__name__}:hasty", "--environments", "2"]
    eval_command.run([*arguments, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"][0]["unscored"] == 2
    assert printed["episodes"]["lost"] == 2
    assert printed["episodes"]["terminated"] == 6
    eval_command.run(arguments)
    assert "6 ended by the task, 2 lost" in capsys.readouterr().out


def test_no_environments_at_all_are_refused() -> None:
    with pytest.raises(OutOfRange, match="1 environment at least, not 0"):
        pe.evaluate(f"{__name__}:Counting", hasty, environments=0)
