"""Demonstrations of tasks that are played: the oracle's replies, and what the environment showed it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.data.transcript import Transcript, Turn, after
from pe_rlhf_mm.envs.episode import Episode, lost_by
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.training.observer import Observer, Silent, counted
from pe_rlhf_mm.types import Outcome, Sample, Task


def demonstrate(
    task: Task, pool: EnvPool, samples: Sequence[Sample], *, seed: int = 0, observer: Observer = Silent()
) -> list[Outcome]:
    """The oracle's episodes of the samples it can solve; lost ones, and those that earned nothing, are left out.

    The observer hears of every sample that the oracle has looked at.

    Raises UserError where none is left: there is nothing to imitate.
    """
    # One page after the other: an environment that shows a page already poses its next problem in a moment.
    samples = sorted(samples, key=lambda sample: sample.cluster or "")
    asked = counted(observer, "demonstrations", samples, len(samples))
    solved = [(sample, replies) for sample in asked if (replies := task.solve(sample))]
    free: SimpleQueue[int] = SimpleQueue()
    for slot in range(pool.size):
        free.put(slot)

    def play(sample: Sample, replies: Sequence[str]) -> Outcome:
        slot, episode = free.get(), Episode(sample)
        episode.see(pool.reset(slot, sample, seed).result(), len(replies))
        for reply in replies:
            if not episode.over:
                episode.say(reply)
                episode.see(pool.step(slot, reply).result(), len(replies))
        free.put(slot)
        return episode.outcome()

    with ThreadPoolExecutor(pool.size) as threads:
        shown = list(threads.map(lambda pair: play(*pair), solved))
    useful = [o for o in shown if lost_by(o) is None and sum(step.reward for step in o.steps) > 0]
    if not useful:
        raise UserError(
            f"{type(task).__name__}.solve led to no reward in any of {len(samples)} training samples, so there is "
            "nothing to imitate; expected a list of replies that solve some of them"
        )
    return useful


def transcript(outcome: Outcome, processor: Processor, gallery: Gallery, *, room: int) -> Transcript:
    """A demonstration as token ids. Raises PromptTooLong, ImageError."""
    (read,) = processor.encode([[*outcome.sample.messages, *outcome.steps[0].observation]], gallery, room=room)
    turns: list[Turn] = []
    for reply, step in zip(processor.encode_replies(outcome.replies), outcome.steps[1:], strict=True):
        turns.append(Turn(read, reply))
        if step.observation:
            read = after(turns, step.observation, processor, gallery)
    return turns
