"""The whole job, small: what a run leaves behind, what reaches which stage, and how it ends when it is stopped."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.tasks.vqa.easy_vqa import EasyVQA
from pe_rlhf_mm.training import tune as tune_module
from pe_rlhf_mm.training.scorers import LEARNED
from pe_rlhf_mm.training.step import train_step

ROOT = Path(__file__).parent.parent
SMALL = pe.TuneConfig(
    sft=pe.SFTConfig(steps=6, batch_size=16, learning_rate=1e-3, demonstrations=64),
    reward=pe.RewardConfig(steps=6, batch_size=16, pairs=64, validate_every=3, validation_pairs=32),
    rl=pe.RLConfig(steps=3, prompts=8, group=2, max_tokens=8, evaluate_every=2, evaluation_samples=16),
    test_samples=24,
)
SMALL_OPTIONS = (
    "--sft.steps 6 --sft.batch-size 16 --sft.demonstrations 64 --reward.steps 6 --reward.batch-size 16 "
    "--reward.pairs 64 --reward.validate-every 3 --reward.validation-pairs 32 --rl.prompts 8 --rl.group 2 "
    "--rl.evaluation-samples 16 --test-samples 24"
).split()
SUMMARY = {
    "task": str,
    "model": str,
    "mode": str,
    "seed": int,
    "sft": {"accuracy": float, "n": int},
    "reward_model": {"accuracy": float, "n": int},
    "rl": {"accuracy": float, "n": int, "kl": float},
    "learned_reward": {name: {"mean": float, "n": int, "interval": list} for name in ("sft", "rl", "gain")},
    "trainable_fraction": float,
    "seconds": float,
    "peak_rss_gib": float,
}


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    pe.tune("pe/easy-vqa", out=folder, config=SMALL, quiet=True)
    return folder


def lines(folder: Path, stage: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


def assert_shape(value: Any, shape: Any, where: str = "summary") -> None:
    if isinstance(shape, dict):
        for key, inner in shape.items():
            assert_shape(value[key], inner, f"{where}.{key}")
    else:
        assert isinstance(value, shape), where


def test_a_run_leaves_everything_behind(lora_run: Path) -> None:
    summary = json.loads((lora_run / "summary.json").read_text())
    assert_shape(summary, SUMMARY)
    assert json.loads((lora_run / "config.json").read_text())["status"] == "finished"
    assert {p.name for p in (lora_run / "adapters").iterdir()} == {"sft", "reward", "policy", "value"}
    assert (lora_run / "report.html").stat().st_size > 10_000
    assert [line["step"] for line in lines(lora_run, "sft") if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(lora_run, "rl") if "validation_accuracy" in line] == [0, 2, 3]
    samples = [json.loads(line) for line in (lora_run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == SMALL.test_samples == summary["rl"]["n"]
    assert all((lora_run / s["image"]).is_file() for s in samples)


def test_the_summary_counts_what_the_samples_show(lora_run: Path) -> None:
    summary = json.loads((lora_run / "summary.json").read_text())
    samples = [json.loads(line) for line in (lora_run / "samples.jsonl").read_text().splitlines()]
    for key in ("sft", "rl"):
        right = [s[key]["reply"].strip() == s["target"] for s in samples]
        assert summary[key]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_kl_is_exactly_zero_before_the_first_update(lora_run: Path) -> None:
    first = next(line for line in lines(lora_run, "rl") if line["step"] == 1)
    assert first["kl"] == 0.0
    assert any(line["kl"] != 0.0 for line in lines(lora_run, "rl") if line["step"] > 1 and "kl" in line)


def test_a_policy_read_back_answers_as_it_did_in_the_run(lora_run: Path) -> None:
    policy = pe.load_policy(lora_run)
    samples = [json.loads(line) for line in (lora_run / "samples.jsonl").read_text().splitlines()]
    by_id = {s.id: s for s in EasyVQA().samples("test")}
    replies = policy.generate([by_id[s["id"]].messages for s in samples], max_tokens=8)
    assert [group[0] for group in replies] == [s["rl"]["reply"] for s in samples]


def test_full_mode_is_the_same_job_on_whole_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds no more of them than it needs: beside the backbone, what other stages have trained, what is trained
    with two moments, and the best of it so far."""
    backbone: Any = pe.load_model("tiny-vlm").state
    shape = backbone["decoder"]["embedding"].get_value().shape
    there: list[int] = []

    def tables() -> int:
        gc.collect()
        return sum(x.shape == shape for x in jax.live_arrays())

    def counted(*given: Any, **how: Any) -> Any:
        found = train_step(*given, **how)
        there.append(tables() - before)
        return found

    before = tables()
    monkeypatch.setattr("pe_rlhf_mm.training.loop.train_step", counted)
    config = replace(SMALL, mode="full")
    # Without a save between steps: while it is written it holds a copy of all that is trained.
    summary = pe.tune("pe/easy-vqa", out=tmp_path / "full", config=config, quiet=True, save_every=3600)
    assert there == [3] * 6 + [4] * 3 + [5] * 3 + [10] * 3
    assert summary["trainable_fraction"] == 1.0
    first = next(line for line in lines(tmp_path / "full", "rl") if line["step"] == 1)
    assert first["kl"] == 0.0
    assert (tmp_path / "full/adapters/policy/model.safetensors").is_file()


