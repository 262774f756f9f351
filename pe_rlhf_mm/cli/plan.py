"""`pe-rlhf plan`: whether a tuning fits a slice of TPUs, before anybody pays for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.training.config import MeshConfig, TuneConfig


@dataclass(frozen=True)
class Plan:
    """What a stage of a tuning takes of every chip of a slice of TPUs, by their compiler. No TPU is needed.

    Batch sizes, the group, ranks and the rest are those of `pe-rlhf tune`.
    """

    settings: Annotated[TuneConfig, tyro.conf.arg(name="")]
    model: str
    """gemma3-270m, -1b, -4b, -12b or -27b, or a model as of `pe-rlhf models show`."""
    stage: Literal["sft", "reward", "rl"] = "rl"
    topology: str = "v5e:2x2"
    """The slice, as v5e:2x4; with --smallest only its generation counts. here: the devices of this machine."""
    prompt_tokens: int = 1024
    """Of every prompt, its pictures included."""
    reply_tokens: int = 128
    """Of every demonstration or judged reply; those that are drawn have --rl.max-tokens."""
    pictures: int = 1
    """In every prompt, of a model that sees."""
    smallest: bool = False
    """Try larger and larger slices until one fits."""
    json: bool = False
    """Print JSON: a list of plans, the last of which is the one that fits."""


def plan(arguments: Sequence[str]) -> int:
    """Prints the plan; the exit code is 3 where nothing fits."""
    options = parse(Plan, arguments, prog="pe-rlhf plan")
    from pe_rlhf_mm.planning.slices import HERE, generation_of, quiet_compiler

    quiet_compiler(options.topology)
    generation = "" if options.topology == HERE and not options.smallest else generation_of(options.topology)
    from pe_rlhf_mm.planning import plan as planning
    from pe_rlhf_mm.planning.programs import Load
    from pe_rlhf_mm.planning.shapes import SHAPES

    if options.model in SHAPES:
        config = SHAPES[options.model]
    else:
        from pe_rlhf_mm.models.model import load_model

        config = load_model(options.model).config
    settings, load = options.settings, Load(options.prompt_tokens, options.reply_tokens, options.pictures)
    if options.smallest:
        plans = planning.smallest(config, settings, load, stage=options.stage, generation=generation)
    else:
        mesh = None if settings.mesh == MeshConfig() else settings.mesh
        plans = [planning.plan(config, settings, load, stage=options.stage, topology=options.topology, mesh=mesh)]
    if options.json:
        print(to_json([p.told() for p in plans]))
    else:
        print("\n\n".join(p.text() for p in plans))
    return 0 if plans[-1].fits else 3
