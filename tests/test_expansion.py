"""What prompts hold in place of pictures, token for token what the processors of transformers write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ImageProcessor,
    Gemma3Processor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    SiglipImageProcessor,
)

from pe_rlhf_mm.data.expansion import (
    expand_gemma3,
    expand_idefics3,
    expand_paligemma,
    expand_qwen,
    mrope_positions,
    tokens_per_view,
)
from pe_rlhf_mm.data.views import native, square, tiled

BILINEAR = Pillow.Resampling.BILINEAR
ROWS_AND_COLUMNS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """One token for each byte, and the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<bos>", extra_special_tokens=named)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def pictures(*sizes: tuple[int, int]) -> list[Pillow.Image]:
    return [Pillow.new("RGB", size, (200, 100, 50)) for size in sizes]


def ids(processor: Any, text: str) -> list[int]:
    found: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def called(processor: Any, text: str, images: list[Pillow.Image]) -> list[int]:
    out: list[int] = processor(text=[text], images=[images], add_special_tokens=False)["input_ids"][0]
    return out


def test_gemma3() -> None:
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 48, "width": 48}),
        tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"),
        image_seq_length=9,
    )
    text = "<bos>Look: <start_of_image>and\n<start_of_image> What?"
    views = square(*pictures((80, 50)), size=48, patch=4, merge=4, resample=BILINEAR)
    expanded = text.replace("<start_of_image>", expand_gemma3(views.grid, views.tiles, 4))
    assert expanded.count("<image_soft_token>") == 18
    assert ids(processor, expanded) == called(processor, text, pictures((80, 50), (30, 60)))


@pytest.mark.parametrize("longest", [32, 128])
def test_idefics3(longest: int) -> None:
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": longest}, max_image_size={"longest_edge": 32}),
        tokenizer("<fake_token_around_image>", "<image>", "<global-img>", *ROWS_AND_COLUMNS),
        image_seq_len=4,
    )
    images = pictures((100, 60), (20, 70))
    expanded = []
    for picture in images:
        views = tiled(picture, tile=32, longest_edge=longest, patch=8, merge=2)
        expanded.append(expand_idefics3(views.grid, views.tiles, 2))
        assert expanded[-1].count("<image>") == 4 * len(views.patches)
    assert ids(processor, "User:{} and {}\nWhat?".format(*expanded)) == called(
        processor, "User:<image> and <image>\nWhat?", images
    )


def test_paligemma() -> None:
    images = SiglipImageProcessor(size={"height": 24, "width": 24})
    images.image_seq_length = 9
    processor = PaliGemmaProcessor(images, tokenizer("<image>"))
    for count in (1, 3):
        prompt = expand_paligemma((3, 3), (0, 0), 1) * count + "<bos>answer en What?\n"
        called_on = pictures(*[(40, 30)] * count)
        assert ids(processor, prompt) == called(processor, "<image>" * count + "answer en What?", called_on)


def test_qwen() -> None:
    reference = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    for picture in pictures((300, 90), (20, 20)):
        views = native(picture, patch=14, merge=2, min_pixels=56 * 56, max_pixels=112 * 112)
        patches = reference(picture, return_tensors="np")["image_grid_thw"][0].prod()
        assert expand_qwen(views.grid, views.tiles, 2) == "<|image_pad|>" * (patches // 4)


def test_tokens_of_released_models() -> None:
    assert tokens_per_view((64, 64), 4) == 256  # Gemma 3
    assert tokens_per_view((16, 16), 1) == 256  # PaliGemma 2 of 224
    assert tokens_per_view((26, 26), 2) == 169  # Idefics3-8B
    assert tokens_per_view((32, 32), 4) == 64  # SmolVLM-256M
    assert tokens_per_view((27, 27), 3) == 81  # SmolVLM-2.2B


# --- positions of Qwen's tokens ---------------------------------------------------------------------------------

T, I = 7, 9  # noqa: E741


def positions(tokens: list[int], *grids: tuple[int, int]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in mrope_positions(tokens, I, grids).tolist()]


def test_text_counts_alike_in_all_three() -> None:
    assert positions([T, T, T]) == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert mrope_positions([T], I, []).dtype == np.int32


def test_an_image_of_two_rows_and_three_columns() -> None:
    image = [(2, 2, 2), (2, 2, 3), (2, 2, 4), (2, 3, 2), (2, 3, 3), (2, 3, 4)]
    assert positions([T, T, *[I] * 6, T, T], (2, 3)) == [(0, 0, 0), (1, 1, 1), *image, (5, 5, 5), (6, 6, 6)]


def test_two_images_of_different_grids() -> None:
    """The first is taller than wide, so that its height says where the text goes on; the second starts from there."""
    first = [(1, 1, 1), (1, 2, 1), (1, 3, 1)]
    second = [(5, 5, 5), (5, 5, 6), (5, 6, 5), (5, 6, 6)]
    expected = [(0, 0, 0), *first, (4, 4, 4), *second, (7, 7, 7)]
    assert positions([T, I, I, I, T, I, I, I, I, T], (3, 1), (2, 2)) == expected


def test_neighbouring_images_stay_two() -> None:
    assert positions([I, I, I], (1, 2), (1, 1)) == [(0, 0, 0), (0, 0, 1), (2, 2, 2)]


def test_a_sampled_image_token_is_text() -> None:
    assert positions([I, T, I, T], (1, 1)) == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)]


@pytest.mark.parametrize("tokens", [[T, I, I, I], [T, I, I, T, I, I], [T, T]], ids=["cut off", "torn", "absent"])
def test_tokens_that_do_not_hold_the_images_are_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="not the 2 x 2 image tokens"):
        positions(tokens, (2, 2))
