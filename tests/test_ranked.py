"""Algorithms that rank the replies of a group: a few steps of the whole job, on pictures and on screens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.types import Outcome, Score


class Letters:
    """So that hardly two replies of a group tie."""

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [Score(float(sum(map(ord, "".join(outcome.replies))) % 97)) for outcome in outcomes]


def settings(mode: Any, **rl: Any) -> pe.TuneConfig:
    return pe.TuneConfig(
        mode=mode,
        lora=pe.LoraConfig(rank=2, targets=("q", "v")),
        sft=pe.SFTConfig(steps=1, batch_size=4, demonstrations=4),
        rl=pe.RLConfig(
            steps=3, prompts=4, group=3, max_tokens=4, temperature=1.0, reward=f"{__file__}:Letters", max_turns=2,
            environments=4, evaluate_every=3, evaluation_samples=4, **rl,
        ),
        test_samples=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "task", "mode", "options"),
    [
        ("online-dpo", "pe/easy-vqa", "full", {"beta": 0.0, "learning_rate": 1e-3}),
        ("online-dpo", "canvas/press", "lora", {"kl": "k3", "epochs": 2, "learning_rate": 1e-2}),
        ("best-of-n", "pe/easy-vqa", "lora", {"kl": "loss", "epochs": 2, "learning_rate": 1e-2}),
        ("best-of-n", "canvas/press", "full", {"beta": 0.0, "learning_rate": 1e-3}),
    ],
)
def test_the_whole_job_learns_by_rank(
    algorithm: str, task: str, mode: str, options: dict[str, Any], tmp_path: Path
) -> None:
    pe.tune(task, out=tmp_path, config=settings(mode, algorithm=algorithm, **options), quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "rl" and "loss" in line]
    assert len(steps) == 3
    assert min(line["grad_norm"] for line in steps) > 0
    assert steps[0]["kl"] == 0 != steps[-1]["kl"]
