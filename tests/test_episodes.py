"""Episodes of a policy: played in a pool, credited turn by turn, and learned from."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import Heard

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import Head, Roles
from pe_rlhf_mm.algorithms import advantages
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.data.transcript import length
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.rollout.episodes import Played, play_episodes
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import episodes
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.demonstrate import demonstrate, transcript
from pe_rlhf_mm.training.observer import Silent
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.step import new_state, train_step
from pe_rlhf_mm.types import Message, Sample, Step

WORDS = ("open", "save", "delete", "search", "send")
SAMPLES = [Sample(f"s{n}", [Message("system", "Copy.")], target=WORDS[n : n + 1 + n % 3]) for n in range(4)]
HANGS = 30.0
"""Seconds after which a test that would wait for ever fails instead."""
SETTINGS = RLConfig(steps=1, prompts=4, max_tokens=6, max_turns=3, reward="task", beta=0.1, temperature=1.0)


class Echo:
    """Asks to copy a sample's words one after the other; each copied one earns 1, and the last one ends it."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        self.words = list(sample.target)
        return Step([Message("user", f'Copy what is quoted:  "{self.words[0]}" ')])

    def step(self, reply: str) -> Step:
        earned = float(reply == self.words.pop(0))
        ask = [Message("user", f'Copy what is quoted:  "{self.words[0]}" ')] if self.words else []
        return Step(ask, reward=earned, terminated=not self.words)

    def close(self) -> None:
        """Nothing to close."""


class Breaking(Echo):
    """One that is lost after the first reply, where the sample says so."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        self.breaks = sample.id == "s1"
        return super().reset(sample, seed=seed)

    def step(self, reply: str) -> Step:
        if self.breaks:
            raise ConnectionError("the screen went dark")
        return super().step(reply)


class EchoTask:
    """As much of a task as demonstrating takes."""

    def solve(self, sample: Sample) -> Sequence[str] | None:
        return sample.target if sample.id != "s0" else None


@pytest.fixture(scope="module")
def model() -> tuple[Processor, Roles]:
    found = load_model("tiny-vlm")
    made = role_table.only_backbone(found.state)
    for role, key in (("sft", 1), ("reward", 2)):
        made = role_table.new_slot_role(
            made, role, found.config, rank=2, alpha=2.0, targets=("q", "v"), key=jax.random.key(key)
        ).with_head(role, jax.random.normal(jax.random.key(key), (found.config.decoder.width,)))
    made = made.start("policy", "sft").start("anchor", "sft").start("value", "sft")
    return found.processor, made._replace(heads={**made.heads, "value": Head(jnp.zeros(128), jnp.float32(2.0))})


def played(
    model: tuple[Processor, Roles],
    make: type = Echo,
    size: int = 4,
    *,
    temperature: float = 0.0,
    key: int = 0,
    **options: object,
) -> list[Played]:
    processor, roles = model
    sampling = Sampling(temperature=temperature, max_tokens=6)
    chosen = {"max_turns": 3, **options}
    with EnvPool(make, size) as pool:
        weights, gallery = roles.weights("policy"), Gallery(processor.config)
        return play_episodes(processor, weights, gallery, pool, SAMPLES, sampling, jax.random.key(key), **chosen)


def test_episodes_go_the_same_way_in_a_pool_of_any_size(model: tuple[Processor, Roles]) -> None:
    one, three = played(model, size=1), played(model, size=3)
    assert [p.outcome for p in one] == [p.outcome for p in three]
    assert [p.outcome.sample.id for p in one] == ["s0", "s1", "s2", "s3"]
    assert [p.turns for p in one] == [p.turns for p in three]
    assert sum(step.reward for p in one for step in p.outcome.steps) >= 1  # it was taught to copy


def test_the_text_of_a_reply_is_that_of_the_tokens_that_are_kept(model: tuple[Processor, Roles]) -> None:
    for episode in played(model):
        assert [model[0].decode(turn.reply) for turn in episode.turns] == list(episode.outcome.replies)
        assert len(episode.logprobs) == sum(len(turn.reply) for turn in episode.turns)


def test_an_episode_that_outgrows_the_context_is_cut(model: tuple[Processor, Roles]) -> None:
    processor, roles = model
    long = dataclasses.replace(SAMPLES[2], messages=[Message("system", "far " * 220)])
    with EnvPool(Echo, 1) as pool:
        (episode,) = play_episodes(
            processor, roles.weights("policy"), Gallery(processor.config), pool, [long],
            Sampling(temperature=0.0, max_tokens=40), jax.random.key(0), max_turns=3,
        )  # fmt: skip
    last = episode.outcome.steps[-1]
    assert (last.truncated, last.terminated, last.info) == (True, False, {"out_of_context": True})


def assess(
    model: tuple[Processor, Roles], found: list[Played], source: str = "task", settings: RLConfig = SETTINGS
) -> tuple:
    processor, roles = model
    rows = episodes.rows_of(processor.config, Gallery(processor.config), found)
    begun = dataclasses.replace(settings, reward=source, beta=0.77)  # RL begins with it: this rollout has its own
    return rows, *episodes._assess(processor.config, begun, roles, rows, settings.beta)


def test_what_is_earned_later_is_owed_to_every_token_before_it(model: tuple[Processor, Roles]) -> None:
    """The policy equals the anchor, so nothing is subtracted: Z = 0.9 · what is earned from the token's turn on."""
    found = played(model)
    rows, rollout, metrics = assess(model, found)
    assert float(metrics["kl"]) == 0
    for row, episode in enumerate(found):
        earned = [step.reward for step in episode.outcome.steps[1:]]
        expected = [0.9 * sum(earned[n:]) for n, turn in enumerate(episode.turns) for _ in turn.reply]
        np.testing.assert_allclose(np.asarray(rollout.experience.returns[row])[rows.mask[row]], expected, atol=1e-6)
    assert float(metrics["earned"]) == pytest.approx(
        np.mean([sum(step.reward for step in p.outcome.steps) for p in found])
    )


