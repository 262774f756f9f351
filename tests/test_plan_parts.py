"""What a peak is made of: the compiler's account of buffers, read in its own words and summed by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import pe_rlhf_mm as pe
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.planning.buffers import Buffer, dump_to, fullest
from pe_rlhf_mm.planning.held import Held
from pe_rlhf_mm.planning.parts import Sizes, kind_of, parts_of, sizes_of
from pe_rlhf_mm.planning.plan import plan
from pe_rlhf_mm.planning.programs import Load

PLACES = """
allocation 0: size 512, page 0, parameter 0, shape |f32[128]| at ShapeIndex {}:
 value: <1 x @0> (size=512,offset=0): f32[128]{0}
allocation 1: size 64, color 6, page 0, preallocated-temp:
 value: <2 small @6> (size=64,offset=0): s32[16]{0:T(128)S(6)}
allocation 2: size 4000, page 0, preallocated-temp:
 value: <3 early @0> (size=3900,offset=0): f32[975]{0:T(128)}
 value: <4 stack{0} (phi) @0> (size=1000,offset=0): bf16[5,4,5,5]{3,2,1,0:T(8,128)(2,1)}
 value: <5 while{1} (phi) @0> (size=1000,offset=0): bf16[5,4,5,5]{3,2,1,0:T(8,128)(2,1)}
 value: <6 all-gather.7 @0> (size=2000,offset=1000): f32[20,25]{1,0:T(8,128)}
 value: <7 fusion.1 @0> (size=1000,offset=3000): f32[250]{0:T(128)}
"""
SPANS = """HloLiveRange (max 32):
  InstructionSequence:
    0:x
  BufferLiveRange:
    x{}:0-32
    small{}:0-32
    early{}:0-3
    stack{0}:4-9
    while{1}:9-12
    all-gather.7{}:6-10
    fusion.1{}:9-11
  Live ranges at 24 (peak):
    early{}: 3900 bytes (cumulative: 3900 bytes)
"""


def test_bytes_are_counted_once_at_the_fullest_instant(tmp_path: Path) -> None:
    """At 9: the stack, which the loop goes on with in its place, what is gathered, and a fusion. Before it, 3900."""
    (tmp_path / "module_0001.jit_f.after_optimizations-buffer-assignment.txt").write_text(PLACES)
    (tmp_path / "module_0001.jit_f.after_optimizations-live-range.txt").write_text(SPANS)
    found = sorted(fullest(str(tmp_path)), key=lambda buffer: buffer.name)
    assert [(b.size, b.shape) for b in found] == [(2000, (20, 25)), (1000, (250,)), (1000, (5, 4, 5, 5))]
    assert found[0].name == "all-gather.7"


def test_a_compiler_that_says_nothing_is_told_nothing_of(tmp_path: Path) -> None:
    assert fullest(str(tmp_path)) == []


def test_the_account_is_of_the_memory_that_the_compiler_takes(tmp_path: Path) -> None:
    """A loop that keeps 24 matrices for its gradient."""

    def end(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=24)[0].sum()

    matrix = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(jax.grad(end)).lower(matrix).compile(compiler_options=dump_to(str(tmp_path)))
    found, memory = fullest(str(tmp_path)), compiled.memory_analysis()
    assert memory is not None
    assert sum(b.size for b in found) == pytest.approx(memory.temp_size_in_bytes, rel=0.05)
    assert (24, 64, 64) in [b.shape for b in found]


SIZES = Sizes(
    layers=frozenset({6, 3}), words=500, weights=frozenset({(500, 32), (6, 32, 64), (32,)}), ranks=frozenset({4})
)


@pytest.mark.parametrize(
    ("name", "shape", "learns", "kind"),
    [
        ("fusion", (6, 4, 96, 64), True, "activations"),
        ("fusion", (3, 4, 9, 64), True, "activations"),
        ("fusion", (6, 4, 96, 2, 32), False, "kv_cache"),
        ("fusion", (6, 32, 64), True, "gradients"),
        ("fusion", (500, 32), True, "gradients"),
        ("fusion", (6, 1, 32, 4), True, "gradients"),
        ("fusion", (1, 128, 500), True, "logits"),
        ("all-gather.3", (1, 128, 500), True, "logits"),
        ("all-gather.3", (32, 64), True, "gathered"),
        ("fusion", (4, 8, 96, 96), True, "attention"),
        ("fusion", (4, 96, 64), True, "rest"),
    ],
)
def test_what_a_buffer_is(name: str, shape: tuple[int, ...], learns: bool, kind: str) -> None:
    assert kind_of(Buffer(1, name, shape), SIZES, learns=learns) == kind


def test_parts_add_up_to_the_peak() -> None:
    buffers = [Buffer(30, "a", (6, 4, 96, 64)), Buffer(5, "b", (4, 96, 64)), Buffer(7, "c", (6, 4, 96, 64))]
    parts = parts_of(Held(100, 10, 0, 20), 3, 200, buffers, SIZES, learns=True)
    assert parts == {"backbone": 100, "adapters": 10, "optimizer": 20, "batch": 3, "activations": 37, "rest": 30}


def test_sizes_are_those_of_one_device() -> None:
    tiny = pe.load_model("tiny-vlm").config
    devices = np.array([jax.devices()[0]] * 4).reshape(1, 4, 1)
    mesh = Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    found, block = sizes_of(tiny, pe.LoraConfig(), mesh), tiny.decoder
    assert (found.layers, found.words) == ({block.layers, tiny.vision.block.layers}, tiny.vocabulary // 4)
    assert (block.layers, block.width // 4, block.mlp_width) in found.weights


def test_of_a_real_step_the_activations_are_most() -> None:
    """Every layer keeps its products, of all rows: as many numbers as can be counted by hand, and this compiler holds
    some of them in float32 besides."""
    tiny = dataclasses.replace(pe.load_model("tiny-vlm").config, vision=None)
    block, rows, length = tiny.decoder, 8, 96 + 2 * 16
    settings = pe.TuneConfig(reward=pe.RewardConfig(batch_size=rows), lora=pe.LoraConfig(rank=2))
    found = plan(tiny, settings, Load(96, 16, 0), stage="reward", topology="here")
    (cost,) = found.costs
    wide, keys = block.heads * block.head_width, block.kv_heads * block.head_width
    numbers = block.layers * rows * length * (2 * wide + 2 * keys + 2 * block.mlp_width + 2 * block.width)
    assert sum(cost.parts.values()) == cost.peak
    assert cost.parts["activations"] == max(cost.parts.values())
    assert 2 * numbers <= cost.parts["activations"] <= 4 * (2 + 4) * numbers
    assert "of each peak:\n  step: " in found.text()
