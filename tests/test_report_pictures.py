"""Pictures of a page: as short as may be, and from the folder alone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from report_pages import png

from pe_rlhf_mm.reports.pictures import SMALL, Album
from pe_rlhf_mm.reports.png_chunks import only_pixels


def test_grey_photographs_are_jpeg_and_drawings_keep_every_pixel(tmp_path: Path) -> None:
    noise = Pillow.effect_noise((300, 300), 40).resize((400, 400))
    noise.save(tmp_path / "grey.png")
    drawing = Pillow.new("RGB", (64, 64), "white")
    drawing.paste("teal", (5, 9, 40, 60))
    drawing.save(tmp_path / "drawing.png")
    album = Album(tmp_path)
    for name in ("grey.png", "drawing.png"):
        album.add(name)
    grey, drawn = re.findall(r"data:image/(\w+);base64,([^)]*)", album.rules)
    assert (grey[0], drawn[0]) == ("jpeg", "png")
    with Pillow.open(io.BytesIO(base64.b64decode(drawn[1]))) as found:
        assert found.convert("RGB").tobytes() == drawing.tobytes()


def test_links_that_lead_outside_or_in_circles_show_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(side=30))
    (tmp_path / "log-other.png").write_bytes(png(side=30))
    (folder / "inside.png").write_bytes(png(side=30))
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "link.png").symlink_to("inside.png")
    album = Album(folder)
    names = [
        "outside.png", "circle.png", "../secret.png", "../log-other.png", str(tmp_path / "secret.png"),
        "a\0b", "x" * 9999,
    ]  # fmt: skip
    assert [album.add(name) for name in names] == [None] * len(names)
    assert None not in (album.add("inside.png"), album.add("link.png"))


# --- small PNG files ------------------------------------------------------------------------------------------------


def told(mode: str = "RGB", **options: object) -> bytes:
    """A PNG file that says more than its pixels."""
    notes = PngInfo()
    notes.add_text("Comment", "<script>alert(1)</script>")
    notes.add_itxt("Author", "a name")
    found = io.BytesIO()
    ramp = Pillow.radial_gradient("L").resize((20, 10)).convert("RGB").quantize(7).convert(mode)
    ramp.save(found, "PNG", pnginfo=notes, dpi=(72, 72), **options)
    return found.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_a_small_png_keeps_its_pixels_and_nothing_else(mode: str) -> None:
    content = told(mode) + b"<html>behind the end"
    found = only_pixels(content)
    assert found is not None
    assert (found.width, found.height) == (20, 10)
    with Pillow.open(io.BytesIO(found.content)) as kept, Pillow.open(io.BytesIO(content)) as given:
        assert kept.convert("RGBA").tobytes() == given.convert("RGBA").tobytes()
        assert (kept.text, given.text) == ({}, {"Comment": "<script>alert(1)</script>", "Author": "a name"})  # type: ignore[attr-defined]
    assert not re.search(b"script|html|name|pHYs", found.content)


def test_an_animation_stands_still() -> None:
    found = io.BytesIO()
    Pillow.new("RGB", (8, 8), "red").save(
        found, "PNG", save_all=True, append_images=[Pillow.new("RGB", (8, 8), "blue")]
    )
    kept = only_pixels(found.getvalue())
    assert kept is not None
    with Pillow.open(io.BytesIO(kept.content)) as still:
        assert (getattr(still, "n_frames", 1), still.convert("RGB").getpixel((0, 0))) == (1, (255, 0, 0))


def test_what_is_cut_off_or_damaged_is_none() -> None:
    content = told()
    assert only_pixels(content) is not None
    assert [cut for cut in range(len(content)) if only_pixels(content[:cut]) is not None] == []
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        assert only_pixels(bytes(damaged)) is None, place
    assert only_pixels(b"\xff\xd8\xff" + content) is None


def test_small_pngs_are_embedded_as_they_are_and_large_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(told())
    Pillow.new("1", (421, 420)).save(tmp_path / "wide.png")
    assert (tmp_path / "wide.png").stat().st_size <= SMALL, "small on disk, and too large for the page"
    noise = Pillow.effect_noise((60, 60), 40)
    noise.save(tmp_path / "noise.png")
    album = Album(tmp_path)
    screens = [album.add(name) for name in ("small.png", "wide.png", "noise.png")]
    assert [screen and (screen.width, screen.height) for screen in screens] == [(20, 10), (420, 419), (60, 60)]
    uris = re.findall(r"data:image/(\w+);base64,([^)]*)", album.rules)
    own = only_pixels(told())
    assert own is not None
    assert (uris[0][0], base64.b64decode(uris[0][1])) == ("png", own.content)
    assert uris[2][0] == "jpeg"
