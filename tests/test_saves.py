"""What a training keeps while it goes on: a stage that is left anywhere goes on as if nothing had been."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up_devices import seeing
from models import CONFIG, random_roles, state

from pe_rlhf_mm.adapters.files import load_role, save_role
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles, fingerprint, only_backbone
from pe_rlhf_mm.checkpoints.training import Saves
from pe_rlhf_mm.data.pipeline import Stream
from pe_rlhf_mm.data.streams import Fed
from pe_rlhf_mm.errors import Terminated, UserError
from pe_rlhf_mm.training.alarms import Alarms
from pe_rlhf_mm.training.keeper import Reached
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.observer import Observers, Silent
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.run import Run, is_finished, refuse_other
from pe_rlhf_mm.training.run_keeper import RunKeeper
from pe_rlhf_mm.training.step import TrainState
from pe_rlhf_mm.training.stopwatch import Stopwatch
from pe_rlhf_mm.training.termination import held

STEPS = 8
WIDTH = 40_000
"""Numbers that are trained: their save is a file that is larger than any other."""
VALUES = {"task": "mine", "model": "tiny", "settings": {"seed": 0, "sft": {"steps": 8}}, "start_from": None}
OPTIMIZER = adam(1e-2, STEPS)
ROLES = only_backbone(state())


def distance(
    trainable: dict[str, jax.Array], roles: Roles, batch: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """From noise that every step draws with a key of its own, times a number that is fed."""
    noise = batch * jax.random.normal(key, (WIDTH,))
    return jnp.mean((trainable["x"] - noise) ** 2), {"noise": noise[0]}


class Left(Exception): ...


class LeftAt(Silent):
    """Leaves a training as a step is told, or as something beside it is; or asks the process to end, within a step."""

    def __init__(self, place: tuple[str, int] | None):
        self.place = place

    def step(self, stage: str, step: int, metrics: Any) -> None:
        if self.place == ("step", step):
            raise Left
        if self.place == ("asked", step):
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, stage: str, step: int, metrics: Any) -> None:
        if self.place == ("note", step):
            raise Left


class Patient(RunKeeper):
    """Waits for every save, or it would depend on the disk which steps are saved."""

    def step(self, stage: str, reached: Any) -> None:
        super().step(stage, reached)
        self.wait()


class Trained(NamedTuple):
    """What came out, the warnings, where it went on, and which batches were fed."""

    x: np.ndarray
    warnings: list[str]
    place: str | None
    fed: list[int]


def trained(
    folder: Path,
    *,
    leave: tuple[str, int] | None = None,
    every: float = 0.0,
    validate: Callable[[Any], float] | None = None,
) -> Trained:
    """The toy stage in a run folder, gone on with if something is there, and validated every 3 steps."""
    there = (folder / "config.json").exists()
    run, warnings, fed = Run.create(folder, VALUES, resume=there), [], []
    keeper = Patient(run, Stopwatch(), warnings.append, every=every)

    def batches(start: int) -> Stream[float]:
        def numbers() -> Iterator[float]:
            for k in itertools.count(start):
                fed.append(k)
                yield 1.0 + k

        return Stream(numbers())

    with ExitStack() as stack:
        stack.callback(run.release)
        stack.enter_context(keeper)
        out = train(
            "sft", ROLES, {"x": jnp.zeros(WIDTH)}, Fed(batches, 0.25), distance, OPTIMIZER, steps=STEPS,
            key=jax.random.key(1), observer=Observers([run, LeftAt(leave)]), keeper=keeper,
            validate=validate or best_in_the_middle, validate_every=3, validate_from=0,
        )  # fmt: skip
        return Trained(np.asarray(out["x"]), warnings, keeper.place, fed)


def best_in_the_middle(trainable: dict[str, jax.Array]) -> float:
    """Highest where the numbers have moved by 0.015, as they have after three of the eight steps."""
    return -abs(float(jnp.abs(trainable["x"]).mean()) - 0.015)


def curve(folder: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` but for the times, which must not go back."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert seconds == sorted(seconds)
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    found = trained(folder)
    scores = [line["validation_accuracy"] for line in curve(folder) if "validation_accuracy" in line]
    assert scores.index(max(scores)) == 1, "of steps 0, 3, 6 and 8"
    assert found.fed == list(range(STEPS))
    return found.x, curve(folder)


# --- the loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", [("step", 1), ("step", 2), ("note", 3), ("step", 4), ("note", 6), ("step", 8), ("note", 8)], ids=str
)
def test_a_stage_that_was_left_goes_on_to_the_same_end(place: tuple[str, int], whole: Any, tmp_path: Path) -> None:
    """As a step is told it is not saved yet, and as its validation is told it is."""
    with pytest.raises(Left):
        trained(tmp_path / "run", leave=place)
    found = trained(tmp_path / "run")
    saved = place[1] if place[0] == "note" else place[1] - 1
    assert found.place == (f"sft, after step {saved}" if saved else None)
    assert found.fed == list(range(saved, STEPS)), "what was consumed is not fed again"
    np.testing.assert_array_equal(found.x, whole[0])
    assert curve(tmp_path / "run") == whole[1]
    assert not found.warnings


def test_it_may_be_left_again_and_again(whole: Any, tmp_path: Path) -> None:
    for place in (("note", 0), ("step", 3), ("note", 3), ("step", 5), ("step", 5), ("step", 7)):
        with pytest.raises(Left):
            trained(tmp_path / "run", leave=place)
    np.testing.assert_array_equal(trained(tmp_path / "run").x, whole[0])
    assert curve(tmp_path / "run") == whole[1]


def test_between_two_saves_passes_as_much_time_as_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Left):
        trained(tmp_path / "run", leave=("step", 6), every=3600)
    assert not (tmp_path / "run/state").exists()
    assert trained(tmp_path / "run").fed == list(range(STEPS))


@contextmanager
def answering() -> Iterator[None]:
    """SIGTERM raises, as the command line has it."""

    def answer(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_request_to_end_saves_the_last_step_and_interrupts_what_comes_after_it(whole: Any, tmp_path: Path) -> None:
    def asked(trainable: dict[str, jax.Array]) -> float:
        if float(trainable["x"][0]) != 0:  # in the first validation after a step
            os.kill(os.getpid(), signal.SIGTERM)
        return best_in_the_middle(trainable)

    with answering(), pytest.raises(Terminated):
        trained(tmp_path / "run", every=3600, validate=asked)
    assert [line["step"] for line in curve(tmp_path / "run")] == [0, 0, 1, 2, 3], "step 3 was told, and not validated"
    found = trained(tmp_path / "run")
    assert found.place == "sft, after step 3"
    np.testing.assert_array_equal(found.x, whole[0])
    assert curve(tmp_path / "run") == whole[1]


def test_a_request_to_end_within_a_step_is_answered_after_it(whole: Any, tmp_path: Path) -> None:
    with answering(), pytest.raises(Terminated):
        trained(tmp_path / "run", every=3600, leave=("asked", 4))
    assert curve(tmp_path / "run")[-1]["step"] == 4
    found = trained(tmp_path / "run")
    assert found.place == "sft, after step 4"
    np.testing.assert_array_equal(found.x, whole[0])
    assert curve(tmp_path / "run") == whole[1]


@pytest.mark.parametrize(("how", "done"), [(held, ["step"]), (nullcontext, [])])
def test_a_request_to_end_waits_for_the_end_of_what_holds_it(how: Callable[[], Any], done: list[str]) -> None:
    found = []

    def ask() -> None:
        with how():
            os.kill(os.getpid(), signal.SIGTERM)
            found.append("step")
        found.append("and what comes after it")

    with answering(), pytest.raises(Terminated):
        ask()
    assert found == done


# --- saves that are damaged, and a disk that is full ------------------------------------------------------------


def seals(folder: Path) -> list[Path]:
    return sorted((folder / "state").glob("*.json"))


def largest(seal: Path) -> Path:
    return max((path for path in seal.with_suffix("").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


def flipped(seal: Path) -> Path:
    """A bit of an array is another one: the file can be read, and tells something else."""
    path = largest(seal)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def gone(seal: Path) -> Path:
    path = largest(seal)
    path.unlink()
    return path


def torn(seal: Path) -> Path:
    seal.write_text(seal.read_text()[:-20])
    return seal


@pytest.mark.parametrize("damage", [flipped, gone, torn])
def test_a_save_that_is_damaged_is_left_out_for_the_one_before(
    damage: Callable[[Path], Path], whole: Any, tmp_path: Path
) -> None:
    with pytest.raises(Left):
        trained(tmp_path / "run", leave=("note", 6))
    older, newest = seals(tmp_path / "run")
    before = json.loads(older.read_text())["facts"]["step"]
    path = damage(newest)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    found = trained(tmp_path / "run")
    assert found.place == f"sft, after step {before}"
    (said,) = found.warnings
    assert str(path) in said
    assert f"save {int(older.stem)}" in said
    np.testing.assert_array_equal(found.x, whole[0])
    assert curve(tmp_path / "run") == whole[1]

    with pytest.raises(Left):  # after one save more
        trained(tmp_path / "again", leave=("step", before + 2))
    assert seals(tmp_path / "again")[0].name == older.name, "what is damaged is not kept in the place of what is whole"


def test_where_no_save_is_whole_the_run_begins(whole: Any, tmp_path: Path) -> None:
    with pytest.raises(Left):
        trained(tmp_path / "run", leave=("note", 6))
    for seal in seals(tmp_path / "run"):
        gone(seal)
    found = trained(tmp_path / "run")
    assert (found.place, len(found.warnings)) == (None, 2)
    assert "from the beginning" in found.warnings[0]
    np.testing.assert_array_equal(found.x, whole[0])
    assert curve(tmp_path / "run") == whole[1]


def test_two_saves_are_kept_and_nothing_of_others(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    there = sorted(path.name for path in (tmp_path / "run/state").iterdir())
    assert len(there) == 4
    assert there[::2] == [name.removesuffix(".json") for name in there[1::2]]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 50 kB: those of the arrays would, and no other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_training_goes_on_and_the_last_save_stays(whole: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Left):
        trained(folder, leave=("note", 3))
    newest = seals(folder)[-1]
    with full_disk():
        found = trained(folder)
    np.testing.assert_array_equal(found.x, whole[0])
    (said,) = found.warnings
    assert str(folder / "state") in said
    assert "a crash would cost more steps" in said
    assert seals(folder)[-1] == newest
    again = trained(folder)
    assert again.place == "sft, after step 3"
    np.testing.assert_array_equal(again.x, whole[0])
    assert curve(folder) == whole[1]


# --- arrays on other devices ------------------------------------------------------------------------------------

RESTORE = r"""
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from pe_rlhf_mm.checkpoints.training import Saves

