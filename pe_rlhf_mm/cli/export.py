"""`pe-rlhf export`: a role of a run, for those who serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pe_rlhf_mm.cli.arguments import parse


@dataclass(frozen=True)
class Export:
    """Writes a role of a run as a PEFT adapter, or as a checkpoint with the adapter merged into its weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    out: Path
    """The folder to make."""
    role: str = "policy"
    """sft, policy, value or reward."""
    format: Literal["peft", "merged"] = "peft"
    serving: Annotated[Literal["text", "vlm"] | None, tyro.conf.arg(name="as")] = None
    """The class that will serve a PEFT adapter, which decides the names in it: the one that sees, if the model does."""
    overwrite: bool = False
    """Replace an existing folder of the same kind."""


def export(arguments: Sequence[str]) -> None:
    """Exports, and says what can read it."""
    options = parse(Export, arguments, prog="pe-rlhf export")
    from pe_rlhf_mm.rollout.export import export_role

    export_role(
        options.run, options.out, options.role, options.format, serving=options.serving, overwrite=options.overwrite
    )
    print(f"{options.role} of {options.run}: {options.out}")
