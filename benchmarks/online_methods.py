"""RL's algorithms from one SFT policy and one reward model, with as many steps and as many drawn replies each.

    python benchmarks/online_methods.py --start-from RUN [--out FOLDER] [--methods rloo ppo] [--steps 150] [--seed 0]
                                        [--test-samples 0]

RUN is a finished run of pe/easy-vqa (`pe-rlhf tune pe/easy-vqa --out RUN`). Every method is a run folder in FOLDER, and
takes the task's own settings but for what METHODS says of it: no rate was searched for any of them, and the task's was
chosen for `reinforce`. What is finished is not run again, and what was killed goes on, so that it can be stopped at any
time. FOLDER/online_methods.jsonl has a line for each; the table is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pe_rlhf_mm as pe
from pe_rlhf_mm import registry
from pe_rlhf_mm.training.presets import settings_of

TASK = "pe/easy-vqa"
METHODS: dict[str, dict[str, Any]] = {
    "reinforce": {},
    "rloo": {},
    "grpo": {},
    "dr-grpo": {},
    "ppo": {},
    "online-dpo": {"beta": 0.0},  # the beta of DPO is its own
    "best-of-n": {"kl": "loss"},
}


def run(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """The summary of one method's run, which is made, gone on with, or read."""
    settings = settings_of(registry.tasks.make(TASK))
    changed: dict[str, Any] = {"algorithm": method, "steps": options.steps, **METHODS[method]}
    rl = replace(settings.rl, **changed)
    settings = replace(settings, rl=rl, seed=options.seed, test_samples=options.test_samples)
    out = options.out / f"{method}-{options.steps}-{options.seed}"
    return pe.tune(TASK, out=out, config=settings, start_from=options.start_from, resume=True)


def line(method: str, summary: dict[str, Any]) -> dict[str, Any]:
    """What is told of a run."""
    rl, reward = summary["rl"], summary["learned_reward"]["rl"]
    return {
        "method": method,
        "accuracy": rl["accuracy"],
        "interval": rl["interval"],
        "n": rl["n"],
        "gain": summary["gain"]["accuracy"],
        "gain_interval": summary["gain"]["interval"],
        "reward": reward["mean"],
        "kl": rl["kl"],
        "rl_seconds": summary["stages"]["rl"],
    }


def table(lines: list[dict[str, Any]]) -> str:
    """The lines in Markdown."""
    rows = [
        "| algorithm | test accuracy | gain, points | learned reward | KL | seconds of RL |",
        "|---" * 6 + "|",
    ]
    for found in lines:
        low, high = (f"{100 * bound:.1f}" for bound in found["interval"])
        least, most = (f"{100 * bound:+.1f}" for bound in found["gain_interval"])
        rows.append(
            f"| `{found['method']}` | {100 * found['accuracy']:.1f}% [{low}%, {high}%] | "
            f"{100 * found['gain']:+.1f} [{least}, {most}] | {found['reward']:.2f} | {found['kl']:.2f} | "
            f"{found['rl_seconds']:.0f} |"
        )
    return "\n".join(rows)


def main() -> int:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start-from", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/online-methods"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-samples", type=int, default=0, help="0: all")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for method in options.methods:
        lines.append(line(method, run(method, options)))
        told = "".join(json.dumps(found) + "\n" for found in lines)
        (options.out / "online_methods.jsonl").write_text(told)
    print(table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
