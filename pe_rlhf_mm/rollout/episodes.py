"""Episodes of a policy in a pool of environments, turn by turn: what was sampled is kept as it was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.transcript import Turn, after, length, next_turns
from pe_rlhf_mm.envs.episode import Episode
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.models.history import History, nothing_read, with_room
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.rollout.sampler import Sampled, take_turn
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.types import Outcome, Sample

ROOM = 256
"""Histories grow by so many columns at a time: each size compiles a sampler."""


class Played(NamedTuple):
    """An episode as it was played, and as tokens.

    `logprobs`: of every token of the replies, as it was drawn. `left`: what was shown last, if nothing was replied to
    it: where a value is to be told of an episode that was cut.
    """

    outcome: Outcome
    turns: list[Turn]
    logprobs: list[float]
    left: EncodedPrompt | None


class _Row:
    """An episode while it is played, and what is to be read next."""

    def __init__(self, sample: Sample):
        self.episode = Episode(sample)
        self.turns: list[Turn] = []
        self.logprobs: list[float] = []
        self.read: EncodedPrompt | None = None

    def look(self, processor: Processor, gallery: Gallery, room: int) -> None:
        """Encodes what was observed. An episode that has outgrown the context is cut."""
        observation = self.episode.steps[-1].observation
        if not self.turns:
            self.read = processor.encode([self.episode.conversation], gallery, room=room)[0]
        else:
            self.read = after(self.turns, observation, processor, gallery) if observation else None
        if self.read is not None and length(self.turns) + len(self.read.tokens) + room > processor.config.context:
            self.episode.cut("out_of_context")

    @property
    def waiting(self) -> EncodedPrompt | None:
        """What the policy is to read now; None for an episode that is over."""
        return None if self.episode.over else self.read

    def played(self) -> Played:
        """The episode, when it is over."""
        return Played(self.episode.outcome(), self.turns, self.logprobs, self.read)


def play_episodes(
    processor: Processor,
    weights: Weights,
    gallery: Gallery,
    pool: EnvPool,
    samples: Sequence[Sample],
    sampling: Sampling,
    key: jax.Array,
    *,
    max_turns: int,
    seed: int = 0,
) -> list[Played]:
    """One episode of every sample, as many at a time as the pool has environments.

    Keys and values are carried from turn to turn, so that a turn reads only what is new. The resets of the next
    episodes begin as those before them end. Raises PromptTooLong if a first prompt does not fit; an episode that
    outgrows the context later is cut.
    """
    played: list[Played] = []
    resets = {slot: pool.reset(slot, sample, seed) for slot, sample in enumerate(samples[: pool.size])}
    for start in range(0, len(samples), pool.size):
        rows = [_Row(sample) for sample in samples[start : start + pool.size]]
        for slot, row in enumerate(rows):
            row.episode.see(resets.pop(slot).result(), max_turns)
            if not row.episode.over:
                row.look(processor, gallery, sampling.max_tokens)
        history: History | None = None
        while any(row.waiting is not None for row in rows):
            for slot, row in enumerate(rows):
                if row.waiting is None and slot not in resets and start + pool.size + slot < len(samples):
                    resets[slot] = pool.reset(slot, samples[start + pool.size + slot], seed)
            key, drawing = jax.random.split(key)
            history = _turn(processor, weights, gallery, pool, rows, history, sampling, drawing, max_turns)
        for slot in range(min(pool.size, len(samples) - start - pool.size)):
            if slot not in resets:
                resets[slot] = pool.reset(slot, samples[start + pool.size + slot], seed)
        played += [row.played() for row in rows]
    return played


def _turn(
    processor: Processor,
    weights: Weights,
    gallery: Gallery,
    pool: EnvPool,
    rows: Sequence[_Row],
    history: History | None,
    sampling: Sampling,
    key: jax.Array,
    max_turns: int,
) -> History:
    """Everybody's next reply by one call of the model, and what the environments answer."""
    idle = [None] * (pool.size - len(rows))  # every wave has as many rows, or it would compile another program
    reads = [row.waiting for row in rows]
    turns = [row.turns for row in rows] + [[] for _ in idle]
    batch = by_rows(next_turns(turns, [*reads, *idle], processor, gallery))
    columns = (0 if history is None else int(history.used)) + batch.tokens.shape[1] + sampling.max_tokens
    if history is None:
        dtype = jax.tree.leaves(weights.state["decoder"]["embedding"])[0].dtype  # which is never quantised
        history = nothing_read(processor.config, pool.size, rounded(columns, ROOM), dtype)
    history = with_room(history, rounded(columns, ROOM))
    drawn, history = take_turn(
        processor.config, *weights, history, batch, jax.random.split(key, pool.size), sampling=sampling
    )
    live = [(slot, row) for slot, row in enumerate(rows) if row.waiting is not None]
    _say(live, drawn, processor)
    steps = [pool.step(slot, row.episode.replies[-1]) for slot, row in live]
    for (_, row), step in zip(live, steps, strict=True):
        row.episode.see(step.result(), max_turns)
        row.look(processor, gallery, sampling.max_tokens)
    return history


def _say(live: Sequence[tuple[int, _Row]], drawn: Sampled, processor: Processor) -> None:
    tokens, mask, logprobs = (x[:, 0] for x in hosts.fetched((*drawn.completions, drawn.logprobs)))
    for slot, row in live:
        assert row.read is not None  # or it would not wait for a reply
        chosen = tokens[slot][mask[slot]].tolist()
        row.turns.append(Turn(row.read, chosen))
        row.logprobs += logprobs[slot][mask[slot]].tolist()
        row.episode.say(processor.decode(chosen))
