"""One whole tuning without a mesh and on one, read back both ways; run by `test_sharded_training.py`.

python sharded_run.py FOLDER        writes FOLDER/alone and FOLDER/apart, runs, and their replies, here and there
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run as command
from pe_rlhf_mm.models.sharding import using
from pe_rlhf_mm.tasks.vqa.easy_vqa import EasyVQA

OPTIONS = """
    --sft.steps 2 --sft.batch-size 8 --sft.demonstrations 32 --reward.steps 2 --reward.batch-size 8 --reward.pairs 32
    --reward.validate-every 2 --reward.validation-pairs 8 --rl.steps 2 --rl.prompts 8 --rl.evaluate-every 2
    --rl.max-tokens 6 --rl.evaluation-samples 8 --rl.learning-rate 1e-3 --test-samples 12 --lora.rank 4 --json
"""


def main(folder: Path) -> None:
    for name, mesh in (("alone", ""), ("apart", "--mesh.data 2 --mesh.fsdp 2 --mesh.model 2")):
        assert command(["tune", "pe/easy-vqa", "--out", str(folder / name), *OPTIONS.split(), *mesh.split()]) == 0
    lines = [json.loads(line) for line in (folder / "apart/samples.jsonl").read_text().splitlines()]
    by_id = {sample.id: sample.messages for sample in EasyVQA().samples("test")}
    asked = [by_id[line["id"]] for line in lines]
    for name, where in (("here", None), ("there", pe.make_mesh(fsdp=4, model=2))):
        with using(where):
            replies = pe.load_policy(folder / "apart").generate(asked, max_tokens=6)
        (folder / f"{name}.json").write_text(json.dumps([group[0] for group in replies]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
