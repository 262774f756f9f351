"""Optimizers: the printed formula of Adafactor, what it remembers of published models, and where that lies."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import pe_rlhf_mm as pe
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.planning.held import bytes_a_device, held, roles_of, trained
from pe_rlhf_mm.planning.shapes import SHAPES
from pe_rlhf_mm.training.optimizers import OPTIMIZERS, adafactor, places_of_moments


def test_adafactor_takes_the_printed_step() -> None:
    """Shazeer & Stern, algorithm 4, in its first step, where the decay is 0: v = r c / mean(r) of the means of rows and
    of columns, u = g / sqrt(v), made shorter where its root mean square is above 1; then the rate."""
    rng = np.random.default_rng(0)
    matrix, bias = rng.normal(size=(128, 160)) ** 3, rng.normal(size=128)
    weights = {"matrix": jnp.ones((128, 160)), "bias": jnp.ones(128)}
    optimizer = adafactor(0.25, 10)
    gradient = {"matrix": jnp.asarray(matrix, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    step, _ = optimizer.update(gradient, optimizer.init(weights), weights)

    def clipped(u: np.ndarray) -> np.ndarray:
        return u / max(1, math.sqrt((u**2).mean()))

    rows, columns = (matrix**2).mean(axis=1, keepdims=True), (matrix**2).mean(axis=0, keepdims=True)
    wanted = -0.25 * clipped(matrix / np.sqrt(rows * columns / rows.mean()))
    np.testing.assert_allclose(step["matrix"], wanted, rtol=1e-4)
    np.testing.assert_allclose(step["bias"], -0.25 * clipped(np.sign(bias)), rtol=1e-5)  # a moment of every number


def test_both_warm_up_and_decay_alike() -> None:
    """Steps of the gradient 1, whose length is the rate: 0 and 1/2 of it in a warm-up of two, 1/20 after the decay."""
    for make in OPTIMIZERS.values():
        optimizer, weight = make(0.1, 12, warmup=2, decay=True), jnp.float32(0)
        state, lengths = optimizer.init(weight), []
        for _ in range(13):
            step, state = optimizer.update(jnp.float32(1), state, weight)
            lengths.append(-float(step))
        np.testing.assert_allclose([lengths[0], lengths[1], lengths[2], lengths[12]], [0, 0.05, 0.1, 0.005], rtol=1e-3)


def test_of_a_matrix_rows_and_columns_are_remembered() -> None:
    """By hand, of gemma3-270m on four devices: of an array whose two longest axes are 128 or more, it without the one
    and it without the other; of any other as many numbers as it has. Adam remembers two of each weight."""
    config, mesh = SHAPES["gemma3-270m"], AbstractMesh((1, 4, 1), MESH_AXES)
    roles = roles_of(config, pe.TuneConfig(mode="full"), "sft", mesh)
    wanted = 0
    for x in jax.tree.leaves(roles.backbone):
        cuts = (*x.sharding.spec, *[None] * (x.ndim - len(x.sharding.spec)))
        own = [n // 4 if "fsdp" in (cut or ()) else n for n, cut in zip(x.shape, cuts, strict=True)]
        *_, second, first = sorted(range(x.ndim), key=lambda n: x.shape[n]) if x.ndim > 1 else (0, 0)
        if x.ndim > 1 and x.shape[second] >= 128:
            wanted += math.prod(own) // own[first] + math.prod(own) // own[second]
        else:
            wanted += math.prod(own)
    found = {
        name: held(roles, trained(roles, ("sft",), make(1e-3, 10), mesh), validated=False)
        for name, make in OPTIMIZERS.items()
    }
    assert 0 <= found["adafactor"].optimizer - 4 * wanted < 1000  # numbers that stand for none, and the count of steps
    assert 0 <= found["adam"].optimizer - 2 * bytes_a_device(trained_weights(roles, mesh)) < 1000
    assert found["adafactor"].optimizer < found["adam"].optimizer / 100


def trained_weights(roles: object, mesh: AbstractMesh) -> object:
    return trained(roles, ("sft",), OPTIMIZERS["adam"](1e-3, 10), mesh).trainable  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "cut", "row", "column"),
    [
        ((6, 256, 512), (None, "fsdp", "model"), (None, "fsdp"), (None, "model")),
        ((6, 512, 256), (None, "fsdp", "model"), (None, "model"), (None, "fsdp")),
        ((512, 512), ("fsdp", "model"), ("fsdp",), ("model",)),
        ((4096, 256), (("fsdp", "model"),), (None,), (("fsdp", "model"),)),
    ],
)
def test_moments_of_rows_and_columns_are_cut_as_the_axes_that_are_left(
    shape: tuple, cut: tuple, row: tuple, column: tuple
) -> None:
    """Moments of rows have lost the longest axis, those of columns the second longest."""
    mesh = AbstractMesh((1, 2, 2), MESH_AXES)
    weight = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*cut)))
    weights = {"policy": weight}
    places = places_of_moments(jax.eval_shape(adafactor(1e-3, 10).init, weights), weights, mesh)
    found = {jax.tree_util.keystr(path): place.spec for path, place in jax.tree_util.tree_leaves_with_path(places)}
    (of_rows,) = (spec for name, spec in found.items() if "v_row" in name)
    (of_columns,) = (spec for name, spec in found.items() if "v_col" in name)
    assert (tuple(of_rows), tuple(of_columns)) == (row, column)
