"""`pe-rlhf plan`: whether a tuning fits a slice of TPUs, before anybody pays for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.machines import MeshConfig

if TYPE_CHECKING:
    from pe_rlhf_mm.models.config import VLMConfig
    from pe_rlhf_mm.planning.programs import Load


@dataclass(frozen=True)
class Plan:
    """What a stage of a tuning takes of every chip of a slice of TPUs, by their compiler. No TPU is needed.

    The group, ranks and the rest are those of `pe-rlhf tune`.
    """

    settings: Annotated[TuneConfig, tyro.conf.arg(name="")]
    model: str
    """gemma3-270m, -1b, -4b, -12b or -27b, or a model as of `pe-rlhf models show`."""
    task: str | None = None
    """Id of a task: lengths are those of its training split, and settings its own. For a model with a tokenizer."""
    stage: Literal["sft", "reward", "rl", "sample"] = "rl"
    """sample: replies are drawn and nothing else, as for an evaluation."""
    topology: str = "v5e:2x2"
    """The slice, as v5e:2x4; with --smallest only its generation counts. here: the devices of this machine."""
    batch: int | None = None
    """Prompts of one step of the stage, in place of --sft.batch-size, --reward.batch-size or --rl.prompts."""
    prompt_tokens: int | None = None
    """Of every prompt, its pictures included; 1024 if no task is named."""
    reply_tokens: int | None = None
    """Of every demonstration or judged reply, 128 if no task is named; those that are drawn have --rl.max-tokens."""
    pictures: int | None = None
    """In every prompt, of a model that sees; 1 if no task is named."""
    smallest: bool = False
    """Try larger and larger slices until one fits; the compiler is not asked where an estimate leaves no hope."""
    estimate: bool = False
    """Ask no compiler, as where libtpu is not installed: sizes are estimated, in seconds."""
    json: bool = False
    """Print JSON: a list of plans, the last of which is the one that fits."""


PROG = "pe-rlhf plan"


def plan(arguments: Sequence[str]) -> int:
    """Prints the plan; the exit code is 3 where nothing fits."""
    options = parse(Plan, arguments, prog=PROG)
    from pe_rlhf_mm.planning.slices import HERE, generation_of, ladder_of, quiet_compiler

    quiet_compiler(options.topology)
    ladder = ladder_of(options.topology) if options.smallest else ()
    if not options.smallest and options.topology != HERE:
        generation_of(options.topology)  # before anything else is asked
    from pe_rlhf_mm.planning import plan as planning
    from pe_rlhf_mm.planning.lengths import SAMPLE

    config, load, settings = _asked(options, arguments)
    mesh = None if settings.mesh == MeshConfig() else settings.mesh
    make = partial(planning.plan, config, settings, load, stage=options.stage)
    if options.estimate:
        make = partial(make, compiler=False)
    elif options.smallest:
        make = partial(planning.hopeful, make)
    plans = planning.smallest(make, ladder) if options.smallest else [make(topology=options.topology, mesh=mesh)]
    if options.json:
        print(to_json([p.told() for p in plans]))
    else:
        if options.task is not None:
            print(f"lengths: the longest of at most {SAMPLE} examples of the training split of {options.task}")
        print("\n\n".join(p.text() for p in plans))
    return 0 if plans[-1].fits else 3


def _asked(options: Plan, arguments: Sequence[str]) -> tuple[VLMConfig, Load, TuneConfig]:
    """The model's shape, what a step is given, and the settings: of a task, what that brings."""
    from pe_rlhf_mm.models.model import load_processor
    from pe_rlhf_mm.planning.programs import Load, with_rows
    from pe_rlhf_mm.planning.shapes import SHAPES

    given = {name: getattr(options, name) for name in ("prompt_tokens", "reply_tokens", "pictures")}
    named = {name: value for name, value in given.items() if value is not None}
    _refuse_impossible(options, named)
    if options.task is None:
        config = SHAPES[options.model] if options.model in SHAPES else _described(options.model)
        return config, Load(**named), with_rows(options.settings, options.stage, options.batch)
    from pe_rlhf_mm import registry
    from pe_rlhf_mm.planning.lengths import load_of
    from pe_rlhf_mm.training.presets import settings_of

    task, processor = registry.tasks.make(options.task), load_processor(options.model)
    own = replace(options, settings=settings_of(task))
    settings = parse(Plan, arguments, prog=PROG, default=own).settings
    load = load_of(task, processor, settings, options.stage)
    return processor.config, load, with_rows(settings, options.stage, options.batch)


def _described(model: str) -> VLMConfig:
    """Of a model that is no shape; a name that nothing has is answered with the shapes that there are."""
    from pe_rlhf_mm.models.model import load_processor
    from pe_rlhf_mm.planning.shapes import SHAPES

    try:
        return load_processor(model).config
    except UserError as error:
        if "/" in model or Path(model).exists():
            raise
        raise UserError(f"{error}, nor a shape: those are {', '.join(SHAPES)}.") from error


def _refuse_impossible(options: Plan, named: Mapping[str, int]) -> None:
    for name, value in {"batch": options.batch, **named}.items():
        least = 0 if name == "pictures" else 1
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, not {value}.")
    if options.settings.lora.experts:
        raise UserError("mixtures of adapters are not planned: leave out --lora.experts, and plan one adapter.")
    if options.smallest and options.settings.mesh != MeshConfig():
        raise UserError("every slice has a mesh of its own size: leave out --smallest, or --mesh.")
    if options.task is None:
        return
    from pe_rlhf_mm.planning.shapes import SHAPES

    if named:
        said = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        raise UserError(f"lengths come from the task or from you: leave out --task, or {said}.")
    if options.model in SHAPES:
        raise UserError(
            f"{options.model} is a shape, which has no tokenizer to measure {options.task} with: name a folder of the "
            "model, or give lengths (--prompt-tokens, --reply-tokens, --pictures) in place of --task."
        )
