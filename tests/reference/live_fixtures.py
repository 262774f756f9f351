"""The committed fixtures are what the reference makes today: config, tokenizer and inputs to the byte, numbers closely.

pytest -n 0 tests/reference/live_fixtures.py      (extra `reference`; `make test-reference` runs it)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import checkpoints
import ml_dtypes  # noqa: F401  teaches NumPy bfloat16
import numpy as np
import torch
from families import FAMILIES
from safetensors.numpy import load_file

HERE = Path(__file__).parent
COMMITTED = HERE.parent / "fixtures"


def test_the_fixtures_are_made_again_alike(tmp_path: Path) -> None:
    """Another processor adds up in another order, so logits may differ in their last bits; weights may not."""
    subprocess.run([sys.executable, HERE / "make_fixtures.py", tmp_path], check=True)
    names = sorted(str(p.relative_to(COMMITTED)) for p in COMMITTED.rglob("*") if p.is_file())
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == names
    for name in names:
        if not name.endswith("reference.safetensors"):
            assert (tmp_path / name).read_bytes() == (COMMITTED / name).read_bytes(), name
            continue
        made, kept = load_file(tmp_path / name), load_file(COMMITTED / name)
        assert made.keys() == kept.keys()
        for key, value in kept.items():
            np.testing.assert_allclose(made[key], value, atol=1e-5, rtol=0, err_msg=f"{name} {key}")


def test_weights_do_not_hang_on_where_a_model_began() -> None:
    """transformers leaves some biases as memory was: tiny numbers that differ from one process to the next."""
    family, made = FAMILIES["gemma3"], []
    for noise in (0.0, 1e-3):
        model = checkpoints.auto_class(family).from_config(family.config(family.tokenizer()))
        for weight in model.parameters():
            weight.data += noise * (weight.ndim == 1)
        checkpoints.randomize(model, family.gains, torch.Generator().manual_seed(0))
        made.append(model.state_dict())
    for name, weight in made[0].items():
        assert torch.equal(weight, made[1][name]), name
