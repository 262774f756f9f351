"""Which row an episode stands in where several begin alike."""

from __future__ import annotations

import pytest

from pe_rlhf_mm.data.beginnings import COLUMNS, fill_rows
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.data.transcript import Turn, length_together


def episode(problem: int, shared: int, own: int) -> list[Turn]:
    """One that begins with `shared` tokens of a problem, to which `own` are replied."""
    return [Turn(EncodedPrompt([problem] * shared, ()), [7] * own)]


def tokens(conversations: list[list[Turn]], bins: list[list[int]]) -> list[int]:
    """Of every row, with every beginning once."""
    rows = [[conversations[n] for n in inside] for inside in bins]
    begin = [{row[0].read.tokens[0] for row in inside} for inside in rows]
    return [
        sum(length_together([c for c in inside if c[0].read.tokens[0] == problem]) for problem in problems)
        for inside, problems in zip(rows, begin, strict=True)
    ]


def test_every_conversation_stands_in_one_row_and_no_row_is_too_long() -> None:
    conversations = [episode(n % 5 + 1, 30 + 20 * (n % 5), 10 + 3 * n) for n in range(40)]
    capacity, bins = fill_rows(conversations, width=128)
    assert sorted(n for inside in bins for n in inside) == list(range(40))
    assert max(tokens(conversations, bins)) <= capacity
    assert capacity % COLUMNS == 0


def test_long_beginnings_make_long_rows_and_short_ones_short_rows() -> None:
    """By hand, for four of one problem and a decoder of width 128, where a row of C costs C (1 + C / 768).

    1000 read and 20 replied: 1080 together in a row of 1152 cost 2880; each alone, in four rows of 1024, 9557.
    10 read and 110 replied: each alone, in four rows of 128, costs 597; all of them, 450 in a row of 512, 853;
    two and two, in rows of 256, 683.
    """
    capacity, bins = fill_rows([episode(1, 1000, 20)] * 4, width=128)
    assert (capacity, bins) == (1152, [[0, 1, 2, 3]])
    capacity, bins = fill_rows([episode(1, 10, 110)] * 4, width=128)
    assert (capacity, bins) == (128, [[0], [1], [2], [3]])


def test_in_a_wide_decoder_attention_weighs_less_and_rows_are_longer() -> None:
    """10 read and 110 replied, width 4096: 512 (1 + 512 / 24576) = 523 in one row, 4 · 128 (1 + 128 / 24576) = 515
    in four. 20 read and 100 replied: 420 together, so again a row of 512 against four: the beginning does not pay.
    40 read and 80 replied: 360 together, 384 (1 + 384 / 24576) = 390 against 515."""
    assert fill_rows([episode(1, 20, 100)] * 4, width=4096).capacity == 128
    assert fill_rows([episode(1, 40, 80)] * 4, width=4096) == (384, [[0, 1, 2, 3]])


@pytest.mark.parametrize("conversations", [[[]], [[], []]])
def test_episodes_that_were_lost_before_they_began_take_a_row_and_no_room(conversations: list[list[Turn]]) -> None:
    assert fill_rows(conversations, width=128) == (COLUMNS, [list(range(len(conversations)))])
