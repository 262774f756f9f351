"""The paper's table of memory and speed, by the TPU's own compiler: LoRA against full tuning of Gemma 3.

    python benchmarks/paper_table.py [--models 4b 12b] [--topology v5e:4x4] [--smallest] [--out FOLDER/memory_speed.md]

Needs the extra tpu-aot, and no TPU. Every plan is a line of a file beside the page, memory_speed.jsonl, written as soon
as it is made; what is there already is not made again, so that it can be stopped at any time. The page is written anew
after each. With --smallest the smallest slice that fits is looked for as well, which takes several times as long.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pe_rlhf_mm.planning.slices import ladder_of, quiet_compiler

MODELS = ("4b", "12b", "270m", "1b", "27b")
HOW = {"lora": ("lora", "adam"), "adafactor": ("full", "adafactor"), "adam": ("full", "adam")}
"""What is compared: mode and optimizer."""
STAGES = ("reward", "rl")
ROWS, REPLY = 32, 128
GIB = 2**30
ASCENDING = ("270m", "1b", "4b", "12b", "27b")
INTRODUCTION = """\
Made by `python benchmarks/paper_table.py --topology {topology}`. Nothing was run: sizes are what XLA for TPUs says of
the programs of `pe-rlhf plan`, in GiB of one chip's memory. {versions}.

Every row is of Gemma 3 on {topology}: {rows} prompts of 1,024 tokens a step, with replies of {reply}, two a prompt
for the reward model, which learns from pairs, and one in RL (REINFORCE with a value model). Layers are
rematerialised; ranks are 16, and 4 of the reward model. `LoRA / ..` is the peak of LoRA in parts of that of full
tuning. `bound` is how many times as long the least time of full tuning with Adafactor is, at the chips' published
rates: no step was timed."""
COUNTED = """\
## What is counted

- *Reward-model step*: the backbone in bfloat16; what is trained in float32, with its gradient and optimizer state;
  the best checkpoint so far; the batch; activations and all other temporaries of the compiled step. In mode full also
  the SFT policy.
- *RL: rollout*, *RL: update*: one compiled program each, with everything that an iteration holds meanwhile. In mode
  LoRA that is one backbone under the adapters of policy, value, anchor and reward model; in mode full, policy and
  value model in float32 with their optimizer state, the best policy so far, and anchor and reward model in bfloat16.
- *RL: whole iteration*: the largest of its programs: rollout, scoring, update.
- With a picture, mode LoRA reads what the frozen tower has seen, looked at once before; mode full trains the tower
  too, on the 4,096 patches of every picture, and keeps its activations. The table of text only compares without that.
- *Smallest slice*: the first of 1x1, 1x2, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16 that has room for the largest program of
  the stage. Those that need more than 1.5 times the room by `--estimate` are passed over; of the others the compiler
  was asked.
- The paper gives LoRA's peak as 43 to 74 % of full tuning's for reward models, and as 74 to 80 % for RL (arXiv
  2403.10704, table 1), of PaLM 2 and Gemini Pro on chips it does not name, by the same kind of figure, the
  compiler's. It does not say what stands in it. Its optimizer is not named either; Adafactor is what the group used
  elsewhere. One backbone for all four roles is ours."""

Key = tuple[str, str, str, str, int]


def key_of(line: dict[str, Any]) -> Key:
    """What names a plan: model, stage, what is compared, slice, pictures."""
    return line["model"], line["stage"], line["how"], line["topology"], line["pictures"]


def read(path: Path) -> dict[Key, dict[str, Any]]:
    """The plans that are there."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {key_of(line): line for line in lines}


def wanted(models: Sequence[str], topology: str) -> Iterator[Key]:
    """The plans of one slice: of models that see with a picture, and of all without."""
    for pictures in (1, 0):
        for model in models:
            for stage in STAGES if pictures == 0 or model not in ("270m", "1b") else ():
                for how in HOW:
                    yield model, stage, how, topology, pictures


def make(key: Key, *, search: bool = False) -> dict[str, Any]:
    """One plan, as a line; in a search by estimate where that leaves no hope."""
    from pe_rlhf_mm.planning.plan import hopeful, plan
    from pe_rlhf_mm.planning.programs import Load
    from pe_rlhf_mm.planning.shapes import SHAPES
    from pe_rlhf_mm.training.config import RewardConfig, RLConfig, TuneConfig

    model, stage, how, topology, pictures = key
    mode, optimizer = HOW[how]
    settings = TuneConfig(
        mode=mode,  # type: ignore[arg-type]
        optimizer=optimizer,  # type: ignore[arg-type]
        remat="layers",
        reward=RewardConfig(batch_size=ROWS),
        rl=RLConfig(prompts=ROWS, max_tokens=REPLY),
    )
    start = time.perf_counter()
    of = partial(plan, SHAPES[f"gemma3-{model}"], settings, Load(1024, REPLY, pictures), stage=stage)
    found = hopeful(of, topology=topology) if search else of(topology=topology)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    seconds = round(time.perf_counter() - start, 1)
    named = dict(zip(("model", "stage", "how", "topology", "pictures"), key, strict=True))
    return {**named, "took": seconds, "versions": versions, "plan": found.told()}


