"""A run folder: what a tuning writes while it goes. (How a policy is read back from it: `rollout/load.py`.)

config.json     what was asked for, on what machine, and how it ended: always there
metrics.jsonl   one line a step
adapters/ROLE/  adapters in PEFT layout (mode `full`: whole weights), heads beside them
samples.jsonl   test samples with the replies before and after RL;  images/ by content hash
summary.json    the numbers;  report.html, report.md  the page;  figures/  its plots, if asked for
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pe_rlhf_mm.adapters.files import save_role
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import to_json, write_json
from pe_rlhf_mm.models.config import VLMConfig

PACKAGES = ("pe-rlhf-mm", "jax", "jaxlib", "flax", "optax", "transformers", "numpy", "grain")
Status = Literal["running", "finished", "interrupted", "failed"]


class Run:
    """An open run folder; also an observer, which writes every step to `metrics.jsonl`."""

    def __init__(self, folder: Path, values: Mapping[str, Any]):
        self.folder = folder
        self._started = time.monotonic()
        self._config: dict[str, Any] = {**values, "status": "running", "versions": _versions(), "hardware": _hardware()}
        self._metrics = (folder / "metrics.jsonl").open("a", buffering=1)
        write_json(folder / "config.json", self._config)

    @classmethod
    def create(cls, folder: Path, values: Mapping[str, Any], *, overwrite: bool = False) -> Run:
        """Makes the folder.

        Raises UserError if it cannot be written, or holds something, unless that is a run and may be overwritten.
        """
        try:
            return cls._create(folder, values, overwrite=overwrite)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}. Give another --out.") from error

    @classmethod
    def _create(cls, folder: Path, values: Mapping[str, Any], *, overwrite: bool) -> Run:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; a run needs a folder. Give another --out.")
        if folder.exists() and any(folder.iterdir()):
            if not overwrite:
                raise UserError(
                    f"{folder} exists and is not empty. Give another --out, or --overwrite to start it anew."
                )
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder} is no run folder (it has no config.json), so it is not overwritten.")
            _remove_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, values)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def close(self, status: Status) -> None:
        """Says how it ended."""
        self._metrics.close()
        write_json(self.folder / "config.json", {**self._config, "status": status})

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:  # a step that measured nothing, as a demonstration, is for progress bars
            line = {"stage": stage, "step": step, "seconds": round(self.seconds, 3), **metrics}
            self._metrics.write(to_json(line, indent=None) + "\n")

    note = step

    def warn(self, text: str) -> None:
        """Adds to the `warnings` in config.json."""
        self._config["warnings"] = [*self._config.get("warnings", []), text]
        write_json(self.folder / "config.json", self._config)

    def save(self, roles: Roles, config: VLMConfig, *names: str) -> None:
        """Writes the named roles."""
        for name in names:
            save_role(self.folder / "adapters" / name, roles, name, config, self._config["model"])

    def save_image(self, png: bytes) -> str:
        """Keeps an image once, under the hash of its content; returns its path inside the folder."""
        name = f"images/{hashlib.sha256(png).hexdigest()}.png"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(png)
        return name

    def write_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        with (self.folder / "samples.jsonl").open("w") as file:
            file.writelines(to_json(sample, indent=None) + "\n" for sample in samples)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.folder / "summary.json", summary)


def _remove_run(folder: Path) -> None:
    """Removes what a run wrote, and nothing else."""
    figures = ("figures/curves.png", "figures/stages.png", "figures/calibration.png")  # a user may keep others there
    files = ("metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "report.md", "config.json")
    for name in (*figures, *files):
        (folder / name).unlink(missing_ok=True)
    for pattern in ("images/*.png", "adapters/*/*.safetensors", "adapters/*/adapter_config.json"):
        for path in folder.glob(pattern):
            path.unlink()


def _versions() -> dict[str, str]:
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **{p: installed[p] for p in PACKAGES if p in installed}}


def _hardware() -> str:
    import jax

    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}"