def test_by_rloo_an_episode_is_measured_against_the_others_of_its_sample(model: tuple[Processor, Roles]) -> None:
    """Two rounds of four samples, the second by another key: A = 0.9 · (what it earned - what the other one did)."""
    rounds = [played(model, key=key, temperature=1.0) for key in (0, 1)]
    settings = dataclasses.replace(SETTINGS, algorithm="rloo", group=2)
    rows, rollout, _ = assess(model, rounds[0] + rounds[1], settings=settings)
    earned = np.array([[sum(step.reward for step in p.outcome.steps) for p in one] for one in rounds])
    assert (earned[0] != earned[1]).any()
    expected = 0.9 * np.concatenate([earned[0] - earned[1], earned[1] - earned[0]])
    for row, advantage in enumerate(expected):
        np.testing.assert_allclose(np.asarray(rollout.experience.advantages[row])[rows.mask[row]], advantage, atol=1e-6)


def test_rloo_learns_from_episodes_and_has_no_value_model(model: tuple[Processor, Roles]) -> None:
    processor, roles = model
    without = roles._replace(heads={}, slots={name: slot for name, slot in roles.slots.items() if name != "value"})
    settings = dataclasses.replace(SETTINGS, algorithm="rloo", group=3, prompts=3, steps=2, temperature=1.0)
    with EnvPool(Echo, 4) as pool:
        given = (without, processor, lambda: Gallery(processor.config), pool, SAMPLES, settings)
        learned = episodes.reinforce_episodes(*given)
    assert role_table.fingerprint(learned.pick("policy")) != role_table.fingerprint(learned.pick("sft"))
    assert "value" not in {*learned.slots, *learned.heads}


