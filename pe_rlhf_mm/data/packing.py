"""Conversations packed into rows of one length, pictures included.

Which conversation stands in which row is decided by `data/order.py`; that none sees another, by `models/vlm.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Int

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.data.transcript import Transcript, beginning, length_together, turn_positions
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.types import Packed, Pictures, Pixels

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
    """A batch of packed rows, one for each bin, of `capacity` tokens each; an episode's replies are asked in turn.

    Conversations that stand beside each other in a bin and begin alike have their beginning once.
    """
    rows = [_Row(config.decoder.position_axes) for _ in bins]
    for row, conversations in zip(rows, bins, strict=True):
        for _, alike in itertools.groupby(conversations, key=beginning):
            row.add(list(alike), asked)
    most = rounded(max(len(row.asked) for row in rows), ROOM)
    images = gallery.take([row.images for row in rows])
    return Packed(
        tokens=_padded([row.tokens for row in rows], capacity, config.pad_id),
        positions=np.stack([np.pad(row.positions, ((0, capacity - len(row.tokens)), (0, 0))) for row in rows]),
        leave=_padded([row.leave for row in rows], capacity, -1),
        replied=_padded([row.replied for row in rows], capacity, 0).astype(bool),
        asked=_padded([row.asked for row in rows], most, 0),
        before=_padded([row.before for row in rows], most, 0),
        mask=np.arange(most) < np.array([[len(row.asked)] for row in rows]),
        images=None if images is None else _with_room(images),
    )


class _Row:
    """A row while it is filled: what is known of each token, and of each one that is asked about."""

    def __init__(self, axes: int):
        self.tokens: list[int] = []
        self.positions: Int[np.ndarray, "S A"] = np.zeros((0, axes), np.int32)
        self.leave: list[int] = []
        self.replied: list[int] = []
        self.asked: list[int] = []
        self.before: list[int] = []
        self.images: list[int] = []

    def add(self, alike: Sequence[Transcript], asked: Asked) -> None:
        """Conversations that begin alike: their beginning, and then what comes after it in each."""
        start, axes = len(self.tokens), self.positions.shape[1]
        places = [turn_positions(turns, axes) for turns in alike]
        if alike[0]:
            self._read(alike[0][0].read)
        middle = len(self.tokens)
        shared = middle - start
        self.leave += [start + length_together(alike)] * shared
        for turns in alike:
            begin = len(self.tokens)
            for number, (read, reply) in enumerate(turns):
                if number:
                    self._read(read)
                self._reply(reply, asked, follows=len(self.tokens) if number else middle)
            self.leave += [len(self.tokens)] * (len(self.tokens) - begin)
        self.positions = np.concatenate([self.positions, places[0][:shared], *(whole[shared:] for whole in places)])

    def _read(self, read: EncodedPrompt) -> None:
        self.tokens += read.tokens
        self.replied += [0] * len(read.tokens)
        self.images += read.images

    def _reply(self, reply: Sequence[int], asked: Asked, *, follows: int) -> None:
        """`follows`: where what is read before it ends, which for a shared beginning is not where the reply stands."""
        start = len(self.tokens)
        columns = asked(start, start + len(reply)) if reply else ()
        self.asked += columns
        self.before += [(follows if column == start else column) - 1 for column in columns]
        self.tokens += reply
        self.replied += [1] * len(reply)


def _padded(lists: Sequence[Sequence[int]], width: int, fill: int) -> Int[np.ndarray, "B W"]:
    return np.array([[*found, *[fill] * (width - len(found))] for found in lists], np.int32).reshape(-1, width)


def _with_room(images: Pictures) -> Pictures:
    """With room for a multiple of ROOM image tokens, or of 4 views, in every row."""
    room = 4 if isinstance(images, Pixels) else ROOM
    return jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, -x.shape[1] % room), *[(0, 0)] * (x.ndim - 2))), images)
