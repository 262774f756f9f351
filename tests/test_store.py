"""Pictures under a limit of memory: forgotten and made again, with the same result."""

from __future__ import annotations

import itertools
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from models import CONFIG, state
from PIL import Image as Pillow

from pe_rlhf_mm.data import images, store
from pe_rlhf_mm.data.images import Gallery, encode_png
from pe_rlhf_mm.data.store import Store, memory_share
from pe_rlhf_mm.errors import ImageError
from pe_rlhf_mm.types import Image

PATCHES = 16 * 48
"""Bytes of the patches of one picture."""
ROWS = [[3, 0], [], [1], [0, 2, 4], [4], [3]]


def ten(value: int) -> np.ndarray:
    return np.full(10, value, np.uint8)


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = Store(30)
    for number in (1, 2, 3):
        kept.put(number, ten(number))
    assert kept.get(1).tolist() == [1] * 10
    kept.put(4, ten(4))
    assert kept.numbers() == [1, 3, 4]
    assert kept.get(2) is None
    kept.put(5, np.zeros(20, np.uint8))  # of 3, 1 and 4, the last two were used later, and both do not fit beside it
    assert kept.numbers() == [4, 5]


def test_what_is_put_again_or_dropped_counts_once_or_not_at_all() -> None:
    kept = Store(30)
    for _ in range(5):
        kept.put(1, ten(1))
    kept.put(2, ten(2))
    kept.drop(1)
    kept.drop(1)
    kept.put(3, ten(3))
    kept.put(4, ten(4))
    assert kept.numbers() == [2, 3, 4]


def test_what_is_too_large_by_itself_pushes_nothing_out() -> None:
    kept = Store(30)
    kept.put(1, ten(1))
    kept.put(2, np.zeros(31, np.uint8))
    assert kept.numbers() == [1]


def test_the_share_is_of_the_container_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, none = tmp_path / "limit", tmp_path / "none"
    limit.write_text("1000000\n")
    none.write_text("max\n")
    monkeypatch.setattr(store, "CGROUPS", (str(tmp_path / "absent"), str(none)))
    machine = memory_share()
    assert machine > 2**24
    monkeypatch.setattr(store, "CGROUPS", (str(none), str(limit)))
    assert memory_share() == 250_000


def test_threads_do_not_lose_count() -> None:
    kept, interval = Store(100), sys.getswitchinterval()

    def use(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 30, 3000).tolist():
            kept.put(number, ten(number))
            kept.drop(number // 2)

    sys.setswitchinterval(1e-7)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert kept._size == sum(kept.get(number).nbytes for number in kept.numbers()) <= 100


# --- galleries --------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> list[Image]:
    """A path, encoded bytes, and an opened picture among them."""
    made = []
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        picture, path = Pillow.fromarray(pixels), tmp_path / f"{seed}.png"
        path.write_bytes(encode_png(picture))
        made.append(Image((path, path.read_bytes(), picture)[seed % 3]))
    return made


def filled(pictures: list[Image], **options: object) -> Gallery:
    gallery = Gallery(CONFIG, **options)
    assert [gallery.add(image) for image in pictures] == [0, 1, 2, 3, 4]
    return gallery


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """What was opened since."""
    seen: list[Image] = []
    real = images.open_image

    def note(image: Image) -> Pillow.Image:
        seen.append(image)
        return real(image)

    monkeypatch.setattr(images, "open_image", note)
    return seen


@pytest.mark.parametrize("memory", [0, PATCHES, 3 * PATCHES])
def test_patches_that_were_forgotten_are_the_same_to_the_bit(memory: int, pictures: list[Image]) -> None:
    whole, small = filled(pictures), filled(pictures, memory=memory)
    for start in range(len(ROWS)):
        expected, found = whole.take(ROWS[start:]), small.take(ROWS[start:])
        np.testing.assert_array_equal(found.patches, expected.patches)
        np.testing.assert_array_equal(found.grid, expected.grid)


@pytest.mark.parametrize("memory", [0, PATCHES])
def test_features_that_were_forgotten_are_the_same(memory: int, pictures: list[Image]) -> None:
    weights = state()
    whole, small = filled(pictures, look_with=weights), filled(pictures, look_with=weights, memory=memory)
    for start in range(len(ROWS)):
        expected, found = whole.take(ROWS[start:]), small.take(ROWS[start:])
        np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)


@pytest.mark.parametrize("looks", [False, True])
def test_where_memory_allows_a_picture_is_opened_once(looks: bool, pictures: list[Image], opened: list[Image]) -> None:
    gallery = filled(pictures, look_with=state() if looks else None)
    before = len(opened)
    for _ in range(3):
        gallery.take(ROWS)
    assert len(opened) == before


def test_only_pictures_that_were_forgotten_are_opened_again(pictures: list[Image], opened: list[Image]) -> None:
    gallery = filled(pictures, memory=3 * PATCHES)  # 2, 3 and 4 are there
    opened.clear()
    gallery.take([[4], [2], [3]])
    assert opened == []
    gallery.take([[1]])
    assert [image.source for image in opened] == [pictures[1].source]
    opened.clear()
    gallery.take([[2], [3], [1]])  # 4 was used longest ago
    assert opened == []


def test_features_are_looked_at_once_where_they_fit(pictures: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, looks, real = filled(pictures, look_with=state()), [], images._look
    monkeypatch.setattr(images, "_look", lambda *given: (looks.append(1), real(*given))[1])
    for _ in range(3):
        gallery.take(ROWS)
    assert len(looks) == 1


def test_a_file_that_changed_while_in_use_is_said(pictures: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = filled(pictures, memory=0)
    monkeypatch.setattr(images, "_shape", lambda seen: "another")
    with pytest.raises(ImageError, match=r"0\.png' was changed while it was in use"):
        gallery.take([[0]])


def test_a_file_that_is_gone_is_named(pictures: list[Image]) -> None:
    gallery = filled(pictures, memory=0)
    pictures[0].source.unlink()
    with pytest.raises(ImageError, match=r"0\.png' does not exist"):
        gallery.take([[0]])


def test_a_gallery_travels(pictures: list[Image]) -> None:
    gallery = filled(pictures, memory=2 * PATCHES)
    sent = pickle.loads(pickle.dumps(gallery))
    np.testing.assert_array_equal(sent.take(ROWS).patches, gallery.take(ROWS).patches)
    assert sent.add(pictures[3]) == 3


def test_threads_that_take_at_once_get_their_own(pictures: list[Image]) -> None:
    whole, small = filled(pictures), filled(pictures, memory=2 * PATCHES)
    asked = [[[i], [j]] for i, j in itertools.product(range(5), repeat=2)] * 8
    expected = [whole.take(rows).patches for rows in asked]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda rows: small.take(rows).patches, asked))
    finally:
        sys.setswitchinterval(interval)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    kept = small._patches
    assert kept._size == sum(kept.get(n).nbytes for n in kept.numbers()) <= 2 * PATCHES
