"""What lists and helps is instant: it imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("jax", "flax", "transformers", "tensorflow_datasets", "grain", "matplotlib", "torch", "numpy", "PIL")
LIST = "from pe_rlhf_mm.cli.main import run; run(['tasks', 'list'])"


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "code",
    [
        "import pe_rlhf_mm",
        "import pe_rlhf_mm.registry, pe_rlhf_mm.types, pe_rlhf_mm.errors",
        "import pe_rlhf_mm.testing",
        "import pe_rlhf_mm.training.config",
        LIST,
        LIST.replace("tasks", "evaluators"),
        LIST.replace("tasks", "models"),
        LIST.replace("tasks", "data"),
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    printed = python(f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])")
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("code", "limit"), [("import pe_rlhf_mm", 0.3), (LIST, 1.0)])
def test_it_takes_no_time(code: str, limit: float) -> None:
    """Processor seconds, interpreter included; the fastest of five, as other programs slow down the others."""
    seconds = []
    for _ in range(5):
        before = os.times()
        python(code)
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(seconds) <= limit
