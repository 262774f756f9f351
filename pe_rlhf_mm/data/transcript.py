"""Episodes as token ids, turn by turn: what was read, and what was replied, which is never tokenized again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.types import Message, Prompts


class Turn(NamedTuple):
    """What was read since the last reply, and the reply as it was drawn, with its stop token if it has one.

    The positions of what was read, where it has any, count from the beginning of the episode.
    """

    read: EncodedPrompt
    reply: list[int]


Transcript = Sequence[Turn]
"""An episode, or a prompt and its reply, which is an episode of one turn."""


def length(turns: Transcript) -> int:
    """Tokens of an episode."""
    return sum(len(read.tokens) + len(reply) for read, reply in turns)


def beginning(turns: Transcript) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is read first, tokens and pictures: two episodes with the same one may share it."""
    return (tuple(turns[0].read.tokens), turns[0].read.images) if turns else ((), ())


def length_together(alike: Sequence[Transcript]) -> int:
    """Tokens of episodes that have their beginning, which is the same, once."""
    tokens, _ = beginning(alike[0])
    return sum(map(length, alike)) - (len(alike) - 1) * len(tokens)


def after(turns: Transcript, observation: Sequence[Message], processor: Processor, gallery: Gallery) -> EncodedPrompt:
    """What the model reads after the last of these turns, up to where it is to reply again. Raises as `encode`."""
    stopped = bool(turns[-1].reply) and turns[-1].reply[-1] in processor.config.stop_ids
    new = processor.encode_observation(observation, gallery, stopped=stopped)
    tokens = [token for read, reply in turns for token in (*read.tokens, *reply)]
    images = [number for read, _ in turns for number in read.images]
    whole = processor.positions([*tokens, *new.tokens], [*images, *new.images], gallery)
    return new._replace(positions=None if whole is None else whole[len(tokens) :])


def turn_positions(turns: Transcript, axes: int) -> Int[np.ndarray, "S A"]:
    """Where the tokens of an episode stand: counted, or as they came with what was read; replies go on from there."""
    parts: list[np.ndarray] = [np.zeros((0, axes), np.int32)]
    furthest = -1
    for read, reply in turns:
        parts.append(_counted(furthest + 1, len(read.tokens), axes) if read.positions is None else read.positions)
        furthest = max(furthest, int(parts[-1].max(initial=-1)))
        parts.append(_counted(furthest + 1, len(reply), axes))
        furthest += len(reply)
    return np.concatenate(parts)


def _counted(start: int, count: int, axes: int) -> Int[np.ndarray, "N A"]:
    return np.repeat(np.arange(start, start + count, dtype=np.int32)[:, None], axes, axis=1)


def next_turns(
    episodes: Sequence[Transcript], reads: Sequence[EncodedPrompt | None], processor: Processor, gallery: Gallery
) -> Prompts:
    """What is read next in each of several episodes, padded on the left; None where an episode is over."""
    config, axes = processor.config, processor.config.decoder.position_axes
    longest = max((len(read.tokens) for read in reads if read is not None), default=1)
    shape = (len(reads), rounded(longest, ROUND_TURNS_TO))
    tokens, mask = np.full(shape, config.pad_id, np.int32), np.zeros(shape, bool)
    positions = np.zeros((*shape, axes), np.int32)
    for row, (turns, read) in enumerate(zip(episodes, reads, strict=True)):
        if read is not None:
            start = shape[1] - len(read.tokens)
            tokens[row, start:], mask[row, start:] = read.tokens, True
            positions[row, start:] = turn_positions([*turns, Turn(read, [])], axes)[-len(read.tokens) :]
    images = gallery.take([() if read is None else read.images for read in reads])
    return Prompts(tokens, mask, images, positions)


ROUND_TURNS_TO = 64
"""Each length of what is read compiles a sampler, and turns are many and short."""
