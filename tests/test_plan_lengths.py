"""What a plan is of: lengths and pictures as a task has them, the rows of a step, and a rollout by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import count
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import load_processor
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.planning.lengths import load_of
from pe_rlhf_mm.planning.plan import Cost, plan
from pe_rlhf_mm.planning.programs import STAGES, Load, Seen
from pe_rlhf_mm.planning.slices import slice_of
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import reinforce, reward, sft
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.types import Image, Message, Sample, Text

TINY = pe.load_model("tiny-vlm")
SMALL = pe.TuneConfig(rl=pe.RLConfig(prompts=4, max_tokens=5), lora=pe.LoraConfig(rank=2))
FIXTURES = Path(__file__).parent / "fixtures"


class Album(ToyTask):
    """One picture or two of several shapes, and questions of several lengths."""

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for n, sample in enumerate(super().samples(split, seed=seed)):
            (message,) = sample.messages
            picture, question = message.parts
            assert isinstance(picture, Image)
            wide = Image(picture.source.resize((picture.source.width, 40 + 8 * (n % 3))))
            parts = (*[wide] * (1 + n % 2), question, Text(" Please." * (n % 4)))
            yield dataclasses.replace(sample, messages=(Message("user", parts),))


@pytest.mark.parametrize("stage", ["sft", "reward", "rl"])
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_lengths_are_those_of_the_longest_batch_that_the_trainer_makes(stage: str, mode: str) -> None:
    settings, task = dataclasses.replace(SMALL, mode=mode), Album()  # type: ignore[arg-type]
    data = prepare(task, TINY, settings)
    encoded = (TINY.processor, data.gallery)
    fed = {
        "sft": lambda: sft.one_a_row(*encoded, data.demonstrations, batch_size=32, seed=0),
        "reward": lambda: reward.feed(*encoded, data.judged, batch_size=32, seed=0),
        "rl": lambda: reinforce.feed(*encoded, data.prompts, dataclasses.replace(settings.rl, prompts=32), seed=0),
    }[stage]()
    with fed.batches(0) as batches:  # of all 32 examples, and so of one shape
        prompts, *replies = next(batches)[:2]
    load = load_of(task, TINY.processor, settings, stage)
    assert load.prompt_tokens == prompts.tokens.shape[1]
    assert load.pictures == 2
    assert load.seen is not None
    if stage != "rl":
        assert load.reply_tokens == replies[0].tokens.shape[2]
    images = prompts.images
    if mode == "lora":
        assert images.vectors.shape[1] == load.seen.tokens
    else:
        assert images.patches.shape[1:3] == (load.seen.views, load.seen.patches)


def test_pictures_of_any_shape_are_measured_as_the_gallery_pads_them() -> None:
    task, processor = Album(), load_processor(FIXTURES / "qwen2_5_vl")
    with pytest.raises(UserError, match="keeps the shape of pictures"):
        plan(processor.config, SMALL, Load(), stage="sample", topology="here")
    load, gallery = load_of(task, processor, SMALL, "rl"), Gallery(processor.config)
    prompts = processor.encode([sample.messages for sample in task.samples("train")], gallery)
    pixels = gallery.take([prompt.images for prompt in prompts])
    tokens = max(prompt.tokens.count(processor.config.image_id) for prompt in prompts)
    assert load.seen == Seen(*pixels.patches.shape[1:3], -(-tokens // 8) * 8)  # type: ignore[union-attr]


def test_a_processor_comes_without_weights(tmp_path: Path) -> None:
    for file in (FIXTURES / "llama").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert load_processor(tmp_path).config == pe.load_model(FIXTURES / "llama").config


def test_a_rollout_by_itself_holds_one_policy() -> None:
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    found, whole = (STAGES[stage](TINY.config, SMALL, Load(32, 4), mesh) for stage in ("sample", "rl"))
    assert [program.name for program in found.programs] == ["sample"]
    assert found.held.backbone == whole.held.backbone == 2 * count(TINY.state)
    assert (found.held.copies, found.held.optimizer) == (0, 0)
    assert 0 < found.held.adapters < whole.held.adapters / 3  # of sft, policy, value, reward, and what is trained


def test_the_task_brings_its_settings_and_the_options_change_them(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--model", "tiny-vlm", "--task", "pe/easy-vqa", "--stage", "sample", "--topology", "here"]
    assert run([*asked, "--batch", "2", "--rl.group", "3"]) == 0
    first, _, step, *_ = capsys.readouterr().out.splitlines()
    assert first == "lengths: the longest of at most 128 examples of the training split of pe/easy-vqa"
    own = pe.registry.tasks.make("pe/easy-vqa").tuning.rl.max_tokens  # type: ignore[attr-defined]
    assert step == f"a step: 2 prompts of 32 tokens, 1 picture among them; 3 replies of {own} tokens to each"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--model tiny-vlm --task pe/easy-vqa --pictures 2 --prompt-tokens 9", "leave out --task, or --prompt-tokens"),
        ("--model gemma3-4b --task pe/easy-vqa", "gemma3-4b is a shape, which has no tokenizer"),
        ("--model tiny-vlm --task canvas/press", "is played in an environment"),
        ("--model tiny-vlm --task pe/easy-vqas", "unknown task"),
        ("--model tiny-vlm --prompt-tokens 0", "--prompt-tokens must be at least 1, not 0"),
        ("--model tiny-vlm --batch 0", "--batch must be at least 1"),
        ("--model tiny-vlm --stage sft --sft.packed-length 64", "sft.packed_length is 64"),
        ("--model tiny-vlm --method dpo", "the method dpo has no stage rl"),
        ("--model tiny-vlm --stage reward --method kto", "the method kto has no stage reward"),
        ("--model gemma3-5b", "nor a shape: those are gemma3-270m, gemma3-1b"),
    ],
)
def test_what_is_impossible_is_refused(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *options.split(), "--topology", "here"]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of four, of a device that can be planned for only."""
    found = slice_of("here")._replace(devices=np.array(jax.devices()[:1] * 4))
    monkeypatch.setattr("pe_rlhf_mm.planning.plan.slice_of", lambda *_, **__: found)
    monkeypatch.setattr("pe_rlhf_mm.planning.plan._cost", lambda *_: Cost("step", 0, 0, 0))