@pytest.mark.parametrize("source", ["task", "learned"])
def test_by_ppo_the_value_model_is_to_learn_what_it_is_by_reinforce_if_lambda_is_1(
    model: tuple[Processor, Roles], source: str
) -> None:
    """Of episodes that were cut and that ended, and of turns that are judged one by one, with a head that tells places
    apart; and the advantages by turns are the same all over a turn."""
    processor, roles = model
    model = processor, roles.with_head("value", jax.random.normal(jax.random.key(3), (128,)))
    found = [*played(model, max_turns=2), *played(model, max_turns=3)]
    assert {p.outcome.steps[-1].truncated for p in found} == {False, True}
    plain = dataclasses.replace(SETTINGS, gamma=0.5, gae_lambda=1.0)
    rows, expected, _ = assess(model, found, source, settings=plain)
    for credit in ("token", "turn"):
        settings = dataclasses.replace(plain, algorithm="ppo", credit=credit)
        _, rollout, _ = assess(model, found, source, settings=settings)
        one, other = (np.where(rows.mask, of.experience.returns, 0) for of in (rollout, expected))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        got = np.asarray(rollout.experience.advantages)
        assert abs(got[rows.mask].mean()) < 1e-5
        turns = [got[n][rows.mask[n] & (rows.turn[n] == turn)] for n in range(len(found)) for turn in range(3)]
        assert all(np.ptp(turn) == 0 for turn in turns if len(turn)) == (credit == "turn")


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "online-dpo", "best-of-n"])
def test_other_algorithms_learn_from_episodes(model: tuple[Processor, Roles], algorithm: str) -> None:
    """Words are copied more often on the last rollouts than on the first."""
    processor, roles = model
    settings = dataclasses.replace(
        SETTINGS, algorithm=algorithm, group=4, steps=16, epochs=2, max_turns=1, beta=0.0,
        learning_rate=3e-3, value_learning_rate=3e-3,
    )  # fmt: skip
    heard = Heard()
    with EnvPool(Echo, 4) as pool:
        given = (roles, processor, lambda: Gallery(processor.config), pool, SAMPLES, settings)
        episodes.reinforce_episodes(*given, observer=heard)
    earned = [numbers["earned"] for numbers in heard.steps]
    assert np.mean(earned[-4:]) > np.mean(earned[:4]) + 0.1


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_a_cut_episode_is_worth_the_value_beyond_the_cut_and_an_ended_one_is_not(
    model: tuple[Processor, Roles], gamma: float
) -> None:
    """Of two words one is asked for before the cut; the value head says 2 of everything, a turn away."""
    found = played(model, max_turns=1)
    assert [p.outcome.steps[-1].truncated for p in found] == [False, True, True, False]
    rows, rollout, _ = assess(model, found, settings=dataclasses.replace(SETTINGS, gamma=gamma))
    for row, episode in enumerate(found):
        beyond = 2.0 * gamma if episode.outcome.steps[-1].truncated else 0.0
        expected = 0.9 * episode.outcome.steps[1].reward + beyond
        np.testing.assert_allclose(np.asarray(rollout.experience.returns[row])[rows.mask[row]], expected, atol=1e-6)


def test_episodes_that_share_rows_are_worth_what_they_are_alone(model: tuple[Processor, Roles]) -> None:
    """Cut ones and ended ones, of one turn and of two: returns, log-probabilities under the anchor, and the loss."""
    processor, roles = model
    model = processor, roles.with_head("value", jax.random.normal(jax.random.key(3), (128,)))  # it tells places apart
    found = [*played(model, max_turns=1), *played(model, max_turns=2)]
    assert len({p.outcome.steps[-1].truncated for p in found}) == 2
    rows, together, _ = assess(model, found)
    beginnings = [len(p.turns[0].read.tokens) for p in found]
    held = sum(length(p.turns) + (len(p.left.tokens) if p.left else 0) for p in found) - sum(beginnings[:4])
    assert (rows.packed.leave >= 0).sum() == held  # both plays of a sample begin with the same, which is read once
    for n, episode in enumerate(found):
        alone_rows, alone, _ = assess(model, [episode])
        for name in ("returns", "anchor_logprobs"):
            one, other = (
                np.asarray(getattr(rollout.experience, name))[row][of.mask[row]]
                for rollout, of, row in ((together, rows, n), (alone, alone_rows, 0))
            )
            np.testing.assert_allclose(one, other, atol=1e-4)
    mean = np.mean([loss_of(model, [episode]) for episode in found])
    assert loss_of(model, found) == pytest.approx(mean, rel=1e-4)


