"""Pictures from messages to image tokens: opened safely, cut into views, and looked at once."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from PIL import ImageOps

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.targets import PROJECTOR, TOWER
from pe_rlhf_mm.data import views
from pe_rlhf_mm.data.expansion import tokens_per_view
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.store import Store, memory_share
from pe_rlhf_mm.data.views import Views
from pe_rlhf_mm.errors import ImageError, UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import Native, Square, Tiled, VisionConfig, VLMConfig, with_attention
from pe_rlhf_mm.models.places import everywhere
from pe_rlhf_mm.models.sharding import by_rows, own_mesh, own_rows, using
from pe_rlhf_mm.types import Features, Image, Merged, Pictures, Pixels

MAX_PIXELS = 50_000_000
"""Images above this are refused before a pixel is decoded: a few kilobytes can unpack to gigabytes."""
PATCHES_AT_ONCE = 4096
"""Patches that the tower looks at in one go: what bounds the memory of its attention."""
ROOM = 256
"""Views of free shape are padded to a multiple of so many patches."""
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
"""What is opened; Pillow knows some formats that run other programs."""


def open_image(image: Image) -> Pillow.Image:
    """Opens a message's image as RGB, the right way up (EXIF), on white; of an animation the first frame.

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
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:  # what lies under a transparent pixel was never meant to be seen
        opaque = upright.convert("RGBA")
        upright = Pillow.alpha_composite(Pillow.new("RGBA", opaque.size, "white"), opaque)
    return upright.convert("RGB")


def _empty_file(source: object) -> bool:
    return isinstance(source, str | Path) and os.path.isfile(source) and os.path.getsize(source) == 0


