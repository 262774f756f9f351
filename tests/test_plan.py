"""Plans: the shapes of published models, the very arrays that a tuning makes, and sums of bytes made by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import count
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.planning.held import bytes_a_device, held, part_of, roles_of, trained
from pe_rlhf_mm.planning.plan import Cost, Plan, hopeful, plan, smallest
from pe_rlhf_mm.planning.programs import Load
from pe_rlhf_mm.planning.shapes import SHAPES
from pe_rlhf_mm.planning.slices import GIB, HERE, ladder_of, quiet_compiler, slice_of
from pe_rlhf_mm.training import reinforce
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.step import new_state

TINY = pe.load_model("tiny-vlm")
SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=2, reward_rank=3, value_rank=4, kind="dora"),
    sft=pe.SFTConfig(batch_size=2),
    reward=pe.RewardConfig(batch_size=2),
    rl=pe.RLConfig(prompts=2, max_tokens=4),
)
SCORES_APART = ["score (policy)", "score (anchor)", "score (reward)"]
"""On one device, where no weights are gathered, as in mode full."""
LOAD = Load(prompt_tokens=80, reply_tokens=4)


def alone() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def shapes(tree: object) -> object:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("gemma3-270m", 268_098_176),
        ("gemma3-1b", 999_885_952),
        ("gemma3-4b", 4_300_079_472),
        ("gemma3-12b", 12_187_325_040),
        ("gemma3-27b", 27_432_406_640),
    ],
)
def test_a_shape_has_as_many_weights_as_the_published_checkpoint(name: str, weights: int) -> None:
    """As the hub counts the tensors of google/gemma-3-*."""
    assert count(vlm.abstract_state(SHAPES[name])) == weights


# --- what is held ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_backbone_is_held_as_a_tuning_holds_it(kind: Literal["int8", "nf4"]) -> None:
    """And on four devices each keeps its part of codes and scales."""
    settings = dataclasses.replace(SMALL, quantize=kind)
    planned = roles_of(TINY.config, settings, "sft", alone()).backbone
    real = pe.load_model("tiny-vlm", quantize=kind, dtype="bfloat16").state
    assert shapes(planned) == shapes(real)
    four = jax.sharding.AbstractMesh((1, 4, 1), MESH_AXES)
    cut: Any = roles_of(TINY.config, settings, "sft", four).backbone  # type: ignore[arg-type]
    gate = cut["decoder"]["layers"]["blocks"]["gate"]["kernel"].get_value()
    assert bytes_a_device(gate.values) == gate.values.size * gate.values.dtype.itemsize // 4


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_shapes_are_those_of_the_arrays_that_a_tuning_makes(mode: str) -> None:
    settings = pe.TuneConfig(mode=mode, lora=SMALL.lora)  # type: ignore[arg-type]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TINY.state)
    real = attach(dataclasses.replace(TINY, state=half), settings)
    planned = roles_of(TINY.config, settings, "sft", alone())
    for name in ("slots", "scales", "copies", "heads"):
        assert shapes(getattr(planned, name)) == shapes(getattr(real, name)), name
    optimizer, learners = adam(1e-3, 10), ("reward",)
    state = trained(planned, learners, optimizer, alone())
    assert shapes(state) == shapes(new_state(real.pick(*learners), real, optimizer, jax.random.key(0)))


def test_moments_lie_where_the_weights_lie_that_they_are_of() -> None:
    rl = SMALL.rl
    roles = roles_of(TINY.config, SMALL, "rl", alone())
    optimizer = reinforce.optimizer_for(rl, part_of(roles, ("policy", "value")))
    state = trained(roles, ("policy", "value"), optimizer, alone())
    weights = sorted(x.shape for x in jax.tree.leaves(state.trainable))
    moments = [x for x in jax.tree.leaves(state.optimizer) if x.ndim or x.dtype == jnp.float32]
    assert sorted(x.shape for x in moments) == sorted([*weights, *weights])  # the first and the second of each


def test_bytes_are_counted_by_hand() -> None:
    """A rank costs (in + out) numbers of q, k, v and o each, in every layer, and a length each of their columns; a head
    width + 1. What is trained is there three times: as it was, as it is, and at its best. Adam has two moments of it,
    and counts steps."""
    block = TINY.config.decoder
    wide = [block.heads * block.head_width, *[block.kv_heads * block.head_width] * 2]
    columns = sum(wide) + block.width
    each = sum(block.width + out for out in [*wide, wide[0]])
    roles = roles_of(TINY.config, SMALL, "reward", alone())
    found = held(roles, trained(roles, ("reward",), adam(1e-3, 10), alone()), validated=True)
    sft, reward, value = (block.layers * (rank * each + columns) for rank in (2, 3, 4))
    head = block.width + 1
    assert found.backbone == 2 * count(TINY.state)  # bfloat16
    assert found.adapters == 4 * (sft + value + 3 * (reward + head))
    assert found.copies == 0
    assert 0 <= found.optimizer - 4 * 2 * (reward + head) <= 16


@pytest.mark.parametrize(
    ("stage", "learners", "others", "learned"),
    [("sft", ("sft",), 0, 1), ("reward", ("reward",), 1, 1), ("rl", ("policy", "value"), 2, 2)],
)
def test_mode_full_holds_what_full_tuning_needs(stage: str, learners: tuple, others: int, learned: int) -> None:
    """Of N weights: the backbone, and what other stages have trained, in bfloat16, the anchor and `sft` being one;
    what is trained in float32 with two moments; and the best of it so far in bfloat16, where it is validated."""
    settings = dataclasses.replace(SMALL, mode="full")
    roles, weights = roles_of(TINY.config, settings, stage, alone()), count(TINY.state)
    state = trained(roles, learners, adam(1e-3, 10), alone())
    found = held(roles, state, validated=stage != "sft")
    assert found.backbone == 2 * weights
    assert found.copies == (2 * others + 4 * learned + 2 * learned * (stage != "sft")) * weights
    assert found.adapters < 10_000  # heads
    assert 0 <= found.optimizer - 8 * learned * weights < 10_000


# --- programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "mode"), [("sft", "lora"), ("reward", "full"), ("rl", "lora"), ("rl", "full")])
def test_every_stage_compiles_and_is_given_what_it_holds(stage: str, mode: str) -> None:
    settings = pe.TuneConfig(mode=mode, lora=SMALL.lora, sft=SMALL.sft, reward=SMALL.reward, rl=SMALL.rl)  # type: ignore[arg-type]
    found = plan(TINY.config, settings, LOAD, stage=stage, topology="here")
    assert found.fits
    names = ["sample", *SCORES_APART, "update"] if stage == "rl" else ["step"]
    assert [cost.program for cost in found.costs] == names
    for cost in found.costs:
        assert cost.temporaries > 0
        assert cost.peak >= found.held.total
    assert found.held.backbone == 4 * count(TINY.state)  # float32, as on every CPU
    assert found.costs[-1].arguments <= found.held.total + 1_000_000  # and a batch of a few kilobytes


def test_by_ppo_the_value_model_is_asked_before_it_learns() -> None:
    rl = dataclasses.replace(SMALL.rl, algorithm="ppo", epochs=2, passes="together")
    found = plan(TINY.config, dataclasses.replace(SMALL, rl=rl), LOAD, stage="rl", topology="here")
    assert [cost.program for cost in found.costs] == ["sample", "score (policy, anchor, value, reward)", "update"]


def test_a_larger_batch_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there is less memory than it takes, the plan says how much is missing."""

    def peak_of(rows: int) -> Plan:
        settings = pe.TuneConfig(reward=pe.RewardConfig(batch_size=rows))
        return plan(TINY.config, settings, LOAD, stage="reward", topology="here")

    less = peak_of(2).peak
    monkeypatch.setattr("pe_rlhf_mm.planning.plan.slice_of", lambda name, **_: slice_of(name)._replace(usable=less))
    more = peak_of(16)
    assert more.peak > 2 * less
    assert not more.fits
    assert f"needs {(more.peak - less) / GIB:.2f} GiB more a chip" in more.text()


