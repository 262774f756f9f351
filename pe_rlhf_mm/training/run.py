"""A run folder: what a tuning writes while it goes. (How a policy is read back from it: `rollout/load.py`.)

config.json     what was asked for, on what machine, and how it ended: always there
metrics.jsonl   one line a step
adapters/ROLE/  adapters in PEFT layout (mode `full`: whole weights), heads beside them
samples.jsonl   test samples with the replies before and after RL;  images/ by content hash
summary.json    the numbers;  report.html, report.md  the page;  figures/  its plots, if asked for
state/          while it is not finished: what it goes on from if it is killed (`training/run_keeper.py`)
.lock           held by the process that writes
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.files import save_role
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, to_json, write_json
from pe_rlhf_mm.locks import locked
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.reports.folder import read_lines
from pe_rlhf_mm.reports.records import Record

PACKAGES = ("pe-rlhf-mm", "jax", "jaxlib", "flax", "optax", "transformers", "numpy", "grain")
STATE, LOCK = "state", ".lock"
Status = Literal["running", "finished", "interrupted", "failed"]


class Run:
    """An open run folder, which this process alone writes to; also an observer: every step goes to `metrics.jsonl`."""

    def __init__(self, folder: Path, values: Mapping[str, Any], lock: io.TextIOWrapper):
        self.folder = folder
        self._lock = lock
        self._started = time.monotonic()
        self._config: dict[str, Any] = {**values, "status": "running", "versions": _versions(), "hardware": _hardware()}
        self._metrics = (folder / "metrics.jsonl").open("a", buffering=1)
        write_json(folder / "config.json", self._config)

    @classmethod
    def create(cls, folder: Path, values: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False) -> Run:
        """Makes the folder; with `resume`, opens it if it is that of a run with the same values.

        Raises UserError if it cannot be written, if another process writes to it, or if it holds something, unless that
        is a run and may be overwritten or gone on with.
        """
        try:
            return cls._create(folder, values, overwrite=overwrite, resume=resume)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}. Give another --out.") from error

    @classmethod
    def _create(cls, folder: Path, values: Mapping[str, Any], *, overwrite: bool, resume: bool) -> Run:
        there = _there(folder, overwrite=overwrite, resume=resume)
        folder.mkdir(parents=True, exist_ok=True)
        said = f"another process is writing to {folder}. Wait until it has ended, or give another --out."
        lock = locked(folder / LOCK, said)
        if there and resume:
            refuse_other(folder, values)
            known = read_json(folder / "config.json").get("warnings", [])
            return cls(folder, {**values, "warnings": known} if known else values, lock)
        if there:
            _remove_run(folder)
        return cls(folder, values, lock)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def written(self) -> int:
        """Bytes of `metrics.jsonl` so far."""
        return os.stat(self._metrics.fileno()).st_size

    def rewind(self, written: int, seconds: float) -> list[Record]:
        """Goes on as after so many bytes of metrics and so many seconds; returns the lines that are kept.

        What an attempt wrote after its last save is cut off: it will be measured again. So is a torn line.
        """
        path = self.folder / "metrics.jsonl"
        os.truncate(path, path.read_bytes().rfind(b"\n", 0, written) + 1)
        self._started = time.monotonic() - seconds
        return read_lines(path)[0]

    def close(self, status: Status) -> None:
        """Says how it ended. One that is finished has nothing to go on from."""
        self._metrics.close()
        write_json(self.folder / "config.json", {**self._config, "status": status})
        if status == "finished":
            shutil.rmtree(self.folder / STATE, ignore_errors=True)

    def release(self) -> None:
        """Lets other processes write to the folder."""
        self._lock.close()

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:  # a step that measured nothing, as a demonstration, is for progress bars
            line = {"stage": stage, "step": step, "seconds": round(self.seconds, 3), **metrics}
            self._metrics.write(to_json(line, indent=None) + "\n")

    note = step

    def warn(self, text: str) -> None:
        """Adds to the `warnings` in config.json, unless it stands there, as in a run that goes on it may."""
        if text not in self._config.get("warnings", []):
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


def refuse_folder(folder: Path, values: Mapping[str, Any], *, overwrite: bool, resume: bool) -> None:
    """Raises UserError for a folder that holds what `open_run` refuses, before anything is loaded."""
    with suppress(OSError):  # of which `open_run` says what it is
        if _there(folder, overwrite=overwrite, resume=resume) and resume:
            refuse_other(folder, values)


def _there(folder: Path, *, overwrite: bool, resume: bool) -> bool:
    """Whether a folder holds something; it may only be what can be overwritten or gone on with."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; a run needs a folder. Give another --out.")
    there = folder.exists() and any(path.name != LOCK for path in folder.iterdir())
    if there:
        _refuse_what_is_there(folder, overwrite=overwrite, resume=resume)
    return there