def encode_png(picture: Pillow.Image) -> bytes:
    """The picture as a PNG file: the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


class ImageShape(NamedTuple):
    """How many views an image has, the grid of patches of each, and the tiles they are."""

    views: int
    grid: tuple[int, int]
    tiles: tuple[int, int]

    def tokens(self, merge: int) -> int:
        """How many image tokens it takes."""
        return self.views * tokens_per_view(self.grid, merge)


def views_of(picture: Pillow.Image, config: VisionConfig) -> Views:
    """What the tower is to see of a picture, by the rule of its model."""
    rule, size = config.views, {"patch": config.patch_size, "merge": config.merge}
    match rule:
        case Square():
            resample = Pillow.Resampling[rule.resample.upper()]
            return views.square(picture, size=rule.size, resample=resample, **size)
        case Tiled():
            return views.tiled(picture, tile=rule.size, longest_edge=rule.longest_edge, **size)
        case Native():
            return views.native(picture, min_pixels=rule.min_pixels, max_pixels=rule.max_pixels, **size)


def ahead(adapted: Collection[str]) -> type[Pixels] | type[Merged] | type[Features]:
    """As what the pictures of a batch come, with a frozen tower and adapters beside these matrices: looked at as far as
    nothing is adapted."""
    if any(name.startswith(f"{TOWER}.") for name in adapted):
        return Pixels
    return Merged if any(name.startswith(f"{PROJECTOR}.") for name in adapted) else Features


@functools.partial(jax.jit, static_argnames=("config", "kind"))
def _look(config: VLMConfig, tower: nnx.State, pixels: Pixels, kind: type[Pictures]) -> Float[jax.Array, "B M W"]:
    state = vlm.abstract_state(config)
    state["vision"] = tower
    model = vlm.bind(config, state)
    found = model.see(pixels) if kind is Merged else model.look(pixels)
    assert found is not None  # pixels were given
    return found.vectors


class Gallery:
    """Every distinct image of a data set, opened and looked at once where memory allows.

    With `look_with`, the weights of a frozen tower, an image is encoded a single time and its features serve sampling,
    every role's scoring pass, the update and all later epochs. Without it (where the tower itself is trained) batches
    carry pixels. `adapted`: matrices that any role has adapters beside; behind the first of those that see nothing can
    be known ahead (`ahead`). Patches and features may each take `memory` bytes (None: a share of the machine's); those
    used longest ago are forgotten above it, and made again when they are needed.
    """

    def __init__(
        self,
        config: VLMConfig,
        *,
        look_with: nnx.State | None = None,
        adapted: Collection[str] = (),
        memory: int | None = None,
    ):
        self.config, kind = config, ahead(adapted)
        self._kind = Merged if kind is Merged else Features
        # Batches are made in a thread, and programs of two threads that wait for each other's devices could wait for
        # ever. So on a mesh the tower is whole on every device: each looks at views of its own and waits for nobody.
        blind = config.vision is None or kind is Pixels
        self._tower = None if look_with is None or blind else everywhere(look_with["vision"])
        self._mesh = jax.sharding.get_mesh()
        # Nor is the mesh set in that thread, and kernels are told by it which device computes what.
        self._plain = config if self._mesh.size <= 1 else with_attention(config, "xla")
        self._own = own_mesh(self._mesh) if hosts.several() else self._mesh
        self._index: dict[str, int] = {}
        self._images: list[Image] = []
        self._shapes: list[ImageShape] = []
        budget = memory_share() if memory is None else memory
        self._patches, self._features = Store(budget), Store(budget)

    def __len__(self) -> int:
        return len(self._index)

    def add(self, image: Image) -> int:
        """Opens an image unless it is here already; returns its number.

        Raises ImageError for one that cannot be read, UserError where the model reads no images.
        """
        if self.config.vision is None:
            raise UserError(f"{self.config.name} reads text only, and the conversation has an image.")
        source = image.source
        if isinstance(source, Pillow.Image):
            picture = open_image(image)
            key = f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
            image = Image(picture)
        else:
            key = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else str(source)
        if key not in self._index:
            seen, number = views_of(open_image(image), self.config.vision), len(self._index)
            self._patches.put(number, seen.patches)
            self._images.append(image)
            self._shapes.append(_shape(seen))
            self._index[key] = number
        return self._index[key]

    def shape(self, number: int) -> ImageShape:
        """The shape of an image, from which its number of tokens follows."""
        return self._shapes[number]

    def tokens(self, number: int) -> int:
        """How many image tokens an image takes."""
        assert self.config.vision is not None  # it holds an image
        return self._shapes[number].tokens(self.config.vision.merge)

    def take(self, rows: Sequence[Sequence[int]]) -> Pictures | None:
        """The images of a batch, row by row; shorter rows are padded with zeros that no placeholder asks for.

        Of several hosts each looks at those of its own rows, and leaves the others at zero: they go to no device of it.
        """
        if not any(rows):
            return None
        if self._tower is None:
            return self._pixels(rows)
        own, one = own_rows(len(rows), self._mesh), next(row[0] for row in rows if row)
        seen = self._seen({one, *(n for i in own for n in rows[i])}, self._tower)
        most = rounded(max(sum(self.tokens(n) for n in row) for row in rows))
        out = np.zeros((len(rows), most, seen[one].shape[1]), seen[one].dtype)
        for i in own:
            if rows[i]:
                looked = np.concatenate([seen[n] for n in rows[i]])
                out[i, : len(looked)] = looked
        return self._kind(out)

    def _pixels(self, rows: Sequence[Sequence[int]]) -> Pixels:
        views = [[(view, self._shapes[n].grid) for n in row for view in self._patches_of(n)] for row in rows]
        return _padded(
            views, most=max(len(row) for row in views), patches=self.room_for(len(p) for row in views for p, _ in row)
        )

    def room_for(self, patches: Iterable[int]) -> int:
        """Patches to make room for, of views of so many: those of free shape are rounded up, so that few programs are
        compiled."""
        most = max(patches)
        return -(-most // ROOM) * ROOM if isinstance(self._vision.views, Native) else most

    @property
    def _vision(self) -> VisionConfig:
        assert self.config.vision is not None  # it holds an image
        return self.config.vision

    def _patches_of(self, number: int) -> UInt8[np.ndarray, "V P X"]:
        """The patches of an image, opened again if they were forgotten."""
        found = self._patches.get(number)
        if found is None:
            seen = views_of(open_image(self._images[number]), self._vision)
            if _shape(seen) != self._shapes[number]:
                raise ImageError(f"image {str(self._images[number].source)[:1000]!r} was changed while it was in use.")
            found = seen.patches
            self._patches.put(number, found)
        return found

    def _seen(self, numbers: set[int], tower: nnx.State) -> dict[int, Float[np.ndarray, "M W"]]:
        """Features of images; where some are missing, all images are looked at whose patches wait for it, unless other
        hosts may have rows for those."""
        found = {n: self._features.get(n) for n in numbers}
        missing = {n for n, features in found.items() if features is None}
        waiting = set() if hosts.several() else {*self._patches.numbers()}
        looked = self._look_at(sorted(missing | waiting), tower) if missing else {}
        for n, features in looked.items():
            self._features.put(n, features)
            self._patches.drop(n)
        return {n: looked[n] if features is None else features for n, features in found.items()}

    def _look_at(self, numbers: Sequence[int], tower: nnx.State) -> dict[int, Float[np.ndarray, "M W"]]:
        """Encodes the views of images, similar ones together."""
        waiting = sorted(((n, view) for n in numbers for view in self._patches_of(n)), key=lambda item: len(item[1]))
        seen: dict[int, list[Float[np.ndarray, "M W"]]] = {}
        while waiting:
            room = self.room_for([len(waiting[0][1])])
            batch = max(1, PATCHES_AT_ONCE // room)
            block = [item for item in waiting[:batch] if len(item[1]) <= room]
            rows = [[(view, self._shapes[n].grid)] for n, view in block]
            pixels = _padded(rows + [[]] * (batch - len(block)), most=1, patches=room)
            with using(self._own if hosts.several() else None):
                looked = np.asarray(_look(self._plain, tower, by_rows(pixels, self._own), self._kind))
            for (n, view), vectors in zip(block, looked, strict=False):
                seen.setdefault(n, []).append(vectors[: len(view) // self._vision.merge**2])
            del waiting[: len(block)]
        return {n: np.concatenate(parts) for n, parts in seen.items()}


def _shape(seen: Views) -> ImageShape:
    return ImageShape(len(seen.patches), seen.grid, seen.tiles)


def _padded(
    rows: Sequence[Sequence[tuple[UInt8[np.ndarray, "P X"], tuple[int, int]]]], *, most: int, patches: int
) -> Pixels:
    numbers = next(view.shape[1] for row in rows for view, _ in row)
    pixels = Pixels(np.zeros((len(rows), most, patches, numbers), np.uint8), np.zeros((len(rows), most, 2), np.int32))
    for i, row in enumerate(rows):
        for j, (view, grid) in enumerate(row):
            pixels.patches[i, j, : len(view)], pixels.grid[i, j] = view, grid
    return pixels
