"""Roles leave a run as adapters or as whole checkpoints, and what lies where they go is safe."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import in_float32, logits, slot_of
from PIL import Image as Pillow
from safetensors.numpy import load_file, save_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import files, lora, roles
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.checkpoints.export import export_merged, export_weights
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import SHIPPED
from pe_rlhf_mm.rollout.export import export_role
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.reward_model import load_reward

FIXTURES = Path(__file__).parent / "fixtures"
TOKENS = np.arange(5, 17)[None]
CLOSE = 1e-4


@pytest.mark.parametrize("name", ["llama", "llama_sharded", "gemma3", "qwen2_5_vl"])
def test_a_merged_checkpoint_is_its_source_but_for_the_adapted_matrices(name: str, tmp_path: Path) -> None:
    """bfloat16 like its source: W + scale · a b, rounded once."""
    loaded = pe.load_model(FIXTURES / name)
    slot = slot_of(loaded.config)
    export_merged(FIXTURES / name, tmp_path / "merged", loaded.config, lora.merged(slot, 0.5))
    expected = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
        roles.merged(Weights(loaded.state, lora.only(slot, 0.5))),
    )
    assert roles.fingerprint(pe.load_model(tmp_path / "merged").state) == roles.fingerprint(expected)
    names = {p.name for p in (FIXTURES / name).iterdir()} - {"reference.safetensors"}
    assert {p.name for p in (tmp_path / "merged").iterdir()} == names
    for path in (FIXTURES / name).glob("model*.safetensors"):
        before, after = load_file(path), load_file(tmp_path / "merged" / path.name)
        changed = {n for n in before if (before[n] != after[n]).any()}
        assert changed == {n for n in before if ("q_proj.weight" in n or "down_proj.weight" in n) and "vis" not in n}


@pytest.mark.parametrize("name", ["llama", "llama_sharded", "gemma3", "qwen2_5_vl"])
def test_a_merged_checkpoint_gives_the_logits_of_the_adapter(name: str, tmp_path: Path) -> None:
    source = in_float32(FIXTURES / name, tmp_path / "source")
    loaded = pe.load_model(source)
    weights = Weights(loaded.state, lora.only(slot_of(loaded.config), 0.5))
    export_merged(source, tmp_path / "merged", loaded.config, lora.merged(slot_of(loaded.config), 0.5))
    adapted, base = logits(loaded.config, weights, TOKENS), logits(loaded.config, Weights(loaded.state, None), TOKENS)
    assert np.abs(adapted - base).max() > 0.1
    np.testing.assert_allclose(pe.load_model(tmp_path / "merged").logits(TOKENS), adapted, atol=CLOSE, rtol=0)


def test_a_table_that_is_stored_twice_stays_one(tmp_path: Path) -> None:
    source = shutil.copytree(FIXTURES / "qwen2", tmp_path / "source")
    stored = load_file(source / "model.safetensors")
    table = stored["model.embed_tokens.weight"]
    save_file(stored | {"lm_head.weight": table.copy()}, source / "model.safetensors", {"format": "pt"})
    loaded = pe.load_model(source)
    export_weights(source, tmp_path / "whole", loaded.config, jax.tree.map(lambda x: 2 * x, loaded.state))
    written = load_file(tmp_path / "whole/model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        np.testing.assert_array_equal(written[name], 2 * table)


def test_a_role_of_mode_full_is_written_as_a_whole_checkpoint(tmp_path: Path) -> None:
    """Through the views of a family with a fused matrix, a flattened convolution and two spellings."""
    loaded = pe.load_model(FIXTURES / "qwen3_vl")
    moved = jax.tree.map(lambda x: (x * 1.5).astype(jnp.bfloat16).astype(jnp.float32), loaded.state)
    export_weights(FIXTURES / "qwen3_vl", tmp_path / "whole", loaded.config, moved)
    assert roles.fingerprint(pe.load_model(tmp_path / "whole").state) == roles.fingerprint(moved)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of tiny-vlm, as far as roles go."""
    loaded, folder = pe.load_model("tiny-vlm"), tmp_path / "run"
    made = roles.only_backbone(loaded.state)
    for role in ("policy", "reward"):
        made = made._replace(
            slots={**made.slots, role: slot_of(loaded.config)}, scales={**made.scales, role: jnp.float32(1)}
        )
    made = made.with_head("reward", jnp.ones(loaded.config.decoder.width))
    for role in ("policy", "reward"):
        files.save_role(folder / "adapters" / role, made, role, loaded.config, "tiny-vlm")
    (folder / "config.json").write_text(json.dumps({"task": "pe/easy-vqa@1", "model": "tiny-vlm"}))
    return folder


