"""Runs with several reward models: what they leave behind, who reads it, and what goes on from them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.rollout.export import export_role
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training.judged import flipped
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.reward_accuracy import evaluate_reward
from pe_rlhf_mm.training.start import read_start
from pe_rlhf_mm.types import Message, Preference, Rated

TOY = f"{__name__}:ToyTask"
WARM = pe.TuneConfig(
    lora=pe.LoraConfig(rank=3, reward_rank=2, targets=("q", "v")),
    sft=pe.SFTConfig(steps=2, batch_size=8, learning_rate=1e-3),
    reward=pe.RewardConfig(
        steps=2, batch_size=8, learning_rate=1e-3, validate_every=2, validation_pairs=8, members=3, control=True,
        flip=0.25,
    ),
    rl=pe.RLConfig(steps=2, prompts=4, learning_rate=1e-3, max_tokens=4, evaluate_every=2, evaluation_samples=4),
    test_samples=8,
)  # fmt: skip
MEMBERS = {"reward-1", "reward-2", "reward-3"}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "warm"
    pe.tune(TOY, out=folder, config=WARM, quiet=True)
    return folder


@pytest.fixture(scope="module")
def ensemble(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same members, as a run leaves them behind that combines their words."""
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    shutil.copytree(warm, folder, ignore=shutil.ignore_patterns("reward"))
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["reward"]["combine"] = "uncertainty"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def started(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "next"
    pe.tune(TOY, out=folder, config=replace(WARM, reward=pe.RewardConfig()), start_from=ensemble, quiet=True)
    return folder


def lines(folder: Path, stage: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if line["stage"] == stage and "loss" in line]


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "adapters").iterdir()}


def test_a_run_leaves_members_and_their_average_behind(warm: Path, started: Path) -> None:
    """Another one goes on from all of them, in the way in which they were combined."""
    assert saved(warm) == {"sft", "policy", "value", "reward", *MEMBERS}
    assert saved(started) == {"sft", "policy", "value", *MEMBERS}
    for folder in (warm, started):
        assert all(math.isfinite(line["control"]) for line in lines(folder, "rl"))
        told = json.loads((folder / "summary.json").read_text())["reward_model"]
        assert set(told["by"]["member"]) == MEMBERS
        assert "Reward model by member" in (folder / "report.html").read_text()
    assert not lines(started, "reward_model")
    assert "disagreement" not in lines(warm, "rl")[0]
    assert lines(started, "rl")[0]["disagreement"] > 0
    assert json.loads((warm / "config.json").read_text())["settings"]["reward"]["flip"] == 0.25


def test_the_reward_model_of_a_run_says_what_its_members_make_together(warm: Path, ensemble: Path) -> None:
    """The average is one model; an ensemble is the mean less half the variance of two, without the control."""
    asked, replies = [[Message("user", "what?")]] * 2, ["red", "a circle"]
    assert pe.load_run_reward(warm).score(asked, replies).std() > 0
    model = load_model("tiny-vlm")
    apart = np.stack(
        [pe.load_reward(model, ensemble / "adapters" / f"reward-{n}").score(asked, replies) for n in (1, 2)]
    )
    together = pe.load_run_reward(ensemble)
    np.testing.assert_allclose(together.score(asked, replies), apart.mean(0) - 0.5 * apart.var(0), atol=1e-5)
    told = evaluate_reward(TOY, together, limit=4)["pairs"]
    assert set(told["by"]["member"]) == {"reward-1", "reward-2"}


def test_members_of_a_run_are_averaged_by_hand(warm: Path) -> None:
    """What the run calls `reward` has the members' heads before they were standardised; the updates are the same."""
    model = load_model("tiny-vlm")
    members = [pe.load_reward(model, warm / "adapters" / f"reward-{number}") for number in (1, 2)]
    found, made = pe.average_rewards(members).roles.slots["reward"], pe.load_run_reward(warm).roles.slots["reward"]
    for target, low in found.items():
        np.testing.assert_allclose(low.a, made[target].a, atol=1e-6)
        np.testing.assert_allclose(low.b, made[target].b, atol=1e-6)


def test_what_has_no_average_is_refused(warm: Path, ensemble: Path) -> None:
    model, run = load_model("tiny-vlm"), pe.load_run_reward(warm)
    other = replace(
        run, roles=run.roles._replace(backbone=jax.tree.map(lambda x: -x, run.roles.backbone)), name="other"
    )
    with pytest.raises(UserError, match="other is over other weights than"):
        pe.average_rewards([run, other])
    with pytest.raises(UserError, match="is no single adapter"):
        pe.average_rewards([run, pe.load_run_reward(ensemble)])
    member = pe.load_reward(model, warm / "adapters/reward-1")
    narrow = {"q": member.roles.slots["reward"]["q"]}
    with pytest.raises(UserError, match="different shapes have no average"):
        pe.average_rewards([run, replace(member, roles=member.roles._replace(slots={"reward": narrow}))])


def test_a_member_that_is_missing_is_named(ensemble: Path, tmp_path: Path) -> None:
    shutil.copytree(ensemble, tmp_path / "half", ignore=shutil.ignore_patterns("reward-2"))
    with pytest.raises(UserError, match="reward-2"):
        pe.load_run_reward(tmp_path / "half")
    start = read_start(tmp_path / "half", "tiny-vlm", WARM)
    assert start.roles == ("sft",), "the others alone would be another reward"


def test_an_average_is_exported_as_any_reward_model(warm: Path, tmp_path: Path) -> None:
    export_role(warm, tmp_path / "out", "reward", "peft")
    asked, replies = [[Message("user", "what?")]], ["red"]
    exported = pe.load_reward(load_model("tiny-vlm"), tmp_path / "out").score(asked, replies)
    np.testing.assert_allclose(exported, pe.load_run_reward(warm).score(asked, replies), atol=1e-6)


# --- flipped labels ---------------------------------------------------------------------------------------------


def test_a_share_of_labels_says_the_contrary() -> None:
    asked = [Message("user", "?")]
    labels: list[Label] = [Preference(asked, str(i), "other", probability=0.75) for i in range(20)]
    found = flipped(labels, 0.25, seed=1)
    assert sorted(label.probability for label in found) == [0.25] * 5 + [0.75] * 15
    assert [label.chosen for label in found] == [str(i) for i in range(20)], "replies stay where they are"
    assert found == flipped(labels, 0.25, seed=1) != flipped(labels, 0.25, seed=2)
    assert flipped(labels, 0.0, seed=1) == labels
    assert [label.label for label in flipped([Rated(asked, "a", 1.0), Rated(asked, "b", 0.25)], 0.999, seed=0)] == [
        0.0,
        0.75,
    ]


def test_training_labels_are_flipped_and_no_others() -> None:
    model = load_model("tiny-vlm")
    plain, turned = (
        prepare(ToyTask(), model, replace(WARM, reward=replace(WARM.reward, flip=flip))) for flip in (0.0, 0.25)
    )
    different = [a.labels != b.labels for a, b in zip(plain.judged, turned.judged, strict=True)]
    assert sum(different) == round(0.25 * len(different)) > 0
    assert [e.labels for e in plain.validation_judged] == [e.labels for e in turned.validation_judged]
