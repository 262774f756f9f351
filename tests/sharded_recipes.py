"""Recipes for a few steps, without a mesh or on one of fake CPU devices: what `test_sharded_training.py` compares.

Run in a process of its own, which is told by its environment how many devices to make up:

    python sharded_recipes.py FOLDER MESH RECIPE ..        MESH: data,fsdp,model, or none

writes FOLDER/MESH.json, the metrics of every step, and FOLDER/MESH.npz, the weights before and after.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from models import CONFIG, FIRST_WORD, IMAGE_TOKENS, Heard, processor
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.models.places import places_of
from pe_rlhf_mm.models.sharding import MESH_AXES, using
from pe_rlhf_mm.tasks.canvas.press import Press
from pe_rlhf_mm.training import episodes, members, preferences, reinforce, reward, sft
from pe_rlhf_mm.training.config import PreferenceConfig, RewardConfig, RLConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.lora_config import LoraConfig
from pe_rlhf_mm.training.prepare import new_gallery
from pe_rlhf_mm.training.reward import Judged, Row
from pe_rlhf_mm.training.sft import Demonstration
from pe_rlhf_mm.training.step import Technique
from pe_rlhf_mm.types import Environment, Step

STEPS, ROWS = 3, 8
LORA = LoraConfig(rank=4, reward_rank=4, targets=("q", "o", "down"))
STOP = CONFIG.stop_id
COMPILED: list[str] = []
"""The functions that were compiled, in their order."""
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, fun_name="", **__: (
        COMPILED.append(fun_name) if event.endswith("backend_compile_duration") else None
    )
)


def drawn(config: VLMConfig, mesh: jax.sharding.Mesh | None = None) -> nnx.State:
    """Weights from NumPy, in their places: a program that draws them would take longer to compile than to train."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> jax.Array:
        scale = "scale" in jax.tree_util.keystr(path)
        values = np.ones(leaf.shape) if scale else 0.2 * rng.standard_normal(leaf.shape)
        return jax.device_put(values.astype(np.float32), place)

    return jax.tree_util.tree_map_with_path(draw, vlm.abstract_state(config), places_of(config, mesh))


def model(recipe: str) -> Model:
    """The smallest model on the mesh in use, or one that knows words, to play."""
    if recipe != "episodes":
        return Model("smallest", CONFIG, drawn(CONFIG), processor())
    tiny = pe.load_model("tiny-vlm")
    tower = dataclasses.replace(tiny.config.vision, block=CONFIG.vision.block)
    config = dataclasses.replace(tiny.config, decoder=CONFIG.decoder, vision=tower)
    return Model("wordy", config, drawn(config), Processor(tiny.processor.tokenizer, config))


def asked(gallery: Gallery, count: int = 32) -> list[EncodedPrompt]:
    """Prompts of several lengths, every other one about one of four pictures."""
    rng = np.random.default_rng(0)
    pictures = [Pillow.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(4)]
    numbers = [gallery.add(pe.Image(picture)) for picture in pictures]
    prompts = []
    for i in range(count):
        words = [FIRST_WORD + (i + n) % 30 for n in range(3 + i % 3)]
        shown = ([CONFIG.image_id] * IMAGE_TOKENS, (numbers[i % 4],)) if i % 2 else ([], ())
        prompts.append(EncodedPrompt([*shown[0], *words], shown[1]))
    return prompts


def replies(i: int) -> list[list[int]]:
    return [[FIRST_WORD + (i * k) % 31, *[FIRST_WORD + k] * (i % 3), STOP] for k in (1, 2)]


def by_sft(
    roles: Roles, made: Model, gallery: Gallery, heard: Heard, packed_length: int = 0, how: Technique = Technique()
) -> Roles:
    shown = [Demonstration(prompt, replies(i)[0]) for i, prompt in enumerate(asked(gallery))]
    settings = SFTConfig(steps=STEPS, batch_size=ROWS, learning_rate=1e-2, packed_length=packed_length)
    return sft.sft(roles, made.processor, gallery, shown, settings, dropout=0.1, technique=how, seed=1, observer=heard)


def by_rewards(roles: Roles, made: Model, gallery: Gallery, heard: Heard, loss: str, packed_length: int = 0) -> Roles:
    pairs = [Judged([Row(prompt, replies(i))], (1.0, 0.0)) for i, prompt in enumerate(asked(gallery))]
    ratings = [
        Judged([Row(prompt, [reply])], (p,))
        for ((prompt, two),), both, _ in pairs
        for reply, p in zip(two, both, strict=True)
    ]
    settings = RewardConfig(
        steps=STEPS, batch_size=ROWS, learning_rate=1e-2, loss=loss, validate_every=STEPS, packed_length=packed_length
    )
    examples = pairs if loss == "pairwise" else ratings
    return reward.train_reward_model(
        roles, made.processor, gallery, examples, examples[:11], settings, seed=1, observer=heard
    )


