"""Conversations packed into rows of one length, pictures included.

Which conversation stands in which row is decided by `data/order.py`; that none sees another, by `models/vlm.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.transcript import Transcript, length, turn_positions
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.types import Features, Packed, Pixels

ROOM = 64
"""Columns that are asked about are padded to a multiple of so many, so that few programs are compiled."""


Asked = Callable[[int, int], Sequence[int]]
"""(the columns where a reply starts and ends) -> those that a loss reads."""


def every_token(start: int, end: int) -> Sequence[int]:
    """Every token of the reply: what SFT imitates."""
    return range(start, end)


def last_token(start: int, end: int) -> Sequence[int]:
    """The last token of the reply: where a reward model's score is read."""
    return (end - 1,)


def pack(
    config: VLMConfig, gallery: Gallery, bins: Sequence[Sequence[Transcript]], *, capacity: int, asked: Asked
) -> Packed:
    """A batch of packed rows, one for each bin, of `capacity` tokens each; an episode's replies are asked in turn."""
    shape = (len(bins), capacity)
    tokens, segment = np.full(shape, config.pad_id, np.int32), np.full(shape, -1, np.int32)
    positions, replied = np.zeros((*shape, config.decoder.position_axes), np.int32), np.zeros(shape, bool)
    columns: list[list[int]] = [[] for _ in bins]
    for row, conversations in enumerate(bins):
        start = 0
        for number, turns in enumerate(conversations):
            end = start + length(turns)
            segment[row, start:end] = number
            positions[row, start:end] = turn_positions(turns, positions.shape[-1])
            for read, reply in turns:
                middle = start + len(read.tokens)
                end = middle + len(reply)
                tokens[row, start:middle], tokens[row, middle:end] = read.tokens, reply
                replied[row, middle:end] = True
                columns[row] += asked(middle, end) if reply else ()
                start = end
    return Packed(tokens, positions, segment, replied, *_padded(columns), _images(gallery, bins))


def _padded(columns: Sequence[Sequence[int]]) -> tuple[Int[np.ndarray, "B K"], Bool[np.ndarray, "B K"]]:
    most = -(-max(map(len, columns)) // ROOM) * ROOM
    asked, mask = np.zeros((len(columns), most), np.int32), np.zeros((len(columns), most), bool)
    for row, found in enumerate(columns):
        asked[row, : len(found)], mask[row, : len(found)] = found, True
    return asked, mask


def _images(gallery: Gallery, bins: Sequence[Sequence[Transcript]]) -> Pixels | Features | None:
    """The pictures of each row in their order, with room for a multiple of ROOM image tokens, or of 4 views."""
    images = gallery.take(
        [[n for turns in conversations for read, _ in turns for n in read.images] for conversations in bins]
    )
    if images is None:
        return None
    room = ROOM if isinstance(images, Features) else 4
    return jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, -x.shape[1] % room), *[(0, 0)] * (x.ndim - 2))), images)
