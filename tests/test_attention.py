"""Every kernel of attention computes what the plain one does, forward and backward; and which of them is taken."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh
from made_up_devices import seeing
from models import CONFIG

import pe_rlhf_mm as pe
from pe_rlhf_mm.data.cache import processor_fingerprint
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import attention, cudnn, flash, kernels, vlm
from pe_rlhf_mm.models.attention import EARLIER, FURTHEST, NO_TOKEN, NOBODY, KeyValues, Sight, mask_of
from pe_rlhf_mm.models.config import BlockConfig, LayerKind, Rope
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.models.stack import Stack
from pe_rlhf_mm.planning.plan import plan
from pe_rlhf_mm.planning.programs import Load
from pe_rlhf_mm.types import Completions, Packed, Prompts

ROWS, LENGTH, HEADS, KV_HEADS, WIDTH = 2, 40, 4, 2, 8
BLOCK = BlockConfig(layers=2, width=32, heads=HEADS, kv_heads=KV_HEADS, head_width=WIDTH, mlp_width=16)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
"""float32: sums of 40 numbers of about 1, in another order."""
AT = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
ALONE = jnp.full_like(AT, NO_TOKEN)
SEES = dataclasses.replace(CONFIG, seen_at_once="images")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks in 40 tokens, the last of them not full."""
    monkeypatch.setattr(flash, "BLOCKS", (16,))


def of(rows: vlm.Rows, window: int | None = None) -> Sight:
    at = rows.positions[..., 0]
    reach = jnp.full_like(at, FURTHEST) if window is None else at + window
    return Sight(rows.enter, at, ALONE, rows.enter, rows.leave, reach)


def prompt_once(config: vlm.VLMConfig = CONFIG) -> vlm.Rows:
    """Three completions of 7 behind a prompt of 19, which is padded by 4 in one row; an image of 4 in both."""
    tokens = np.full((ROWS, 19), 9, np.int32)
    tokens[:, 6:10] = config.image_id
    said = np.ones((ROWS, 3, 7), bool)
    said[0, 1, 3:] = False
    prompts = Prompts(tokens, np.arange(19)[None] >= np.array([[4], [0]]))
    return vlm.join(config, prompts, Completions(np.full((ROWS, 3, 7), 9, np.int32), said))


def packed() -> vlm.Rows:
    """Conversations of 11, 14 and 7 tokens in a row, and padding behind them, which fills the last block."""
    leave = np.repeat([11, 25, 32, NOBODY], [11, 14, 7, 8])[None].repeat(ROWS, 0)
    begin = np.repeat([0, 11, 25, 32], [11, 14, 7, 8])[None]
    positions = np.broadcast_to((np.arange(LENGTH) - begin)[..., None], (ROWS, LENGTH, 1))
    some, none = np.full((ROWS, LENGTH), 9, np.int32), np.zeros((ROWS, 1), np.int32)
    return vlm.packed_rows(CONFIG, Packed(some, positions, leave, some > 9, none, none, none > 0))


def after_a_history() -> Sight:
    """24 tokens behind 16 that were read earlier, 5 of which are padding."""
    real = jnp.where(jnp.arange(16) < 11, FURTHEST, NOBODY) + 0 * AT[:, :16]
    at, earlier = AT[:, :24], jnp.full_like(real, EARLIER)
    keys = (jnp.concatenate(pair, axis=1) for pair in ((earlier, at), (real, at * 0 + 24), (AT[:, :16], at + 11)))
    enter, leave, key_at = keys
    return Sight(at, at + 11, ALONE[:, :24], enter, leave, key_at + 14)


def seen_at_once() -> Sight:
    """A prompt of 38 that sees itself both ways, from its last block to its first, whatever the window of its reply."""
    enter = jnp.where(AT < 38, 0, AT)
    return Sight(enter, AT, enter, enter, AT * 0 + LENGTH, AT + 6)


SIGHTS: dict[str, Callable[[], Sight]] = {  # of 40 tokens
    "prompt once": lambda: of(prompt_once()),
    "images both ways": lambda: of(prompt_once(SEES)),
    "window": lambda: of(prompt_once(), window=9),
    "packed": lambda: of(packed()),
    "packed, window": lambda: of(packed(), window=5),
    "prompt at once": seen_at_once,
    "everybody": lambda: jax.tree.map(lambda x: x[0], attention.everybody(ROWS, LENGTH)),
}


def together() -> Sight:
    """All of them as rows of one batch, which is compiled once."""
    return Sight(*(jnp.concatenate(parts) for parts in zip(*(sight() for sight in SIGHTS.values()), strict=True)))


