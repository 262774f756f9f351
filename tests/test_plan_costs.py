"""What a program multiplies and what chips send each other: counted by hand, in programs and in the compiler's text."""

from __future__ import annotations

import textwrap

import jax
import jax.numpy as jnp
import pytest

from pe_rlhf_mm.models import flash
from pe_rlhf_mm.models.attention import KeyValues, everybody
from pe_rlhf_mm.models.config import BlockConfig
from pe_rlhf_mm.planning.arithmetic import products
from pe_rlhf_mm.planning.plan import _least
from pe_rlhf_mm.planning.slices import LADDER, RATES, Rates
from pe_rlhf_mm.planning.traffic import Collective, collectives

X, W = jax.ShapeDtypeStruct((8, 32), jnp.float32), jax.ShapeDtypeStruct((5, 32, 32), jnp.float32)
ONE = 2 * 8 * 32 * 32
"""The product of X and one of W."""


def count(function, *given, turns: int = 1) -> int:  # type: ignore[no-untyped-def]
    return products(jax.make_jaxpr(function)(*given).jaxpr, turns)


def layers(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, one: (jnp.tanh(x @ one), None), x, w)[0]


# --- products -----------------------------------------------------------------------------------------------------


def test_a_product_and_what_else_there_is() -> None:
    assert count(lambda x, w: jnp.exp(x @ w[0]).sum(), X, W) == ONE
    assert count(lambda x, w: jnp.einsum("bi,lio->lbo", x, w), X, W) == 5 * ONE
    assert count(lambda x: x + x, X) == 0


def test_a_scan_counts_as_often_as_it_runs_and_within_a_jit_too() -> None:
    assert count(layers, X, W) == count(jax.jit(layers), X, W) == 5 * ONE


def test_gradients_cost_two_more_and_layers_that_are_made_again_one_more() -> None:
    def loss(again: bool):  # type: ignore[no-untyped-def]
        def body(x: jax.Array, one: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ one), None

        step = jax.checkpoint(body) if again else body
        return lambda w, x: jax.lax.scan(step, x, w)[0].sum()

    assert count(jax.grad(loss(False)), W, X) == 3 * 5 * ONE
    assert count(jax.grad(loss(True)), W, X) == 4 * 5 * ONE
    frozen = count(jax.grad(lambda x, w: loss(False)(w, x)), X, W)
    assert frozen == 2 * 5 * ONE  # no gradient of weights


def test_a_kernel_of_attention_does_not_count() -> None:
    """It leaves out what nobody sees, and what that is no program tells before it runs."""
    block = BlockConfig(layers=1, width=16, heads=2, kv_heads=2, head_width=8, mlp_width=8)
    numbers = jax.tree.map(lambda x: x[0], flash.numbers_of(everybody(3, 32)))
    x = jax.ShapeDtypeStruct((3, 32, 2, 8), jnp.float32)
    assert count(lambda x: flash.attend(x, KeyValues(x, x), numbers, block), x) == 0


def test_a_loop_that_may_end_early_runs_to_its_end_and_the_dearest_branch_is_taken() -> None:
    def loop(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: (x < 9).all(), lambda x: x @ w[0], x)

    assert count(loop, X, W, turns=7) == 7 * ONE
    branch = count(lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w[0] @ w[1], lambda: x @ w[0]), X, W)
    assert branch == 2 * ONE


# --- exchanges ----------------------------------------------------------------------------------------------------

PROGRAM = """
    %gathering (x: f32[8,32]) -> f32[32,32] {
      %x = f32[8,32]{1,0} parameter(0)
      ROOT %all-gather.3 = bf16[32,32]{1,0:T(8,128)} all-gather(%x), channel_id=7, replica_groups=[2,4]<=[8]
    }

    %again (x: f32[8,32]) -> f32[32,32] {
      %x = f32[8,32]{1,0} parameter(0)
      ROOT %all-gather.9 = bf16[32,32]{1,0} all-gather(%x), channel_id=7, replica_groups=[2,4]<=[8]
    }

    %body (now: (s32[], f32[8,32])) -> (s32[], f32[8,32]) {
      %fusion.1 = f32[32,32]{1,0} fusion(%x), kind=kCustom, calls=%gathering
      %fusion.2 = f32[32,32]{1,0} fusion(%x), kind=kCustom, calls=%again
      %sum = (f32[], f32[4,4]{1,0}) all-reduce(%a, %b), channel_id=8, replica_groups={{0,1},{2,3}}
    }

    %condition (now: (s32[], f32[8,32])) -> pred[] {
      %bound = s32[]{:T(128)} constant(6)
      ROOT %less = pred[] compare(%step, %bound), direction=LT
    }

    ENTRY %main (x: f32[8,32]) -> f32[8,32] {
      %while.1 = (s32[], f32[8,32]{1,0}) while(%start), condition=%condition, body=%body
      %scattered = f32[8]{0} reduce-scatter(%y), channel_id=9, replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}
      %both = f32[8]{0} all-reduce(%y), channel_id=10, replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}
      %passed = (u8[16]{0}, u8[16]{0}, u32[], u32[]) collective-permute-start(%z), source_target_pairs={{0,1},{1,0}}
      %done = u8[16]{0} collective-permute-done(%passed)
    }
"""


def test_exchanges_are_read_with_their_sizes_groups_and_times() -> None:
    """One channel is one exchange, however often it is printed; a sum of nothing but a number is none of bytes."""
    assert sorted(collectives(textwrap.dedent(PROGRAM))) == [
        Collective("all-gather", 2 * 32 * 32, group=4, times=6),
        Collective("all-reduce", 4 * 8, group=8, times=1),
        Collective("all-reduce", 4 * 16, group=2, times=6),
        Collective("collective-permute", 16, group=2, times=1),
        Collective("reduce-scatter", 4 * 8, group=4, times=1),
    ]


def test_a_loop_that_says_nothing_runs_as_often_as_it_may() -> None:
    silent = textwrap.dedent(PROGRAM).replace("constant(6)", "parameter(0)")
    assert {c.times for c in collectives(silent, 11) if c.kind == "all-gather"} == {11}
    assert {c.times for c in collectives(silent) if c.kind == "all-gather"} == {1}


@pytest.mark.parametrize(
    ("kind", "received"),
    [
        ("all-gather", 75),  # three quarters of the 100 bytes come from others
        ("all-to-all", 75),
        ("reduce-scatter", 300),  # three more parts like the own one of 100
        ("all-reduce", 150),  # scattered, and gathered again
        ("collective-permute", 100),
    ],
)
def test_what_reaches_a_chip_of_four(kind: str, received: float) -> None:
    assert Collective(kind, 100, 4, 1).received == received
    assert Collective(kind, 100, 4, 5).received == 5 * received


def test_a_loop_that_tells_its_trips_is_believed() -> None:
    told = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    found = collectives(textwrap.dedent(PROGRAM).replace("body=%body", told))
    assert {c.times for c in found if c.kind == "all-gather"} == {3}


# --- the bound ----------------------------------------------------------------------------------------------------


def test_the_slowest_of_three_is_the_bound() -> None:
    rates = Rates(operations=10.0, memory=5.0, links=2.0)
    assert _least(rates, 100.0, 4.0, 10.0) == 10  # 10, 2 and 2 seconds
    assert _least(rates, 10.0, 8.0, 10.0) == 4
    assert _least(rates, 10.0, 4.0, 45.0) == 9
    assert _least(None, 10.0, 4.0, 45.0) is None
    assert set(RATES) == set(LADDER)
