"""A run that starts from another one's SFT policy and reward model: what is taken over, said and refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.roles import fingerprint, only_backbone
from pe_rlhf_mm.cli.tune import tune as command
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.rollout.export import export_role
from pe_rlhf_mm.testing import ToyTask, check_task
from pe_rlhf_mm.training.given import folder_of, refuse_other_adapters
from pe_rlhf_mm.training.start import inherited, read_start
from pe_rlhf_mm.types import Sample

SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=3, reward_rank=2, targets=("q", "v")),
    sft=pe.SFTConfig(steps=3, batch_size=8, learning_rate=1e-3),
    reward=pe.RewardConfig(steps=4, batch_size=8, learning_rate=1e-3, validate_every=4, validation_pairs=8),
    rl=pe.RLConfig(steps=2, prompts=4, learning_rate=1e-3, max_tokens=4, evaluate_every=2, evaluation_samples=4),
)
OTHER = replace(
    SMALL, lora=pe.LoraConfig(), sft=pe.SFTConfig(), reward=replace(SMALL.reward, steps=2, validate_every=2), seed=5
)
"""What the new task would be tuned with: other adapters, another seed."""


class Asked:
    """Prompts and nothing else: no pairs, no solutions, and nothing to score a reply against."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        return (replace(sample, target=None) for sample in ToyTask().samples(split))

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> None: ...


class Paired(Asked):
    """Pairs, but nobody who knows an answer."""

    preferences = ToyTask.preferences
    COLORS, SIZES = ToyTask.COLORS, ToyTask.SIZES

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        return ToyTask().samples(split)


