"""What is written can be read back bit for bit, by another process, and a killed writer spoils nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, random_roles, random_slot, state
from safetensors.numpy import load_file

from pe_rlhf_mm.adapters import files, roles
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.errors import UserError

HERE = Path(__file__).parent
READ = """
import sys
from pathlib import Path
import jax.numpy as jnp
from models import CONFIG, state
from pe_rlhf_mm.adapters import files, roles
from pe_rlhf_mm.checkpoints import backbone

print(roles.fingerprint(backbone.load_state(Path(sys.argv[1]), CONFIG, jnp.dtype(jnp.float32))))
for folder in map(Path, sys.argv[2:]):
    made = files.load_role(folder, roles.only_backbone(state()), folder.name, CONFIG)
    print(roles.fingerprint(made.pick(folder.name)), float(made.scales.get(folder.name, 0)))
"""
ROLES, JUDGES = ("sft", "policy", "value", "reward"), ("value", "reward")
WRITE_FOR_EVER = """
import sys
from pathlib import Path
from models import CONFIG, random_roles, random_slot
from pe_rlhf_mm.adapters import files

made = random_roles("policy")
made = made._replace(slots={"policy": random_slot(1, rank=2000)})  # 4 MB, which take a while
while True:
    files.save_role(Path(sys.argv[1]), made, "policy", CONFIG, "tiny")
"""


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def full_copies() -> Roles:
    made = roles.only_backbone(state())
    for i, role in enumerate(ROLES):
        made = made._replace(copies={**made.copies, role: state(10 + i)})
    return made._replace(heads={role: random_roles(role, seed=5).heads[role] for role in JUDGES})


def test_another_process_reads_the_same_bits_of_a_backbone_and_of_every_role_in_either_mode(tmp_path: Path) -> None:
    backbone.save_state(tmp_path, state(3), jnp.dtype(jnp.float32))
    adapted = random_roles(*ROLES)
    adapted = adapted._replace(heads={role: adapted.heads[role] for role in JUDGES})
    expected, folders = [roles.fingerprint(state(3))], []
    for mode, made in (("lora", adapted), ("full", full_copies())):
        for role in ROLES:
            files.save_role(tmp_path / mode / role, made, role, CONFIG, "tiny")
            folders.append(str(tmp_path / mode / role))
            expected.append(f"{roles.fingerprint(made.pick(role))} {float(made.scales.get(role, 0))}")
    with process(READ, str(tmp_path), *folders) as reader:
        assert reader.communicate()[0].splitlines() == expected
    assert len(set(expected)) == len(expected)


def test_adapters_lie_on_disk_as_peft_writes_them(tmp_path: Path) -> None:
    """PEFT: y = W x + alpha/r · B A x with lora_A [r, in] and lora_B [out, r]; ours is x a b, so A = aᵀ and B = bᵀ."""
    slot = random_slot(1, rank=3, targets=("q", "down"))
    made = roles.only_backbone(state())._replace(slots={"sft": slot}, scales={"sft": jnp.float32(4.0)})
    files.save_role(tmp_path, made, "sft", CONFIG, "org/base")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    layers = [f"base_model.model.model.layers.{n}." for n in range(CONFIG.decoder.layers)]
    names = ["self_attn.q_proj", "mlp.down_proj"]
    assert set(stored) == {f"{at}{name}.lora_{f}.weight" for at in layers for name in names for f in "AB"}
    x = np.linspace(-1, 1, CONFIG.decoder.width, dtype=np.float32)
    lora_a, lora_b = (stored[f"{layers[1]}self_attn.q_proj.lora_{f}.weight"] for f in "AB")
    np.testing.assert_allclose(lora_b @ (lora_a @ x), x @ slot["q"].a[1] @ slot["q"].b[1], rtol=1e-4, atol=1e-6)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["r"] == 3
    assert settings["lora_alpha"] == 12.0
    assert settings["peft_type"] == "LORA"
    assert settings["base_model_name_or_path"] == "org/base"
    assert set(settings["target_modules"]) == {"q_proj", "down_proj"}


def test_a_writer_that_dies_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    """It is stopped at 200 moments, at each of which the disk is what a killed one would leave, and then killed."""
    found = set()
    with process(WRITE_FOR_EVER, str(tmp_path)) as writer:
        while not (tmp_path / "head.safetensors").is_file():
            assert writer.poll() is None
        for moment in range(200):
            time.sleep(1e-4 * (moment % 41))
            writer.send_signal(signal.SIGSTOP)
            found.add((tmp_path / "adapter_model.safetensors").read_bytes())
            writer.send_signal(signal.SIGCONT)
        writer.kill()
    assert len(found) == 1
    made = files.load_role(tmp_path, roles.only_backbone(state()), "policy", CONFIG)
    assert roles.fingerprint(made.slots["policy"]) == roles.fingerprint(random_slot(1, rank=2000))


def test_writing_over_a_role_leaves_the_old_one_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of a write."""
    made = random_roles("policy")
    files.save_role(tmp_path, made, "policy", CONFIG, "tiny")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def half(tensors: object, path: Path, **settings: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pe_rlhf_mm.adapters.tensors.save_file", half)
    with pytest.raises(OSError, match="No space left"):
        files.save_role(tmp_path, made, "policy", CONFIG, "tiny")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_backbone_can_be_read_in_another_precision(tmp_path: Path) -> None:
    backbone.save_state(tmp_path, state(), jnp.dtype(jnp.bfloat16))
    read = backbone.load_state(tmp_path, CONFIG, jnp.dtype(jnp.float32))
    rounded = backbone.names(state())["decoder.embedding"].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(backbone.names(read)["decoder.embedding"], rounded)


def test_every_tensor_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    backbone.save_state(tmp_path, state(), jnp.dtype(jnp.float32))
    wider = replace(CONFIG, vocabulary=41, decoder=replace(CONFIG.decoder, qk_norm=False))
    with pytest.raises(UserError) as refused:
        backbone.load_state(tmp_path, wider, jnp.dtype(jnp.float32))
    assert "decoder.embedding: shape (40, 32) in the file, (41, 32)" in str(refused.value)
    assert "not part of the model: decoder.layers.blocks.q_norm" in str(refused.value)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    files.save_role(tmp_path, random_roles("policy"), "policy", CONFIG, "tiny")
    shallow = replace(CONFIG, decoder=replace(CONFIG.decoder, layers=1))
    with pytest.raises(UserError, match=r"does not fit the model(.|\n)*not part of the model: .*layers\.1\."):
        files.load_role(tmp_path, roles.only_backbone(state()), "policy", shallow)


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    files.save_role(tmp_path, random_roles("policy").with_head("policy", jnp.zeros(5)), "policy", CONFIG, "tiny")
    with pytest.raises(UserError, match="is not a head of a model of width 32"):
        files.load_role(tmp_path, roles.only_backbone(state()), "policy", CONFIG)