def test_a_lost_episode_is_masked_out_and_counted(model: tuple[Processor, Roles]) -> None:
    found = played(model, Breaking)
    rows, _, metrics = assess(model, found)
    assert rows.mask.any(axis=1).tolist() == [True, False, True, True]
    others = [p for p in found if p.outcome.sample.id != "s1"]
    assert float(metrics["earned"]) == pytest.approx(
        np.mean([sum(step.reward for step in p.outcome.steps) for p in others])
    )
    assert episodes.told([p.outcome for p in found])["lost"] == 0.25
    without, with_it = (loss_of(model, some) for some in (others, found))
    assert with_it == pytest.approx(without, rel=1e-5)


def loss_of(model: tuple[Processor, Roles], found: list[Played]) -> float:
    processor, roles = model
    rollout = assess(model, found)[1]
    trainable = roles.pick("policy", "value")
    return float(episodes.loss(processor.config, SETTINGS, "products", trainable, roles, rollout, jax.random.key(0))[0])


def test_a_learned_reward_is_owed_to_the_tokens_of_its_own_turn() -> None:
    rewards, turn = jnp.array([0.0, 1.0, 0.0, 0.0, 5.0, 9.0]), jnp.array([0, 0, 1, 1, 1, -1])
    found = advantages.returns_within(rewards, turn, turn)
    np.testing.assert_allclose(found, [1, 1, 5, 5, 5, 9])
    assert advantages.returns_within(rewards, turn, turn, 0.5).tolist() == found.tolist()  # nothing within a turn


def test_what_is_earned_a_turn_later_is_worth_less() -> None:
    """Turns of 2, 1 and 2 tokens that earn 1, 2 and 8, at γ = 1/2: 1 + 2/2 + 8/4, then 2 + 8/2, then 8."""
    rewards, turn = jnp.array([0.0, 1.0, 2.0, 0.0, 8.0, 0.0]), jnp.array([0, 0, 1, 2, 2, -1])
    found = advantages.returns_within(rewards, jnp.zeros(6, int), turn, 0.5)
    assert found.tolist() == [4, 4, 6, 8, 8, 0]
    np.testing.assert_allclose(
        advantages.returns_within(rewards, jnp.zeros(6, int), turn), advantages.returns_to_go(rewards)
    )


def test_every_reply_is_judged_as_if_it_were_the_last_one(model: tuple[Processor, Roles]) -> None:
    """The reward model reads a whole episode at once, and says of each turn what it says of the episode up to there."""
    (whole, *_) = [p for p in played(model) if len(p.turns) == 3]
    _, rollout, _ = assess(model, [whole], "learned")
    starts = np.cumsum([0, *(len(turn.reply) for turn in whole.turns)])
    for turn in range(3):
        outcome = dataclasses.replace(whole.outcome, steps=whole.outcome.steps[: turn + 2])
        kept = whole.logprobs[: starts[turn + 1]]
        _, alone, _ = assess(model, [Played(outcome, whole.turns[: turn + 1], kept, None)], "learned")
        expected = np.asarray(alone.experience.returns[0])[starts[turn] : starts[turn + 1]]
        got = np.asarray(rollout.experience.returns[0])[starts[turn] : starts[turn + 1]]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert len(set(got.round(5))) == 1


