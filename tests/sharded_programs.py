"""What the compiler makes of a training step on a mesh: read by `test_sharded_training.py`, and run like its recipes.

    python sharded_programs.py MESH ..        MESH: data,fsdp,model

prints, for each mesh, both modes and both optimizers, the bytes of the largest all-gather of a step, those of its state
on one device, as they are and as a plan has them, and how many of them it writes back in place; and the collectives of
the tower that looks at pictures.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
from models import CONFIG, processor
from sharded_recipes import drawn

import pe_rlhf_mm as pe
from pe_rlhf_mm.data import images
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.models.places import everywhere
from pe_rlhf_mm.models.sharding import MESH_AXES, by_rows
from pe_rlhf_mm.planning.held import bytes_a_device, roles_of, trained
from pe_rlhf_mm.planning.traffic import collectives
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import sft
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.optimizers import OPTIMIZERS
from pe_rlhf_mm.training.step import new_state, train_step
from pe_rlhf_mm.types import Completions, Features, Pixels, Prompts

WIDE = dataclasses.replace(
    CONFIG, vision=None, vocabulary=4096, decoder=dataclasses.replace(CONFIG.decoder, width=64, mlp_width=512)
)
"""Its table is eight times its largest matrix, which is four times the activations of the batch."""


BROAD = dataclasses.replace(WIDE, decoder=dataclasses.replace(WIDE.decoder, width=128))
"""Wide enough for second moments of rows and columns."""


STEPS = {"lora": ("lora", WIDE, "adam"), "full": ("full", WIDE, "adam"), "factored": ("full", BROAD, "adafactor")}
KEY = 8
"""Bytes of a random key, which plans do not count."""


def planned(mesh: jax.sharding.Mesh, mode: str, model: VLMConfig, optimizer: str) -> int:
    roles = roles_of(model, TuneConfig(mode=mode), "sft", mesh)
    return bytes_a_device(trained(roles, ("sft",), OPTIMIZERS[optimizer](1e-3, 10), mesh)) + KEY


def step_of(mode: str, model: VLMConfig, optimizer_name: str) -> dict[str, int]:
    config = TuneConfig(mode=mode)
    roles = attach(Model("wide", model, drawn(model), processor()), config)
    batch = by_rows(
        (
            Prompts(np.full((8, 12), 9, np.int32), np.ones((8, 12), bool)),
            Completions(np.full((8, 1, 4), 9, np.int32), np.ones((8, 1, 4), bool)),
        )
    )
    optimizer = OPTIMIZERS[optimizer_name](1e-3, 10)
    begun = new_state(roles.pick("sft"), roles, optimizer, jax.random.key(1))
    loss = functools.partial(sft.loss, model, 0.0, "products")
    program = train_step.lower(begun, roles, batch, loss=loss, optimizer=optimizer).compile()
    return {
        "gathered": max(c.size for c in collectives(program.as_text()) if c.kind == "all-gather"),
        "state": sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(begun)),
        "fillers": sum(leaf.nbytes for leaf in jax.tree.leaves(begun.optimizer) if leaf.shape == (1,)),
        "in_place": program.memory_analysis().alias_size_in_bytes,
    }


def looking(mesh: jax.sharding.Mesh) -> list[tuple[str, int]]:
    """As a thread looks, which no mesh is set in."""
    pixels = Pixels(np.zeros((8, 1, 16, CONFIG.vision.patch_numbers), np.uint8), np.full((8, 1, 2), 4, np.int32))
    lowered = images._look.lower(CONFIG, everywhere(drawn(CONFIG, mesh)["vision"]), by_rows(pixels, mesh), Features)
    return [(c.kind, c.size) for c in collectives(lowered.compile().as_text())]


def decoding() -> dict[str, int]:
    """Bytes of the largest exchange that is made for every token, and of the largest matrix."""
    roles, steps = attach(Model("wide", WIDE, drawn(WIDE), processor()), TuneConfig()), 5
    prompts = by_rows(Prompts(np.full((8, 12), 9, np.int32), np.ones((8, 12), bool)))
    keys = jax.random.split(jax.random.key(0), 8)
    settings = Sampling(temperature=1.0, max_tokens=steps)
    program = sample.lower(WIDE, *roles.weights("sft"), prompts, keys, group=1, sampling=settings).compile()
    often = [c.size for c in collectives(program.as_text(), steps) if c.times >= steps * WIDE.decoder.layers]
    return {"exchanged": max(often, default=0), "matrix": 4 * WIDE.decoder.width * WIDE.decoder.mlp_width}


def of_mesh(shape: str) -> dict[str, object]:
    mesh = pe.make_mesh(**dict(zip(MESH_AXES, map(int, shape.split(",")), strict=True)))
    found = {"looking": looking(mesh)}
    plans = {name: planned(mesh, *step) for name, step in STEPS.items()}
    with jax.set_mesh(mesh):
        steps = {name: {**step_of(*step), "planned": plans[name]} for name, step in STEPS.items()}
        return {**found, **steps, "decoding": decoding()}


if __name__ == "__main__":
    print(json.dumps({shape: of_mesh(shape) for shape in sys.argv[1:]}))
