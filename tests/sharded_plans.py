"""What the compiler makes of the programs of stages on four devices: read by `test_sharded_plans.py`.

    python sharded_plans.py

prints, by mode and stage, and by the passes of RL, of every program the bytes of the largest array that is gathered, of
those that are written in place, and of those that are received, in all and as parts of gathered arrays; and of what is
held, those of the optimizer state.
"""

from __future__ import annotations

import dataclasses
import json

from models import CONFIG

import pe_rlhf_mm as pe
from pe_rlhf_mm.planning.plan import plan
from pe_rlhf_mm.planning.programs import Load

WIDE = dataclasses.replace(
    CONFIG,
    vision=None,
    vocabulary=4096,
    decoder=dataclasses.replace(CONFIG.decoder, layers=4, width=64, mlp_width=512),
)
"""Its table is eight times its largest matrix, 64 · 512, and so are the logits of the replies of a batch."""


def of(mode: str, stage: str, passes: str = "auto") -> dict[str, object]:
    settings = pe.TuneConfig(
        mode=mode,  # type: ignore[arg-type]
        lora=pe.LoraConfig(rank=2),
        reward=pe.RewardConfig(batch_size=8),
        rl=pe.RLConfig(prompts=8, group=2, max_tokens=4, passes=passes),  # type: ignore[arg-type]
    )
    found = plan(WIDE, settings, Load(12, 4), stage=stage, topology="here")
    costs = {
        cost.program: {
            "gathered": cost.gathered,
            "in_place": cost.in_place,
            "received": sum(cost.received.values()),
            "put_together": cost.received["all-gather"],
        }
        for cost in found.costs
    }
    return {"optimizer": found.held.optimizer, "costs": costs}


if __name__ == "__main__":
    asked = [("lora", "reward"), ("lora", "rl"), ("lora", "rl", "apart"), ("full", "rl")]
    print(json.dumps({" ".join(which): of(*which) for which in asked}))
