"""RL over whole episodes: what `reinforce.py` does with completions, with episodes of several turns.

An episode stands in a row as it was played, [read | reply | read | reply | ..], with others that fit beside it; a loss
reads the tokens that the policy chose and no others. Returns run over the whole episode. An episode that the
task ended earns nothing more; one that was cut from outside is worth what the value model expects beyond the cut, or
nothing more where there is none. A lost episode is masked out and counted.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.mixture import balanced
from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.algorithms import advantages, kl, masked
from pe_rlhf_mm.data.beginnings import fill_rows
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.packing import every_token, pack
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.pipeline import Stream
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.streams import Fed
from pe_rlhf_mm.data.transcript import Turn
from pe_rlhf_mm.envs.episode import ending, lost_by
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.models.sharding import by_rows, parts_of
from pe_rlhf_mm.rollout.episodes import Played, play_episodes
from pe_rlhf_mm.training import forward, passes
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.jury import ALONE, Jury
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.passes import Episodes
from pe_rlhf_mm.training.policy_gradient import (
    ALGORITHMS,
    PLACEMENTS,
    Earned,
    Experience,
    assessors,
    experience,
    objective,
)
from pe_rlhf_mm.training.reinforce import improve
from pe_rlhf_mm.training.scorers import EvaluatorReward, rewarded
from pe_rlhf_mm.training.step import Technique
from pe_rlhf_mm.types import Outcome, Packed, Sample

ROWS, TOKENS = 4, 64
"""There is a multiple of so many rows, and chosen tokens of an episode are padded to a multiple of so many: each shape
compiles an update."""


EARNED = {"learned": "reward", "task": "earned"}
"""What the mean reward of a rollout is called by where it comes from; that of an evaluator is `scored`."""


class Rows(NamedTuple):
    """N episodes in B rows, and what the environment said of every token that the policy chose.

    `place`: where each stands among the B·K tokens that the rows are asked about. `logprobs`: as drawn; `rewards`: at
    the last token of the reply that earned them; `turn`: the number of the reply, -1 at padding; `mask`: what is to be
    learned from; `ends`: the last of each episode's places among the B·S of all rows; `cut`: it was ended from outside.
    """

    packed: Packed
    place: Int[Any, "N T"]
    logprobs: Float[Any, "N T"]
    rewards: Float[Any, "N T"]
    turn: Int[Any, "N T"]
    mask: Bool[Any, "N T"]
    ends: Int[Any, " N"]
    cut: Bool[Any, " N"]


class EpisodeRollout(NamedTuple):
    """Episodes with everything that is constant for the updates."""

    packed: Packed
    place: Int[Array, "N T"]
    mask: Bool[Array, "N T"]
    ends: Int[Array, " N"]
    experience: Experience


def rows_of(config: VLMConfig, gallery: Gallery, played: Sequence[Played]) -> Rows:
    """Episodes in rows, where those that begin alike share their beginning. Nothing of a lost one is learned from."""
    whole = [[*p.turns, Turn(p.left or EncodedPrompt([], ()), [])] if _cut(p) else list(p.turns) for p in played]
    capacity, bins = fill_rows(whole, width=config.decoder.width)
    bins += [[]] * (rounded(len(bins), math.lcm(ROWS, parts_of("rows"))) - len(bins))
    packed = pack(
        config, gallery, [[whole[n] for n in inside] for inside in bins], capacity=capacity, asked=every_token
    )
    chosen = rounded(max(1, *(len(p.logprobs) for p in played)), TOKENS)
    rows = _unfilled(packed, len(played), chosen)
    for row, inside in enumerate(bins):
        asked = 0
        for n in inside:
            _fill(rows, n, played[n], row, asked)
            asked += len(played[n].logprobs)
    return rows


def _unfilled(packed: Packed, episodes: int, tokens: int) -> Rows:
    shape = (episodes, tokens)
    place, turn = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    drawn, rewards, mask = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    return Rows(packed, place, drawn, rewards, turn, mask, np.zeros(episodes, np.int32), np.zeros(episodes, bool))


def _fill(rows: Rows, n: int, episode: Played, row: int, asked: int) -> None:
    """What is known of the n-th episode, whose tokens are asked about in a row from the `asked`-th on."""
    start = 0
    for number, (_, reply) in enumerate(episode.turns):
        rows.turn[n, start : start + len(reply)] = number
        start += len(reply)
        if reply:
            rows.rewards[n, start - 1] = episode.outcome.steps[number + 1].reward
    rows.place[n, :start] = row * rows.packed.asked.shape[1] + np.arange(asked, asked + start)
    rows.logprobs[n, :start] = episode.logprobs
    rows.mask[n, :start] = lost_by(episode.outcome) is None
    rows.cut[n] = _cut(episode)
    if start:  # a token leaves where its episode ends
        last = rows.packed.leave[row, rows.packed.asked[row, asked + start - 1]] - 1
        rows.ends[n] = row * rows.packed.tokens.shape[1] + last


def _by_episode(found: Float[Array, "B K"], place: Int[Array, "N T"]) -> Float[Array, "N T"]:
    """What was found in rows, episode by episode."""
    return found.reshape(-1)[place]


def _by_group(x: Array, group: int) -> Array:
    """Of every sample its episodes, [P, G, ..], which are a whole round of samples apart."""
    return x.reshape(group, -1, *x.shape[1:]).swapaxes(0, 1)


def _cut(played: Played) -> bool:
    last = played.outcome.steps[-1]
    return last.truncated and not last.terminated and lost_by(played.outcome) is None


def _scope(source: str, turn: Int[Array, "N T"]) -> Int[Array, "N T"]:
    """What a token answers for. A learned reward judges every turn; another one often comes at the end, and is for the
    whole episode."""
    return turn if source == "learned" else jnp.zeros_like(turn)


def _beyond(
    config: VLMConfig, settings: RLConfig, roles: Roles, rows: Rows, said: Mapping[str, Any]
) -> Float[Array, " N"]:
    """What V says of what lies beyond the end of what was cut. Where it has not spoken yet, it is asked, if there is
    such; where a learned reward judges each turn by itself, nothing lies beyond."""
    nothing = jnp.zeros(rows.cut.shape)
    if settings.reward == "learned" or "value" not in roles.heads:
        return nothing

    def ask() -> Float[Array, " N"]:
        told = passes.said(config, roles, ("value",), Episodes(rows.packed, rows.ends), settings, passes.read)
        return told["value"][1]

    beyond = said["value"][1] if "value" in said else jax.lax.cond(rows.cut.any(), ask, lambda: nothing)
    return jnp.where(rows.cut, beyond, 0)


@functools.partial(jax.jit, static_argnames=("config", "settings", "jury"))
def _assess(
    config: VLMConfig,
    settings: RLConfig,
    roles: Roles,
    rows: Rows,
    beta: Float[Array, ""] | float,
    jury: Jury = ALONE,
) -> tuple[EpisodeRollout, dict[str, jax.Array]]:
    """What every chosen token is given credit for, by the algorithm, and the metrics of a rollout."""
    source, scope = settings.reward, _scope(settings.reward, rows.turn)
    mask, by_episode = rows.mask, functools.partial(_by_episode, place=rows.place)
    names = assessors(settings, jury.readers if source == "learned" else ())
    said = passes.said(config, roles, names, Episodes(rows.packed, rows.ends), settings, passes.read)
    policy_now, anchor = (said[role].changed(by_episode) for role in ("policy", "anchor"))
    rewards, aside = rows.rewards, {}
    if source == "learned":
        last = mask & (rows.turn != jnp.pad(rows.turn, ((0, 0), (0, 1)), constant_values=-1)[:, 1:])
        rewards = jnp.where(last, by_episode(jury.verdict(said)), 0)
        aside = {name: masked.token_mean(by_episode(x), last) for name, x in jury.aside(said).items()}
    divergence = kl.k1(policy_now.full_logprobs, anchor.full_logprobs)
    charge = PLACEMENTS[settings.kl].charge(policy_now.full_logprobs, anchor.full_logprobs)
    earned = (1 - beta) * rewards - beta * jnp.where(mask, charge, 0)
    values = by_episode(said["value"][0]) if "value" in said else None
    beyond = _beyond(config, settings, roles, rows, said)
    away = rows.turn.max(axis=-1, keepdims=True) + 1 - rows.turn
    returns = advantages.returns_within(earned, scope, rows.turn, settings.gamma)
    returns = returns + settings.gamma**away * beyond[:, None]
    whole = Earned(earned, returns, rows.turn, scope, mask, values, beyond)
    given = (whole, policy_now.logprobs, anchor.full_logprobs)
    grouped = jax.tree.map(lambda x: _by_group(x, settings.group), given)
    found = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(mask.shape), experience(settings, beta, *grouped))
    known = mask.any(axis=-1)
    metrics = {
        EARNED.get(source, "scored"): masked.token_mean(masked.sequence_sum(rewards, mask), known),
        "success": masked.token_mean(masked.sequence_sum(rows.rewards, mask) > 0, known),
        "kl": masked.sequence_sum_mean(divergence, mask),
        "length": masked.token_mean(mask.sum(axis=-1), known),
        "turns": masked.token_mean(rows.turn.max(axis=-1) + 1, known),
        "sampler_gap": jnp.where(mask, jnp.abs(rows.logprobs - policy_now.logprobs), 0).max(),
    }
    return EpisodeRollout(rows.packed, rows.place, mask, rows.ends, found), {**metrics, **aside}


def loss(
    config: VLMConfig,
    settings: RLConfig,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    rollout: EpisodeRollout,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """As `reinforce.loss`, of episodes."""
    rows, learners = Episodes(rollout.packed, rollout.ends), ALGORITHMS[settings.algorithm].roles
    read = functools.partial(passes.read, how=forward.Pass(remat=remat))
    said = passes.said(config, roles.put(trainable), learners, rows, settings, read)

    def grouped(x: Array) -> Array:
        return _by_group(_by_episode(x, rollout.place), settings.group)

    values = grouped(said["value"][0]) if "value" in said else None
    given = jax.tree.map(lambda x: _by_group(x, settings.group), (rollout.experience, rollout.mask))
    found = objective(settings, said["policy"].changed(grouped), values, *given)
    return balanced(roles.mixtures.get("policy"), said["policy"].usage, *found)


def told(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of a rollout: the share of replies that were no action, of episodes that were cut or lost, and replays."""
    steps = [step for outcome in outcomes for step in outcome.steps[1:]]
    ends = Counter[str](ending(outcome) for outcome in outcomes)
    return {
        "invalid": sum("action_error" in step.info for step in steps) / max(len(steps), 1),
        "cut": 1 - (ends["terminated"] + ends["lost"]) / len(outcomes),
        "lost": ends["lost"] / len(outcomes),
        "replays": float(sum(outcome.steps[-1].info.get("replays", 0) for outcome in outcomes)),
    }