def test_the_smallest_slice_is_the_first_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def planned(*_: object, topology: str, **__: object) -> Plan:
        tried.append(topology)
        chips = math.prod(map(int, topology.partition(":")[2].split("x")))
        cost = Cost("step", 0, 0, 40 * GIB // chips, refused=chips == 1)
        return Plan("m", "rl", "lora", topology, {}, held_nothing(), [cost], 16 * GIB)

    plans = smallest(planned, ladder_of("v5e:2x2"))
    assert tried == ["v5e:1x1", "v5e:1x2", "v5e:2x2"]
    assert [found.fits for found in plans] == [False, False, True]


@pytest.mark.parametrize(("estimate", "asked"), [(24, True), (25, False)])
def test_the_compiler_is_not_asked_where_there_is_no_hope(estimate: int, asked: bool) -> None:
    """A chip has room for 16 GiB; hope ends at one and a half times that."""

    def planned(*, topology: str, compiler: bool = True) -> Plan:
        cost = Cost("step", 0, 0, (30 if compiler else estimate) * GIB)
        return Plan("m", "rl", "lora", topology, {}, held_nothing(), [cost], 16 * GIB, estimated=not compiler)

    assert hopeful(planned, topology="v5e:1x1").estimated is not asked


def test_slices_of_a_generation_are_named_by_it_or_by_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder_of("v5p") == ladder_of("v5p:2x2x2")
    assert [name for name in ladder_of("v5p") if name.startswith("v5p:2x2x")] == ["v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4"]
    assert run(["plan", "--model", "tiny-vlm", "--topology", "here", "--smallest"]) == 2
    assert "no slices of it: name one of v5e, v6e, v5p" in capsys.readouterr().err


def held_nothing():  # type: ignore[no-untyped-def]
    roles = roles_of(TINY.config, SMALL, "reward", alone())
    return held(roles, trained(roles, ("reward",), adam(1e-3, 10), alone()), validated=False)._replace(backbone=0)


@pytest.mark.parametrize(("needed", "gib"), [("140.12G", 140.12), ("8.51P", 8.51 * 2**20)])
def test_no_room_is_an_answer(needed: str, gib: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the compiler's own words for a model of 9 billion weights on one v5e chip, and for a batch beyond measure."""
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        f"temporaries ({needed}) exceeds available HBM (15.75G). HLO module: jit_fn."
    )

    def refuse(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    found = plan(TINY.config, SMALL, LOAD, stage="reward", topology="here")
    assert (found.fits, found.peak) == (False, int(gib * GIB))
    assert "no room" in found.text()


def test_bytes_a_device_are_those_of_its_part() -> None:
    devices = np.array(jax.devices()[:1] * 4).reshape(1, 4, 1)
    assert devices.shape == (1, 4, 1)
    mesh = jax.sharding.AbstractMesh((1, 4, 1), MESH_AXES)
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    assert bytes_a_device({"x": jax.ShapeDtypeStruct((8, 3), jnp.bfloat16, sharding=cut)}) == 2 * 3 * 2


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["plan", "--model", "tiny-vlm", "--stage", "reward", "--topology", "here", "--reward.batch-size", "2"]
    assert run([*asked, "--prompt-tokens", "80", "--reply-tokens", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny-vlm, stage reward, mode lora, on here (data 1, fsdp 1, model 1); GiB a chip")
    assert "nothing has been run" in printed
    assert "seconds: they are a bound" not in printed  # of this machine no rates are known
    cost = Cost("update", 1, 2, 3 * GIB)
    tight = Plan("m", "rl", "lora", "here", {"fsdp": 1}, held_nothing(), [cost], 2 * GIB)
    monkeypatch.setattr("pe_rlhf_mm.planning.plan.plan", lambda *_, **__: tight)
    assert run([*asked, "--json"]) == 3
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["fits"], told["peak"], told["costs"][0]["program"]) == (False, 3 * GIB, "update")
    assert set(told["held"]) == {"backbone", "adapters", "copies", "optimizer"}


@pytest.mark.parametrize("name", ["v5e", "v5e-16", "v7:2x2", "v5e:", "gpu:8", "v5e:2x2x2x2"])
def test_a_slice_that_is_none_is_answered_with_those_that_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--model", "gemma3-4b", "--topology", name]) == 2
    assert f"no slice of TPUs is called {name!r}; there are v5e:1x1, v5e:1x2" in capsys.readouterr().err


def test_without_the_compiler_it_estimates_and_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jax.experimental import topologies

    def missing(**_: object) -> None:
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    assert run(["plan", "--model", "gemma3-270m", "--stage", "sample", "--topology", "v5e:2x2"]) == 0
    printed = capsys.readouterr().out
    assert "Sizes are an estimate, no compiler" in printed
    assert "pip install 'pe-rlhf-mm[tpu-aot]'" in printed
    assert run(["plan", "--model", "gemma3-270m", "--topology", "v5e:3x5"]) == 2


@pytest.mark.parametrize(("topology", "left"), [("v5e:2x2", None), (HERE, "--xla_cpu_enable_fast_math=true")])
def test_the_compiler_for_tpus_is_not_given_flags_of_others(
    topology: str, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    quiet_compiler(topology)
    assert os.environ.get("XLA_FLAGS") == left


def test_a_mesh_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"here has 1 chips, and a mesh of \(2, 2, 1\) has 4"):
        plan(TINY.config, SMALL, LOAD, stage="rl", topology="here", mesh=pe.MeshConfig(data=2, fsdp=2))


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the compiler for TPUs is not installed: pip install 'pe-rlhf-mm[tpu-aot]'",
)
def test_the_compiler_for_tpus_says_what_fits_and_what_does_not() -> None:
    """In a process of its own, as libtpu reads its settings when it is loaded. 4 billion weights in float32, with two
    moments of each, are 48 GB: no chip of 16 GiB holds them, and with adapters one does."""
    asked = [sys.executable, "-m", "pe_rlhf_mm", "plan", "--model", "gemma3-4b", "--stage", "reward"]
    asked += ["--remat", "layers"]
    asked += ["--topology", "v5e:1x1", "--reward.batch-size", "2", "--json"]
    plans = {}
    for mode, code in (("lora", 0), ("full", 3)):
        done = subprocess.run([*asked, "--mode", mode], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        (plans[mode],) = json.loads(done.stdout)
    assert plans["lora"]["peak"] < plans["lora"]["usable"] == int(15.75 * GIB)
    assert plans["lora"]["held"]["backbone"] > 7 * GIB
    parts = plans["lora"]["costs"][0]["parts"]
    assert parts["activations"] == 34 * 2 * (1024 + 2 * 128) * 2560 * 2  # the input of every layer, in bfloat16
    assert sum(parts.values()) == plans["lora"]["peak"]
    assert 0 <= parts["rest"] < 0.1 * plans["lora"]["peak"]
    assert plans["full"]["costs"][0]["refused"] is True
    assert plans["full"]["peak"] > 48e9
