"""Packed conversations are worth exactly what each is worth in a row of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import Heard, random_slot
from PIL import Image as Pillow

from pe_rlhf_mm.adapters import lora, roles
from pe_rlhf_mm.adapters.roles import Head, Weights
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.packing import every_token, last_token, pack
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.data.transcript import Turn
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import Model, load_model
from pe_rlhf_mm.training import forward, reward, sft
from pe_rlhf_mm.training.config import RewardConfig, SFTConfig
from pe_rlhf_mm.types import Image, Message, Text

FIXTURES = Path(__file__).parent / "fixtures"
FAMILIES = ("llama", "gemma3_text", "smolvlm", "gemma3", "paligemma2", "qwen3_vl")
CLOSE = {"rtol": 1e-3, "atol": 2e-5}
REPLIES = ("a cat", "no", "two cats on a mat", "blue", "it is over there", "yes")
BINS = ((0, 1, 2), (3, 4), (5,))


@functools.cache
def model(family: str) -> Model:
    return load_model(FIXTURES / family, dtype="float32")


def picture(number: int) -> Image:
    rng = np.random.default_rng(number)
    return Image(Pillow.fromarray(rng.integers(0, 255, (40 + 12 * number, 64, 3), np.uint8)))


def conversations(found: Model, gallery: Gallery) -> list[tuple[EncodedPrompt, list[int]]]:
    """Six prompts of different lengths, with pictures of different sizes, two, one or none of them."""
    sees = found.config.vision is not None
    asked = []
    for n in range(len(REPLIES)):
        pictures = [picture(n + i) for i in range((2, 1, 0)[n % 3])] if sees else []
        asked.append([Message("user", [*pictures, Text("what is it " * (n + 1))])])
    prompts = found.processor.encode(asked, gallery)
    return list(zip(prompts, found.processor.encode_replies(REPLIES), strict=True))


def weights(found: Model) -> Weights:
    return Weights(found.state, lora.only(random_slot(3, config=found.config), 0.5))


def apart(found: Model, gallery: Gallery, items: list) -> tuple:
    """Every conversation in a row of its own, as recipes read it otherwise."""
    length = max(len(prompt.tokens) for prompt, _ in items)
    prompts = found.processor.prompts([prompt for prompt, _ in items], gallery, length=length)
    return prompts, found.processor.completions([[reply] for _, reply in items], length=24)


def together(found: Model, gallery: Gallery, items: list, asked: object) -> forward.Packed:
    bins = [[items[i] for i in chosen] for chosen in BINS]
    longest = max(sum(len(p.tokens) + len(r) for p, r in chosen) for chosen in bins)
    episodes = [[(Turn(*item),) for item in chosen] for chosen in bins]
    return pack(found.config, gallery, episodes, capacity=longest + 5, asked=asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "look"), [*((family, True) for family in FAMILIES), ("smolvlm", False), ("qwen3_vl", False)]
)
def test_every_token_is_as_likely_as_in_a_row_of_its_own(family: str, look: bool) -> None:
    found = model(family)
    gallery = Gallery(found.config, look_with=found.state if look else None)
    items = conversations(found, gallery)
    prompts, completions = apart(found, gallery, items)
    expected = forward.policy(found.config, weights(found), prompts, completions)
    packed = together(found, gallery, items, every_token)
    got = forward.packed_policy(found.config, weights(found), packed)
    mask = completions.mask
    order = [i for chosen in BINS for i in chosen]
    for ours, theirs in ((got.logprobs, expected.logprobs), (got.entropy, expected.entropy)):
        wanted = np.concatenate([np.asarray(theirs)[i][mask[i]] for i in order])
        np.testing.assert_allclose(np.asarray(ours)[packed.mask], wanted, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_to_one_prompt_share_it_and_are_as_likely_as_apart(family: str) -> None:
    found = model(family)
    gallery = Gallery(found.config, look_with=found.state)
    told = conversations(found, gallery)
    items = [(told[prompt][0], told[reply][1]) for prompt, reply in ((0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 5))]
    prompts, completions = apart(found, gallery, items)
    expected = forward.policy(found.config, weights(found), prompts, completions).logprobs
    packed = together(found, gallery, items, every_token)
    wanted = np.concatenate([np.asarray(expected)[i][completions.mask[i]] for i in range(len(items))])
    got = forward.packed_policy(found.config, weights(found), packed).logprobs
    np.testing.assert_allclose(np.asarray(got)[packed.mask], wanted, **CLOSE)
    once = sum(len(told[n][0].tokens) for n in (0, 1, 2)) + sum(len(reply) for _, reply in items)
    assert (packed.leave >= 0).sum() == once


@pytest.mark.parametrize("family", FAMILIES)
def test_every_reply_scores_as_in_a_row_of_its_own(family: str) -> None:
    found = model(family)
    gallery = Gallery(found.config, look_with=found.state)
    items = conversations(found, gallery)
    head = Head(jax.random.normal(jax.random.key(1), (found.config.decoder.width,)), jnp.float32(0.3))
    expected = forward.rewards(found.config, weights(found), head, *apart(found, gallery, items))
    packed = together(found, gallery, items, last_token)
    scores = forward.packed_rewards(found.config, weights(found), head, packed)
    order = [i for chosen in BINS for i in chosen]
    np.testing.assert_allclose(np.asarray(scores)[packed.mask], np.asarray(expected)[order, 0], **CLOSE)


def test_what_is_asked_about_are_reply_tokens_and_nothing_else() -> None:
    found = model("smolvlm")
    gallery = Gallery(found.config)
    items = conversations(found, gallery)
    packed = together(found, gallery, items, every_token)
    tokens = np.take_along_axis(packed.tokens, packed.asked, axis=1)[packed.mask]
    assert tokens.tolist() == [t for chosen in BINS for i in chosen for t in items[i][1]]
    assert not np.isin(tokens, [t for t in found.config.forbidden_ids if t != found.config.pad_id]).any()


def test_the_loss_and_its_gradient_are_those_of_rows_of_their_own() -> None:
    found = model("smolvlm")
    gallery = Gallery(found.config, look_with=found.state)
    items = conversations(found, gallery)
    trained = roles.only_backbone(found.state)
    trained = trained._replace(slots={"sft": random_slot(3, config=found.config)}, scales={"sft": jnp.float32(0.5)})
    rest = (found.config, 0.0, "products")
    learned, key = trained.pick("sft"), jax.random.key(0)

    def both(loss: Callable, batch: object) -> tuple:
        return jax.value_and_grad(lambda t: loss(*rest, t, trained, batch, key)[0])(learned)

    apart_loss, apart_gradient = both(sft.loss, apart(found, gallery, items))
    packed_loss, packed_gradient = both(sft.packed_loss, together(found, gallery, items, every_token))
    np.testing.assert_allclose(packed_loss, apart_loss, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(packed_gradient), jax.tree.leaves(apart_gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_sft_imitates_packed_demonstrations() -> None:
    found, heard = model("smolvlm"), Heard()
    gallery = Gallery(found.config, look_with=found.state)
    told = [sft.Demonstration(*item) for item in conversations(found, gallery)]
    longest = max(len(d.prompt.tokens) + len(d.reply) for d in told)
    settings = SFTConfig(steps=12, batch_size=2, learning_rate=1e-2, packed_length=2 * longest)
    start = roles.new_slot_role(
        roles.only_backbone(found.state), "sft", found.config, rank=4, alpha=8.0, targets=("q", "v"),
        key=jax.random.key(0),
    )  # fmt: skip
    sft.sft(start, found.processor, gallery, told, settings, observer=heard)
    assert heard.steps[-1]["loss"] < 0.9 * heard.steps[0]["loss"]
    assert 0 < heard.notes[0][1]["padding_share"] < 0.6


def test_a_demonstration_longer_than_a_row_is_refused() -> None:
    found = model("llama")
    gallery = Gallery(found.config)
    told = [(Turn(*item),) for item in conversations(found, gallery)]
    with pytest.raises(UserError, match=r"of the demonstrations has \d+ tokens, and a row holds 9"):
        sft.several_a_row(found.processor, gallery, told, capacity=9, batch_size=2, seed=0)


def test_ratings_in_packed_rows_have_the_loss_of_rows_of_their_own() -> None:
    found = model("smolvlm")
    gallery = Gallery(found.config, look_with=found.state)
    labels = [1.0, 0.0, 0.3, 1.0, 0.5, 0.0]
    items = conversations(found, gallery)
    told = [reward.Judged((reward.Row(p, [r]),), [x]) for (p, r), x in zip(items, labels, strict=True)]
    judge = roles.only_backbone(found.state)
    judge = judge._replace(slots={"reward": random_slot(3, config=found.config)}, scales={"reward": jnp.float32(0.5)})
    judge = judge.with_head("reward", jax.random.normal(jax.random.key(1), (found.config.decoder.width,)))
    longest = max(len(p.tokens) + len(r) for p, r in items)
    settings = RewardConfig(loss="pointwise", batch_size=6)
    # A row is as long as the longest, so six rows hold all six, whatever the order.
    packed = replace(settings, packed_length=longest)
    (one, metrics), (other, same) = (
        loss(found.config, 0.0, "products", judge.pick("reward"), judge, next(fed.batches(0)), jax.random.key(0))
        for loss, fed in (
            (reward.pointwise, reward.feed(found.processor, gallery, told, batch_size=6, seed=0)),
            (reward.packed_pointwise, reward.packed_feed(found.processor, gallery, told, packed, seed=0)),
        )
    )
    np.testing.assert_allclose(other, one, rtol=1e-5)
    np.testing.assert_allclose(list(same.values()), list(metrics.values()), rtol=1e-4)


def test_pairs_are_not_packed() -> None:
    with pytest.raises(UserError, match="the replies of a pair share a row already"):
        RewardConfig(packed_length=64)
