"""What a task's own data asks of a step: how long prompts and replies are, and how many pictures there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.evaluate import collect_samples
from pe_rlhf_mm.planning.programs import Load, Seen
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.judged import judge, label_source, training_labels
from pe_rlhf_mm.training.prepare import demonstrated
from pe_rlhf_mm.types import Task

SAMPLE = 128
"""Examples of the training split that are looked at."""
PATCHES_HELD = 2**26
"""Bytes of patches: pictures are opened to know their shape, and need not be kept."""


class Found(NamedTuple):
    """Encoded prompts, and the replies behind them."""

    prompts: Sequence[EncodedPrompt]
    replies: Sequence[list[int]]


def load_of(task: Task, processor: Processor, settings: TuneConfig, stage: str) -> Load:
    """The longest prompt, the longest reply and the most pictures of a sample of the training split.

    Lengths are rounded up as those of batches are. What is drawn has `rl.max_tokens`. Raises UserError for a task that
    is played in an environment, or has nothing to train that stage on; PromptTooLong; ImageError.
    """
    if task.environment() is not None:
        raise UserError(
            f"{type(task).__name__} is played in an environment, and its rows are as long as its episodes: name "
            "lengths (--prompt-tokens, --reply-tokens, --pictures) in place of the task."
        )
    gallery = Gallery(processor.config, memory=PATCHES_HELD)
    prompts, replies = _FOUND[stage](task, processor, gallery, settings)
    length = rounded(max(len(prompt.tokens) for prompt in prompts))
    reply = rounded(max((len(reply) for reply in replies), default=settings.rl.max_tokens))
    pictures = max(len(prompt.images) for prompt in prompts)
    return Load(length, reply, pictures, _seen(prompts, gallery) if pictures else None)


def _seen(prompts: Sequence[EncodedPrompt], gallery: Gallery) -> Seen:
    """As `Gallery.take` pads the pictures of a batch."""
    shapes = [[gallery.shape(n) for n in prompt.images] for prompt in prompts]
    return Seen(
        views=max(sum(shape.views for shape in row) for row in shapes),
        patches=gallery.room_for([shape.grid[0] * shape.grid[1] for row in shapes for shape in row]),
        tokens=rounded(max(sum(gallery.tokens(n) for n in prompt.images) for prompt in prompts)),
    )


def _shown(task: Task, processor: Processor, gallery: Gallery, settings: TuneConfig) -> Found:
    samples = collect_samples(task, "train", limit=SAMPLE, seed=settings.seed)
    found = demonstrated(task, samples, processor, gallery, room=settings.rl.max_tokens)
    return Found([d.prompt for d in found], [d.reply for d in found])


def _judged(task: Task, processor: Processor, gallery: Gallery, settings: TuneConfig) -> Found:
    if settings.reward.labels:
        labels = list(training_labels(task, settings.reward, seed=settings.seed)[:SAMPLE])
    else:
        read = label_source(task, settings.reward.loss).read
        labels = list(itertools.islice(read("train", seed=settings.seed), SAMPLE))
    rows = [example.rows for example in judge(labels, processor, gallery, room=settings.rl.max_tokens)]
    if any(len(row) > 1 for row in rows):
        raise UserError(
            f"{type(task).__name__} has replies with pictures, which are read in rows of their own: name lengths "
            "(--prompt-tokens, --reply-tokens, --pictures) in place of the task."
        )
    return Found([row.prompt for row, *_ in rows], [list(reply) for row, *_ in rows for reply in row.completions])


def _asked(task: Task, processor: Processor, gallery: Gallery, settings: TuneConfig) -> Found:
    samples = collect_samples(task, "train", limit=SAMPLE, seed=settings.seed)
    room = settings.rl.max_tokens
    return Found(processor.encode([sample.messages for sample in samples], gallery, room=room), [])


_FOUND: dict[str, Callable[[Task, Processor, Gallery, TuneConfig], Found]] = {
    "sft": _shown,
    "reward": _judged,
    "rl": _asked,
    "sample": _asked,
}
