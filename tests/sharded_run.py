"""One whole tuning on a mesh by the command line, read back both ways; run by `test_sharded_training.py`.

python sharded_run.py FOLDER        writes FOLDER/run, and its policy's replies on one device and on a mesh
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.main import run as command
from pe_rlhf_mm.models.sharding import using
from pe_rlhf_mm.testing import ToyTask

OPTIONS = """
    --method dpo --mesh.fsdp 2 --mesh.model 2 --sft.steps 4 --sft.batch-size 8 --sft.learning-rate 1e-2
    --preferences.steps 2 --preferences.batch-size 8 --preferences.learning-rate 1e-2 --rl.max-tokens 6
    --rl.evaluation-samples 8 --test-samples 8 --lora.rank 4 --json
"""


def main(folder: Path) -> None:
    run = folder / "run"
    assert command(["tune", "pe_rlhf_mm.testing:ToyTask", "--out", str(run), *OPTIONS.split()]) == 0
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    by_id = {sample.id: sample.messages for sample in ToyTask().samples("test")}
    for name, mesh in (("here", None), ("there", pe.make_mesh(fsdp=4))):
        with using(mesh):
            replies = pe.load_policy(run).generate([by_id[line["id"]] for line in lines], max_tokens=6)
        (folder / f"{name}.json").write_text(json.dumps([group[0] for group in replies]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
