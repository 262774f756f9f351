"""Every family gives the logits, tokens and ids of the reference, which are kept beside tiny checkpoints in fixtures.

Logits differ by 1e-4 at most (float32), for batches of different pictures, several pictures in a prompt, prompts beyond
the sliding window, padding, completions behind a shared prompt, and cached decoding.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  teaches NumPy bfloat16
import numpy as np
import pytest
from PIL import Image as Pillow
from safetensors.numpy import load_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import lora, roles, targets
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.checkpoints.huggingface import tensors_of
from pe_rlhf_mm.checkpoints.names import stored
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.models import flash, vlm
from pe_rlhf_mm.models.config import BlockConfig, VLMConfig, with_attention
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.types import Completions, Image, Message, Prompts, Text

FIXTURES = Path(__file__).parent / "fixtures"
CLOSE = 1e-4
SEES = ("gemma3", "paligemma2", "qwen2_5_vl", "qwen3_vl", "smolvlm")
TEXT = ("gemma2", "gemma3_text", "llama", "llama3_rope", "qwen2", "qwen3")
CASES = [(f, c) for f in TEXT for c in ("plain", "long", "padded")] + [
    (f, c) for f in SEES for c in ("two", "several", "text")
]
STEPS = 32


@functools.cache
def model(family: str) -> Model:
    return pe.load_model(FIXTURES / family)


@functools.cache
def reference(family: str) -> dict[str, np.ndarray]:
    return load_file(FIXTURES / family / "reference.safetensors")


class Case(NamedTuple):
    prompts: Prompts
    mask: np.ndarray
    logits: np.ndarray


def pictures(family: str, case: str, row: int) -> list[Image]:
    owned = reference(family).get(f"{case}.images", np.full((99, 1), -1))[row]
    return [Image(Pillow.fromarray(reference(family)[f"{case}.picture{n}"])) for n in owned if n >= 0]


def read(family: str, case: str, config: VLMConfig | None = None) -> Case:
    """A case as one batch, padded on the left."""
    found, processor = reference(family), model(family).processor
    ids = found[f"{case}.token_ids"]
    mask = found.get(f"{case}.attention_mask", np.ones_like(ids)).astype(bool)
    gallery, encoded = Gallery(config or model(family).config), []
    for row, (tokens, real) in enumerate(zip(ids, mask, strict=True)):
        numbers = [gallery.add(image) for image in pictures(family, case, row)]
        kept = tokens[real].tolist()
        encoded.append(EncodedPrompt(kept, tuple(numbers), processor.positions(kept, numbers, gallery)))
    return Case(processor.prompts(encoded, gallery, length=ids.shape[1]), mask, found[f"{case}.logits"])


@functools.partial(jax.jit, static_argnames="config")
def logits(config: VLMConfig, state: Any, prompts: Prompts) -> jax.Array:
    bound = vlm.bind(config, state)
    return bound.logits(bound.hidden(vlm.prompt_rows(config, prompts), prompts.images)[0])


def gap(family: str, case: str, config: VLMConfig | None = None) -> float:
    """The largest difference of a logit from the reference's, padding aside."""
    asked = read(family, case)
    found = logits(config or model(family).config, model(family).state, asked.prompts)
    return float(np.abs(found - asked.logits)[asked.mask].max())


@pytest.mark.parametrize(("family", "case"), CASES)
def test_logits_of_a_batch_are_those_of_the_reference(family: str, case: str) -> None:
    assert gap(family, case) < CLOSE