def collect_episodes(
    processor: Processor,
    gallery: Gallery,
    pool: EnvPool,
    roles: Roles,
    trainable: Trainable,
    samples: Sequence[Sample],
    settings: RLConfig,
    evaluator: EvaluatorReward | None,
    key: jax.Array,
    beta: float,
    *,
    jury: Jury = ALONE,
) -> tuple[EpisodeRollout, dict[str, Any]]:
    """Plays a group of every sample with the current policy and works out what is constant for the updates on it.

    `evaluator`: what rewards episodes in place of the environment, or of the `jury`. `beta`: of this rollout.
    """
    now, rounds = roles.put(trainable), [*samples] * settings.group
    drawn = (processor, now.weights("policy"), gallery, pool, rounds, settings.sampling, key)
    played = play_episodes(*drawn, max_turns=settings.max_turns)
    if evaluator is not None:
        outcomes = hosts.led(lambda: rewarded(evaluator, [p.outcome for p in played]))
        played = [p._replace(outcome=outcome) for p, outcome in zip(played, outcomes, strict=True)]
    rows = by_rows(rows_of(processor.config, gallery, played))
    rollout, metrics = _assess(processor.config, settings, now, rows, beta, jury)
    return rollout, {**metrics, **told([p.outcome for p in played])}


