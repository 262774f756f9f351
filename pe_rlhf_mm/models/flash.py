"""Attention that holds no scores in memory: kernels for TPUs, in Pallas.

A kernel goes through blocks of queries and keys, and keeps of a query only the largest score so far, the sum of the
weights and the mixed values (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022). The backward pass computes
the weights again, from the logarithm of their sum. Whom a query sees is computed in the block, out of the integers of
`Sight`: no mask is held either, and a block of keys that no query of a block sees is neither fetched nor multiplied.

JAX's own kernel for TPUs (splash attention) does not fit here: its masks are known when a program is compiled, or else
are held pair by pair, three times.

Scores stand as [keys, queries]: what belongs to a query, its maximum and sum, is then a row of a register.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pe_rlhf_mm.models.attention import NO_TOKEN, NOBODY, KeyValues, Sight, capped
from pe_rlhf_mm.models.config import BlockConfig
from pe_rlhf_mm.models.sharding import by_rows_and_heads, platform

BLOCKS = (512, 384, 256, 128)
"""Tokens of a block, of queries as of keys. The last is the least that a TPU's registers are laid out for."""
LEAST = 256
"""Tokens from which on the kernels pay: by the compiler they then move a quarter of the bytes, and hold two thirds."""
LOWEST = -1e30
"""In place of a score that does not count: a number, so that a difference of two is one."""
HEADS_FIRST = ("rows", "kv_heads")
"""The first axes of queries, keys and values, as a mesh cuts them."""


class Numbers(NamedTuple):
    """`Sight` as the kernels read it, filled up to whole blocks.

    `query`: enter, position and united. `key`: enter, leave and reach. `runs`: 1 for a block of queries that sees
    anything of a block of keys.
    """

    query: Int[Array, "*kinds B 3 S"]
    key: Int[Array, "*kinds B seen 3"]
    runs: Int[Array, "*kinds B I J"]


class How(NamedTuple):
    """What a kernel is compiled for. `offset`: the key that is the first query's own token."""

    scale: float
    cap: float | None
    offset: int
    interpret: bool


def cannot(config: BlockConfig, dtype: Any, platform: str) -> str:
    """Why these kernels do not compute this attention; nothing if they do. On a CPU they are interpreted."""
    if platform not in ("tpu", "cpu"):
        return f"the kernels are TPUs', and this program is compiled for a {platform.upper()}"
    return "TPUs have no float16" if platform == "tpu" and dtype == jnp.float16 else ""


def pays(config: BlockConfig, length: int, platform: str) -> bool:
    """Interpreted they do not, nor for so few tokens that scores are no larger than what fills up the blocks."""
    return platform == "tpu" and length >= LEAST


def block_of(length: int) -> int:
    """The largest block that fills a length up by a tenth at most more than the smallest does."""
    least = _filled(length, BLOCKS[-1])
    return next(block for block in BLOCKS if _filled(length, block) <= 1.1 * least)


def _filled(length: int, block: int) -> int:
    return -(-length // block) * block


def _padded(x: Array, axis: int, value: int = 0) -> Array:
    length = x.shape[axis]
    more = _filled(length, block_of(length)) - length
    return jnp.pad(x, [(0, more if n == axis % x.ndim else 0) for n in range(x.ndim)], constant_values=value)


def numbers_of(sight: Sight) -> Numbers:
    """What the kernels of all layers need to know, computed once for each kind of layer."""

    def in_blocks(x: Array, fill: int) -> Int[Array, "*kinds B blocks size"]:
        return _padded(x, -1, fill).reshape(*x.shape[:-1], -1, block_of(x.shape[-1]))

    def in_a_row(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], -1)

    # What only fills a block sees nobody, and is seen by nobody.
    queries = [in_blocks(x, fill) for x, fill in zip(sight[:3], (NO_TOKEN, 0, NO_TOKEN), strict=True)]
    keys = [in_blocks(x, fill) for x, fill in zip(sight[3:], (0, NOBODY, 0), strict=True)]
    runs = _runs(*queries, *keys, offset=sight.leave.shape[-1] - sight.enter.shape[-1])
    return Numbers(
        jnp.stack([in_a_row(x) for x in queries], axis=-2), jnp.stack([in_a_row(x) for x in keys], axis=-1), runs
    )