def test_no_ground_truth_reaches_rl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RL is given token ids of prompts and image numbers; nothing it holds contains an answer."""

    class Stop(Exception): ...

    def spy(roles: Any, processor: Any, gallery: Any, prompts: Any, settings: Any, **rest: Any) -> None:
        assert all(type(p) is EncodedPrompt for p in prompts)
        assert set(rest) == {"scorer", "monitor", "technique", "seed", "observer", "keeper"}
        assert rest["scorer"].roles == LEARNED.roles == ("reward",), "an evaluator, which knows targets, asks no role"
        training = list(EasyVQA().samples("train"))
        assert len(prompts) == len(training)
        for prompt, sample in list(zip(prompts, training, strict=True))[:2000]:
            text = processor.decode([t for t in prompt.tokens if t != processor.config.image_id])
            asked = sample.messages[0].content[1].text
            assert text == f"<|user|>{asked}<|assistant|>", "the stop token of the user's turn is dropped by decode"
        raise Stop

    monkeypatch.setattr(tune_module, "reinforce", spy)
    with pytest.raises(Stop):
        pe.tune("pe/easy-vqa", out=tmp_path / "run", config=SMALL, quiet=True)
    assert json.loads((tmp_path / "run/config.json").read_text())["status"] == "failed"


def test_splits_share_no_picture() -> None:
    pictures = {split: {s.cluster for s in EasyVQA().samples(split)} for split in ("train", "validation", "test")}
    assert not pictures["train"] & pictures["validation"]
    assert not pictures["train"] & pictures["test"]
    assert {len(v) for v in pictures.values()} == {len(pictures["train"]), len(pictures["validation"]), 1000}


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "pe_rlhf_mm", "tune", "pe/easy-vqa", "--out", str(out), *SMALL_OPTIONS, *options]


def test_a_loss_that_is_not_finite_ends_with_a_reason(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "run", "--sft.learning-rate", "1e38"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "not finite at step" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["status"] == "failed"


def test_ctrl_c_leaves_a_run_that_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(folder, "--rl.steps", "100000"), cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "metrics.jsonl").is_file() and sum("kl" in line for line in lines(folder, "rl")) >= 2:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads((folder / "config.json").read_text())["status"] == "interrupted"
    assert "interrupted" in (folder / "report.html").read_text()
    question = next(EasyVQA().samples("test"))
    assert isinstance(pe.load_policy(folder)(question.messages), str)
    assert isinstance(pe.load_policy(folder, role="sft")(question.messages), str)


def test_a_run_that_is_asked_to_end_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder, "--sft.steps", "100000"), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and not (folder / "metrics.jsonl").is_file():
        time.sleep(0.2)
    process.terminate()
    try:
        assert process.wait(timeout=60) == 75
    finally:
        process.kill()
    assert json.loads((folder / "config.json").read_text())["status"] == "interrupted"
    assert "interrupted" in (folder / "report.html").read_text()


def test_a_relative_model_folder_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "tiny-vlm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tune_module.lasting_name("checkpoint") == str(tmp_path / "checkpoint")
    assert [tune_module.lasting_name(name) for name in ("tiny-vlm", "org/name")] == ["tiny-vlm", "org/name"]


def test_a_finished_run_is_not_overwritten_by_accident(lora_run: Path) -> None:
    before = {p: p.read_bytes() for p in lora_run.rglob("*") if p.is_file()}
    with pytest.raises(pe.UserError, match="--overwrite"):
        pe.tune("pe/easy-vqa", out=lora_run, config=SMALL, quiet=True)
    assert {p: p.read_bytes() for p in lora_run.rglob("*") if p.is_file()} == before


def test_a_later_disaster_leaves_what_was_saved_intact(
    lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RL whose rewards are not numbers: the SFT policy and the reward model on disk are whole."""

    def worth(said: Any, *given: Any) -> Any:
        return LEARNED.worth({**said, "reward": said["reward"] * float("nan")}, *given)

    monkeypatch.setattr(tune_module, "learned_by", lambda jury: LEARNED._replace(worth=worth))
    with pytest.raises(pe.UserError, match=r"reward.* not finite at step 1"):
        pe.tune("pe/easy-vqa", out=tmp_path / "run", config=SMALL, quiet=True)
    saved = tmp_path / "run/adapters"
    for role in ("sft", "reward"):
        assert (saved / role / "adapter_model.safetensors").stat().st_size > 1000
    assert pe.load_policy(tmp_path / "run", role="sft").generate([next(EasyVQA().samples("test")).messages])


def test_the_numbers_of_a_run_are_finite(lora_run: Path) -> None:
    for line in (lora_run / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(v) for v in json.loads(line).values() if isinstance(v, float))