TOY, ASKED, PAIRED = (f"{__name__}:{name}" for name in ("ToyTask", "Asked", "Paired"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    pe.tune(TOY, out=folder, config=SMALL, quiet=True)
    return folder


@pytest.fixture(scope="module")
def started(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "asked"
    pe.tune(ASKED, out=folder, config=OTHER, start_from=source, quiet=True)
    return folder


def stages(folder: Path) -> set[str]:
    return {json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()}


def prints(folder: Path, role: str) -> str:
    """Of all that a role is made of, as it is read from disk."""
    return prints_of(folder / "adapters" / role, role)


def prints_of(folder: Path, role: str) -> str:
    model = load_model("tiny-vlm")
    roles = load_role(folder, only_backbone(model.state), role, model.config)
    return fingerprint([list(part.values()) for part in roles[1:]])


# --- what is taken over -----------------------------------------------------------------------------------------


def test_the_sft_policy_and_the_reward_model_are_those_of_the_other_run(source: Path, started: Path) -> None:
    assert stages(started) == {"rl", "evaluation"}
    for role in ("sft", "reward"):
        assert prints(started, role) == prints(source, role)
    assert prints(started, "policy") != prints(started, "sft"), "RL moved it"
    first = next(json.loads(line) for line in (started / "metrics.jsonl").read_text().splitlines() if '"kl"' in line)
    assert first["kl"] == 0.0, "and it began where the other run's SFT policy stood"


def test_both_files_of_a_run_remember_where_it_started(source: Path, started: Path) -> None:
    remembered = {"run": str(source.resolve()), "task": TOY, "roles": ["sft", "reward"]}
    config, summary = (json.loads((started / name).read_text()) for name in ("config.json", "summary.json"))
    assert config["start_from"] == summary["start_from"] == remembered
    assert json.loads((source / "config.json").read_text())["start_from"] is None


def test_settings_are_those_that_each_role_was_trained_with(source: Path, started: Path) -> None:
    settings = json.loads((started / "config.json").read_text())["settings"]
    theirs = json.loads((source / "config.json").read_text())["settings"]
    assert [settings[name] for name in ("lora", "sft", "reward")] == [theirs[n] for n in ("lora", "sft", "reward")]
    assert (settings["seed"], settings["lora"]["rank"]) == (5, 3)
    slot = pe.load_policy(started).weights.bank.matrices
    assert set(slot) == {"q", "v"}
    assert slot["q"].a.shape[-1] == 3


def test_a_run_that_started_from_another_can_be_started_from(started: Path) -> None:
    start = read_start(started, "tiny-vlm", OTHER)
    assert start.roles == ("sft", "reward")
    assert inherited(OTHER, start).lora == SMALL.lora
    own = replace(OTHER, lora=pe.LoraConfig(value_rank=5, value_targets=("o",)))
    assert inherited(own, start).lora == replace(SMALL.lora, value_rank=5, value_targets=("o",))


def test_what_the_other_run_does_not_have_is_trained(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "half", ignore=shutil.ignore_patterns("reward", "policy", "value"))
    with pytest.raises(UserError, match="Asked has no preferences"):
        pe.tune(ASKED, out=tmp_path / "run", config=OTHER, start_from=tmp_path / "half", quiet=True)
    summary = pe.tune(PAIRED, out=tmp_path / "run", config=OTHER, start_from=tmp_path / "half", quiet=True)
    assert summary["start_from"]["roles"] == ["sft"]
    assert stages(tmp_path / "run") == {"reward_model", "rl", "evaluation"}
    assert prints(tmp_path / "run", "sft") == prints(source, "sft")
    settings = json.loads((tmp_path / "run/config.json").read_text())["settings"]
    assert (settings["reward"]["steps"], settings["lora"]["reward_rank"]) == (2, 2)
    assert summary["reward_model"]["n"] == 16


def test_in_mode_full_whole_copies_are_taken_over(tmp_path: Path) -> None:
    full, other = replace(SMALL, mode="full"), replace(OTHER, mode="full")
    pe.tune(TOY, out=tmp_path / "toy", config=full, quiet=True)
    summary = pe.tune(ASKED, out=tmp_path / "asked", config=other, start_from=tmp_path / "toy", quiet=True)
    assert summary["trainable_fraction"] == 1.0
    for role in ("sft", "reward"):
        assert (tmp_path / "asked/adapters" / role / "model.safetensors").is_file()
        assert prints(tmp_path / "asked", role) == prints(tmp_path / "toy", role)
    with pytest.raises(UserError, match="was tuned with mode full, and this run is to have mode lora"):
        pe.tune(ASKED, out=tmp_path / "run", config=OTHER, start_from=tmp_path / "toy", quiet=True)


# --- SFT that goes on -------------------------------------------------------------------------------------------


def test_sft_goes_on_with_the_adapters_of_a_run_or_of_a_folder(source: Path, tmp_path: Path) -> None:
    """With a learning rate that moves nothing, it ends where those are."""
    still = replace(SMALL, method="dpo", preferences=pe.PreferenceConfig(steps=1, batch_size=8, evaluate_every=1))
    export_role(source, tmp_path / "adapter", "sft", "peft")
    for reference, role in (str(source), "policy"), (f"{source}:sft", "sft"), (str(tmp_path / "adapter"), "sft"):
        assert prints_of(folder_of(reference), "sft") == prints(source, role)
    sft = replace(still.sft, steps=1, learning_rate=1e-30, start_from=str(tmp_path / "adapter"))
    pe.tune(TOY, out=tmp_path / "run", config=replace(still, sft=sft), quiet=True)
    assert prints(tmp_path / "run", "sft") == prints(source, "sft")
    assert stages(tmp_path / "run") == {"sft", "preferences", "evaluation"}
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["sft"]["start_from"] == sft.start_from


@pytest.mark.parametrize(
    ("changes", "role", "said"),
    [
        ({"lora": replace(SMALL.lora, rank=4)}, "", "give --lora.rank 3 --lora.targets q v --lora.kind lora"),
        ({"lora": replace(SMALL.lora, targets=("q",))}, "", "has other adapters .* --lora.targets q v"),
        ({"lora": replace(SMALL.lora, kind="dora")}, "", "has other adapters .* --lora.kind lora"),
        ({"lora": replace(SMALL.lora, scaling="rslora")}, "", r"--lora.alpha 9.2376, with --lora.scaling rslora"),
        ({"mode": "full"}, "", "holds adapters, and this run is of mode full. Give --mode lora"),
        ({}, ":reward", "reads a number off a head"),
        ({}, ":judge", "has no adapters to go on with: expected a run with the role judge"),
    ],
)
def test_sft_goes_on_with_nothing_but_what_it_is_to_train(
    source: Path, changes: dict[str, Any], role: str, said: str
) -> None:
    sft, model = replace(SMALL.sft, start_from=f"{source}{role}"), load_model("tiny-vlm")
    with pytest.raises(UserError, match=said):
        refuse_other_adapters(replace(SMALL, sft=sft, **changes), model)


def test_there_is_one_way_to_start(source: Path, tmp_path: Path) -> None:
    both = replace(SMALL, sft=replace(SMALL.sft, start_from=str(source)))
    with pytest.raises(UserError, match="nothing is left for --sft"):
        pe.tune(TOY, out=tmp_path / "run", config=both, start_from=source, quiet=True)
    assert not (tmp_path / "run").exists()


# --- what is said -----------------------------------------------------------------------------------------------


def test_what_nobody_can_tell_is_a_dash_and_the_learned_reward_is_told(started: Path) -> None:
    summary = json.loads((started / "summary.json").read_text())
    assert [summary[name]["accuracy"] for name in ("sft", "rl", "reward_model", "gain")] == [None] * 4
    assert summary["reward_model"] == {
        "accuracy": None, "n": 0, "interval": [None, None], "by": {}, "calibration": None,
    }  # fmt: skip
    assert "reward_model" not in summary["stages"]
    assert "The evaluator scored no reply." in (started / "report.md").read_text()
    assert np.isfinite([row["mean"] for row in summary["learned_reward"].values()]).all()
    text = " ".join((started / "report.html").read_text().split())
    assert "The evaluator scored no reply. The mean learned reward of the test replies was" in text
    assert text.count(f"trained by a run on {TOY}") == 2
    assert "Learned reward of test replies" in text
    assert not re.search(r"\bnan\b", text, re.I)


def test_the_command_prints_dashes_and_the_reward(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Asked, "tuning", OTHER, raising=False)
    command([ASKED, "--start-from", str(source), "--out", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["SFT", "–", "–", "0"]
    assert lines[2] == ["reward", "model", "–", "–", "0"]
    assert lines[4] == ["gain", "by", "RL", "–", "–"]
    assert lines[5][:2] == ["learned", "reward"]
    assert lines[5][-1] == "deviations"
    assert not re.search(r"\bnan\b", out + err, re.I)


def test_a_task_of_prompts_only_conforms() -> None:
    assert check_task(Asked()) == []


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said"),
    [(ASKED, r"Asked has no preferences.*--start-from RUN"), (PAIRED, "solve gave no reply.*--start-from")],
)
def test_without_a_run_to_start_from_a_task_says_what_it_lacks(task: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        pe.tune(task, out=tmp_path / "run", config=OTHER, quiet=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "org/other"}, "was tuned with model org/other, and this run is to have model tiny-vlm"),
        (
            {"settings": {"mode": "lora", "quantize": "int8"}},
            "with quantize int8, and this run is to have quantize None",
        ),
        ({"settings": None}, "was tuned with mode None"),
        ({"settings": {"mode": "lora", "lora": {"rnak": 3}}}, "has settings of another release"),
        ({"task": None}, "is no run folder|has settings of another release"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(
    source: Path, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "toy")
    config = json.loads((source / "config.json").read_text()) | changes
    (tmp_path / "toy/config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "task" or v}))
    with pytest.raises(UserError, match=said):
        pe.tune(ASKED, out=tmp_path / "run", config=OTHER, start_from=tmp_path / "toy", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_or_has_no_sft_policy_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        pe.tune(ASKED, out=tmp_path / "run", config=OTHER, start_from=tmp_path, quiet=True)
    shutil.copytree(source, tmp_path / "toy", ignore=shutil.ignore_patterns("sft"))
    with pytest.raises(UserError, match="has no SFT policy to start from"):
        pe.tune(ASKED, out=tmp_path / "run", config=OTHER, start_from=tmp_path / "toy", quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_run_to_start_from_is_never_overwritten(source: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is the run to start from, and would be overwritten"):
        pe.tune(ASKED, out=source / "../toy", config=OTHER, start_from=source, overwrite=True, quiet=True)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_a_damaged_adapter_is_named(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "toy")
    path = tmp_path / "toy/adapters/reward/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"reward/adapter_model\.safetensors is damaged"):
        pe.tune(ASKED, out=tmp_path / "run", config=OTHER, start_from=tmp_path / "toy", quiet=True)