@pytest.mark.parametrize(
    ("family", "case"), [("gemma2", "long"), ("gemma3", "several"), ("paligemma2", "two"), ("qwen2_5_vl", "several")]
)
def test_kernels_for_tpus_give_the_logits_of_the_reference(
    family: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpreted: with soft caps, windows, pictures that are seen both ways, and towers of windows."""
    monkeypatch.setattr(flash, "BLOCKS", (32,))
    assert gap(family, case, with_attention(model(family).config, "flash")) < CLOSE


@pytest.mark.parametrize("family", SEES)
def test_logits_of_a_user_are_those_of_the_reference(family: str) -> None:
    """`model.logits`, row by row, from pictures as a user has them."""
    asked = read(family, "two")
    for row, mask in enumerate(asked.mask):
        images = [image.source for image in pictures(family, "two", row)]
        found = model(family).logits(reference(family)["two.token_ids"][row][mask][None], [images])
        np.testing.assert_allclose(found[0], asked.logits[row][mask], atol=CLOSE, rtol=0)


def answered_gap(family: str, config: VLMConfig) -> float:
    """The largest difference of a logit of the case `answered`, cut into prompt and answer, from the reference's.

    Beside the answer stand another one and the answer again.
    """
    answer = 12
    found, ids = reference(family)["answered.logits"], reference(family)["answered.token_ids"]
    gallery = Gallery(config)
    numbers = [gallery.add(image) for image in pictures(family, "answered", 0)]
    prompt = ids[0, :-answer].tolist()
    processor = model(family).processor
    encoded = EncodedPrompt(prompt, tuple(numbers), processor.positions(prompt, numbers, gallery))
    prompts = processor.prompts([encoded], gallery, length=len(prompt) + 3)
    said = np.stack([ids[0, -answer:], ids[0, -answer:][::-1], ids[0, -answer:]])[None].astype(np.int32)
    completions = Completions(said, np.ones(said.shape, bool))
    weights = Weights(model(family).state, None)
    states = jax.jit(forward.read, static_argnums=0)(config, weights, prompts, completions).states
    before = vlm.before_each(states, 3, answer)
    scores = np.asarray(vlm.bind(config, weights.state).logits(before))[0]
    return float(np.abs(scores[[0, 2]] - found[0, -answer - 1 : -1]).max())


@pytest.mark.parametrize("family", SEES)
def test_a_completion_behind_a_shared_prompt_is_worth_its_own_row(family: str) -> None:
    assert answered_gap(family, model(family).config) < CLOSE


@pytest.mark.parametrize("family", [*TEXT, *SEES])
def test_greedy_tokens_are_those_of_the_reference_and_cached_steps_those_of_the_full_pass(family: str) -> None:
    """One program with an adapter of scale 0, against `generate`, and of scale 1, against one pass over 32 steps."""
    asked = read(family, "plain" if family in TEXT else "two").prompts
    config, state = model(family).config, model(family).state
    config = replace(config, stop_ids=(config.vocabulary - 1,))  # `generate` was told to go on, too
    slot = lora.new_slot(jax.random.key(0), targets.adapted(config, ("q", "v")), rank=2)
    slot = {t: lora.LowRank(low.a, 0.2 * jax.random.normal(jax.random.key(1), low.b.shape)) for t, low in slot.items()}
    greedy = Sampling(temperature=0.0, max_tokens=STEPS)
    expected = reference(family)["greedy.token_ids"]
    keys = jax.random.split(jax.random.key(2), len(asked.tokens))
    plain = sample(config, state, lora.only(slot, 0.0), asked, keys, group=2, sampling=greedy)
    assert plain.completions.tokens[0, 0, : len(expected)].tolist() == expected.tolist()

    adapted = Weights(state, lora.only(slot, 1.0))
    drawn = sample(config, *adapted, asked, keys, group=2, sampling=greedy)
    again = forward.score_policy(config, adapted, asked, drawn.completions, greedy)
    assert drawn.completions.mask.sum(axis=-1).max() == STEPS
    assert (drawn.completions.tokens != plain.completions.tokens).any()
    np.testing.assert_allclose(drawn.logprobs, again.logprobs, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("family", [f for f in (*TEXT, *SEES) if f != "paligemma2"])  # it does not chat
def test_the_ids_of_a_conversation_are_those_of_the_reference(family: str) -> None:
    turns = json.loads((FIXTURES / family / "chat.json").read_text())
    shown, messages = iter(pictures(family, "two", 0) * 9), []
    for turn in turns:
        content = turn["content"]
        parts = (
            [Text(content)]
            if isinstance(content, str)
            else [Text(part["text"]) if part["type"] == "text" else next(shown) for part in content]
        )
        messages.append(Message(turn["role"], parts))
    config = model(family).config
    (encoded,) = model(family).processor.encode([messages], Gallery(config))
    expected = reference(family)["chat.token_ids"].reshape(-1)
    assert encoded.tokens == expected.tolist()


def test_shards_hold_what_one_file_holds() -> None:
    assert roles.fingerprint(model("llama_sharded").state) == roles.fingerprint(model("llama").state)


@pytest.mark.parametrize("family", [*TEXT, *SEES])
def test_every_tensor_of_a_checkpoint_is_in_its_place(family: str) -> None:
    """Written back through the views, our weights are the tensors on disk: none is forgotten, none read twice."""
    config, tensors = model(family).config, tensors_of(FIXTURES / family)
    written = {name: np.full(tensor.shape, np.nan, np.float32) for name, tensor in tensors.items()}
    for ours, value in backbone.names(model(family).state).items():
        parts = stored(config, ours)
        for part, layer in zip(parts, value if ".layers.blocks." in ours else [value], strict=True):
            view = part.view(written[part.name])
            assert np.isnan(view).all()
            view[...] = np.asarray(layer).reshape(view.shape)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor.read().astype(np.float32))


# --- switched off, each feature shows -----------------------------------------------------------------------------


def decoder(**values: Any) -> Callable[[VLMConfig], VLMConfig]:
    return lambda config: replace(config, decoder=replace(config.decoder, **values))


def kinds(change: Callable[[Any], Any]) -> Callable[[VLMConfig], VLMConfig]:
    """The same change in the rotary positions or windows of every kind of layer."""

    def changed(config: VLMConfig) -> VLMConfig:
        return decoder(kinds=tuple(change(kind) for kind in config.decoder.kinds))(config)

    return changed


def rope(**values: Any) -> Callable[[VLMConfig], VLMConfig]:
    return kinds(lambda kind: replace(kind, rope=replace(kind.rope, **values)))


def tower(**values: Any) -> Callable[[VLMConfig], VLMConfig]:
    return lambda config: replace(config, vision=replace(config.vision, **values))


def tower_block(change: Callable[[BlockConfig], BlockConfig]) -> Callable[[VLMConfig], VLMConfig]:
    return lambda config: tower(block=change(config.vision.block))(config)


FEATURES = [
    ("gemma3_text", "long", "window", kinds(lambda kind: replace(kind, window=None))),
    ("gemma3_text", "long", "window by one", kinds(lambda k: replace(k, window=k.window and k.window + 1))),
    ("gemma3_text", "long", "second theta", rope(theta=1e4)),
    ("gemma3_text", "long", "linear scaling", rope(factor=1.0)),
    ("gemma3_text", "plain", "query scale", decoder(query_scale=None)),
    ("gemma3_text", "plain", "1 + w", decoder(norm="rms")),
    ("gemma3_text", "plain", "scaled embedding", lambda c: replace(c, scaled_embedding=False)),
    ("gemma3_text", "plain", "activation", decoder(activation="silu")),
    ("gemma2", "plain", "soft cap of scores", decoder(soft_cap=None)),
    ("gemma2", "plain", "soft cap of logits", lambda c: replace(c, logit_cap=None)),
    ("llama", "long", "theta", rope(theta=1e3)),
    ("llama3_rope", "long", "llama3 scaling", rope(llama3=None)),
    ("gemma3", "two", "picture seen at once", lambda c: replace(c, seen_at_once="nothing")),
    ("gemma3", "several", "window", kinds(lambda kind: replace(kind, window=None))),
    ("paligemma2", "text", "prompt seen at once", lambda c: replace(c, seen_at_once="nothing")),
    ("paligemma2", "two", "mean of colours", tower(mean=(0.4, 0.5, 0.6))),
    ("smolvlm", "two", "tower activation", tower_block(lambda b: replace(b, activation="gelu"))),
    ("qwen2_5_vl", "several", "tower windows", tower_block(lambda b: replace(b, kinds=(b.kinds[0],) * 2))),
    ("qwen2_5_vl", "two", "tower rotation", tower_block(lambda b: replace(
        b, kinds=tuple(replace(k, rope=replace(k.rope, theta=1e2)) for k in b.kinds)))),
    ("qwen2_5_vl", "several", "sections", rope(sections=(6, 1, 1))),
    ("qwen3_vl", "several", "interleaving", rope(interleaved=False)),
    ("qwen3_vl", "two", "spread of colours", tower(std=(0.4, 0.5, 0.6))),
]  # fmt: skip


@pytest.mark.parametrize(("family", "case", "feature", "off"), FEATURES, ids=[f"{f[0]}-{f[2]}" for f in FEATURES])
def test_a_feature_that_is_switched_off_shows(
    family: str, case: str, feature: str, off: Callable[[VLMConfig], VLMConfig]
) -> None:
    assert gap(family, case, off(model(family).config)) > 10 * CLOSE, feature


@pytest.mark.parametrize("change", [lambda window: None, lambda window: window + 1], ids=["none", "by one"])
def test_a_window_that_is_switched_off_shows_behind_a_prompt_that_is_seen_at_once(change: Any) -> None:
    """PaliGemma's prompt sees all of itself: its windows bound only what a completion sees."""
    off = kinds(lambda kind: replace(kind, window=kind.window and change(kind.window)))
    assert answered_gap("paligemma2", off(model("paligemma2").config)) > 10 * CLOSE


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_image_tokens_counted_as_text_show(family: str) -> None:
    asked = read(family, "several")
    found = logits(model(family).config, model(family).state, asked.prompts._replace(positions=None))
    assert np.abs(found - asked.logits)[asked.mask].max() > 10 * CLOSE


def test_deepstack_that_is_left_out_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    embed = vlm.VLM.embed
    monkeypatch.setattr(vlm.VLM, "embed", lambda *given, **how: embed(*given, **how)._replace(added=None))
    logits.clear_cache()
    assert gap("qwen3_vl", "two") > 10 * CLOSE
    logits.clear_cache()


def test_positions_that_are_not_stretched_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from pe_rlhf_mm.models import vision

    monkeypatch.setattr(vision, "stretched", lambda table, side, at, grid: jnp.zeros((*at.row.shape, table.shape[-1])))
    logits.clear_cache()
    assert gap("qwen3_vl", "two") > 10 * CLOSE
    logits.clear_cache()
