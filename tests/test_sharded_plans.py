"""What the compiler makes of every program of a stage: on four CPU devices, and where libtpu is there, for TPUs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_devices import seeing

MATRIX = 64 * 512 * 4
"""Bytes of the largest matrix of a layer of `sharded_plans.py`."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """By mode and stage."""
    asked = [sys.executable, Path(__file__).parent / "sharded_plans.py"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=seeing(4))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_nothing_larger_than_a_matrix_is_gathered_in_any_program(found: dict[str, Any]) -> None:
    for stage, told in found.items():
        for program, cost in told["costs"].items():
            assert 0 < cost["gathered"] <= MATRIX, (stage, program)


def test_a_step_writes_its_state_in_place(found: dict[str, Any]) -> None:
    """Adam's two moments are two thirds of it."""
    for stage, told in found.items():
        *others, last = told["costs"].values()
        assert last["in_place"] >= 1.4 * told["optimizer"] > 0, stage
        assert all(cost["in_place"] == 0 for cost in others)


def test_roles_in_one_pass_gather_the_backbone_once(found: dict[str, Any]) -> None:
    """A pass of many tokens gathers every matrix once: of its 4 layers, in float32, a device lacks three quarters. So
    does its way back. Besides, the hidden states of replies are gathered for the logits, a hundredth of that a policy.
    """
    queries, keys, mlp = 64 * 4 * 8, 64 * 2 * 8, 64 * 512
    backbone = 4 * 4 * (2 * queries + 2 * keys + 3 * mlp) * 3 / 4
    together, apart = (
        {name: cost["put_together"] / backbone for name, cost in found[which]["costs"].items() if name != "sample"}
        for which in ("lora rl", "lora rl apart")
    )
    once = pytest.approx(1, rel=0.03)
    assert together == {"score (policy, anchor, reward)": once, "update": pytest.approx(2, rel=0.03)}
    scores = dict.fromkeys(["score (policy)", "score (anchor)", "score (reward)"], once)
    assert apart == {**scores, "update": pytest.approx(4, rel=0.03)}


def test_an_update_of_adapters_receives_three_fifths_of_one_of_all_weights_at_most(found: dict[str, Any]) -> None:
    """No gradient of a matrix travels."""
    lora, full = (found[f"{mode} rl"]["costs"]["update"]["received"] for mode in ("lora", "full"))
    assert 0 < lora <= 0.6 * full


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the compiler for TPUs is not installed: pip install 'pe-rlhf-mm[tpu-aot]'",
)
def test_the_same_for_tpus() -> None:
    """Of gemma3-270m on four chips: its largest matrix is 640 · 2048, and its table 128 times as large.

    The gradients of the embeddings of 8 · 320 tokens, in float32, are two and a half times as large as it.
    """
    asked = [sys.executable, "-m", "pe_rlhf_mm", "plan", "--model", "gemma3-270m", "--topology", "v5e:2x2", "--json"]
    asked += ["--remat", "layers", "--batch", "8", "--prompt-tokens", "256", "--rl.max-tokens", "64"]
    plans = {}
    for mode in ("lora", "full"):
        done = subprocess.run([*asked, "--mode", mode], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (plans[mode],) = json.loads(done.stdout)
        for cost in plans[mode]["costs"]:
            assert 0 < cost["gathered"] <= 640 * 2048 * 2, (mode, cost["program"])
        assert plans[mode]["costs"][-1]["in_place"] >= 1.4 * plans[mode]["held"]["optimizer"]
    lora, full = (sum(plans[mode]["costs"][-1]["received"].values()) for mode in ("lora", "full"))
    assert lora <= 0.6 * full
