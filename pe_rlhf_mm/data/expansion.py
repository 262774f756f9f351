"""What a prompt holds in place of a picture: the text that replaces its placeholder, and the positions of its tokens.

`expand_*` take the grid and the tiles of a picture's views and the merge that made them, and return the replacement of
one placeholder; all of a family's placeholders are to be replaced in one pass, for a replacement holds placeholders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def tokens_per_view(grid: tuple[int, int], merge: int) -> int:
    """How many image tokens the patches of one view become."""
    return grid[0] * grid[1] // merge**2


def expand_gemma3(grid: tuple[int, int], tiles: tuple[int, int], merge: int) -> str:
    """Replaces Gemma 3's <start_of_image>; as Gemma3Processor."""
    return f"\n\n<start_of_image>{'<image_soft_token>' * tokens_per_view(grid, merge)}<end_of_image>\n\n"


def expand_idefics3(grid: tuple[int, int], tiles: tuple[int, int], merge: int) -> str:
    """Replaces the <image> of Idefics3 and SmolVLM; as Idefics3Processor and SmolVLMProcessor."""
    view = "<image>" * tokens_per_view(grid, merge)
    whole = f"<fake_token_around_image><global-img>{view}<fake_token_around_image>"
    rows, columns = tiles
    if rows == 0:
        return whole
    lines = (
        "".join(f"<fake_token_around_image><row_{row}_col_{column}>{view}" for column in range(1, columns + 1))
        for row in range(1, rows + 1)
    )
    return "\n".join(lines) + "\n\n" + whole


def expand_qwen(grid: tuple[int, int], tiles: tuple[int, int], merge: int) -> str:
    """Replaces Qwen's <|image_pad|>, between the marks that the template wrote; as Qwen2VLProcessor and later ones."""
    return "<|image_pad|>" * tokens_per_view(grid, merge)


def expand_paligemma(grid: tuple[int, int], tiles: tuple[int, int], merge: int) -> str:
    """Replaces PaliGemma's <image>; as PaliGemmaProcessor."""
    return "<image>" * tokens_per_view(grid, merge)


def mrope_positions(tokens: Sequence[int], image_id: int, grids: Sequence[tuple[int, int]]) -> Int[np.ndarray, "L 3"]:
    """Time, row and column of every token of a sequence without padding; as get_rope_index of Qwen2.5-VL and Qwen3-VL.

    Text counts on in all three. An image keeps the time and counts rows and columns from there, and the text after it
    goes on above its largest number. `grids` are rows and columns of image tokens, after merging. Image ids beyond
    those of the grids are text: a model may sample one, and there is no picture behind it.
    Raises ValueError where the tokens do not hold an image of each grid.
    """
    parts: list[np.ndarray] = []
    read = position = 0
    for rows, columns in grids:
        start = next((i for i in range(read, len(tokens)) if tokens[i] == image_id), len(tokens))
        parts.append(_counted(position, start - read))
        position += start - read
        read = start + rows * columns
        if list(tokens[start:read]) != [image_id] * (rows * columns):
            raise ValueError(f"from token {start} on there are not the {rows} x {columns} image tokens of a grid")
        time, row, column = np.indices((1, rows, columns)).reshape(3, -1)
        parts.append(position + np.stack([time, row, column], axis=1))
        position += max(rows, columns)
    parts.append(_counted(position, len(tokens) - read))
    return np.concatenate(parts).astype(np.int32)


def _counted(start: int, length: int) -> Int[np.ndarray, "N 3"]:
    return np.repeat(np.arange(start, start + length)[:, None], 3, axis=1)
