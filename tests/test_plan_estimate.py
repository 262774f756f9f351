"""Plans without a compiler: beside figures that XLA gave for the same programs, and by hand for small ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.planning.estimate import Cuts, bytes_of, estimated
from pe_rlhf_mm.planning.plan import plan
from pe_rlhf_mm.planning.programs import Load
from pe_rlhf_mm.planning.shapes import SHAPES

RECORDED = json.loads((Path(__file__).parent / "recorded_plans.json").read_text())
"""What `pe-rlhf plan` has told, by the versions that it names; peaks in bytes."""
HOW = {"lora": ("lora", "adam"), "adafactor": ("full", "adafactor"), "adam": ("full", "adam")}
WITHIN = 0.15
"""Of the compiler's figure: what an estimate is good for."""
WHOLE = Cuts(rows=8, row_parts=1, words=999, word_parts=1, weights={}, matrices={})


def name_of(line: dict[str, Any]) -> str:
    return " ".join(line[name] for name in ("model", "stage", "how", "topology"))


@pytest.mark.parametrize("line", RECORDED["plans"], ids=name_of)
def test_an_estimate_is_near_what_the_compiler_said(line: dict[str, Any]) -> None:
    mode, optimizer = HOW[line["how"]]
    settings = pe.TuneConfig(
        mode=mode,  # type: ignore[arg-type]
        optimizer=optimizer,  # type: ignore[arg-type]
        remat="layers",
        reward=pe.RewardConfig(batch_size=line["rows"]),
        rl=pe.RLConfig(prompts=line["rows"], max_tokens=128, passes="together"),
    )
    config, load = SHAPES[f"gemma3-{line['model']}"], Load(1024, 128, line["pictures"])
    found = plan(config, settings, load, stage=line["stage"], topology=line["topology"], compiler=False)
    assert found.estimated
    assert {cost.program for cost in found.costs} == set(line["peaks"])
    assert found.peak == pytest.approx(max(line["peaks"].values()), rel=WITHIN)
    for cost in found.costs:
        assert sum(cost.parts.values()) == cost.peak


def test_arrays_are_there_until_the_last_value_made_of_them_is_used() -> None:
    """Two products of 32 KB at a time, though there are three; what is done to their elements makes none."""
    x = jax.ShapeDtypeStruct((8, 16, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32)

    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        y = jnp.tanh(x @ w) * 2
        z = jnp.exp(y @ w) + 1
        return z @ w

    found = estimated(jax.make_jaxpr(chain)(x, w).jaxpr, WHOLE)
    assert [buffer.size for buffer in found] == [4 * 8 * 16 * 64] * 2


def test_what_a_loop_keeps_for_its_gradient_is_there_while_it_goes_back() -> None:
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32)

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        layer = jax.checkpoint(lambda x, one: (jnp.tanh(x @ one), None))
        return jax.lax.scan(layer, x, w)[0].sum()

    found = estimated(jax.make_jaxpr(jax.grad(loss))(w, x).jaxpr, WHOLE)
    shapes = [buffer.shape for buffer in found]
    assert (5, 8, 64) in shapes  # the input of every layer
    assert (5, 64, 64) in shapes  # and the gradient
    assert not [shape for shape in shapes if shape[0] == 5 and shape not in ((5, 8, 64), (5, 64, 64))]


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((8, 20, 64), 4),
        ((3, 8, 20, 64), 4),
        ((3, 2, 8, 20), 4),
        ((16, 20), 4),
        ((12, 100), 6),
        ((64, 32), 4),
        ((7, 9), 1),
    ],
)
def test_bytes_are_those_of_one_device(shape: tuple[int, ...], parts: int) -> None:
    cuts = Cuts(rows=8, row_parts=4, words=100, word_parts=6, weights={(64, 32): 4, (16, 20): 4}, matrices={})
    assert bytes_of(jax.ShapeDtypeStruct(shape, jnp.bfloat16), cuts) == 2 * jnp.prod(jnp.array(shape)) // parts