def test_roles_of_a_run_are_exported_by_the_command(run: Path, tmp_path: Path) -> None:
    for arguments in (
        ("--out", "adapter"),
        ("--role", "reward", "--out", "judge"),
        ("--format", "merged", "--out", "whole"),
    ):
        subprocess.run([sys.executable, "-m", "pe_rlhf_mm", "export", run, *arguments], cwd=tmp_path, check=True)
    loaded, policy = pe.load_model("tiny-vlm"), pe.load_policy(run)
    assert sorted(p.name for p in (tmp_path / "judge").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "head.safetensors",
    ]  # fmt: skip
    read = pe.load_adapter(loaded, tmp_path / "adapter")
    np.testing.assert_array_equal(
        logits(loaded.config, read.weights, TOKENS), logits(loaded.config, policy.weights, TOKENS)
    )
    whole = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), roles.merged(policy.weights))
    assert roles.fingerprint(pe.load_model(tmp_path / "whole").state) == roles.fingerprint(whole)
    judge = files.load_role(tmp_path / "judge", roles.only_backbone(loaded.state), "reward", loaded.config)
    kept = files.load_role(run / "adapters/reward", roles.only_backbone(loaded.state), "reward", loaded.config)
    assert roles.fingerprint(judge.pick("reward")) == roles.fingerprint(kept.pick("reward"))


