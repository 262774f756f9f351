"""Small models and batches with random contents, for tests that compare two ways of computing one thing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from pe_rlhf_mm.adapters import lora, roles
from pe_rlhf_mm.adapters.lora import Slot
from pe_rlhf_mm.adapters.roles import Roles, Weights
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import BlockConfig, LayerKind, Rope, Square, VisionConfig, VLMConfig
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.training.observer import Silent
from pe_rlhf_mm.types import Completions, Pixels, Prompts

CONFIG = VLMConfig(
    decoder=BlockConfig(
        layers=2, width=32, heads=4, kv_heads=2, head_width=8, mlp_width=48, qk_norm=True,
        kinds=(LayerKind(Rope(10_000.0)),),
    ),
    vision=VisionConfig(
        BlockConfig(layers=1, width=24, heads=2, kv_heads=2, head_width=12, mlp_width=32),
        views=Square(16),
        patch_size=4,
        merge=2,
        side=4,
    ),
    vocabulary=40,
    context=128,
    pad_id=0,
    image_id=1,
    stop_ids=(2,),
    scaled_embedding=True,
)  # fmt: skip
PATCHES, IMAGE_TOKENS = 16, 4
FIRST_WORD = 7
"""Ids below it are special."""


class Batch(NamedTuple):
    prompts: Prompts
    completions: Completions


def state(seed: int = 0) -> nnx.State:
    return vlm.initial_state(CONFIG, jax.random.key(seed))


def random_slot(
    seed: int,
    *,
    rank: int = 3,
    targets: tuple[str, ...] = ("q", "k", "v", "o"),
    config: VLMConfig = CONFIG,
) -> Slot:
    """A slot that has been trained, as far as anybody can tell: its `b` is not zero."""
    slot = lora.new_slot(jax.random.key(seed), adapted(config, targets), rank=rank)
    keys = jax.random.split(jax.random.key(seed + 1000), len(slot))
    return {
        target: lora.LowRank(low.a, 0.3 * jax.random.normal(key, low.b.shape))
        for key, (target, low) in zip(keys, slot.items(), strict=True)
    }


def slot_of(config: VLMConfig, targets: tuple[str, ...] = ("q", "down")) -> Slot:
    """A trained slot of any model."""
    return random_slot(1, rank=2, targets=targets, config=config)


def logits(config: VLMConfig, weights: Weights, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, S, V] of a causal reading of bare text, with adapters beside the kernels, as in training.

    PaliGemma, which sees its prompt at once, is given none.
    """
    rows = vlm.prompt_rows(config, Prompts(jnp.asarray(tokens), jnp.ones(tokens.shape, bool)))
    if config.seen_at_once == "prompt":
        rows = rows._replace(enter=jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape))
    model = vlm.bind(config, weights.state)
    return np.asarray(model.logits(model.hidden(rows, None, weights.bank)[0]))


def in_float32(source: Path, folder: Path) -> Path:
    """The same checkpoint, which rounds nothing that is written back to it."""
    shutil.copytree(source, folder)
    for path in folder.glob("model*.safetensors"):
        save_file({n: t.astype(np.float32) for n, t in load_file(path).items()}, path, {"format": "pt"})
    return folder


def random_roles(*names: str, seed: int = 0) -> Roles:
    """A backbone, and trained adapters and a head for each name."""
    made = roles.only_backbone(state(seed))
    for i, name in enumerate(names, start=1):
        made = made._replace(
            slots={**made.slots, name: random_slot(seed + i)}, scales={**made.scales, name: jnp.float32(0.5 + i)}
        ).with_head(name, jax.random.normal(jax.random.key(seed + 50 + i), (CONFIG.decoder.width,)))
    return made


def random_batch(
    rng: np.random.Generator, *, rows: int = 3, group: int = 2, length: int = 12, steps: int = 6, images: bool = True
) -> Batch:
    """Prompts of different lengths, each but the last with an image, and completions of different lengths."""
    tokens, mask = np.full((rows, length), CONFIG.pad_id, np.int32), np.zeros((rows, length), bool)
    count = IMAGE_TOKENS
    patches = rng.integers(0, 256, (rows, 1, PATCHES, CONFIG.vision.patch_numbers), dtype=np.uint8)
    for i in range(rows):
        n = length - i
        words = rng.integers(FIRST_WORD, CONFIG.vocabulary, n)
        if images and i < rows - 1:
            words[1 : 1 + count] = CONFIG.image_id
        tokens[i, length - n :], mask[i, length - n :] = words, True
    said = rng.integers(FIRST_WORD, CONFIG.vocabulary, (rows, group, steps)).astype(np.int32)
    spoken = np.zeros(said.shape, bool)
    for i in range(rows):
        for j in range(group):
            n = 1 + (i * group + j) % steps
            said[i, j, n - 1], said[i, j, n:], spoken[i, j, :n] = CONFIG.stop_id, CONFIG.pad_id, True
    return Batch(
        Prompts(tokens, mask, Pixels(patches, np.full((rows, 1, 2), 4, np.int32)) if images else None),
        Completions(said, spoken),
    )


def processor() -> Processor:
    """For prompts that are ids already."""
    return Processor(load_model("tiny-vlm").processor.tokenizer, CONFIG)


class Heard(Silent):
    """An observer that remembers every step and note."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.notes: list[tuple[int, dict[str, float]]] = []

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(dict(metrics))

    def note(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self.notes.append((step, dict(metrics)))
