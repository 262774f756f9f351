"""A checkpoint folder appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json


@contextmanager
def written_whole(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which takes the name `folder` once the block has ended without an error.

    Raises UserError if `folder` cannot be written, or holds something, unless that is a checkpoint or an adapter to be
    overwritten.
    """
    whole = folder.resolve()
    try:
        _refuse(whole, overwrite)
        whole.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, as only a move within one file system is a single step.
        with TemporaryDirectory(prefix=f".{whole.name}.", dir=whole.parent) as scratch:
            partial = Path(scratch, "new")
            partial.mkdir()
            yield partial
            if whole.exists():
                whole.rename(Path(scratch, "old"))
            partial.rename(whole)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}. Give another folder.") from error


def _refuse(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; a checkpoint needs a folder. Give another one.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{folder} exists and is not empty. Give another folder, or --overwrite to make it anew.")
    # A run has a config.json too, but not of a model.
    config = folder / "config.json"
    if not (folder / "adapter_config.json").is_file() and not (config.is_file() and "model_type" in read_json(config)):
        raise UserError(f"{folder} is no checkpoint and no adapter, so it is not overwritten. Give another folder.")
