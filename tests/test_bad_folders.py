"""Damaged checkpoints and runs, incomplete tasks, places that cannot be written: said early, nothing harmed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.files import save_role
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import SHIPPED
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.types import Message, Preference, Sample


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def holding(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def saying(name: str, *path: str, value: Any) -> Callable[[Path], object]:
    """Changes one value of a JSON file."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        inner = values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(values))

    return change


def folder_named(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


# --- checkpoints ------------------------------------------------------------------------------------------------

CONFIG, WEIGHTS, WORDS, TEMPLATE = "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
AGAIN, SAME = "opy .*the checkpoint again", "of the same checkpoint"


@pytest.mark.parametrize(
    ("damage", "names", "said", "remedy"),
    [
        (without(CONFIG), "", "it has no config.json", "no checkpoint folder"),
        (cut(CONFIG, 100), CONFIG, "not valid JSON", "copy or make it again"),
        (holding(CONFIG, "[]"), CONFIG, "holds a list", "expected a JSON object"),
        (saying(CONFIG, "model_type", value="llava"), CONFIG, "model_type 'llava'", "supported: llama, .*"),
        (saying(CONFIG, "decoder", "layers", value="four"), CONFIG, "layers must be a whole number", AGAIN),
        (saying(CONFIG, "decoder", "kv_heads", value=0), CONFIG, "kv_heads must be a whole number", AGAIN),
        (saying(CONFIG, "decoder", "colour", value=1), CONFIG, "'colour'", AGAIN),
        (
            saying(CONFIG, "vision", "patch_size", value=7),
            CONFIG,
            r"9 patches of 7 .* a multiple of merge \(2\)",
            AGAIN,
        ),
        (saying(CONFIG, "pad_id", value=512), CONFIG, r"pad_id must be .* \[0, 512\), not 512", AGAIN),
        (saying(CONFIG, "image_id", value=600), None, "none of id 600", "Are they of the same checkpoint"),
        (saying(CONFIG, "context", value=0), CONFIG, "context must be a whole number above 0", AGAIN),
        (saying(CONFIG, "decoder", "width", value=64), WEIGHTS, r"embedding: shape \(512, 128\) in the file", SAME),
        (saying(CONFIG, "decoder", "layers", value=3), WEIGHTS, r"in the file, \(3, 128\) in the model", SAME),
        (without(WEIGHTS), "", "has no model.safetensors", AGAIN),
        (cut(WEIGHTS, 0), WEIGHTS, "damaged", AGAIN),
        (cut(WEIGHTS, 5_000), WEIGHTS, "damaged", AGAIN),
        (cut(WEIGHTS, 1_000_000), WEIGHTS, "damaged", AGAIN),
        (folder_named(WEIGHTS), WEIGHTS, "damaged", AGAIN),
        (without(WORDS), "", "has no tokenizer.json", AGAIN),
        (cut(WORDS, 3_000), "", "tokenizer .* cannot be read", AGAIN),
        (holding(WORDS, "{}"), "", "tokenizer .* cannot be read", AGAIN),
        (holding(TEMPLATE, "{"), "", "tokenizer .* cannot be read", AGAIN),
        (without(TEMPLATE), "", "has no tokenizer_config.json", AGAIN),
        (saying(TEMPLATE, "chat_template", value=""), "", "has no chat template", AGAIN),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_remedy(
    damage: Callable[[Path], object], names: str | None, said: str, remedy: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model")
    damage(folder)
    before = files(folder)
    with pytest.raises(UserError, match=f"(?s){said}.*{remedy}|{remedy}.*{said}") as caught:
        pe.load_model(folder)
    assert names is None or str(folder / names) in str(caught.value)
    assert files(folder) == before


def test_a_whole_checkpoint_is_loaded_from_its_folder(tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model")
    assert pe.load_model(folder).logits([[5, 6]]).shape == (1, 2, 512)


def test_a_name_that_is_no_model_is_named() -> None:
    with pytest.raises(UserError, match="no model 'tiny-vim': it is neither a folder nor one of"):
        pe.load_model("tiny-vim")


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `load_policy` reads of a run, before any step of training."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = pe.load_model("tiny-vlm")
    roles = attach(model, pe.TuneConfig()).start("policy", "sft")
    save_role(folder / "adapters/policy", roles, "policy", model.config, "tiny-vlm")
    (folder / "config.json").write_text(json.dumps({"task": "pe/easy-vqa@1", "model": "tiny-vlm"}))
    return folder


ADAPTER = "adapters/policy/adapter_config.json"
MATRICES = "adapters/policy/adapter_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("config.json"), "no run folder and no checkpoint folder: it has no config.json"),
        (cut("config.json", 10), "config.json is not valid JSON"),
        (holding("config.json", "3"), "config.json holds a int"),
        (holding("config.json", '{"task": "t"}'), "names no task and model"),
        (holding("config.json", "{}"), "model_type None"),
        (saying("config.json", "model", value="nowhere"), "no model 'nowhere'"),
        (lambda folder: shutil.rmtree(folder / "adapters"), "no role 'policy'; saved so far: none"),
        (without(ADAPTER), "there is no adapter_config.json"),
        (cut(ADAPTER, 30), "adapter_config.json is not valid JSON"),
        (holding(ADAPTER, "{}"), "adapter_config.json describes no adapter"),
        (saying(ADAPTER, "r", value=8), r"shape \(16, 128\), expected \(8, 128\)"),
        (saying(ADAPTER, "use_dora", value=True), r"missing: .*q_proj\.lora_magnitude_vector"),
        (saying(ADAPTER, "alora_invocation_tokens", value=[1]), "not supported and would change the adapter: alora"),
        (saying(ADAPTER, "r", value=0), "describes no adapter: expected r, a whole number above 0"),
        (saying(ADAPTER, "lora_alpha", value=None), "describes no adapter: expected r, .* and lora_alpha, a number"),
        (without(MATRICES), "adapter_model.safetensors does not exist"),
        (cut(MATRICES, 1_000), "adapter_model.safetensors is damaged"),
    ],
)
def test_a_damaged_run_is_named(damage: Callable[[Path], object], said: str, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    damage(folder)
    before = files(folder)
    with pytest.raises(UserError, match=said) as caught:
        pe.load_policy(folder)
    assert str(folder) in str(caught.value) or "no model 'nowhere'" in str(caught.value)
    assert files(folder) == before


def test_a_role_that_was_not_saved_is_named(run: Path) -> None:
    with pytest.raises(UserError, match="no role 'sft'; saved so far: policy"):
        pe.load_policy(run, role="sft")


# --- tasks ------------------------------------------------------------------------------------------------------


class Echo:
    """Three words to repeat, in every split."""

    evaluators: Sequence[str] = ("pe/exact-match",)
    no_samples: Sequence[str] = ()
    no_preferences: Sequence[str] = ()

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for word in () if split in self.no_samples else ("red", "blue", "gray"):
            yield Sample(f"{split}-{word}", [Message("user", word)], word)

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        for word in () if split in self.no_preferences else ("red", "blue", "gray"):
            yield Preference([Message("user", word)], word, "no")

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Any:
        return [sample.target]


SHORT = pe.TuneConfig(sft=pe.SFTConfig(steps=1), reward=pe.RewardConfig(steps=1), rl=pe.RLConfig(steps=1, prompts=2))


class NoTraining(Echo):
    no_samples = ("train",)


class NoValidation(Echo):
    no_samples = ("validation",)


class NoTest(Echo):
    no_samples = ("test",)


class NoTrainingPairs(Echo):
    no_preferences = ("train",)


class NoValidationPairs(Echo):
    no_preferences = ("validation",)


class NoTestPairs(Echo):
    no_preferences = ("test",)


class Unsolved(Echo):
    def solve(self, sample: Sample) -> Any:
        return None


class SolvedByAString(Echo):
    def solve(self, sample: Sample) -> Any:
        return sample.target


class PairsOfNumbers(Echo):
    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        yield Preference([Message("user", "1")], 1, 2)


class UnknownEvaluator(Echo):
    evaluators = ("pe/exact-mach",)


class NoEvaluator(Echo):
    evaluators = ()


class EvaluatorsAsAString(Echo):
    evaluators = "pe/exact-match"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (NoTraining, "the split 'train' of NoTraining is empty"),
        (NoValidation, "the split 'validation' of NoValidation is empty"),
        (NoTest, "the split 'test' of NoTest is empty"),
        (NoTrainingPairs, "NoTrainingPairs has no preferences in the split 'train'"),
        (NoValidationPairs, "NoValidationPairs has no preferences in the split 'validation'"),
        (NoTestPairs, "NoTestPairs has no preferences in the split 'test'"),
        (Unsolved, "Unsolved.solve gave no reply for any of 3 training samples"),
        (SolvedByAString, "SolvedByAString.solve gave the string 'red'; expected a list"),
        (PairsOfNumbers, "reply 0 is 1; expected a string"),
        (UnknownEvaluator, "Did you mean pe/exact-match"),
        (NoEvaluator, r"NoEvaluator.evaluators is \(\)"),
        (EvaluatorsAsAString, "expected a tuple of one id at least"),
    ],
)
def test_a_task_with_a_part_missing_is_refused_before_the_first_step(task: type, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        pe.tune(f"{__name__}:{task.__name__}", out=tmp_path / "run", config=SHORT, quiet=True)
    assert (tmp_path / "run/metrics.jsonl").read_text() == ""
    assert json.loads((tmp_path / "run/config.json").read_text())["status"] == "failed"


class NoPreferences:
    evaluators: Sequence[str] = Echo.evaluators
    samples, environment, solve = Echo.samples, Echo.environment, Echo.solve


def test_a_task_without_preferences_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NoPreferences has no preferences"):
        pe.tune(f"{__name__}:NoPreferences", out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# --- where a run goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("notes.txt", "is a file; a run needs a folder"),
        ("notes.txt/run", "cannot be written: Not a directory"),
        ("n" * 300, "cannot be written: File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(out: str, said: str, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{said}.*Give another --out"):
        pe.tune(f"{__name__}:Echo", out=tmp_path / out, overwrite=overwrite, quiet=True)
    assert files(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(overwrite: bool, tmp_path: Path) -> None:
    """And that is said before a model is loaded, which may take minutes."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty\. Give another --out|it is not overwritten"):
        pe.tune(f"{__name__}:Echo", model="no model", out=tmp_path, overwrite=overwrite, quiet=True)
    assert files(tmp_path) == {"notes.txt": b"mine"}