def _refuse_what_is_there(folder: Path, *, overwrite: bool, resume: bool) -> None:
    is_run = (folder / "config.json").is_file()
    if resume and not is_run:
        raise UserError(f"{folder} is no run folder (it has no config.json), so there is nothing to go on with.")
    if overwrite and not is_run:
        raise UserError(f"{folder} is no run folder (it has no config.json), so it is not overwritten.")
    if overwrite or resume:
        return
    if is_run and read_json(folder / "config.json").get("status") != "finished":
        raise UserError(
            f"{folder} holds a run that is not finished. Go on with it by --resume, give another --out, or "
            "--overwrite to start it anew."
        )
    raise UserError(f"{folder} exists and is not empty. Give another --out, or --overwrite to start it anew.")


class Followed(Run):
    """A run that the first of several hosts writes, as another one sees it: what is there can be read."""

    def __init__(self, folder: Path):
        self.folder, self._started = folder, time.monotonic()

    @property
    def written(self) -> int:
        return 0

    def rewind(self, written: int, seconds: float) -> list[Record]:
        """Goes on as after so many seconds."""
        self._started = time.monotonic() - seconds
        return []

    def close(self, status: Status) -> None: ...

    def release(self) -> None: ...

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    note = step

    def warn(self, text: str) -> None: ...

    def save(self, roles: Roles, config: VLMConfig, *names: str) -> None:
        """Brings its parts of the named roles, which the first host writes."""
        for name in names:
            save_role(self.folder / "adapters" / name, roles, name, config, "")

    def save_image(self, png: bytes) -> str:
        return ""

    def write_samples(self, samples: Iterable[Mapping[str, Any]]) -> None: ...

    def write_summary(self, summary: Mapping[str, Any]) -> None: ...


def open_run(folder: Path, values: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False) -> Run:
    """`Run.create`, on the first of several hosts; the others follow it.

    Raises UserError as that does, and where the folder is not the same one on every host.
    """
    made: list[Run] = []
    hosts.led(lambda: made.append(Run.create(folder, values, overwrite=overwrite, resume=resume)))
    if hosts.anyone(not (folder / "config.json").is_file()):
        raise UserError(
            f"{folder} is not the same folder on every host. Give an --out on a disk that all of them share."
        )
    return made[0] if made else Followed(folder)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end. Raises UserError for a config.json that cannot be read."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("status") == "finished"


def refuse_other(folder: Path, values: Mapping[str, Any]) -> None:
    """Raises UserError, which names the first difference, unless the run in a folder was begun with these values.

    It may go on on other devices, and keep more or less of its layers.
    """
    there, here = read_json(folder / "config.json"), json.loads(to_json(values))
    differences = (_difference(name, there.get(name), here[name]) for name in here)
    found = next((difference for difference in differences if difference is not None), None)
    if found is not None:
        name, its, ours = found
        raise UserError(
            f"{folder} was begun with {name.removeprefix('settings.')} {to_json(its, indent=None)}, and is to go on "
            f"with {to_json(ours, indent=None)}. A run goes on as it was begun: give that, or another --out."
        )


def _difference(name: str, there: Any, here: Any) -> tuple[str, Any, Any] | None:
    """Where two JSON values differ first, and how: (name, there, here)."""
    if there == here or name in ("settings.mesh", "settings.remat"):
        return None
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return name, there, here
    inner = (_difference(f"{name}.{key}", there.get(key), here.get(key)) for key in {**here, **there})
    return next((found for found in inner if found is not None), None)


def _remove_run(folder: Path) -> None:
    """Removes what a run wrote, and nothing else."""
    figures = ("figures/curves.png", "figures/stages.png", "figures/calibration.png")  # a user may keep others there
    files = ("metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "report.md", "config.json")
    for name in (*figures, *files):
        (folder / name).unlink(missing_ok=True)
    for pattern in ("images/*.png", "adapters/*/*.safetensors", "adapters/*/adapter_config.json"):
        for path in folder.glob(pattern):
            path.unlink()
    shutil.rmtree(folder / STATE, ignore_errors=True)


def _versions() -> dict[str, str]:
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **{p: installed[p] for p in PACKAGES if p in installed}}


def _hardware() -> str:
    import jax

    device = jax.devices()[0]
    of_several = f" on {jax.process_count()} hosts" if hosts.several() else ""
    return f"{jax.device_count()} x {device.device_kind}{of_several}, {os.cpu_count()} CPU cores, {platform.machine()}"
