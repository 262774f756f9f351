"""Pictures from messages to patches: opened safely, resized, cut, and looked at once."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from PIL import ImageOps

from pe_rlhf_mm.errors import ImageError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VisionConfig, VLMConfig
from pe_rlhf_mm.types import Features, Image, Pixels

MAX_PIXELS = 50_000_000
"""Images above this are refused before a pixel is decoded: a few kilobytes can unpack to gigabytes."""
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
"""What is opened; Pillow knows some formats that run other programs."""


def open_image(image: Image) -> Pillow.Image:
    """Opens a message's image as RGB, the right way up (EXIF); of an animation the first frame.

    Raises ImageError, naming the source, if it cannot be read or is too large.
    """
    source = image.source
    if not isinstance(source, str | Path | bytes | Pillow.Image):
        raise ImageError(
            f"an image came as {type(source).__name__}; expected a path, the bytes of a file or a PIL image."
        )
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else f"image {str(source)[:1000]!r}"
    try:
        if isinstance(source, Pillow.Image):
            return _upright_rgb(source, name)
        with Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
            return _upright_rgb(picture, name)
    except Pillow.DecompressionBombError as error:
        raise ImageError(f"{name} would unpack to an enormous picture: {error}. Resize it before use.") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist. Check the path that the task gives.") from error
    except (OSError, SyntaxError, ValueError) as error:
        strerror = getattr(error, "strerror", None)  # without the path, which is in `name`
        reason = "it is empty" if source == b"" or _empty_file(source) else strerror or str(error)
        raise ImageError(f"{name} cannot be read: {reason}. Expected a PNG, JPEG, GIF or WebP file.") from error


def _upright_rgb(picture: Pillow.Image, name: str) -> Pillow.Image:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all. Resize it before use."
        )
    if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255 instead of scaling them
        picture = Pillow.fromarray((np.asarray(picture).astype(np.uint32) // 257).astype(np.uint8))
    return ImageOps.exif_transpose(picture).convert("RGB")


def _empty_file(source: object) -> bool:
    return isinstance(source, str | Path) and os.path.isfile(source) and os.path.getsize(source) == 0


def encode_png(picture: Pillow.Image) -> bytes:
    """The picture as a PNG file: the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def patchify(picture: Pillow.Image, config: VisionConfig) -> UInt8[np.ndarray, "P X"]:
    """Resizes to the model's square and cuts it into patches, row by row; X = patch · patch · 3."""
    size, patch, grid = config.image_size, config.patch_size, config.grid
    if picture.size != (size, size):
        picture = picture.resize((size, size), Pillow.Resampling.BICUBIC)
    cut = np.asarray(picture).reshape(grid, patch, grid, patch, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(config.patches, config.patch_numbers)


@functools.partial(jax.jit, static_argnames="config")
def _look(config: VLMConfig, state: nnx.State, pixels: Pixels) -> Float[jax.Array, "B M D"]:
    features = vlm.bind(config, state).look(pixels)
    assert features is not None  # pixels were given
    return features.vectors


class Gallery:
    """Every distinct image of a data set, opened and looked at once.

    With `look_with`, the weights of a frozen tower, an image is encoded a single time and its features serve sampling,
    every role's scoring pass, the update and all later epochs. Without it (where the tower itself is trained) batches
    carry pixels.
    """

    def __init__(self, config: VLMConfig, *, look_with: nnx.State | None = None):
        self.config = config
        self._look_with = look_with
        self._index: dict[str, int] = {}
        self._patches: list[UInt8[np.ndarray, "P X"]] = []
        self._features: list[Float[np.ndarray, "M D"]] = []

    def __len__(self) -> int:
        return len(self._index)

    def add(self, image: Image) -> int:
        """Opens an image unless it is here already; returns its number."""
        source = image.source
        if isinstance(source, Pillow.Image):
            picture = open_image(image)
            key = f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
            image = Image(picture)
        else:
            key = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else str(source)
        if key not in self._index:
            self._patches.append(patchify(open_image(image), self.config.vision))
            self._index[key] = len(self._index)
        return self._index[key]

    def _look_at_new(self, state: nnx.State, *, batch: int = 64) -> None:
        """Encodes the images added since the last time, a fixed number at once, and forgets their pixels."""
        while self._patches:
            block = np.stack(self._patches[:batch])
            padded = np.pad(block, ((0, batch - len(block)), (0, 0), (0, 0)))
            self._features += list(np.asarray(_look(self.config, state, Pixels(padded)))[: len(block)])
            del self._patches[:batch]

    def take(self, rows: Sequence[Sequence[int]]) -> Pixels | Features | None:
        """The images of a batch, row by row; shorter rows are padded with zeros that no placeholder asks for."""
        most = max((len(row) for row in rows), default=0)
        if most == 0:
            return None
        if self._look_with is not None:
            self._look_at_new(self._look_with)
        store = self._patches if self._look_with is None else self._features
        out = np.zeros((len(rows), most, *store[0].shape), store[0].dtype)
        for i, row in enumerate(rows):
            for j, number in enumerate(row):
                out[i, j] = store[number]
        flat = out.reshape(len(rows), most * out.shape[2], out.shape[3])
        return Pixels(flat) if self._look_with is None else Features(flat)
