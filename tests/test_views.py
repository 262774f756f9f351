"""What towers see, number for number what the image processors of transformers prepare."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from transformers import (
    Gemma3ImageProcessor,
    Idefics3ImageProcessor,
    Qwen2VLImageProcessor,
    SiglipImageProcessor,
    SmolVLMImageProcessor,
)

from pe_rlhf_mm.data.views import Views, native, square, tiled
from pe_rlhf_mm.errors import ImageError

SIZES = {
    "wide": (301, 41),
    "tall": (37, 290),
    "one pixel": (1, 1),
    "a line": (160, 1),
    "tiny": (3, 2),
    "exact": (56, 56),
    "one less": (55, 112),
    "one more": (113, 57),
    "half a block": (70, 98),
}
every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
screen = (1280, 720)


def noise(size: tuple[int, int]) -> Pillow.Image:
    pixels = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Pillow.fromarray(pixels)


def normalised(patches: np.ndarray, reference: Any) -> np.ndarray:
    colours = patches.reshape(*patches.shape[:-1], -1, 3) / 255
    return ((colours - reference.image_mean) / reference.image_std).reshape(patches.shape)


def cut(image: np.ndarray, patch: int, merge: int) -> np.ndarray:
    """The patches of an image (3, H, W), one after the other, by blocks."""
    down, across = image.shape[1] // patch, image.shape[2] // patch
    places = [
        (top + y, left + x)
        for top, left in product(range(0, down, merge), range(0, across, merge))
        for y, x in product(range(merge), range(merge))
    ]
    pieces = [image[:, patch * y : patch * (y + 1), patch * x : patch * (x + 1)] for y, x in places]
    return np.stack([piece.transpose(1, 2, 0).ravel() for piece in pieces])


def assert_same(views: Views, images: np.ndarray, reference: Any, patch: int, merge: int) -> None:
    """One step of a colour is 0.0078 or more after normalisation, so that 1e-6 lets none pass."""
    assert views.patches.dtype == np.uint8
    assert views.grid == (images.shape[2] // patch, images.shape[3] // patch)
    expected = np.stack([cut(image, patch, merge) for image in images])
    np.testing.assert_allclose(normalised(views.patches, reference), expected, rtol=0, atol=1e-6)


def test_patches_are_ordered_by_blocks() -> None:
    """Two by two patches become one token; the picture is its own patches here, of one pixel each."""
    numbers = np.arange(24, dtype=np.uint8).reshape(4, 6)
    picture = Pillow.fromarray(np.stack([numbers] * 3, axis=-1))
    views = native(picture, patch=1, merge=2, min_pixels=1, max_pixels=100)
    assert views.grid == (4, 6)
    blocks = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]
    assert views.patches[0, :, 0].reshape(6, 4).tolist() == blocks


# --- one square view: Gemma 3, PaliGemma ------------------------------------------------------------------------


def check_gemma3(size: tuple[int, int], side: int, patch: int, merge: int) -> None:
    reference = Gemma3ImageProcessor(size={"height": side, "width": side})
    views = square(noise(size), size=side, patch=patch, merge=merge, resample=Pillow.Resampling.BILINEAR)
    assert views.tiles == (0, 0)
    assert_same(views, reference(noise(size), return_tensors="np")["pixel_values"], reference, patch, merge)


@every_size
def test_gemma3(size: tuple[int, int]) -> None:
    check_gemma3(size, 56, 7, 4)


def test_gemma3_as_released() -> None:
    check_gemma3(screen, 896, 14, 4)


def check_paligemma(size: tuple[int, int], side: int, patch: int) -> None:
    reference = SiglipImageProcessor(size={"height": side, "width": side})
    views = square(noise(size), size=side, patch=patch, merge=1, resample=Pillow.Resampling.BICUBIC)
    assert views.tiles == (0, 0)
    assert_same(views, reference(noise(size), return_tensors="np")["pixel_values"], reference, patch, 1)


@every_size
def test_paligemma(size: tuple[int, int]) -> None:
    check_paligemma(size, 56, 14)


@pytest.mark.parametrize("side", [224, 448])
def test_paligemma_as_released(side: int) -> None:
    check_paligemma(screen, side, 14)


# --- tiles and the whole: Idefics3, SmolVLM ---------------------------------------------------------------------


def check_tiled(kind: Any, size: tuple[int, int], longest: int, tile: int, patch: int, merge: int) -> Views:
    reference = kind(size={"longest_edge": longest}, max_image_size={"longest_edge": tile})
    out = reference(noise(size), return_row_col_info=True, return_tensors="np")
    views = tiled(noise(size), tile=tile, longest_edge=longest, patch=patch, merge=merge)
    assert views.tiles == (out["rows"][0][0], out["cols"][0][0])
    assert_same(views, out["pixel_values"][0], reference, patch, merge)
    return views


@every_size
@pytest.mark.parametrize("kind", [Idefics3ImageProcessor, SmolVLMImageProcessor])
def test_tiles(kind: Any, size: tuple[int, int]) -> None:
    views = check_tiled(kind, size, 128, 32, 8, 2)
    assert len(views.patches) == views.tiles[0] * views.tiles[1] + 1


def test_any_shape_gives_the_tiles_of_the_reference() -> None:
    """In the first shape exact arithmetic would give two rows and not one; in the second a side is not even."""
    sizes = [(15, 3), (20, 20), *np.random.default_rng(0).integers(1, 100, (60, 2)).tolist()]
    for width, height in sizes:
        check_tiled(Idefics3ImageProcessor, (width, height), 455, 91, 13, 7)


@every_size
def test_what_fits_one_tile_is_one_view(size: tuple[int, int]) -> None:
    views = check_tiled(SmolVLMImageProcessor, size, 32, 32, 8, 2)
    assert views.tiles == (0, 0)
    assert len(views.patches) == 1


@pytest.mark.parametrize(
    ("kind", "longest", "tile", "patch", "merge", "tiles"),
    [
        (Idefics3ImageProcessor, 1456, 364, 14, 2, (3, 4)),
        (SmolVLMImageProcessor, 2048, 512, 16, 4, (3, 4)),
        (SmolVLMImageProcessor, 1536, 384, 14, 3, (3, 4)),  # 384 is no multiple of 14: the tower ignores the rest
    ],
    ids=["Idefics3-8B", "SmolVLM-256M", "SmolVLM-2.2B"],
)
def test_tiles_as_released(kind: Any, longest: int, tile: int, patch: int, merge: int, tiles: tuple[int, int]) -> None:
    assert check_tiled(kind, screen, longest, tile, patch, merge).tiles == tiles


@pytest.mark.parametrize(("size", "tiles"), [((90, 4), (1, 16)), ((9000, 1), (1, 16)), ((1, 9000), (16, 1))])
def test_no_side_exceeds_4096_pixels(size: tuple[int, int], tiles: tuple[int, int]) -> None:
    assert check_tiled(Idefics3ImageProcessor, size, 5000, 256, 64, 2).tiles == tiles


# --- the picture's own shape: Qwen ------------------------------------------------------------------------------


def check_native(
    size: tuple[int, int], patch: int, merge: int, least: int, most: int, **statistics: list[float]
) -> None:
    reference = Qwen2VLImageProcessor(
        patch_size=patch, merge_size=merge, size={"shortest_edge": least, "longest_edge": most}, **statistics
    )
    out = reference(noise(size), return_tensors="np")
    views = native(noise(size), patch=patch, merge=merge, min_pixels=least, max_pixels=most)
    assert [1, *views.grid] == out["image_grid_thw"][0].tolist()
    assert views.tiles == (0, 0)
    assert views.patches.shape == (1, views.grid[0] * views.grid[1], patch * patch * 3)
    still = out["pixel_values"].reshape(-1, 3, 2, patch, patch)  # the picture is both of two frames
    ours = normalised(views.patches, reference).reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(np.stack([ours, ours], axis=2), still, rtol=0, atol=1e-6)


@every_size
@pytest.mark.parametrize("bounds", [(1, 10**6), (56 * 56, 56 * 112), (10**5, 10**6)], ids=["free", "tight", "large"])
def test_native(size: tuple[int, int], bounds: tuple[int, int]) -> None:
    check_native(size, 14, 2, *bounds)


def test_native_as_released() -> None:
    check_native(screen, 14, 2, 56 * 56, 28 * 28 * 1280)
    check_native(screen, 16, 2, 256 * 256, 4096 * 4096, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def test_any_shape_gives_the_grid_of_the_reference() -> None:
    for width, height in np.random.default_rng(0).integers(1, 120, (150, 2)).tolist():
        check_native((width, height), 2, 2, 20 * 20, 60 * 60)


def test_pictures_more_elongated_than_the_reference_takes_are_refused() -> None:
    check_native((200, 1), 14, 2, 56 * 56, 112 * 112)
    for size in [(201, 1), (2, 401)]:
        with pytest.raises(ValueError, match="aspect ratio"):
            Qwen2VLImageProcessor()(noise(size))
        with pytest.raises(ImageError, match=rf"{size[0]} x {size[1]} pixels is more than 200 times.*Crop it"):
            native(noise(size), patch=14, merge=2, min_pixels=56 * 56, max_pixels=112 * 112)
