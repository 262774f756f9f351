"""Weights on a mesh of four devices: in a process of its own, since the other tests see one device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from made_up_devices import seeing

from pe_rlhf_mm.data.streams import blocks
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.sharding import by_rows, cut, gathered, make_mesh, partition

FIXTURES = Path(__file__).parent / "fixtures"
MESH = AbstractMesh((1, 2, 4), ("data", "fsdp", "model"))
LOAD = r"""
import json, sys
import jax, numpy as np
import pe_rlhf_mm as pe
from pe_rlhf_mm.models.quantize import Quantized, dequantized

folder, shape, quantize = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
whole = pe.load_model(folder, dtype="float32", quantize=quantize)
cut = pe.load_model(folder, dtype="float32", quantize=quantize, mesh=pe.make_mesh(**shape))
tokens = np.random.default_rng(0).integers(20, 60, (4, 24))
full, parts = jax.tree.leaves(whole.state), jax.tree.leaves(cut.state)
print(json.dumps({
    "equal": all(np.array_equal(a, b) for a, b in zip(full, parts, strict=True)),
    "devices": len({d for x in parts for d in x.sharding.device_set}),
    "bytes": sum(x.nbytes for x in full),
    "first": sum(x.addressable_shards[0].data.nbytes for x in parts),
    "difference": float(np.abs(np.asarray(whole.logits(tokens)) - np.asarray(cut.logits(tokens))).max()),
}))
"""


def loaded(folder: str, shape: dict[str, int], quantize: str | None = None) -> dict:
    """What a process with four devices finds of a model loaded onto them, beside the same model on one."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, FIXTURES / folder, json.dumps(shape), json.dumps(quantize)],
        capture_output=True, text=True, check=False, env=seeing(4),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("folder", "shape", "quantize"),
    [
        ("llama", {"fsdp": 4}, None),
        ("gemma3", {"fsdp": 2, "model": 2}, None),
        ("llama_sharded", {"model": 4}, None),
        ("llama", {"fsdp": 2, "model": 2}, "int8"),
        ("llama", {"fsdp": 4}, "nf4"),
    ],
)
def test_weights_lie_in_parts_and_the_model_is_the_same(folder: str, shape: dict, quantize: str | None) -> None:
    found = loaded(folder, shape, quantize)
    assert found["equal"]
    assert found["devices"] == 4
    assert found["difference"] < 1e-4
    assert found["first"] < 0.45 * found["bytes"]  # a quarter of what is cut, and all norms


def test_an_axis_that_is_not_divided_evenly_stays_whole() -> None:
    assert partition(("vocabulary", "embed"), (16, 6), MESH) == jax.P(("fsdp", "model"), None)
    assert partition(("vocabulary", "embed"), (15, 6), MESH) == jax.P(None, ("fsdp",))
    assert partition((None, "embed", "heads"), (3, 7, 8), MESH) == jax.P(None, None, ("model",))


def test_without_a_mesh_nothing_is_done_at_all() -> None:
    x = jnp.ones((4, 8))
    assert cut(x, "rows") is x
    assert gathered(x, "embed", "mlp") is x
    assert by_rows((x, 3))[0] is x


def test_rows_go_to_the_devices_of_data_and_fsdp_and_what_sees_a_part_of_the_vocabulary_shares_them() -> None:
    mesh = AbstractMesh((2, 2, 4), ("data", "fsdp", "model"))
    assert partition(("rows", None), (8, 5), mesh) == jax.P(("data", "fsdp"), None)
    assert partition(("shared rows", None, "vocabulary"), (8, 5, 16), mesh) == jax.P(("data",), None, ("fsdp", "model"))
    assert partition(("rows", "kv_heads"), (6, 2), mesh) == jax.P(None, None)


def test_a_block_that_is_only_scored_has_rows_for_every_device() -> None:
    sizes = np.full((9, 1), 96)
    with jax.sharding.use_abstract_mesh(AbstractMesh((3, 2, 1), ("data", "fsdp", "model"))):
        found = blocks(sizes, rows=128, tokens=480)
    assert [(block.rows, len(block.filled)) for block in found] == [(6, 6), (6, 6)]  # five would fit, and 6 divide
    assert [n for block in found for n in block.indices] == list(range(9))
    assert [block.rows for block in blocks(sizes, rows=128, tokens=480)] == [5, 5]


def test_a_mesh_of_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs 4096 devices.*this process sees 1"):
        make_mesh(data=64, fsdp=64)
    with pytest.raises(UserError, match="each axis 1 at least"):
        make_mesh(fsdp=0)