def _runs(
    enter: Array, position: Array, united: Array, key_enter: Array, leave: Array, reach: Array, *, offset: int
) -> Int[Array, "*kinds B I J"]:
    """Pairs of blocks that cannot be left out, judged by the least and the most of what their tokens have."""

    def extent(x: Array, counts: Array, axis: int) -> tuple[Array, Array]:
        limits = jnp.iinfo(jnp.int32)
        least, most = jnp.where(counts, x, limits.max).min(-1), jnp.where(counts, x, limits.min).max(-1)
        return jnp.expand_dims(least, axis), jnp.expand_dims(most, axis)

    token, seen = enter > NO_TOKEN, leave > NOBODY
    first, last = extent(enter, token, -1)
    key_first, key_last = extent(key_enter, seen, -2)
    least_united, most_united = extent(united, united > NO_TOKEN, -1)
    there = (key_first <= last) & (first < extent(leave, seen, -2)[1])
    near = extent(position, token, -1)[0] < extent(reach, seen, -2)[1]
    near |= (least_united <= key_last) & (key_first <= most_united)
    begin, size = jnp.arange(enter.shape[-2])[:, None] * enter.shape[-1] + offset, enter.shape[-1]
    key_begin, key_size = jnp.arange(leave.shape[-2]) * leave.shape[-1], leave.shape[-1]
    itself = (begin < key_begin + key_size) & (key_begin < begin + size)
    return (there & near | itself).astype(jnp.int32)


def attend(
    query: Float[Array, "B S H C"], past: KeyValues, numbers: Numbers, config: BlockConfig
) -> Float[Array, "B S H C"]:
    """What `attention.attend` computes. Off a TPU the kernels are interpreted: for tests, and slow."""
    length, seen = query.shape[1], past.keys.shape[1]
    how = How(config.scale, config.soft_cap, seen - length, platform() != "tpu")
    heads_first = (_padded(x, 1).swapaxes(1, 2) for x in (query, *past))
    return _flash(how, *heads_first, numbers)[:, :, :length].swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(
    how: How, q: Float[Array, "B H S C"], k: Float[Array, "B K L C"], v: Float[Array, "B K L C"], numbers: Numbers
) -> Float[Array, "B H S C"]:
    return _forward(how, q, k, v, numbers)[0]


def _forward(how: How, q: Array, k: Array, v: Array, numbers: Numbers) -> tuple[Array, tuple[Any, ...]]:
    out, total = by_rows_and_heads(functools.partial(_mixed, how), HEADS_FIRST, (q, k, v), numbers)
    # The names of what a layer keeps for its backward pass: without the sum the kernel would run once more for it.
    out, total = checkpoint_name(out, "attended"), checkpoint_name(total, "attended")
    return out, (q, k, v, numbers, out, total)


def _backward(how: How, kept: tuple[Any, ...], gradient: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, numbers, out, total = kept
    given = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1)[:, :, None]
    arrays = (q, k, v, gradient, total, given)
    return *by_rows_and_heads(functools.partial(_gradients, how), HEADS_FIRST, arrays, numbers), None


_flash.defvjp(_forward, _backward)


class Sizes(NamedTuple):
    """Lengths of what a kernel is called for."""

    rows: int
    heads: int
    group: int
    queries: int
    keys: int
    query_block: int
    key_block: int
    width: int

    def meet(self, runs: Any, row: Any, i: Any, j: Any) -> Any:
        """Whether a block of queries sees anything of a block of keys."""
        return runs[(row * self.queries + i) * self.keys + j] != 0


