"""What an installed package holds, and what a checkout needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """File names in a wheel built from the tracked files, as a user who installs it gets them."""
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    archive = source / "source.tar"
    subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=(source / "names").open("wb"))
    subprocess.run(["tar", "--null", "-T", str(source / "names"), "-cf", str(archive)], cwd=ROOT, check=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    subprocess.run(pip, check=True)
    return set(zipfile.ZipFile(next(out.glob("*.whl"))).namelist())


def test_the_wheel_holds_every_tracked_source_file(wheel_names: set[str]) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {n for n in tracked if n.startswith("pe_rlhf_mm/") and (ROOT / n).is_file()}
    wanted |= {f"pe_rlhf_mm/{n}" for n in tracked if n.startswith(("tasks/", "evaluators/"))}
    assert wanted <= wheel_names, wanted - wheel_names


def test_the_wheel_claims_one_name_only(wheel_names: set[str]) -> None:
    assert {n.partition("/")[0] for n in wheel_names if ".dist-info" not in n} == {"pe_rlhf_mm"}


def test_the_shipped_model_is_small() -> None:
    folder = ROOT / "pe_rlhf_mm" / "assets" / "tiny-vlm"
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 3 * 10**6


def test_checkout_links_lead_to_the_folders_at_the_top() -> None:
    for name in ("tasks", "evaluators"):
        link = ROOT / "pe_rlhf_mm" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
        assert not Path(link.readlink()).is_absolute()
