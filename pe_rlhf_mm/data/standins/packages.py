"""Where an installed package keeps its data; nothing of the package is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pe_rlhf_mm.errors import UserError


def package_folder(name: str) -> Path:
    """The folder of a package, named as pip knows it. Raises UserError if it is not installed."""
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the data come from a package that is not installed: pip install {name}")
    return Path(next(iter(spec.submodule_search_locations)))
