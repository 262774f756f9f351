"""Many episodes at once: everybody's next reply by one call of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

from pe_rlhf_mm.envs.episode import MAX_TURNS, Episode
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.errors import PromptTooLong, Unanswered
from pe_rlhf_mm.types import Message, Outcome, Sample, Step

PolicyOfMany = Callable[[Sequence[Sequence[Message]], Sequence[int]], Sequence[str | PromptTooLong | Unanswered]]
"""Conversations, and the numbers of their episodes, to replies; in place of a reply, the error that says that a
conversation does not fit, or that a server gave none."""


class _Place(NamedTuple):
    """An episode, its number among all of them, and the slot it is played in."""

    number: int
    episode: Episode
    slot: int


def play_all(
    policy: PolicyOfMany,
    pool: EnvPool,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    *,
    max_turns: int = MAX_TURNS,
    keep: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Plays one episode of every sample, cut as `play` cuts them; returns their outcomes in the order of the samples.

    It goes in waves: one call of the policy answers every conversation that waits for a reply, in the order of the
    samples. An episode that ends makes room for the next one in the same wave, so that every wave but the last ones is
    as large as the pool; which conversations meet in a wave does not depend on how fast environments are. `keep` is
    given every outcome when its episode is over, and the number of its sample.
    """
    waiting = enumerate(zip(samples, seeds, strict=True))
    outcomes: dict[int, Outcome] = {}
    under_way: dict[Future[Step], _Place] = {}

    def begin(slot: int) -> None:
        if (following := next(waiting, None)) is not None:
            number, (sample, seed) = following
            under_way[pool.reset(slot, sample, seed)] = _Place(number, Episode(sample), slot)

    def end(place: _Place) -> None:
        outcomes[place.number] = place.episode.outcome()
        begin(place.slot)
        if keep is not None:
            keep(place.number, outcomes[place.number])

    for slot in range(pool.size):
        begin(slot)
    while under_way:
        live = []
        for place, step in _as_they_come(under_way):
            place.episode.see(step, max_turns)
            if place.episode.over:
                end(place)
            else:
                live.append(place)
        live.sort(key=lambda place: place.number)
        for place, reply in zip(live, _answers(policy, live), strict=True):
            place.episode.say(reply)
            if place.episode.over:
                end(place)
            else:
                under_way[pool.step(place.slot, place.episode.replies[-1])] = place
    return [outcomes[number] for number in range(len(samples))]


def _as_they_come(under_way: dict[Future[Step], _Place]) -> Iterator[tuple[_Place, Step]]:
    """Takes steps out as they are done, until none is under way, those added meanwhile included."""
    while under_way:
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            yield under_way.pop(future), future.result()


def _answers(policy: PolicyOfMany, live: Sequence[_Place]) -> Sequence[str | PromptTooLong | Unanswered]:
    if not live:
        return []
    try:
        return policy([tuple(place.episode.conversation) for place in live], [place.number for place in live])
    except Exception as error:
        error.add_note(f"(the policy was answering {', '.join(place.episode.sample.id for place in live)})")
        raise