def drawn(sight: Sight, *leading: int) -> tuple[jax.Array, ...]:
    """Queries, keys, values, and what the output is multiplied with before it is summed."""
    rng, (rows, queries), keys = np.random.default_rng(0), sight.enter.shape, sight.leave.shape[1]
    shapes = [(queries, HEADS), (keys, KV_HEADS), (keys, KV_HEADS), (queries, HEADS)]
    return tuple(jnp.asarray(rng.normal(size=(*leading, rows, *s, WIDTH)), jnp.float32) for s in shapes)


def with_gradients(attend: Callable[..., jax.Array], *given: jax.Array) -> list[np.ndarray]:
    """What attention gives, and the gradients of queries, keys and values."""

    def summed(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attend(q, k, v)
        return jnp.sum(out * given[3]), out

    (_, out), slopes = jax.jit(jax.value_and_grad(summed, argnums=(0, 1, 2), has_aux=True))(*given[:3])
    return [np.asarray(x) for x in (out, *slopes)]


def by(kernel: str, sight: Sight | None, config: BlockConfig = BLOCK, length: int = LENGTH) -> Callable[..., jax.Array]:
    """Attention of one kind of layer, as a stack computes it."""
    one = None if sight is None else jax.tree.map(lambda x: x[None], sight)
    prepared = jax.tree.map(lambda x: x[0], kernels.KERNELS[kernel].prepare(one, (ROWS, length)))
    return lambda q, k, v: kernels.KERNELS[kernel].attend(q, KeyValues(k, v), prepared, config)


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
def test_every_kernel_computes_attention(kernel: str, as_cudnn: None) -> None:
    sight = together()
    given = drawn(sight)
    found, expected = (with_gradients(by(each, sight), *given) for each in (kernel, "xla"))
    for n, name in enumerate(SIGHTS):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[ROWS * n :][:ROWS], other[ROWS * n :][:ROWS], **CLOSE, err_msg=name)


@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
def test_tokens_behind_a_history_attend_to_it(kernel: str, as_cudnn: None) -> None:
    sight = after_a_history()
    given = drawn(sight)
    same(with_gradients(by(kernel, sight), *given), with_gradients(by("xla", sight), *given))


def test_flash_attention_bounds_scores() -> None:
    sight, config = SIGHTS["window"](), dataclasses.replace(BLOCK, soft_cap=0.7, query_scale=0.9)
    given = drawn(sight)
    same(with_gradients(by("flash", sight, config), *given), with_gradients(by("xla", sight, config), *given))


@pytest.mark.parametrize(("kernel", "length"), [("flash", 16), ("cudnn", 8), ("cudnn", 9)])
def test_all_see_all_without_a_sight(kernel: str, length: int, as_cudnn: None) -> None:
    """cuDNN takes no odd lengths where there is a mask."""
    given = drawn(jax.tree.map(lambda x: x[0], attention.everybody(ROWS, length)))
    same(with_gradients(by(kernel, None, length=length), *given), with_gradients(by("xla", None), *given))


def test_masks_are_what_the_words_say() -> None:
    """Of a prompt with completions, pair by pair."""
    mask = np.asarray(mask_of(SIGHTS["window"]()))[0]
    completion = np.repeat([0, 1, 2, 3], [19, 7, 7, 7])
    position = np.concatenate([np.maximum(np.arange(19) - 4, 0), *[15 + np.arange(7)] * 3])
    for q in range(LENGTH):
        for k in range(LENGTH):
            real = k >= 4 and not 19 + 7 + 3 <= k < 19 + 14
            allowed = k <= q and completion[k] in (0, completion[q]) and position[q] - position[k] < 9
            assert mask[q, k] == ((real and allowed) or q == k), (q, k)


