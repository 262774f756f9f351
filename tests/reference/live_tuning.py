"""Every family that sees is tuned on published pictures: the whole job, small, in both modes.

pytest --dist=worksteal tests/reference/live_tuning.py       (`make test-reference` runs it)
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import roles

FIXTURES = Path(__file__).parent.parent / "fixtures"
SMALL = pe.TuneConfig(
    sft=pe.SFTConfig(steps=2, batch_size=4, demonstrations=8),
    reward=pe.RewardConfig(steps=2, batch_size=4, pairs=8, validate_every=2, validation_pairs=4),
    rl=pe.RLConfig(steps=2, prompts=2, group=2, max_tokens=4, evaluate_every=2, evaluation_samples=4),
    test_samples=4,
)


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("family", ["smolvlm", "gemma3", "paligemma2", "qwen2_5_vl", "qwen3_vl"])
def test_the_whole_job_runs_and_moves_what_it_trains(family: str, mode: str, tmp_path: Path) -> None:
    model = pe.load_model(FIXTURES / family)
    settings = replace(SMALL, mode=mode)
    summary = pe.tune("pe/easy-vqa", model=FIXTURES / family, out=tmp_path / "run", config=settings, quiet=True)
    assert summary["rl"]["n"] == 4
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for stage in ("sft", "reward_model", "rl"):
        losses = [line["loss"] for line in metrics if line["stage"] == stage and "loss" in line]
        assert len(losses) == 2
        assert np.isfinite(losses).all()
    policy = pe.load_policy(tmp_path / "run")
    if mode == "lora":
        assert roles.fingerprint(policy.weights.state) == roles.fingerprint(model.state)
        assert policy.weights.bank is not None
    else:
        assert roles.fingerprint(policy.weights.state) != roles.fingerprint(model.state)
