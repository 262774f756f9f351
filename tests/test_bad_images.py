"""Pictures as users have them: the broken ones end in an error that says which and why, the odd ones are read right."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from models import CONFIG
from PIL import Image as Pillow

from pe_rlhf_mm.data.images import Gallery, open_image, views_of
from pe_rlhf_mm.errors import ImageError
from pe_rlhf_mm.types import Image


def file_of(picture: Pillow.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(width: int, height: int) -> bytes:
    """A whole PNG file of one bit a pixel: 30,000 x 30,000 pixels are 110 kB on disk and 2.7 GB as RGB."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


NOISE = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty.png", b"", "it is empty"),
        ("cut.png", file_of(NOISE, "PNG")[:2000], "truncated"),
        ("header.png", file_of(NOISE, "PNG")[:20], "Truncated"),
        ("cut.jpg", file_of(NOISE, "JPEG")[:1000], "truncated"),
        ("cut.gif", file_of(NOISE, "GIF")[:900], "truncated"),
        ("text.png", b"this is no picture", "cannot identify image file"),
        ("page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "cannot identify image file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(ImageError, match=why) as caught:
            open_image(Image(source))
        assert str(tmp_path / name) in str(caught.value)
        assert "Expected a PNG, JPEG, GIF or WebP file" in str(caught.value)
    with pytest.raises(ImageError, match=f"image of {len(content)} bytes cannot be read: .*{why}"):
        open_image(Image(content))


def test_a_picture_that_is_opened_but_not_read_yet_may_be_broken_too() -> None:
    with pytest.raises(ImageError, match="truncated"):
        open_image(Image(Pillow.open(io.BytesIO(file_of(NOISE, "PNG")[:2000]))))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png' does not exist"):
        open_image(Image(tmp_path / "nothing.png"))


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        open_image(Image(tmp_path))


def test_contents_given_as_a_path_are_refused_briefly() -> None:
    with pytest.raises(ImageError, match="cannot be read") as caught:
        open_image(Image("iVBORw0KGgo" * 1000))
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("source", [None, 3, np.zeros((4, 4, 3), np.uint8), ["picture.png"]])
def test_what_is_no_source_is_refused_by_its_type(source: object) -> None:
    with pytest.raises(ImageError, match=f"an image came as {type(source).__name__}; expected a path"):
        open_image(Image(source))


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (8_000, 7_000), (1_000_000, 51)])
def test_a_small_file_of_a_huge_picture_is_not_unpacked(width: int, height: int, tmp_path: Path) -> None:
    bomb = black_png(width, height)
    assert len(bomb) < 200_000
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb)
    for source in (bomb, path):
        with pytest.raises(ImageError, match="Resize it before use"):
            open_image(Image(source))


def test_a_huge_picture_is_not_unpacked_when_it_comes_opened() -> None:
    opened = Pillow.open(io.BytesIO(black_png(8_000, 7_000)))
    with pytest.raises(ImageError, match="8000 x 7000 pixels; the limit is 50,000,000"):
        open_image(Image(opened))


def test_a_refused_image_leaves_the_gallery_as_it_was() -> None:
    gallery = Gallery(CONFIG)
    gallery.add(Image(file_of(NOISE, "PNG")))
    with pytest.raises(ImageError):
        gallery.add(Image(b"broken"))
    assert gallery.add(Image(NOISE)) == len(gallery) - 1 == 1
    assert gallery.take([[0], [1]]).patches.shape[0] == 2


# --- odd, and valid ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 7)])
def test_any_size_can_be_cut_into_patches(size: tuple[int, int]) -> None:
    opened = open_image(Image(file_of(Pillow.new("RGB", size, (9, 8, 7)), "PNG")))
    assert opened.size == size
    assert (views_of(opened, CONFIG.vision).patches.reshape(-1, 3) == (9, 8, 7)).all()


def test_of_an_animation_the_first_frame_is_seen() -> None:
    frames = [Pillow.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    animated = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)
    assert open_image(Image(animated)).getcolors() == [(64, (255, 0, 0))]


def test_a_cmyk_jpeg_is_seen_in_rgb() -> None:
    """Cyan is all light but red."""
    opened = open_image(Image(file_of(Pillow.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)))
    assert opened.mode == "RGB"
    np.testing.assert_allclose(opened.getpixel((8, 8)), (0, 255, 255), atol=3)


def test_what_is_transparent_is_seen_on_white() -> None:
    """A palette's transparent colour is white; of black with alpha 51 / 255 = 1/5, 4/5 of the white remain: 204."""
    drawn = Pillow.new("P", (2, 1))
    drawn.putpalette([200, 10, 20, 30, 40, 250])
    drawn.putdata([0, 1])
    opened = open_image(Image(file_of(drawn, "PNG", transparency=0)))
    assert (opened.mode, [opened.getpixel((x, 0)) for x in (0, 1)]) == ("RGB", [(255, 255, 255), (30, 40, 250)])
    veil = open_image(Image(Pillow.new("RGBA", (2, 2), (0, 0, 0, 51))))
    assert veil.getcolors() == [(4, (204, 204, 204))]


@pytest.mark.parametrize(("mode", "color"), [("L", 77), ("LA", (77, 255)), ("1", 1), ("RGBA", (77, 77, 77, 255))])
def test_gray_and_alpha_become_rgb(mode: str, color: object) -> None:
    shade = 255 if mode == "1" else 77
    assert open_image(Image(file_of(Pillow.new(mode, (3, 3), color), "PNG"))).getcolors() == [(9, (shade,) * 3)]


def test_sixteen_bits_are_scaled_to_eight() -> None:
    """65535 / 257 = 255: 0, 1/3, 2/3 and all of the light stay that."""
    gray = Pillow.fromarray(np.array([[0, 21845, 43690, 65535]], np.uint16))
    opened = open_image(Image(file_of(gray, "PNG")))
    assert [opened.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 85, 170, 255)]


@pytest.mark.parametrize(
    ("orientation", "red_corner", "size"),
    [(1, (0, 0), (32, 16)), (3, (31, 15), (32, 16)), (6, (15, 0), (16, 32)), (8, (0, 31), (16, 32))],
)
def test_a_photo_is_seen_the_way_it_was_taken(
    orientation: int, red_corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """The camera stored red in the top left corner. 3 means turn by 180°, 6 by 90° clockwise, 8 counter-clockwise."""
    stored = Pillow.new("RGB", (32, 16), (255, 255, 255))
    stored.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    photo = file_of(stored, "JPEG", exif=exif, quality=95)
    for source in (photo, Pillow.open(io.BytesIO(photo))):
        opened = open_image(Image(source))
        assert opened.size == size
        np.testing.assert_allclose(opened.getpixel(red_corner), (255, 0, 0), atol=6)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
def test_every_file_of_a_damaged_picture_is_read_or_refused() -> None:
    """Any byte of a file may be wrong; nothing but ImageError may come of it."""
    rng = np.random.default_rng(0)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    refused = 0
    for format in ("PNG", "JPEG", "GIF", "WEBP"):
        whole = file_of(NOISE.resize((12, 12)), format, **({} if format == "GIF" else {"exif": exif}))
        for _ in range(200):
            broken = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, len(broken), 3)
            broken[places] = rng.integers(0, 256, 3)
            try:
                open_image(Image(broken.tobytes()))
            except ImageError:
                refused += 1
    assert refused > 100
