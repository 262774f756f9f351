"""The programs that a stage of a tuning runs, the trainer's own functions, with shapes in place of arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.stages import Traced

from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.data.images import ahead
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import Square, VisionConfig, VLMConfig
from pe_rlhf_mm.planning.held import (
    HALF,
    Held,
    bytes_a_device,
    frozen,
    held,
    part_of,
    roles_of,
    rows,
    trained,
    weights_of,
    whole,
)
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.training import members, passes, reinforce, reward, sft
from pe_rlhf_mm.training.accumulation import Parts
from pe_rlhf_mm.training.config import RLConfig, TuneConfig
from pe_rlhf_mm.training.jury import jury_of, members_of
from pe_rlhf_mm.training.optimizers import OPTIMIZERS
from pe_rlhf_mm.training.passes import Completed
from pe_rlhf_mm.training.policy_gradient import ALGORITHMS, Experience, assessors
from pe_rlhf_mm.training.step import train_step
from pe_rlhf_mm.types import Completions, Features, Merged, Pictures, Pixels, Prompts


class Seen(NamedTuple):
    """What the pictures of a prompt are to the tower, and how many tokens they are to the decoder."""

    views: int
    patches: int
    tokens: int


@dataclass(frozen=True)
class Load:
    """What one step is given: prompts of so many tokens, pictures included, and replies of so many.

    `seen`: their pictures as they were found; None: they follow from their number, where the model squashes all
    pictures to one size.
    """

    prompt_tokens: int = 1024
    reply_tokens: int = 128
    pictures: int = 1
    """In every prompt, of a model that sees."""
    seen: Seen | None = None


class Program(NamedTuple):
    """One function of a stage, ready to be compiled, and what it is given besides what is held.

    `turns`: how often its loop runs at most, if it has one that may end early; each turn reads all weights. `cast`:
    copies of weights that are made for it, in the type of the backbone.
    """

    name: str
    trace: Callable[[], Traced]
    given: Any
    turns: int = 1
    cast: Any = ()
    learns: bool = False


class Stage(NamedTuple):
    """What stays in memory throughout, and the programs that run one after another."""

    held: Held
    programs: list[Program]


def _prompts(config: VLMConfig, settings: TuneConfig, count: int, load: Load, mesh: Mesh, dtype: Any) -> Prompts:
    length = load.prompt_tokens
    images = _images(config, settings, count, load, mesh, dtype)
    return Prompts(rows((count, length), jnp.int32, mesh), rows((count, length), jnp.bool_, mesh), images)


def _images(config: VLMConfig, settings: TuneConfig, count: int, load: Load, mesh: Mesh, dtype: Any) -> Pictures | None:
    """What the tower has seen of pictures, as it has of all of them where it is frozen; or their patches."""
    vision = config.vision
    if vision is None or not load.pictures:
        return None
    seen = _squashed(config.name, vision, load.pictures) if load.seen is None else load.seen
    kind = Pixels if settings.mode == "full" else ahead(settings.lora.adapted(config))
    if kind is Features:
        return Features(rows((count, seen.tokens, vision.levels * config.decoder.width), dtype, mesh))
    if kind is Merged:
        return Merged(rows((count, seen.tokens, sum(vision.merged_widths)), dtype, mesh))
    patches = rows((count, seen.views, seen.patches, vision.patch_numbers), jnp.uint8, mesh)
    return Pixels(patches, rows((count, seen.views, 2), jnp.int32, mesh))


def _squashed(name: str, vision: VisionConfig, pictures: int) -> Seen:
    if not isinstance(vision.views, Square):
        raise UserError(
            f"{name} keeps the shape of pictures, so how many tokens one takes is not known: name a --task whose "
            "pictures to measure, or plan with --pictures 0 and count their tokens among --prompt-tokens."
        )
    side = vision.views.size // vision.patch_size
    return Seen(pictures, side**2, pictures * (side // vision.merge) ** 2)


def _completions(count: int, group: int, steps: int, mesh: Mesh) -> Completions:
    shape = (count, group, steps)
    return Completions(rows(shape, jnp.int32, mesh), rows(shape, jnp.bool_, mesh))


def _refuse_packed(section: str, length: int) -> None:
    if length:
        raise UserError(
            f"a plan is of one example a row, and {section}.packed_length is {length}: plan with "
            f"--{section}.packed-length 0, and as many prompts and tokens as such a row has."
        )


def sft_stage(config: VLMConfig, settings: TuneConfig, load: Load, mesh: Mesh, dtype: Any = HALF) -> Stage:
    """Supervised fine-tuning, one demonstration a row."""
    _refuse_packed("sft", settings.sft.packed_length)
    count, learners = settings.sft.batch_size, ("sft",)
    optimizer = OPTIMIZERS[settings.optimizer](settings.sft.learning_rate, settings.sft.steps)
    roles = roles_of(config, settings, "sft", mesh, dtype)
    state = trained(roles, learners, optimizer, mesh)
    prompts = _prompts(config, settings, count, load, mesh, dtype)
    batch = (prompts, _completions(count, 1, load.reply_tokens, mesh))
    parts = Parts(settings.accumulate, sft.tokens)
    loss = functools.partial(sft.loss, config, settings.lora.dropout, settings.remat)
    step = functools.partial(train_step.trace, state, roles, batch, loss=loss, optimizer=optimizer, parts=parts)
    return Stage(held(roles, state, validated=False), [Program("step", step, batch, learns=True)])


def reward_stage(config: VLMConfig, settings: TuneConfig, load: Load, mesh: Mesh, dtype: Any = HALF) -> Stage:
    """A reward model from pairs, or from ratings, one example a row."""
    _refuse_packed("reward", settings.reward.packed_length)
    count, learners = settings.reward.batch_size, members_of(settings.reward)
    group = 2 if settings.reward.loss == "pairwise" else 1
    roles = roles_of(config, settings, "reward", mesh, dtype)
    optimizer = OPTIMIZERS[settings.optimizer](settings.reward.learning_rate, settings.reward.steps)
    if len(learners) > 1:
        optimizer = members.optimizer_for(settings.reward, part_of(roles, learners), settings.optimizer)
    state = trained(roles, learners, optimizer, mesh)
    prompts = _prompts(config, settings, count, load, mesh, dtype)
    labels, margin = rows((count, group), jnp.float32, mesh), rows((count,), jnp.float32, mesh)
    batch: Any = reward.JudgedBatch(prompts, _completions(count, group, load.reply_tokens, mesh), labels, margin)
    parts = Parts(settings.accumulate, reward.share)
    loss = functools.partial(reward.LOSSES[settings.reward.loss], config, settings.reward.dropout, settings.remat)
    if len(learners) > 1:
        batch = (batch,) * len(learners)
        loss = functools.partial(members.loss, config, settings.reward, settings.remat)
    step = functools.partial(train_step.trace, state, roles, batch, loss=loss, optimizer=optimizer, parts=parts)
    return Stage(held(roles, state, validated=True), [Program("step", step, batch, learns=True)])


def rl_stage(config: VLMConfig, settings: TuneConfig, load: Load, mesh: Mesh, dtype: Any = HALF) -> Stage:
    """One iteration of RL: replies are drawn, scored by policy, anchor and reward model, and learned from."""
    rl, (learners, appraised, *_) = settings.rl, ALGORITHMS[settings.rl.algorithm]
    roles = roles_of(config, settings, "rl", mesh, dtype)
    optimizer = reinforce.optimizer_for(rl, part_of(roles, learners), settings.optimizer)
    state = trained(roles, learners, optimizer, mesh)
    learned, sampling = frozen(roles, state.trainable), rl.sampling
    now, cast = roles.put(learned), learned.copies  # weights are read in the type of the backbone
    prompts = _prompts(config, settings, rl.prompts, load, mesh, dtype)
    completions = _completions(rl.prompts, rl.group, rl.max_tokens, mesh)
    tokens: Any = rows(completions.tokens.shape, jnp.float32, mesh)
    rewards: Any = rows((rl.prompts, rl.group), jnp.float32, mesh)
    experience = Experience(tokens, tokens, tokens, tokens, tokens if appraised else None, tokens)
    rollout = reinforce.Rollout(prompts, completions, rewards, experience)
    loss = functools.partial(reinforce.loss, config, rl, settings.remat)
    read, names = (
        Completed(prompts, completions),
        assessors(rl, jury_of(settings.reward).readers if settings.learns_reward else ()),
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        groups = passes.PASSES[rl.passes](now, names)
    scores = [
        Program(
            f"score ({', '.join(group)})",
            functools.partial(passes.score.trace, config, passes.joint(now, group), read, sampling),
            read,
            cast=cast,
        )
        for group in groups
    ]
    parts = Parts(settings.accumulate, reinforce.replies)
    update = functools.partial(train_step.trace, state, roles, rollout, loss=loss, optimizer=optimizer, parts=parts)
    draw = _drawing(config, rl, weights_of(now, "policy"), prompts, mesh, cast)
    return Stage(held(roles, state, validated=True), [draw, *scores, Program("update", update, rollout, learns=True)])


def sample_stage(config: VLMConfig, settings: TuneConfig, load: Load, mesh: Mesh, dtype: Any = HALF) -> Stage:
    """Replies drawn by one policy, with nothing beside it: what an evaluation holds."""
    roles = roles_of(config, settings, "rl", mesh, dtype)
    part = frozen(roles, part_of(roles, ("policy",)))
    weights = weights_of(roles.put(part), "policy")
    prompts = _prompts(config, settings, settings.rl.prompts, load, mesh, dtype)
    alone = Held(*map(bytes_a_device, (roles.backbone, part.slots, part.copies, ())))
    return Stage(alone, [_drawing(config, settings.rl, weights, prompts, mesh)])


def _drawing(
    config: VLMConfig, rl: RLConfig, weights: Weights, prompts: Prompts, mesh: Mesh, cast: Any = ()
) -> Program:
    keys = whole(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rl.prompts)), mesh)
    draw = functools.partial(sample.trace, config, *weights, prompts, keys, group=rl.group, sampling=rl.sampling)
    return Program("sample", draw, (prompts, keys), rl.max_tokens, cast)


STAGES: dict[str, Callable[..., Stage]] = {
    "sft": sft_stage,
    "reward": reward_stage,
    "rl": rl_stage,
    "sample": sample_stage,
}
PROMPTS = {
    "sft": ("sft", "batch_size"),
    "reward": ("reward", "batch_size"),
    "rl": ("rl", "prompts"),
    "sample": ("rl", "prompts"),
}
"""The setting, by its section and name, that says how many prompts one step of a stage has."""


def rows_of(settings: TuneConfig, stage: str) -> int:
    """Prompts of one step."""
    section, name = PROMPTS[stage]
    return int(getattr(getattr(settings, section), name))


def with_rows(settings: TuneConfig, stage: str, rows: int | None) -> TuneConfig:
    """The settings with so many prompts in a step of that stage; None: as they are."""
    if rows is None:
        return settings
    section, name = PROMPTS[stage]
    changed: dict[str, Any] = {section: dataclasses.replace(getattr(settings, section), **{name: rows})}
    return dataclasses.replace(settings, **changed)


def step_in_words(config: VLMConfig, settings: TuneConfig, stage: str, load: Load) -> str:
    """What a step of the stage is given."""
    pairs = settings.reward.loss == "pairwise"
    replies, tokens = {"sft": (1, load.reply_tokens), "reward": (1 + pairs, load.reply_tokens)}.get(
        stage, (settings.rl.group, settings.rl.max_tokens)
    )
    seen = load.pictures if config.vision is not None else 0
    pictures = f", {seen} picture{'s' * (seen > 1)} among them" * (seen > 0)
    asked = f"{rows_of(settings, stage)} prompts of {load.prompt_tokens} tokens{pictures}"
    return f"a step: {asked}; {replies} repl{'ies' if replies > 1 else 'y'} of {tokens} tokens to each"
