"""Pictures to patches, conversations to ids: nothing lost, nothing doubled, nothing reordered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import CONFIG, state
from PIL import Image as Pillow

from pe_rlhf_mm.data.images import Gallery, encode_png, open_image, views_of
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.types import Features, Image, Message, Pixels, Text

PAD, IMAGE, STOP, USER, ASSISTANT = 0, 1, 2, 4, 5


@pytest.fixture(scope="module")
def processor() -> Processor:
    return load_model("tiny-vlm").processor


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


# --- pictures ---------------------------------------------------------------------------------------------------


def test_patches_are_exactly_the_pixels() -> None:
    """2 x 2 blocks of 2 x 2 patches of 4 x 4 pixels; within its patch, (y, x) is at 12 (y % 4) + 3 (x % 4)."""
    original = picture(0)
    patches = views_of(original, CONFIG.vision).patches[0]
    assert patches.shape == (16, 48)
    assert patches.dtype == np.uint8
    for y in range(16):
        for x in range(16):
            start = 12 * (y % 4) + 3 * (x % 4)
            assert tuple(
                patches[8 * (y // 8) + 4 * (x // 8) + 2 * (y // 4 % 2) + x // 4 % 2, start : start + 3]
            ) == original.getpixel((x, y))


def test_other_sizes_are_resized_to_the_square_of_the_model() -> None:
    wide = Pillow.new("RGB", (200, 10), (10, 20, 30))
    assert (views_of(wide, CONFIG.vision).patches.reshape(-1, 3) == (10, 20, 30)).all()


def test_an_image_survives_its_png() -> None:
    original = picture(1)
    assert open_image(Image(encode_png(original))).tobytes() == original.tobytes()
    assert encode_png(original) == encode_png(original.copy())


def test_a_path_its_bytes_and_its_picture_are_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encode_png(picture(2)))
    sources = [path, str(path), path.read_bytes(), Pillow.open(path)]
    assert {open_image(Image(source)).tobytes() for source in sources} == {picture(2).tobytes()}


def test_a_gallery_keeps_an_image_once_however_often_it_is_used() -> None:
    gallery = Gallery(CONFIG)
    one, other = encode_png(picture(3)), encode_png(picture(4))
    assert [gallery.add(Image(source)) for source in (one, other, one, one, other)] == [0, 1, 0, 0, 1]
    assert [gallery.add(Image(source)) for source in (picture(3), picture(5), picture(3))] == [2, 3, 2]
    assert len(gallery) == 4


def test_an_image_known_by_its_path_is_read_once(tmp_path: Path) -> None:
    gallery, path = Gallery(CONFIG), tmp_path / "picture.png"
    path.write_bytes(encode_png(picture(3)))
    gallery.add(Image(path))
    path.unlink()
    assert gallery.add(Image(str(path))) == 0


def test_pictures_of_equal_bytes_but_another_shape_or_palette_are_different() -> None:
    indices = np.arange(64, dtype=np.uint8).reshape(4, 16)
    red, blue = Pillow.fromarray(indices).convert("P"), Pillow.fromarray(indices).convert("P")
    red.putpalette([v for i in range(256) for v in (i, 0, 0)])
    blue.putpalette([v for i in range(256) for v in (0, 0, i)])
    gray = [Pillow.fromarray(indices.reshape(shape)) for shape in ((4, 16), (16, 4))]
    gallery = Gallery(CONFIG)
    assert [gallery.add(Image(p)) for p in (red, blue, *gray)] == [0, 1, 2, 3]


def test_features_looked_at_once_are_the_tower_on_the_pixels() -> None:
    """70 images are more than one block of 64, and four of them are added after the first look."""
    weights, pictures = state(), [Image(picture(seed)) for seed in range(70)]
    gallery = Gallery(CONFIG, look_with=weights)
    numbers = [gallery.add(image) for image in pictures[:66]]
    first = gallery.take([[numbers[0]], [numbers[65]]])
    numbers += [gallery.add(image) for image in pictures[66:]]
    looked = gallery.take([[n] for n in numbers])
    tower = vlm.bind(CONFIG, weights)
    patches = np.stack([views_of(image.source, CONFIG.vision).patches for image in pictures])
    expected = tower.look(Pixels(patches, np.full((70, 1, 2), 4))).vectors
    assert isinstance(first, Features)
    assert isinstance(looked, Features)
    np.testing.assert_allclose(looked.vectors[:, :4], expected, atol=1e-5)  # float32, one batch of 70 against two of 64
    np.testing.assert_array_equal(first.vectors, looked.vectors[[0, 65]])


def test_rows_take_their_own_images_in_their_own_order() -> None:
    gallery = Gallery(CONFIG)
    a, b, c = (gallery.add(Image(picture(seed))) for seed in range(3))
    taken = gallery.take([[c, a], [], [b]])
    cut = [views_of(picture(seed), CONFIG.vision).patches[0] for seed in range(3)]
    nothing = np.zeros_like(cut[0])
    np.testing.assert_array_equal(taken.patches, [[cut[2], cut[0]], [nothing, nothing], [cut[1], nothing]])
    np.testing.assert_array_equal(taken.grid, [[[4, 4], [4, 4]], [[0, 0], [0, 0]], [[4, 4], [0, 0]]])
    assert gallery.take([[], []]) is None


# --- conversations ----------------------------------------------------------------------------------------------


def letters(processor: Processor, text: str) -> list[int]:
    return [int(i) for i in processor.tokenizer.convert_tokens_to_ids(list(text))]


def test_the_ids_of_a_conversation_are_those_of_its_template(processor: Processor) -> None:
    """64 / 8 = 8 patches a side, merged by 2: 4 x 4 = 16 image tokens. "q7" and "z!" are not words of the tokenizer."""
    gallery = Gallery(processor.config)
    talk = [Message("user", [Image(picture(0)), Text("q7")]), Message("assistant", "z!"), Message("user", "q7")]
    (encoded,) = processor.encode([talk], gallery)
    q7, z = letters(processor, "q7"), letters(processor, "z!")
    expected = [USER, *[IMAGE] * 16, *q7, STOP, ASSISTANT, *z, STOP, USER, *q7, STOP, ASSISTANT]
    assert encoded.tokens == expected
    assert encoded.images == (0,)


def test_images_are_numbered_in_order_of_appearance(processor: Processor) -> None:
    gallery = Gallery(processor.config)
    first, second = Image(picture(0)), Image(picture(1))
    talks = [[Message("user", [first, Text("a"), second])], [Message("user", [second, second, first, Text("a")])]]
    assert [encoded.images for encoded in processor.encode(talks, gallery)] == [(0, 1), (1, 1, 0)]


def test_encoding_together_is_encoding_one_by_one(processor: Processor) -> None:
    gallery = Gallery(processor.config)
    talks = [[Message("user", t)] for t in ("what is it?", "a", "what is it?", "is it a \nred  circle?")]
    talks.append([Message("system", "a"), Message("user", "b")])
    assert processor.encode(talks, gallery) == [processor.encode([talk], gallery)[0] for talk in talks]


@pytest.mark.parametrize(
    "text", ["", "blue", " two  spaces ", "line\nbreak\ttab", "Übergröße 你好 🙂", "a.b,c!?", "< | >", "\x00\x7f"]
)
def test_what_is_encoded_is_decoded_again(processor: Processor, text: str) -> None:
    (tokens,) = processor.encode_replies([text])
    assert tokens[-1] == STOP
    assert tokens.count(STOP) == 1
    assert processor.decode(tokens) == text


def test_prompts_are_padded_on_the_left_and_completions_on_the_right(processor: Processor) -> None:
    gallery = Gallery(processor.config)
    encoded = processor.encode([[Message("user", "q")], [Message("user", "qqq")]], gallery)
    (q,) = letters(processor, "q")
    prompts = processor.prompts(encoded, gallery, length=8)
    assert prompts.tokens.tolist() == [
        [PAD, PAD, PAD, PAD, USER, q, STOP, ASSISTANT],
        [PAD, PAD, USER, q, q, q, STOP, ASSISTANT],
    ]
    assert prompts.mask.tolist() == [[False] * 4 + [True] * 4, [False] * 2 + [True] * 6]
    assert prompts.images is None

    completions = processor.completions([[[q, STOP], [STOP]], [[q, q, STOP], [q, STOP]]], length=4)
    assert completions.tokens.tolist() == [
        [[q, STOP, PAD, PAD], [STOP, PAD, PAD, PAD]],
        [[q, q, STOP, PAD], [q, STOP, PAD, PAD]],
    ]
    assert completions.mask.sum(axis=-1).tolist() == [[2, 1], [3, 2]]
    assert completions.mask[:, :, 0].all()


def test_lengths_are_rounded_up_to_eights() -> None:
    assert [rounded(n) for n in (0, 1, 7, 8, 9, 16, 17)] == [0, 8, 8, 8, 16, 16, 24]
