"""Training on meshes of fake CPU devices gives what it gives without one; and what the compiler makes of its steps."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from made_up_devices import seeing

import pe_rlhf_mm as pe

HERE = Path(__file__).parent
ON = {
    "1,4,1": ("lora sft", "full sft in parts", "full sft packed", "lora dpo", "lora ppo"),
    "2,2,1": ("lora pairs", "lora members", "full reinforce"),
    "1,2,2": ("full ratings", "lora online-dpo"),
    "2,2,2": ("lora episodes", "full sft packed"),
}
"""What is tried on which mesh (data, fsdp, model): every recipe, in one mode or the other."""
EVERY = [(shape, recipe) for shape, recipes in ON.items() for recipe in recipes]
MESH = {"data": 1, "fsdp": 2, "model": 2}
ROUNDING = {"rtol": 2e-4, "atol": 2e-5}
"""Sums of float32 in another order differ in their last bits, a few 1e-7, and three steps of Adam, each with its own
rounding of the weights, pass that on to the losses."""
ADAM = 2e-3
"""Of the way that a weight went. Adam divides a gradient by its own size: where it is nearly zero, its last bits are
all there is of it, and steer a step of full length."""


class Ran(NamedTuple):
    """What all recipes of one mesh did."""

    found: dict[str, dict]
    weights: dict[str, np.ndarray]

    def weights_of(self, recipe: str, when: str) -> dict[str, np.ndarray]:
        start = f"{recipe}|{when}|"
        return {name.removeprefix(start): value for name, value in self.weights.items() if name.startswith(start)}


def command(script: str, *arguments: str) -> str:
    """What a script says that sees eight CPU devices."""
    done = subprocess.run(
        [sys.executable, HERE / script, *arguments], capture_output=True, text=True, check=False, env=seeing(8)
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """By mesh, and "none": each in a process of its own, two at a time."""
    folder = tmp_path_factory.mktemp("ran")
    recipes = {"none": dict.fromkeys(recipe for _, recipe in EVERY), **ON}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda shape: command("sharded_recipes.py", str(folder), shape, *recipes[shape]), recipes))
    return {
        shape: Ran(json.loads((folder / f"{shape}.json").read_text()), dict(np.load(folder / f"{shape}.npz")))
        for shape in recipes
    }


@pytest.mark.parametrize(("shape", "recipe"), EVERY)
def test_every_step_measures_the_same_as_on_one_device(ran: dict[str, Ran], shape: str, recipe: str) -> None:
    """Replies are drawn with the same keys, so that their lengths, rewards and divergence are the same as well."""
    alone, apart = (ran[where].found[recipe]["metrics"] for where in ("none", shape))
    assert len(alone) == len(apart) >= 2
    for expected, found in zip(alone, apart, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=ROUNDING["rtol"], abs=ROUNDING["atol"]), name


@pytest.mark.parametrize(("shape", "recipe"), EVERY)
def test_the_weights_go_the_same_way(ran: dict[str, Ran], shape: str, recipe: str) -> None:
    start, alone = (ran["none"].weights_of(recipe, when) for when in ("before", "after"))
    apart = ran[shape].weights_of(recipe, "after")
    assert alone.keys() == apart.keys()
    moved = 0
    for name, value in alone.items():
        # RL's roles begin as the SFT policy; value heads as zero.
        begun = start.get(name.replace("policy", "sft").replace("value'", "sft'"), np.zeros_like(value))
        way = np.linalg.norm(value - begun)
        moved += way > 0
        assert np.linalg.norm(apart[name] - value) <= ADAM * way + 1e-6, name
    assert moved > 2


@pytest.mark.parametrize(("shape", "recipe"), EVERY)
def test_a_step_is_compiled_as_often_as_on_one_device(ran: dict[str, Ran], shape: str, recipe: str) -> None:
    """Once a shape of batch: what a step gives back lies where what it was given lay."""
    assert ran[shape].found[recipe]["compiled"] == ran["none"].found[recipe]["compiled"] > 0


def test_no_table_is_gathered_and_the_state_is_written_in_place() -> None:
    programs = json.loads(command("sharded_programs.py", "1,4,1", "2,2,2"))
    for shape, found in programs.items():
        assert found["looking"] == [], shape  # in a thread of its own: it must wait for no other device
        # Numbers of a token travel while one is decoded, and no matrix.
        assert 0 < found["decoding"]["exchanged"] <= found["decoding"]["matrix"] / 4, shape
        for mode, width in (("lora", 64), ("full", 64), ("factored", 128)):
            assert 0 < found[mode]["gathered"] <= width * 512 * 4, (shape, mode)  # the largest matrix of a layer
            # Where Adafactor has no moment it has a number in its place, which it makes anew.
            assert (found[mode]["fillers"] > 0) == (mode == "factored")
            assert found[mode]["in_place"] >= found[mode]["state"] - found[mode]["fillers"] > 0, (shape, mode)
            assert found[mode]["state"] == found[mode]["planned"], (shape, mode)


# --- the whole job ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "config", "said"),
    [
        (
            "pe/easy-vqa",
            pe.TuneConfig(mesh=pe.MeshConfig(data=2, fsdp=4), sft=pe.SFTConfig(batch_size=30)),
            r"sft.batch_size is 30, .* deals rows to 8 devices, as many to each. Take a multiple of 8: 32",
        ),
        (
            "pe/easy-vqa",
            pe.TuneConfig(mesh=pe.MeshConfig(fsdp=3), sft=pe.SFTConfig(batch_size=3), rl=pe.RLConfig(prompts=3)),
            "reward.batch_size is 128",
        ),
        (
            "pe/easy-vqa",
            pe.TuneConfig(mesh=pe.MeshConfig(data=8, fsdp=8), rl=pe.RLConfig(prompts=2)),
            "rl.prompts is 2, .* Take a multiple of 64: 64",
        ),
        (
            "pe/easy-vqa",
            pe.TuneConfig(
                mesh=pe.MeshConfig(fsdp=2), method="dpo", preferences=pe.PreferenceConfig(batch_size=7)
            ),
            "preferences.batch_size is 7",
        ),
        (
            "canvas/press",  # which fills up the rows of its episodes
            pe.TuneConfig(mesh=pe.MeshConfig(fsdp=2), rl=pe.RLConfig(prompts=7, reward="task")),
            "needs 2 devices, .* this process sees 1",
        ),
        ("pe/easy-vqa", pe.TuneConfig(mesh=pe.MeshConfig(model=2)), "needs 2 devices, .* this process sees 1"),
    ],
)  # fmt: skip
def test_what_a_mesh_cannot_do_is_refused_before_anything_is_written(
    tmp_path: Path, task: str, config: pe.TuneConfig, said: str
) -> None:
    with pytest.raises(pe.UserError, match=said):
        pe.tune(task, out=tmp_path / "run", config=config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_mesh_is_read_back_on_one_device_and_on_a_mesh(tmp_path: Path) -> None:
    """The policy gives the replies that it gave in its run."""
    command("sharded_run.py", str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    said = [line["preferences"]["reply"] for line in lines]
    assert len(set(said)) > 1
    for where in ("here", "there"):
        assert json.loads((tmp_path / f"{where}.json").read_text()) == said
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["mesh"] == MESH
    assert json.loads((tmp_path / "run/summary.json").read_text())["preferences"]["n"] == len(said) > 4