mesh = jax.make_mesh((4,), ("fsdp",))
place = NamedSharding(mesh, P("fsdp"))
key = jax.device_put(jax.random.key(0), NamedSharding(mesh, P()))
saves = Saves(Path(sys.argv[1]))
found = saves.restore(saves.newest()[0], {"x": jax.device_put(np.zeros(8, np.float32), place), "key": key})
assert found["x"].sharding == place and len(found["x"].addressable_shards) == 4
assert np.array_equal(found["x"], np.arange(8)) and found["x"].addressable_shards[3].data.shape == (2,)
assert jax.random.bits(found["key"]) == jax.random.bits(jax.random.key(7))
saves.begin({"from": "a mesh"}, {**found, "x": found["x"] + 1})
saves.wait()
saves.close()
"""


def test_a_save_goes_on_on_other_devices_than_it_was_made_on(tmp_path: Path) -> None:
    """From one to a mesh of four, and back."""
    saves = Saves(tmp_path)
    saves.begin({"from": "one"}, {"x": jnp.arange(8.0), "key": jax.random.key(7)})
    saves.wait()
    saves.close()
    command = [sys.executable, "-c", RESTORE, str(tmp_path)]
    done = subprocess.run(command, env=seeing(4), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saves = Saves(tmp_path)
    save, _ = saves.newest()
    assert save is not None
    assert save.facts == {"from": "a mesh"}
    found = saves.restore(save, {"x": jnp.zeros(8), "key": jax.random.key(0)})
    np.testing.assert_array_equal(found["x"], np.arange(1, 9))
    assert len(found["x"].sharding.device_set) == 1
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(jax.random.key(7)).tolist()


def test_arrays_of_another_tree_are_refused(tmp_path: Path) -> None:
    saves = Saves(tmp_path)
    saves.begin({}, {"x": jnp.arange(8.0)})
    saves.wait()
    save, _ = saves.newest()
    assert save is not None
    with pytest.raises(UserError, match="not what this release trains with"):
        saves.restore(save, {"x": jnp.zeros(8), "y": jnp.zeros(8)})
    with pytest.raises(UserError, match="not what this release trains with"):
        saves.restore(save, {"x": jnp.zeros(9)})
    saves.close()


# --- stages that are finished -----------------------------------------------------------------------------------


def some_roles() -> Roles:
    """Adapters whose scale is no short number, and a whole copy, with heads."""
    made = random_roles("sft", "reward")
    made = made._replace(scales={**made.scales, "sft": jnp.float32(16 / 3)})
    return made.start("whole", BACKBONE).with_head("whole", jnp.linspace(-1, 1, CONFIG.decoder.width) / 3)


@pytest.mark.parametrize("role", ["sft", "reward", "whole"])
def test_roles_come_back_from_disk_bit_by_bit(role: str, tmp_path: Path) -> None:
    roles = some_roles()
    save_role(tmp_path, roles, role, CONFIG, "base")
    found = load_role(tmp_path, only_backbone(roles.backbone), role, CONFIG)
    assert fingerprint(found.pick(role)) == fingerprint(roles.pick(role))
    assert jax.tree.structure(found.pick(role)) == jax.tree.structure(roles.pick(role))
    assert found.scales.get(role) == roles.scales.get(role)


def finished(folder: Path) -> tuple[Run, RunKeeper]:
    run = Run.create(folder, VALUES, resume=folder.exists())
    return run, RunKeeper(run, Stopwatch(), every=0)


def test_a_later_stage_is_not_gone_on_with_upon_another_reward_model(tmp_path: Path) -> None:
    roles = some_roles()
    run, keeper = finished(tmp_path / "run")
    run.save(roles, CONFIG, "reward")
    keeper.finish("reward_model", ["reward"])
    keeper.close()
    run.release()
    run, keeper = finished(tmp_path / "run")
    assert (keeper.place, keeper.finished("reward_model"), keeper.finished("rl")) == ("after reward_model", True, False)
    read = keeper.read("reward_model", ["reward"], only_backbone(roles.backbone), CONFIG)
    assert fingerprint(read.pick("reward")) == fingerprint(roles.pick("reward"))
    run.save(roles.with_head("reward", jnp.zeros(CONFIG.decoder.width)), CONFIG, "reward")
    with pytest.raises(UserError, match=r"reward/head\.safetensors is not what the stage reward_model of this run"):
        keeper.read("reward_model", ["reward"], only_backbone(roles.backbone), CONFIG)
    keeper.close()


def test_times_add_up_over_attempts(tmp_path: Path) -> None:
    run, watch = Run.create(tmp_path / "run", VALUES), Stopwatch()
    keeper = RunKeeper(run, watch, every=0)
    watch.seconds = {"sft": 40.0}
    run._started -= 100
    keeper.save()
    keeper.close()
    run.release()
    run, watch = Run.create(tmp_path / "run", VALUES, resume=True), Stopwatch()
    keeper = RunKeeper(run, watch, every=0)
    assert 100 <= run.seconds < 160
    with watch.of("sft"):
        pass
    assert 40 <= watch.seconds["sft"] < 60
    keeper.close()
    run.close("finished")
    assert not (tmp_path / "run/state").exists()


@pytest.mark.parametrize("best", [None, {"x": jnp.ones(3)}])
def test_a_coefficient_comes_back_to_the_last_bit(best: Any, tmp_path: Path) -> None:
    """Also where nothing was validated yet; one of a fresh stage is not what was reached."""
    state = TrainState({"x": jnp.zeros(3)}, (), jnp.int32(4), jax.random.key(0))
    run, keeper = finished(tmp_path / "run")
    keeper.step("rl", Reached(state, best, 0.5, coefficient=0.1 * (1 + 0.1 * 0.2)))
    keeper.close()
    run.release()
    run, keeper = finished(tmp_path / "run")
    found = keeper.begin("rl", Reached(state._replace(step=jnp.int32(0)), coefficient=0.1))
    assert (int(found.state.step), found.coefficient) == (4, 0.1 * (1 + 0.1 * 0.2))
    assert (found.best is None) == (best is None)
    keeper.close()
    run.release()


@pytest.mark.parametrize("cut", [5, 19, 25, 40])
def test_alarms_of_a_run_that_goes_on_are_those_of_the_uninterrupted_one(cut: int, tmp_path: Path) -> None:
    """Entropy collapses from step 11 on, and is told of at step 20, from the means of ten steps."""
    lines = [
        {"stage": "rl", "step": n, "entropy": 1.0 if n <= 10 else 0.01, "kl": 0.0, "loss": 0.0} for n in range(1, 41)
    ]
    run = Run.create(tmp_path / "run", VALUES)
    alarms = Alarms(run.warn)
    for line in lines[:cut]:
        alarms.step("rl", line["step"], line)
    run.release()
    run = Run.create(tmp_path / "run", VALUES, resume=True)
    alarms = Alarms(run.warn)
    alarms.replay(lines[:cut])
    for line in lines[cut:]:
        alarms.step("rl", line["step"], line)
    (said,) = json.loads((tmp_path / "run/config.json").read_text())["warnings"]
    assert said.startswith("RL step 20: entropy fell")


# --- the folder -------------------------------------------------------------------------------------------------


def test_what_was_written_after_a_save_is_cut_off_and_so_is_a_torn_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", VALUES)
    run.step("sft", 1, {"loss": 1.0})
    written = run.written
    run.step("sft", 2, {"loss": 2.0})
    path = tmp_path / "run/metrics.jsonl"
    with path.open("a") as file:
        file.write('{"stage": "sft", "st')
    assert [line["step"] for line in run.rewind(written + 10**6, 0.0)] == [1, 2]
    assert path.read_text().endswith("}\n")
    assert [line["step"] for line in run.rewind(written, 50.0)] == [1]
    run.step("sft", 2, {"loss": 3.0})
    assert [line["loss"] for line in curve(tmp_path / "run")] == [1.0, 3.0]
    assert 50 <= run.seconds < 60


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"task": "yours"}, r'with task "mine", and is to go on with "yours"'),
        ({"model": "large"}, r'with model "tiny", and is to go on with "large"'),
        ({"settings": {"seed": 1, "sft": {"steps": 9}}}, "with seed 0, and is to go on with 1"),
        ({"settings": {"seed": 0, "sft": {"steps": 9}}}, "with sft.steps 8, and is to go on with 9"),
        ({"start_from": {"run": "a"}}, r'with start_from null, and is to go on with {"run": "a"}'),
    ],
)
def test_a_run_goes_on_as_it_was_begun(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", VALUES).close("failed")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match=said):
        Run.create(tmp_path / "run", {**VALUES, **other}, resume=True)
    with pytest.raises(UserError, match=said):
        refuse_other(tmp_path / "run", {**VALUES, **other})
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_goes_on_on_other_devices(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {**VALUES, "settings": {"seed": 0, "mesh": {"fsdp": 4}}})
    run.release()
    refuse_other(tmp_path / "run", {**VALUES, "settings": {"seed": 0, "mesh": {"fsdp": 1}}})
    # The first release said whether layers are computed again, and later ones say what they keep.
    Run.create(tmp_path / "older", {**VALUES, "settings": {"seed": 0, "remat": True}}).release()
    refuse_other(tmp_path / "older", {**VALUES, "settings": {"seed": 0, "remat": "products"}})
    with pytest.raises(UserError, match="was begun with seed 0"):
        refuse_other(tmp_path / "run", {**VALUES, "settings": {"seed": 1, "mesh": {"fsdp": 1}}})


def test_only_one_process_writes_to_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", VALUES)
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=f"another process is writing to {tmp_path / 'run'}"):
            Run.create(tmp_path / "run", VALUES, **how)
    run.release()
    Run.create(tmp_path / "run", VALUES, resume=True).release()


def test_what_is_no_run_is_not_gone_on_with_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="nothing to go on with"):
        Run.create(tmp_path, VALUES, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_was_made_and_not_begun_begins(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    Run.create(tmp_path, VALUES, resume=True).close("failed")
    assert not is_finished(tmp_path)


def test_a_run_that_is_not_finished_tells_how_to_go_on_with_it(tmp_path: Path) -> None:
    for status, hint in (("failed", "--resume"), ("finished", "--overwrite to start it anew")):
        run = Run.create(tmp_path / status, VALUES)
        run.close(status)  # type: ignore[arg-type]
        run.release()
        with pytest.raises(UserError, match=hint) as refused:
            Run.create(tmp_path / status, VALUES)
        assert ("--resume" in str(refused.value)) == (status == "failed")


def test_a_run_that_starts_anew_has_nothing_left_of_the_old_one(tmp_path: Path) -> None:
    with suppress(Left):
        trained(tmp_path / "run", leave=("step", 4))
    assert seals(tmp_path / "run")
    Run.create(tmp_path / "run", VALUES, overwrite=True).release()
    assert not (tmp_path / "run/state").exists()
