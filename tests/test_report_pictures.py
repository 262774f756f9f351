"""Pictures of a page: as short as may be, and from the folder alone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image as Pillow
from report_pages import png

from pe_rlhf_mm.reports.pictures import Album


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