def test_blocks_that_nobody_sees_are_left_out() -> None:
    """Blocks end at 16 and 32. Of a conversation that begins at 11, the second block sees the first one, with a window
    of 5 as well; padding, the third block, sees itself."""
    for name in ("packed", "packed, window"):
        np.testing.assert_array_equal(flash.numbers_of(SIGHTS[name]()).runs[0], [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    far = Sight(AT, AT, ALONE, AT, AT * 0 + FURTHEST, AT + 5)  # where a window of 5 is all that ends what is seen
    np.testing.assert_array_equal(flash.numbers_of(far).runs[0], [[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    # The third completion begins at 33, position 15 in this row: a window of 9 reaches back to position 7, token 11.
    np.testing.assert_array_equal(flash.numbers_of(SIGHTS["window"]()).runs[0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize("sight", [together, after_a_history])
def test_no_block_that_somebody_sees_is_left_out(sight: Callable[[], Sight]) -> None:
    runs = np.asarray(flash.numbers_of(sight()).runs)
    for row, q, k in np.argwhere(np.asarray(mask_of(sight()))):
        assert runs[row, q // 16, k // 16], (row, q, k)


@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
def test_roles_side_by_side(kernel: str, as_cudnn: None) -> None:
    """A mapped axis of queries, keys and values, over one mask."""
    sight = SIGHTS["prompt once"]()
    given = drawn(sight, 2)
    same(
        with_gradients(jax.vmap(by(kernel, sight)), *given),
        with_gradients(jax.vmap(by("xla", sight)), *given),
    )


@pytest.fixture
def as_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of JAX that calls cuDNN, with its other implementation."""
    monkeypatch.setattr(cudnn, "IMPLEMENTATION", "xla")


def test_a_layer_keeps_what_its_kernel_needs() -> None:
    """One call forward and two backward: no second one forward, in the backward pass, for the sum of the weights."""
    stack = Stack(dataclasses.replace(BLOCK, attention="flash", kinds=(LayerKind(Rope(1e4)),)), rngs=nnx.Rngs(0))
    sight = jax.tree.map(lambda x: x[None], SIGHTS["packed"]())

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(stack(x, None, sight).x ** 2)

    program = jax.make_jaxpr(jax.grad(loss))(jnp.ones((ROWS, LENGTH, 32)))
    assert sum(name == "pallas_call" for name in used(program.jaxpr)) == 3


def used(jaxpr: Any) -> Iterator[str]:
    """The names of all operations, those within others too, whose results are used."""
    read = {id(x) for x in [*jaxpr.outvars, *(x for equation in jaxpr.eqns for x in equation.invars)]}
    for equation in jaxpr.eqns:
        if not read.isdisjoint(map(id, equation.outvars)):
            yield equation.primitive.name
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from used(inner)


CHOICES = [
    ("tpu", jnp.bfloat16, 1152, {}, "flash"),
    ("tpu", jnp.bfloat16, 1152, {"soft_cap": 50.0}, "flash"),
    ("tpu", jnp.float16, 1152, {}, "xla"),
    ("tpu", jnp.bfloat16, 8, {}, "xla"),
    ("gpu", jnp.bfloat16, 1152, {}, "cudnn"),
    ("gpu", jnp.float32, 1152, {}, "xla"),
    ("gpu", jnp.bfloat16, 1152, {"soft_cap": 50.0}, "xla"),
    ("gpu", jnp.bfloat16, 1152, {"head_width": 12}, "xla"),
    ("gpu", jnp.bfloat16, 1152, {"head_width": 256}, "cudnn"),
    ("cpu", jnp.float32, 1152, {}, "xla"),
]


@pytest.mark.parametrize(("platform", "dtype", "length", "changes", "expected"), CHOICES)
def test_the_kernel_that_pays_is_taken(
    platform: str, dtype: type, length: int, changes: dict, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "platform", lambda: platform)
    monkeypatch.setattr(cudnn, "capability", lambda: 9.0)
    config = dataclasses.replace(BLOCK, **changes)
    assert kernels.kernel_for(config, dtype, length) is kernels.KERNELS[expected]


REFUSED = [
    ("cudnn", "cpu", jnp.bfloat16, {}, "cuDNN is for NVIDIA GPUs, and this program is compiled for a CPU"),
    ("cudnn", "gpu", jnp.float32, {}, "in bfloat16 or float16, and this model is in float32"),
    ("cudnn", "gpu", jnp.bfloat16, {"soft_cap": 50.0}, "no soft cap"),
    ("cudnn", "gpu", jnp.bfloat16, {"head_width": 320}, "up to 256 here, and those of this model are 320"),
    ("flash", "gpu", jnp.bfloat16, {}, "compiled for a GPU"),
    ("flash", "tpu", jnp.float16, {}, "no float16"),
]


@pytest.mark.parametrize(("kernel", "platform", "dtype", "changes", "why"), REFUSED)
def test_a_kernel_that_is_named_and_cannot_says_why(
    kernel: str, platform: str, dtype: type, changes: dict, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "platform", lambda: platform)
    monkeypatch.setattr(cudnn, "capability", lambda: 9.0)
    with pytest.raises(UserError, match=why):
        kernels.kernel_for(dataclasses.replace(BLOCK, attention=kernel, **changes), dtype, 1152)


def test_older_gpus_and_those_of_others_have_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    wide, narrow = (dataclasses.replace(BLOCK, head_width=width) for width in (256, 128))
    found = {}
    for has in (0.0, 7.5, 8.0, 12.0):
        monkeypatch.setattr(cudnn, "capability", lambda has=has: has)
        found[has] = [kernels.kernel_for(config, jnp.bfloat16, 64) for config in (narrow, wide)]
    xla, fused = kernels.KERNELS["xla"], kernels.KERNELS["cudnn"]
    assert found == {0.0: [xla, xla], 7.5: [xla, xla], 8.0: [fused, xla], 12.0: [fused, fused]}


@pytest.mark.parametrize(("told", "expected"), [("9.0", 9.0), ("12.0", 12.0), ("gfx942", 0.0), (None, 0.0)])
def test_the_capability_is_what_the_device_tells(
    told: str | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimpleNamespace() if told is None else SimpleNamespace(compute_capability=told)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert cudnn.capability() == expected


def test_a_kernel_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "platform", lambda: "tpu")
    config = dataclasses.replace(BLOCK, attention="flash")
    assert kernels.kernel_for(config, jnp.bfloat16, 8) is kernels.KERNELS["flash"]


def test_a_policy_replies_alike_by_any_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "BLOCKS", (64,))
    auto, flashed = (pe.load_policy("tiny-vlm", attention=kernel) for kernel in ("auto", "flash"))
    asked = ["the circle is"]
    assert flashed.complete(asked, max_tokens=2) == auto.complete(asked, max_tokens=2)
    assert flashed.processor.config.decoder.attention == "flash"


def test_a_tuning_is_told_which_kernel_it_cannot_have(tmp_path: Path) -> None:
    config = pe.TuneConfig(attention="cudnn", sft=pe.SFTConfig(steps=1, batch_size=2))
    with pytest.raises(UserError, match="cuDNN is for NVIDIA GPUs"):
        pe.tune("pe_rlhf_mm.testing:ToyTask", out=tmp_path / "run", config=config, quiet=True)
    with pytest.raises(UserError, match="cuDNN is for NVIDIA GPUs"):
        plan(CONFIG, config, Load(prompt_tokens=8), stage="sft", topology="here")


def test_a_kernel_that_is_none_is_refused_and_so_is_one_of_another_platform() -> None:
    with pytest.raises(UserError, match="attention is 'splash'; there are auto, xla, flash, cudnn"):
        pe.load_model("tiny-vlm", attention="splash")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cuDNN is for NVIDIA GPUs, and this program is compiled for a CPU"):
        pe.load_model("tiny-vlm", attention="cudnn").logits(np.full((1, 4), 9))


def test_what_is_tokenized_once_serves_every_kernel() -> None:
    found = {processor_fingerprint(pe.load_model("tiny-vlm", attention=k).processor) for k in ("auto", "xla", "flash")}
    assert len(found) == 1


@pytest.mark.parametrize("changes", [{}, {"soft_cap": 50.0, "head_width": 72}, {"head_width": 256}])
def test_the_kernels_are_lowered_for_a_tpu(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as JAX goes without a TPU's compiler: every operation is one that its kernels may have."""
    monkeypatch.undo()  # blocks are of the size that TPUs are given
    chip = AbstractMesh((1, 1, 1), MESH_AXES, abstract_device=AbstractDevice("TPU v5 lite", 1, "tpu"))
    config = dataclasses.replace(BLOCK, **changes)
    numbers = jax.tree.map(lambda x: x[0], flash.numbers_of(attention.everybody(1, 600)))
    given = [jnp.zeros((1, 600, heads, config.head_width), jnp.bfloat16) for heads in (HEADS, KV_HEADS, KV_HEADS)]

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return flash.attend(q, KeyValues(k, v), numbers, config).astype(jnp.float32).sum()

    with jax.sharding.use_abstract_mesh(chip):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*given).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("@tpu_custom_call") == 3


def test_kernels_compute_attention_on_four_devices() -> None:
    """Each device its rows and heads: of 14 rows and 4 heads, 7 rows and 2 heads, 3 blocks of queries and 3 of keys."""
    script = Path(__file__).parent / "attention_on_a_mesh.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=seeing(4))
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert max(found["flash"], found["cudnn"]) < 2e-6
    assert found["layers"] < 1e-5
    assert found["grids"] == ["(7, 2, 3, 3)"]
    assert found["looks with"] == "xla"  # in a thread that no mesh is set in
