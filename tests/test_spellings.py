"""Published checkpoints spell the same model in several ways, of several versions of transformers: all are understood.

Fixtures are spelled in one way each; here their configurations and the names of their tensors are put into others.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pe_rlhf_mm.checkpoints import huggingface
from pe_rlhf_mm.checkpoints.names import canonical
from pe_rlhf_mm.data.tokenizer import read_tokenizer, special_ids
from pe_rlhf_mm.models.config import VLMConfig

FIXTURES = Path(__file__).parent / "fixtures"
Values = dict[str, Any]


def config(folder: Path) -> VLMConfig:
    description = huggingface.read_description(folder)
    return huggingface.config_from(folder, description, special_ids(folder, read_tokenizer(folder)))


def older(values: Values, changes: Mapping[str, Any]) -> Values:
    """Rotary positions as fields of their own, as they were before version 5."""
    return {name: value for name, value in (values | dict(changes)).items() if name != "rope_parameters"}


def gemma3_text(values: Values) -> Values:
    scaling = {"factor": 8.0, "rope_type": "linear"}
    return older(values, {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaling})


def gemma2_text(values: Values) -> Values:
    """The older ones do not list their layers: every other one sees a window."""
    values.pop("layer_types")
    return older(values, {"rope_theta": 1e4})


def of_text(change: Any) -> Any:
    return lambda values: values | {"text_config": change(values["text_config"])}


def qwen2_5_vl(values: Values) -> Values:
    """Fields of the decoder beside those of the whole; the tower under the name of the whole."""
    text = values.pop("text_config", {})
    text.pop("model_type", None)
    values["vision_config"]["model_type"] = "qwen2_5_vl"
    return older(text | values, {"rope_theta": 1e3, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}})


AXES = {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"}
CONFIGS = {
    "llama": lambda values: older(values, {"rope_theta": 1e4, "rope_scaling": None}),
    "qwen2": lambda values: older(values, {"rope_theta": 1e6, "use_sliding_window": False}),
    "qwen3": lambda values: older(values, {"rope_theta": 1e6, "rope_scaling": None}),
    "gemma2": gemma2_text,
    "gemma3_text": gemma3_text,
    "gemma3": of_text(gemma3_text),
    "paligemma2": of_text(gemma2_text),
    "smolvlm": of_text(lambda text: older(text, {"rope_theta": 1e5})),
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": of_text(lambda text: older(text, {"rope_theta": 1e3, "rope_scaling": AXES})),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_an_older_configuration_describes_the_same_model(family: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / family, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(CONFIGS[family](values)))
    assert config(folder) == config(FIXTURES / family)


def test_idefics3_is_what_smolvlm_is(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "smolvlm", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"model_type": "smolvlm', '"model_type": "idefics3'))
    assert config(folder) == config(FIXTURES / "smolvlm")


TENSORS = [
    ("llama", r"^model\.", ""),
    ("llama", r"^model\.", "language_model.model."),
    ("gemma3", r"^language_model\.model\.", "model.language_model."),
    ("gemma3", r"^vision_tower\.vision_model\.", "model.vision_tower."),
    ("gemma3", r"^multi_modal_projector\.", "model.multi_modal_projector."),
    ("paligemma2", r"^language_model\.model\.", "model.language_model."),
    ("paligemma2", r"^vision_tower\.", "model.vision_tower.vision_model."),
    ("paligemma2", r"^multi_modal_projector\.", "model.multi_modal_projector."),
    ("qwen2_5_vl", r"^model\.", "model.language_model."),
    ("qwen2_5_vl", r"^visual\.", "model.visual."),
    ("qwen3_vl", r"^model\.visual\.", "visual."),
    ("smolvlm", r"^model\.", ""),
]


@pytest.mark.parametrize(("family", "spelled", "otherwise"), TENSORS)
def test_tensors_are_known_under_every_name(family: str, spelled: str, otherwise: str) -> None:
    tensors = huggingface.tensors_of(FIXTURES / family)
    renamed = {name: re.sub(spelled, otherwise, tensor.name) for name, tensor in tensors.items()}
    assert any(renamed[name] != tensor.name for name, tensor in tensors.items())
    assert {name: canonical(other) for name, other in renamed.items()} == {name: name for name in tensors}
