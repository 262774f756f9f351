"""Templates to pages, and pages to files: what every page of this package has in common."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pe_rlhf_mm.errors import UserError

INTACT = "The report of before is intact."


def render(template: str, values: dict[str, Any], *, styles: tuple[str, ...], script: str = "") -> str:
    """A template of this folder, with style sheets and a script of this folder; no other script can run on the page."""
    environment = Environment(
        loader=PackageLoader("pe_rlhf_mm.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = _source(script) if script else Markup("")
    return environment.get_template(template).render(
        **values,
        style=Markup("\n").join(map(_source, styles)),
        script=code,
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
    )


def write_all(contents: Mapping[Path, str | bytes], whole: Path, remedy: str) -> list[Path]:
    """Writes files, each of them whole; returns their paths. Raises UserError, which says that `whole` cannot be
    written, and a remedy."""
    try:
        for path, content in contents.items():
            write_whole(path, content)
    except OSError as error:
        raise UserError(f"{whole} cannot be written: {error.strerror}. {remedy}") from error
    return [*contents]


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is always either the old one or the new one, whole; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:  # a reply may hold half a surrogate pair
        partial.write_bytes(content.encode("utf-8", errors="replace") if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _source(name: str) -> Markup:
    """A file beside this one as it is: CSS and JavaScript of our own, with nothing filled in."""
    return Markup(files("pe_rlhf_mm.reports").joinpath(name).read_text(encoding="utf-8"))