def test_parts_of_a_batch_are_dealt_to_all_chips_that_they_go_round(four: None) -> None:
    """8 prompts in 4 parts are 2 at a time: they go round two chips, and in a rollout, which has no parts, four."""
    settings = dataclasses.replace(SMALL, accumulate=4, rl=pe.RLConfig(prompts=8))
    meshes = [plan(TINY.config, settings, Load(32, 4), stage=s, topology="x").mesh for s in ("rl", "sample")]
    assert [mesh["fsdp"] for mesh in meshes] == [2, 4]


@pytest.mark.parametrize(("rows", "fsdp", "model"), [(8, 4, 1), (4, 4, 1), (6, 2, 2), (3, 1, 4)])
def test_chips_that_rows_do_not_go_round_to_share_matrices(four: None, rows: int, fsdp: int, model: int) -> None:
    settings = dataclasses.replace(SMALL, rl=pe.RLConfig(prompts=rows))
    found = plan(TINY.config, settings, Load(), stage="sample", topology="x")
    assert found.mesh == {"data": 1, "fsdp": fsdp, "model": model}


def test_rows_that_a_mesh_does_not_divide_are_refused(four: None) -> None:
    settings, mesh = dataclasses.replace(SMALL, rl=pe.RLConfig(prompts=6)), pe.MeshConfig(fsdp=4)
    with pytest.raises(UserError, match="6 prompts cannot be dealt to 4 chips"):
        plan(TINY.config, settings, Load(), stage="sample", topology="x", mesh=mesh)
    settings = dataclasses.replace(SMALL, accumulate=3, sft=pe.SFTConfig(batch_size=8))
    with pytest.raises(UserError, match=r"8 prompts .* 3 parts \(--accumulate\): take a multiple of 12"):
        plan(TINY.config, settings, Load(), stage="sft", topology="x", mesh=mesh)