def by_members(roles: Roles, made: Model, gallery: Gallery, heard: Heard, passes: str) -> Roles:
    pairs = [Judged([Row(prompt, replies(i))], (1.0, 0.0)) for i, prompt in enumerate(asked(gallery))]
    settings = RewardConfig(
        steps=STEPS, batch_size=ROWS, learning_rate=1e-2, members=2, dropouts=(0.1, 0.0), passes=passes,
        validate_every=STEPS,
    )  # fmt: skip
    return members.train_members(roles, made.processor, gallery, pairs, pairs[:11], settings, seed=1, observer=heard)


def by_reinforce(
    roles: Roles, made: Model, gallery: Gallery, heard: Heard, algorithm: str, kl: str = "return"
) -> Roles:
    settings = RLConfig(
        algorithm=algorithm, steps=STEPS, prompts=ROWS, group=2, learning_rate=1e-2, value_learning_rate=1e-2,
        temperature=1.0, top_p=0.9 if algorithm == "ppo" else 1.0, max_tokens=5, kl=kl,
    )  # fmt: skip
    return reinforce.reinforce(roles, made.processor, gallery, asked(gallery), settings, seed=1, observer=heard)


def by_preferences(roles: Roles, made: Model, gallery: Gallery, heard: Heard) -> Roles:
    pairs = [Judged([Row(prompt, replies(i))], (1.0, 0.0)) for i, prompt in enumerate(asked(gallery))]
    settings = PreferenceConfig(steps=STEPS, batch_size=ROWS, learning_rate=1e-2)
    return preferences.optimize_preferences(
        roles, made.processor, gallery, pairs, "dpo", settings, seed=1, observer=heard
    )


class Paid:
    """An environment that also pays for a reply by its length: a policy that was taught nothing earns something."""

    def __init__(self, environment: Environment):
        self._environment = environment
        self.reset, self.close = environment.reset, environment.close

    def step(self, reply: str) -> Step:
        step = self._environment.step(reply)
        return dataclasses.replace(step, reward=step.reward + len(reply) % 5)


def by_episodes(roles: Roles, made: Model, gallery: Gallery, heard: Heard) -> Roles:
    task = Press()
    settings = RLConfig(
        steps=2, prompts=3, environments=4, max_turns=2, max_tokens=6, learning_rate=1e-2, value_learning_rate=1e-2,
        reward="task", temperature=1.0,
    )  # fmt: skip
    samples = [sample for _, sample in zip(range(6), task.samples("train"), strict=False)]
    with EnvPool(lambda: Paid(task.environment()), settings.environments) as pool:
        return episodes.reinforce_episodes(
            roles, made.processor, lambda: gallery, pool, samples, settings, seed=1, observer=heard
        )


RECIPES: dict[str, Callable[..., Roles]] = {
    "sft": by_sft,
    "sft in parts": functools.partial(by_sft, how=Technique(accumulate=2)),
    "sft packed": functools.partial(by_sft, packed_length=32),
    "pairs": functools.partial(by_rewards, loss="pairwise"),
    "ratings": functools.partial(by_rewards, loss="pointwise"),
    "ratings packed": functools.partial(by_rewards, loss="pointwise", packed_length=32),
    "members": functools.partial(by_members, passes="apart"),
    "members together": functools.partial(by_members, passes="together"),
    "reinforce": functools.partial(by_reinforce, algorithm="reinforce"),
    "ppo": functools.partial(by_reinforce, algorithm="ppo"),
    "online-dpo": functools.partial(by_reinforce, algorithm="online-dpo", kl="loss"),
    "dpo": by_preferences,
    "episodes": by_episodes,
}


class Ran(NamedTuple):
    """What a recipe did: the metrics of every step, the weights before and after, and how often a step was compiled."""

    metrics: list[dict[str, float]]
    weights: dict[str, np.ndarray]
    compiled: int


def run(mode: str, recipe: str) -> Ran:
    made, heard, config = model(recipe), Heard(), TuneConfig(mode=mode, lora=LORA)
    if recipe.startswith("members"):
        config = dataclasses.replace(config, reward=RewardConfig(members=2))
    before, compiled = attach(made, config), COMPILED.count("jit(train_step)")
    after = RECIPES[recipe](before, made, new_gallery(made, config), heard)
    weights = {}
    for when, roles in (("before", before), ("after", after)):
        leaves = jax.tree_util.tree_leaves_with_path((roles.slots, roles.copies, roles.heads))
        weights |= {f"{when}|{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}
    return Ran(heard.steps, weights, COMPILED.count("jit(train_step)") - compiled)


def main(folder: Path, shape: str, recipes: list[str]) -> None:
    sizes = () if shape == "none" else map(int, shape.split(","))
    mesh = pe.make_mesh(**dict(zip(MESH_AXES, sizes, strict=False))) if shape != "none" else None
    with using(mesh):
        ran = {recipe: run(*recipe.split(" ", 1)) for recipe in recipes}
    kept = {name: {"metrics": found.metrics, "compiled": found.compiled} for name, found in ran.items()}
    (folder / f"{shape}.json").write_text(json.dumps(kept))
    np.savez(
        folder / f"{shape}.npz",
        **{f"{name}|{where}": value for name, found in ran.items() for where, value in found.weights.items()},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