def reinforce_episodes(
    roles: Roles,
    processor: Processor,
    new_gallery: Callable[[], Gallery],
    pool: EnvPool,
    samples: Sequence[Sample],
    settings: RLConfig,
    evaluator: EvaluatorReward | None = None,
    *,
    jury: Jury = ALONE,
    monitor: Callable[[Roles], float] | None = None,
    technique: Technique = Technique(),
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """Trains the role `policy`, and `value` if the algorithm has one, from `sft` on episodes of samples that are drawn.

    The reward is the task's own, or, with `settings.reward` "learned", what the jury says of each reply, or what an
    evaluator says of the episode. Every rollout has a gallery of its own: its screens are never seen again, and
    all of them together fill any memory.
    """

    def choose(k: int) -> list[Sample]:
        """Those of the k-th rollout, whatever was played before: a run that was killed asks for them again."""
        rng = np.random.default_rng((seed, k))
        chosen = rng.choice(len(samples), settings.prompts, replace=settings.prompts > len(samples))
        # In the order of their clusters: so many meet an environment that shows their page already, which poses the
        # next problem in a moment.
        return sorted((samples[i] for i in chosen.tolist()), key=lambda sample: sample.cluster or "")

    def feed(start: int) -> Stream[tuple[list[Sample], list[Sample]]]:
        return Stream((choose(k), choose(k + 1)) for k in itertools.count(start))

    def draw(
        roles: Roles, trainable: Trainable, asked: tuple[list[Sample], list[Sample]], key: jax.Array, beta: float
    ) -> tuple[EpisodeRollout, dict[str, Any]]:
        now, following = asked
        given = (processor, new_gallery(), pool, roles, trainable, now, settings, evaluator, key, beta)
        drawn = collect_episodes(*given, jury=jury)
        for slot, sample in enumerate(following[: pool.size]):
            pool.prepare(slot, sample, seed=0)
        return drawn

    return improve(
        roles,
        processor.config,
        Fed(feed),
        draw,
        functools.partial(loss, processor.config, settings, technique.remat),
        settings,
        technique,
        monitor=monitor,
        seed=seed,
        observer=observer,
        keeper=keeper,
    )
