"""What a tower is to see of a picture: resized, split and cut as each model family learned it.

The values are those of the image processors of transformers (Pillow backend) before rescaling and normalisation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Pillow

from pe_rlhf_mm.errors import ImageError

MOST_ELONGATED = 200
"""The largest ratio of the sides that the Qwen family takes."""
LONGEST_BEFORE_TILES = 4096
"""The longest side that the Idefics3 family resizes to, whatever its configuration asks for."""


class Views(NamedTuple):
    """What the tower is to see of one picture.

    Patches are in block order: the blocks of merge x merge neighbours row by row, and row by row within a block. Thus
    those that become one image token lie together, and merging them is a reshape.
    """

    patches: UInt8[np.ndarray, "V P X"]
    """V views of P patches; X = patch · patch · 3 numbers, ordered (row, column, colour) within the patch."""
    grid: tuple[int, int]
    """Patches down and across a view; their product is P."""
    tiles: tuple[int, int]
    """Rows and columns of tiles that the picture was split into; (0, 0) if it was not."""


def square(picture: Pillow.Image, *, size: int, patch: int, merge: int, resample: Pillow.Resampling) -> Views:
    """One view of size x size, whatever the shape of the picture (RGB).

    As Gemma3ImageProcessor (bilinear, no pan and scan) and, for PaliGemma, SiglipImageProcessor (bicubic, merge 1).
    """
    pixels = np.asarray(picture.resize((size, size), resample))
    return _cut(pixels[None], patch, merge, tiles=(0, 0))


def tiled(picture: Pillow.Image, *, tile: int, longest_edge: int, patch: int, merge: int) -> Views:
    """Tiles of tile x tile, row by row, and last the whole picture (RGB) in one view of that size.

    A picture that fits into one tile is only that. As Idefics3ImageProcessor and SmolVLMImageProcessor, with splitting.
    """
    picture = picture.resize(_long_side(picture.size, longest_edge), Pillow.Resampling.LANCZOS)
    picture = picture.resize(_whole_tiles(picture.size, tile), Pillow.Resampling.LANCZOS)
    rows, columns = picture.height // tile, picture.width // tile
    views = np.asarray(picture).reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if len(views) == 1:
        return _cut(views, patch, merge, tiles=(0, 0))
    whole = np.asarray(picture.resize((tile, tile), Pillow.Resampling.LANCZOS))
    return _cut(np.concatenate([views, whole[None]]), patch, merge, tiles=(rows, columns))


def native(picture: Pillow.Image, *, patch: int, merge: int, min_pixels: int, max_pixels: int) -> Views:
    """One view of about the picture's (RGB) own shape: both sides whole blocks, the area between the two bounds.

    As Qwen2VLImageProcessor, which Qwen2.5-VL and Qwen3-VL use too; configurations call the bounds shortest_edge and
    longest_edge, though they are areas. Raises ImageError for a picture more than 200 times as long as wide.
    """
    block = patch * merge
    rows, columns = whole_blocks(*picture.size, block, min_pixels, max_pixels)
    pixels = np.asarray(picture.resize((columns * block, rows * block), Pillow.Resampling.BICUBIC))
    return _cut(pixels[None], patch, merge, tiles=(0, 0))


def _cut(pixels: UInt8[np.ndarray, "V H W 3"], patch: int, merge: int, *, tiles: tuple[int, int]) -> Views:
    """Cuts views into patches; like the towers' convolution, it leaves out what does not fill a patch (384 by 14)."""
    views, height, width, _ = pixels.shape
    down, across = height // patch, width // patch
    blocks = pixels[:, : down * patch, : across * patch].reshape(
        views, down // merge, merge, patch, across // merge, merge, patch, 3
    )
    patches = blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(views, down * across, patch * patch * 3)
    return Views(patches, (down, across), tiles)


def _scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height with the longer one as given.

    Trap: exact arithmetic would differ by a pixel here and there, and so by a row of tiles; the reference's divisions
    of floats are repeated instead.
    """
    width, height = size
    ratio = width / height
    return (longest, int(longest / ratio)) if width >= height else (int(longest * ratio), longest)


def _long_side(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height of the first resize: pictures grow or shrink to `longest`, and their shorter side is even."""
    width, height = _scaled(size, longest)
    if size[0] >= size[1]:
        height = max(height + height % 2, 1)
    else:
        width = max(width + width % 2, 1)
    if max(width, height) > LONGEST_BEFORE_TILES:
        width, height = _scaled((width, height), LONGEST_BEFORE_TILES)
    return max(width, 1), max(height, 1)


def _whole_tiles(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Width and height of the second resize: the longer side grows to whole tiles, then the other one does."""
    width, height = _scaled(size, math.ceil(max(size) / tile) * tile)
    return math.ceil(width / tile) * tile, math.ceil(height / tile) * tile


def whole_blocks(width: int, height: int, block: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Rows and columns of blocks of block x block pixels that a picture of this size is resized to."""
    if max(width, height) / min(width, height) > MOST_ELONGATED:
        raise ImageError(
            f"an image of {width} x {height} pixels is more than {MOST_ELONGATED} times as long as it is wide, which "
            "this model does not take. Crop it, or cut it into several images."
        )
    rows, columns = round(height / block), round(width / block)  # a half goes to the even neighbour
    area = rows * columns * block**2
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return max(1, math.floor(height / shrink / block)), max(1, math.floor(width / shrink / block))
    if area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / block), math.ceil(width * grow / block)
    return rows, columns