@pytest.mark.parametrize(
    ("role", "form", "settings", "said"),
    [
        ("reward", "merged", {}, "which no merged checkpoint holds"),
        ("policy", "merged", {"serving": "text"}, "--as is about the names in a PEFT adapter"),
        ("value", "peft", {}, "has no role 'value'; saved so far: policy, reward"),
        ("policy", "peft", {"serving": "vlm"}, "has no class that sees"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    role: str, form: str, settings: dict[str, str], said: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        export_role(run, tmp_path / "out", role, form, **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out"
    shutil.copytree(run / "adapters/reward", kept)
    before = {p.name: p.read_bytes() for p in kept.iterdir()}
    with pytest.raises(UserError, match="exists and is not empty"):
        export_role(run, kept, "policy", "peft")
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == before
    export_role(run, kept, "policy", "peft", overwrite=True)
    assert sorted(p.name for p in kept.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_reward_model_scores_replies_as_its_run_does(run: Path, tmp_path: Path) -> None:
    """Over the backbone as loaded; by hand: the head's number at the stop token of each reply, here in its own row."""
    export_role(run, tmp_path / "judge", "reward", "peft")
    loaded = pe.load_model("tiny-vlm")
    judge = load_reward(loaded, tmp_path / "judge")
    picture = pe.Image(Pillow.new("RGB", (64, 64), "teal"))
    asked = [[pe.Message("user", [picture, pe.Text("what is it?")])], [pe.Message("user", "hello")]]
    replies = ["a teal square", "yes"]
    weights, found = judge.roles.weights("reward"), []
    for talk, reply in zip(asked, replies, strict=True):
        gallery = Gallery(loaded.config)
        (prompt,), (said,) = loaded.processor.encode([talk], gallery), loaded.processor.encode_replies([reply])
        prompts = loaded.processor.prompts([prompt], gallery, length=len(prompt.tokens))
        completions = loaded.processor.completions([[said]], length=len(said))
        last = forward.read(loaded.config, weights, prompts, completions).states[0, -1]
        found.append(float(last.sum()))  # a head of ones
    scores = judge.score(asked, replies)
    np.testing.assert_allclose(scores, found, rtol=1e-4, atol=1e-4)
    assert abs(found[0] - found[1]) > 0.1
    np.testing.assert_array_equal(load_reward(loaded, run / "adapters/reward").score(asked, replies), scores)
    assert judge.score([], []).shape == (0,)
    assert len(repr(judge)) < 200
    with pytest.raises(UserError, match="1 replies were given to 2 conversations"):
        judge.score(asked, replies[:1])


def test_a_judge_is_no_policy_and_a_policy_no_judge(run: Path, tmp_path: Path) -> None:
    loaded = pe.load_model("tiny-vlm")
    for role in ("policy", "reward"):
        export_role(run, tmp_path / role, role, "peft")
    no_policy = r"the role reward reads a number off a head, .* no policy. Use pe.load_reward"
    with pytest.raises(UserError, match=no_policy):
        pe.load_policy(run, role="reward")
    with pytest.raises(UserError, match=no_policy):
        pe.load_adapter(loaded, tmp_path / "reward")
    with pytest.raises(UserError, match="holds the role policy, and no reward model"):
        load_reward(loaded, tmp_path / "policy")
    (tmp_path / "reward/head.safetensors").unlink()
    with pytest.raises(UserError, match=no_policy):
        pe.load_adapter(loaded, tmp_path / "reward")
    with pytest.raises(UserError, match=r"head\.safetensors does not exist"):
        load_reward(loaded, tmp_path / "reward")


def test_a_role_of_a_quantised_run_is_exported_as_an_adapter(run: Path, tmp_path: Path) -> None:
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | {"settings": {"quantize": "nf4"}}))
    with pytest.raises(UserError, match=r"quantised \(nf4\), .*\. Use --format peft, and serve") as refused:
        export_role(run, tmp_path / "out", "policy", "merged")
    assert "without quantize" not in str(refused.value)
    export_role(run, tmp_path / "out", "policy", "peft")


def test_a_policy_comes_from_a_run_a_folder_or_a_name(run: Path, tmp_path: Path) -> None:
    """One that is no run is the model as it is."""
    folder = shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model")
    whole = pe.load_policy("tiny-vlm")
    assert whole.weights.bank is None
    assert pe.load_policy(folder).complete(["the"], max_tokens=4) == whole.complete(["the"], max_tokens=4)
    assert pe.load_policy(run).weights.bank is not None
    with pytest.raises(UserError, match="names no task and model"):
        pe.load_policy(folder, role="sft")
    with pytest.raises(UserError, match="no model 'tiny-vim'"):
        pe.load_policy("tiny-vim")


def test_what_is_printed_of_a_model_is_one_line(run: Path) -> None:
    """Not thousands of weights."""
    model, quantised = pe.load_model("tiny-vlm"), pe.load_model("tiny-vlm", quantize="nf4")
    total = f"{roles.count(model.state):,} weights in"
    assert repr(model) == f"Model('tiny-vlm', tiny-vlm, {total} float32)"
    assert f"{total} float32, uint8" in repr(quantised)
    assert repr(pe.load_policy("tiny-vlm")) == "Policy('tiny-vlm', of tiny-vlm, adapted matrices: none)"
    assert repr(pe.load_policy(run)) == f"Policy('{run}:policy', of tiny-vlm, adapted matrices: down, q)"


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_what_an_export_reads_and_other_runs_are_never_replaced(form: str, run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    before = sorted(p for p in tmp_path.rglob("*"))
    for out, said in ((run, "would replace"), (tmp_path, "would replace"), (other, "no checkpoint and no adapter")):
        with pytest.raises(UserError, match=said):
            export_role(run, out, "policy", form, overwrite=True)
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_a_full_disk_is_said_and_leaves_what_was_there(form: str, run: Path, tmp_path: Path) -> None:
    """No file may grow beyond 4 kB, as the settings do not, but the weights do."""
    kept = shutil.copytree(run / "adapters/reward", tmp_path / "out")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*File too large"):
            export_role(run, kept, "policy", form, overwrite=True)
        with pytest.raises(UserError, match=r"cannot be written: .*File too large.*Is the disk full"):
            pe.save_adapter(kept, pe.load_policy(run), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_policy_without_an_adapter_has_none_to_save(tmp_path: Path) -> None:
    loaded = pe.load_model("tiny-vlm")
    with pytest.raises(UserError, match="has no adapter"):
        pe.save_adapter(tmp_path, Policy(loaded.processor, Weights(loaded.state, None), "tiny-vlm"))