def search(known: dict[Key, dict[str, Any]], key: Key) -> Iterator[Key]:
    """Larger and larger slices, until one has been found to fit."""
    model, stage, how, topology, pictures = key
    for slice_ in ladder_of(topology):
        tried = (model, stage, how, slice_, pictures)
        yield tried
        if known[tried]["plan"]["fits"]:
            return


# --- the page ---------------------------------------------------------------------------------------------------


def peak(line: dict[str, Any], program: str | None = None) -> tuple[float, bool]:
    """GiB a chip of a program or of the largest, and whether there is room for it."""
    costs = [cost for cost in line["plan"]["costs"] if program in (None, cost["program"])]
    most, refused = max(cost["peak"] for cost in costs), any(cost["refused"] for cost in costs)
    return most / GIB, most <= line["plan"]["usable"] and not refused


def bound(line: dict[str, Any], program: str | None = None) -> float:
    """Seconds that a program, or all of them, take at least; 0 where the compiler has made none of one."""
    times = [cost["seconds"] for cost in line["plan"]["costs"] if program in (None, cost["program"])]
    return 0.0 if None in times else sum(times)


PARTS = (
    ("reward-model step", "reward", None),
    ("RL: rollout", "rl", "sample"),
    ("RL: update", "rl", "update"),
    ("RL: whole iteration", "rl", None),
)


def row(known: dict[Key, dict[str, Any]], model: str, topology: str, pictures: int, part: tuple) -> str | None:
    """One line of the table, or None while a plan is missing."""
    name, stage, program = part
    lines = {how: known.get((model, stage, how, topology, pictures)) for how in HOW}
    if None in lines.values():
        return None
    peaks = {how: peak(line, program) for how, line in lines.items() if line is not None}
    bounds = {how: bound(line, program) for how, line in lines.items() if line is not None}
    sizes = [f"{size:.2f}" if fits else f"no room ({size:.1f})" for size, fits in peaks.values()]
    shares = [f"{100 * peaks['lora'][0] / peaks[how][0]:.0f} %" for how in ("adafactor", "adam")]
    faster = "-" if not all(bounds.values()) else f"{bounds['adafactor'] / bounds['lora']:.2f}"
    found = [smallest(known, (model, stage, how, topology, pictures)) for how in HOW] if program is None else [""] * 3
    return f"| {model} | {name} | {' | '.join([*sizes, *shares, faster, *found])} |"


def smallest(known: dict[Key, dict[str, Any]], key: Key) -> str:
    """The first slice that fits, if all smaller ones have been tried."""
    try:
        *_, last = search(known, key)
    except KeyError:
        return ""
    return last[3].partition(":")[2] if known[last]["plan"]["fits"] else "none"


HEAD = "| model | what | LoRA | full, Adafactor | full, Adam | LoRA / Adafactor | LoRA / Adam | bound |"


def page(known: dict[Key, dict[str, Any]], topology: str) -> str:
    """The whole page in Markdown."""
    versions = sorted({json.dumps(line["versions"]) for line in known.values()})
    text = [
        "# Memory and speed, by the compiler",
        "",
        *INTRODUCTION.format(
            topology=topology, rows=ROWS, reply=REPLY, versions="; ".join(map(said, versions))
        ).splitlines(),
        "",
        *COUNTED.splitlines(),
    ]
    for pictures, title in ((1, "With one picture a prompt"), (0, "Text only")):
        rows = [row(known, model, topology, pictures, part) for model in ASCENDING for part in PARTS]
        if found := list(filter(None, rows)):
            ends = "".join(f" smallest slice, {how} |" for how in HOW)
            text += ["", f"## {title}", "", HEAD + ends, "|---" * (8 + len(HOW)) + "|", *found]
    return "\n".join([*text, ""])


def said(versions: str) -> str:
    """Versions in words."""
    return ", ".join(f"{name} {version}" for name, version in json.loads(versions).items())


def main() -> int:
    """Makes what is missing, and writes the page after each plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results/memory_speed.md"))
    options = parser.parse_args()
    quiet_compiler(options.topology)
    lines = options.out.with_suffix(".jsonl")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = read(lines)

    def have(key: Key, *, search: bool = False) -> None:
        if key not in known:
            known[key] = make(key, search=search)
            with lines.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
            size, fits = peak(known[key])
            print(*key, f"{size:.2f} GiB" if fits else "no room", f"{known[key]['took']} s", file=sys.stderr)
        options.out.write_text(page(known, options.topology))

    for key in wanted(options.models, options.topology):
        have(key)
    for key in wanted(options.models, options.topology) if options.smallest else ():
        for tried in search(known, key):
            have(tried, search=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
