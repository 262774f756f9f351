"""The whole job on a task that is played: what it leaves behind, and that a policy read back plays as it did."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm import registry
from pe_rlhf_mm.adapters import roles
from pe_rlhf_mm.cli.main import run as command
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.rollout.episodes import play_episodes
from pe_rlhf_mm.rollout.settings import Sampling

SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=4, targets=("q", "v")),
    sft=pe.SFTConfig(steps=2, batch_size=8, learning_rate=1e-3, demonstrations=16),
    reward=pe.RewardConfig(
        loss="pointwise", steps=2, batch_size=8, learning_rate=1e-3, pairs=16, validate_every=2, validation_pairs=8
    ),
    rl=pe.RLConfig(
        steps=2, prompts=4, environments=4, max_turns=2, max_tokens=8, learning_rate=1e-3, reward="task",
        evaluate_every=2, evaluation_samples=4,
    ),
    test_samples=6,
)  # fmt: skip
TASK = "canvas/press"
OPTIONS = """
    --lora.rank 4 --lora.targets q v --sft.steps 2 --sft.batch-size 8 --sft.learning-rate 1e-3 --sft.demonstrations 16
    --rl.steps 2 --rl.prompts 4 --rl.group 1 --rl.environments 4 --rl.temperature 0.7 --rl.max-turns 2 --rl.max-tokens 8
    --rl.learning-rate 1e-3 --rl.reward task --rl.evaluate-every 2 --rl.evaluation-samples 4 --test-samples 6
"""
"""The same on the command line, as far as a run by the task's own reward reads them."""


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Run(NamedTuple):
    """A run's folder, how many galleries it made, and what the command said in the end."""

    folder: Path
    galleries: int
    said: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out, count, make = tmp_path_factory.mktemp("agent") / "run", itertools.count(), Gallery.__init__
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(Gallery, "__init__", lambda self, *given, **named: (next(count), make(self, *given, **named))[1])
        assert command(["tune", TASK, "--out", str(out), *OPTIONS.split()]) == 0
    return Run(out, next(count), said.getvalue())


@pytest.fixture
def run(made: Run) -> Path:
    return made.folder


def test_screens_are_let_go_with_the_rollout_that_they_were_seen_in(made: Run) -> None:
    """One gallery for demonstrations, one for each of 2 rollouts, 2 validations and 2 test plays, one for the KL."""
    assert made.galleries == 8


def test_a_run_by_the_task_s_own_reward_leaves_everything_but_a_reward_model(run: Path) -> None:
    assert {folder.name for folder in (run / "adapters").iterdir()} == {"sft", "policy", "value"}
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["sft"]["n"], summary["rl"]["n"], summary["reward_model"]) == (6, 6, None)
    assert summary["episodes"]["rl"]["episodes"] == 6
    steps = [line for line in metrics_of(run) if line["stage"] == "rl" and "loss" in line]
    assert len(steps) == 2
    assert steps[0]["kl"] == 0  # the policy begins as its anchor
    assert all(line["sampler_gap"] < 1e-3 and line["lost"] == 0 for line in steps)
    assert np.isfinite([line["loss"] for line in steps]).all()


def test_the_command_tells_what_came_of_a_task_that_is_played(made: Run) -> None:
    assert [line.split()[0] for line in made.said.splitlines()] == ["accuracy", "SFT", "RL", "gain", "KL", "report:"]
    assert "nats an episode" in made.said


def test_the_samples_show_both_policies_episodes(run: Path) -> None:
    records = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(records) == 6
    for record in records:
        assert record["question"].startswith("Press ")
        for name in ("sft", "rl"):
            steps = record["episodes"][name]["steps"]
            assert 1 <= len(steps) <= 3
            assert (run / steps[0]["image"]).is_file()
    assert "<svg" in (run / "report.html").read_text()


def test_a_policy_read_back_plays_as_it_did_in_the_run(run: Path) -> None:
    records = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    task, policy = registry.tasks.make(TASK), pe.load_policy(run)
    wanted = {record["id"] for record in records}
    samples = [sample for sample in task.samples("test") if sample.id in wanted]
    gallery = Gallery(policy.processor.config, look_with=policy.weights.state)
    with EnvPool(task.environment, 4) as pool:
        played = play_episodes(
            policy.processor, policy.weights, gallery, pool, samples, Sampling(0.0, max_tokens=8),
            jax.random.key(0), max_turns=2,
        )  # fmt: skip
    assert ["\n".join(p.outcome.replies) for p in played] == [record["rl"]["reply"] for record in records]


def test_the_paper_s_recipe_judges_every_action_by_a_learned_reward(run: Path, tmp_path: Path) -> None:
    """From the SFT policy of the other run; the 0/1 reward model is trained on right and wrong actions."""
    learned = replace(SMALL, rl=replace(SMALL.rl, reward="learned"))
    summary = pe.tune(TASK, out=tmp_path / "run", config=learned, start_from=run, quiet=True)
    assert {folder.name for folder in (tmp_path / "run/adapters").iterdir()} == {"sft", "reward", "policy", "value"}
    assert summary["reward_model"]["n"] == 6
    stages = {line["stage"] for line in metrics_of(tmp_path / "run")}
    assert stages == {"reward_model", "rl", "evaluation"}
    model = pe.load_model("tiny-vlm")
    policy = pe.load_policy(tmp_path / "run")
    assert roles.fingerprint(policy.weights.state) == roles.fingerprint(model.state)


def test_a_reward_of_its_own_is_asked_of_played_tasks_only(tmp_path: Path) -> None:
    with pytest.raises(pe.UserError, match="EasyVQA is not played in an environment"):
        pe.tune("pe/easy-vqa", out=tmp_path / "run", config=SMALL, quiet=True)
    assert not (tmp_path / "run").exists()