def test_a_step_makes_what_was_rewarded_likelier(model: tuple[Processor, Roles]) -> None:
    processor, roles = model
    found = played(model)
    rows, rollout, _ = assess(model, found)
    signs = np.where([sum(s.reward for s in p.outcome.steps) > 0 for p in found], 1.0, -1.0)
    earned = jnp.broadcast_to(2.0 + 5 * signs[:, None], rollout.mask.shape)
    rollout = rollout._replace(experience=rollout.experience._replace(advantages=earned, returns=earned))
    objective = functools.partial(episodes.loss, processor.config, SETTINGS, "products")
    optimizer = adam(1e-2, 1)
    learned = new_state(roles.pick("policy", "value"), roles, optimizer, jax.random.key(0))
    before = statistics(processor, roles, rows)
    learned, metrics = train_step(learned, roles, rollout, loss=objective, optimizer=optimizer)
    after = statistics(processor, roles.put(learned.trainable), rows)
    assert np.isfinite(float(metrics["loss"]))
    assert ((after - before) * signs > 0).all()


def test_the_next_episodes_begin_while_the_learner_runs(model: tuple[Processor, Roles]) -> None:
    """At the end of the first update, of 4 episodes, some fifth one has begun; nobody has asked to play it yet."""
    begun, fifth = itertools.count(1), threading.Event()

    class Counted(Echo):
        def reset(self, sample: Sample, *, seed: int) -> Step:
            if next(begun) == 5:
                fifth.set()
            return super().reset(sample, seed=seed)

    class Waiting(Silent):
        def step(self, stage: str, step: int, metrics: dict) -> None:
            if step == 1:
                assert fifth.wait(HANGS)

    processor, roles = model
    settings = dataclasses.replace(SETTINGS, steps=2, environments=4)
    with EnvPool(Counted, 4) as pool:
        given = (roles, processor, lambda: Gallery(processor.config), pool, SAMPLES, settings)
        episodes.reinforce_episodes(*given, observer=Waiting())


def statistics(processor: Processor, roles: Roles, rows: episodes.Rows) -> np.ndarray:
    weights = roles.weights("policy")
    found = episodes.forward.packed_policy(processor.config, weights, rows.packed, SETTINGS.sampling)
    return np.where(rows.mask, np.asarray(found.logprobs).reshape(-1)[rows.place], 0).sum(axis=1)


def test_demonstrations_are_what_the_oracle_was_shown_and_replied(model: tuple[Processor, Roles]) -> None:
    processor, _ = model
    gallery, heard = Gallery(processor.config), Heard()
    with EnvPool(Echo, 2) as pool:
        shown = demonstrate(EchoTask(), pool, SAMPLES, observer=heard)  # type: ignore[arg-type]
    assert [o.sample.id for o in shown] == ["s1", "s2", "s3"]
    assert heard.steps == [{}] * 4  # of all that the oracle was asked about
    for outcome in shown:
        turns = transcript(outcome, processor, gallery, room=6)
        assert [processor.decode(turn.reply) for turn in turns] == list(outcome.sample.target)
        conversation = [*outcome.sample.messages]
        for step, reply in zip(outcome.steps, [*outcome.replies, None], strict=True):
            conversation += [*step.observation, *([Message("assistant", reply)] if reply else [])]
        (whole,) = processor.encode([conversation], gallery)
        tokens = [token for turn in turns for token in (*turn.read.tokens, *turn.reply)]
        assert whole.tokens[: len(tokens)] == tokens


def test_an_oracle_that_earns_nothing_is_refused(model: tuple[Processor, Roles]) -> None:
    with EnvPool(Echo, 2) as pool, pytest.raises(UserError, match="led to no reward in any of 1 training samples"):
        demonstrate(EchoTask(), pool, SAMPLES[:1])  # type: ignore[arg-type]