def _sizes(q: Array, k: Array, numbers: Numbers) -> Sizes:
    (rows, heads, length, width), (_, kv_heads, seen, _), (_, queries, keys) = q.shape, k.shape, numbers.runs.shape
    return Sizes(rows, heads, heads // kv_heads, queries, keys, length // queries, seen // keys, width)


def _scores(
    how: How, q: Any, k: Any, query: Any, key: Any, block: tuple[Array, Array]
) -> tuple[Float[Array, "J I"], Array]:
    """Capped scores of a block of keys with a block of queries, and which of them count."""
    raw = jax.lax.dot_general(k[...], q[...], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    enter, position, united = (query[n : n + 1] for n in range(3))
    key_enter, leave, reach = (key[:, n : n + 1] for n in range(3))
    own = block[0] * q.shape[0] + how.offset + jax.lax.broadcasted_iota(jnp.int32, raw.shape, 1)
    itself = own == block[1] * k.shape[0] + jax.lax.broadcasted_iota(jnp.int32, raw.shape, 0)
    within = (position < reach) | (united == key_enter)
    return capped(raw * how.scale, how.cap), ((key_enter <= enter) & (enter < leave) & within) | itself


def _mix(how: How, sizes: Sizes, runs: Any, q: Any, k: Any, v: Any, *others: Any) -> None:
    """Forward: for each block of queries, all blocks of keys one after the other."""
    (b, i, j), (query, key, out, total, top, weight, mixed) = (pl.program_id(n) for n in (0, 2, 3)), others

    @pl.when(j == 0)
    def _() -> None:
        top[...] = jnp.full_like(top, LOWEST)
        weight[...] = jnp.zeros_like(weight)
        mixed[...] = jnp.zeros_like(mixed)

    @pl.when(sizes.meet(runs, b, i, j))
    def _() -> None:
        scores, seen = _scores(how, q, k, query, key, (i, j))
        scores = jnp.where(seen, scores, LOWEST)
        new = jnp.maximum(top[...], scores.max(axis=0, keepdims=True))
        weights, faded = jnp.where(seen, jnp.exp(scores - new), 0), jnp.exp(top[...] - new)
        weight[...] = faded * weight[...] + weights.sum(axis=0, keepdims=True)
        mixed[...] = faded * mixed[...] + _product(v[...], weights.astype(v.dtype), 0, 0)
        top[...] = new

    @pl.when(j == sizes.keys - 1)
    def _() -> None:
        whole = jnp.where(weight[...] == 0, 1, weight[...])  # of a query that only fills its block
        out[...] = (mixed[...] / whole).T.astype(out.dtype)
        total[...] = top[...] + jnp.log(whole)


def _product(a: Array, b: Array, axis: int, other: int) -> Array:
    """A product of matrices over the given axis of each, summed in float32."""
    return jax.lax.dot_general(a, b, (((axis,), (other,)), ((), ())), preferred_element_type=jnp.float32)


def _slopes(how: How, block: tuple[Array, Array], q: Any, k: Any, v: Any, rest: tuple[Any, ...]) -> tuple[Array, Array]:
    """The weights of a block, [keys, queries], and the gradient of the scores before they are scaled."""
    gradient, total, given, query, key = rest
    scores, seen = _scores(how, q, k, query, key, block)
    weights = jnp.where(seen, jnp.exp(scores - total[...]), 0)
    slopes = weights * (_product(v[...], gradient[...], 1, 1) - given[...])
    if how.cap is not None:
        slopes = slopes * (1 - (scores / how.cap) ** 2)
    return weights, slopes * how.scale


def _to_queries(how: How, sizes: Sizes, runs: Any, q: Any, k: Any, v: Any, *others: Any) -> None:
    """The gradient of a block of queries, from all blocks of keys."""
    (b, i, j), (*rest, out, held) = (pl.program_id(n) for n in (0, 2, 3)), others

    @pl.when(j == 0)
    def _() -> None:
        held[...] = jnp.zeros_like(held)

    @pl.when(sizes.meet(runs, b, i, j))
    def _() -> None:
        _, slopes = _slopes(how, (i, j), q, k, v, tuple(rest))
        held[...] += _product(slopes.astype(k.dtype), k[...], 0, 0)

    @pl.when(j == sizes.keys - 1)
    def _() -> None:
        out[...] = held[...].astype(out.dtype)


def _to_keys(how: How, sizes: Sizes, runs: Any, q: Any, k: Any, v: Any, *others: Any) -> None:
    """The gradients of a block of keys and values, from all blocks of queries of all heads that share them."""
    (b, j, turn), (*rest, to_k, to_v, held_k, held_v) = (pl.program_id(n) for n in (0, 2, 3)), others
    i = turn % sizes.queries

    @pl.when(turn == 0)
    def _() -> None:
        held_k[...] = jnp.zeros_like(held_k)
        held_v[...] = jnp.zeros_like(held_v)

    @pl.when(sizes.meet(runs, b, i, j))
    def _() -> None:
        weights, slopes = _slopes(how, (i, j), q, k, v, tuple(rest))
        held_v[...] += _product(weights.astype(v.dtype), rest[0][...], 1, 0)
        held_k[...] += _product(slopes.astype(q.dtype), q[...], 1, 0)

    @pl.when(turn == sizes.group * sizes.queries - 1)
    def _() -> None:
        to_k[...] = held_k[...].astype(to_k.dtype)
        to_v[...] = held_v[...].astype(to_v.dtype)


def _specs(sizes: Sizes, at: Callable[..., tuple[Any, Any, Any, Any, Any]]) -> dict[str, pl.BlockSpec]:
    """Which part of each array a step of the grid is given; `at`: its row, heads, and blocks of queries and keys."""

    def spec(shape: tuple[int | None, ...], index: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda *step: index(*at(*step)))

    s = sizes
    return {
        "q": spec((None, None, s.query_block, s.width), lambda b, h, k, i, j: (b, h, i, 0)),
        "k": spec((None, None, s.key_block, s.width), lambda b, h, k, i, j: (b, k, j, 0)),
        "of a query": spec((None, None, 1, s.query_block), lambda b, h, k, i, j: (b, h, 0, i)),
        "query": spec((None, 3, s.query_block), lambda b, h, k, i, j: (b, 0, i)),
        "key": spec((None, s.key_block, 3), lambda b, h, k, i, j: (b, j, 0)),
    }


def _by_query(sizes: Sizes) -> tuple[tuple[int, ...], dict[str, pl.BlockSpec]]:
    """A grid that has all blocks of keys for one block of queries after the other."""

    def at(b: Any, h: Any, i: Any, j: Any, runs: Any) -> tuple[Any, Any, Any, Any, Any]:
        return b, h, h // sizes.group, i, jnp.where(sizes.meet(runs, b, i, j), j, 0)

    return (sizes.rows, sizes.heads, sizes.queries, sizes.keys), _specs(sizes, at)


def _by_key(sizes: Sizes) -> tuple[tuple[int, ...], dict[str, pl.BlockSpec]]:
    """A grid that has all blocks of queries, of all heads of a group, for one block of keys after the other."""

    def at(b: Any, k: Any, j: Any, turn: Any, runs: Any) -> tuple[Any, Any, Any, Any, Any]:
        i = turn % sizes.queries
        return b, k * sizes.group + turn // sizes.queries, k, jnp.where(sizes.meet(runs, b, i, j), i, 0), j

    grid = (sizes.rows, sizes.heads // sizes.group, sizes.keys, sizes.group * sizes.queries)
    return grid, _specs(sizes, at)


def _called(
    how: How,
    sizes: Sizes,
    kernel: Any,
    of: tuple[tuple[int, ...], dict[str, pl.BlockSpec]],
    given: list[str],
    outs: list[tuple[str, Any]],
    held: Sequence[tuple[int, ...]],
) -> Callable[..., Any]:
    """A kernel over its grid. `given` and `outs` are named as in `_specs`; `held` stays from one step to the next."""
    grid, specs = of
    return pl.pallas_call(
        functools.partial(kernel, how, sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[specs[name] for name in [*given, "query", "key"]],
            out_specs=[specs[name] for name, _ in outs],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in held],
        ),
        out_shape=[jax.ShapeDtypeStruct(shape.shape, shape.dtype) for _, shape in outs],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        interpret=how.interpret,
    )


def _mixed(how: How, arrays: tuple[Array, ...], numbers: Numbers) -> tuple[Array, Array]:
    """The mixed values [B, H, S, C], and the logarithm of each query's sum of weights, [B, H, 1, S]."""
    q, k, _ = arrays
    sizes = _sizes(q, k, numbers)
    total = jax.ShapeDtypeStruct((*q.shape[:2], 1, q.shape[2]), jnp.float32)
    held = [(1, sizes.query_block), (1, sizes.query_block), (sizes.width, sizes.query_block)]
    outs = [("q", q), ("of a query", total)]
    call = _called(how, sizes, _mix, _by_query(sizes), ["q", "k", "k"], outs, held)
    mixed, weight = call(numbers.runs.reshape(-1), *arrays, numbers.query, numbers.key)
    return mixed, weight


def _gradients(how: How, arrays: tuple[Array, ...], numbers: Numbers) -> tuple[Array, Array, Array]:
    """Those of queries, keys and values."""
    q, k, v, *_ = arrays
    sizes, given = _sizes(q, k, numbers), ["q", "k", "k", "q", "of a query", "of a query"]
    held, key_held = (sizes.query_block, sizes.width), (sizes.key_block, sizes.width)
    to_queries = _called(how, sizes, _to_queries, _by_query(sizes), given, [("q", q)], [held])
    to_keys = _called(how, sizes, _to_keys, _by_key(sizes), given, [("k", k), ("k", v)], [key_held, key_held])
    operands = (numbers.runs.reshape(-1), *arrays, numbers.query, numbers.key)
    return *to_queries(*operands), *to_keys(*operands)
