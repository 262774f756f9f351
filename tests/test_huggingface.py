"""Checkpoints that cannot be used: one clear error each that lists all that is wrong; nothing is run or half loaded."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy bfloat16
import numpy as np
import pytest
from PIL import Image as Pillow
from safetensors.numpy import load_file, save_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.checkpoints import huggingface
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.errors import PromptTooLong, UserError
from pe_rlhf_mm.types import Image, Message, Text

FIXTURES = Path(__file__).parent / "fixtures"
SEES = ("gemma3", "paligemma2", "qwen2_5_vl", "qwen3_vl", "smolvlm")
WEIGHTS, CONFIG, IMAGES = "model.safetensors", "config.json", "preprocessor_config.json"
INDEX, SHARD = "model.safetensors.index.json", "model-00002-of-00002.safetensors"
Damage = Callable[[Path], object]
PICTURE = Image(Pillow.new("RGB", (40, 40), "teal"))
ASKED = [Message("user", [PICTURE, Text("what is it?")])]


def out_of_reach(*_: object, **__: object) -> None:
    raise AssertionError("what is refused reads no weight, and nothing here needs a network")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", out_of_reach)


def saying(name: str, *path: str, value: Any) -> Damage:
    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        inner = values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(values))

    return change


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    def changed(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return changed


def cut(name: str, length: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def without(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def first_shard_only(folder: Path) -> None:
    """An index that leaves out what the second shard holds."""
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    saying(INDEX, "weight_map", value={tensor: shard for tensor, shard in places.items() if shard != SHARD})(folder)


def other_steps(folder: Path) -> None:
    for field, value in (("do_resize", False), ("resample", 0), ("rescale_factor", 0.5), ("do_normalize", False)):
        saying(IMAGES, field, value=value)(folder)


def several_wrong(found: dict[str, np.ndarray]) -> None:
    del found["model.norm.weight"]
    found["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 5), np.float32)
    found["model.extra.weight"] = np.zeros(2, np.float32)


Q, NORM = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"


@pytest.mark.parametrize(
    ("family", "damage", "said"),
    [
        ("llama", cut(WEIGHTS, 0), "damaged or not a safetensors file"),
        ("llama", cut(WEIGHTS, 3_000), "damaged or not a safetensors file"),
        ("llama", cut(WEIGHTS, 60_000), "damaged or not a safetensors file"),
        ("llama", without(WEIGHTS), "has no model.safetensors"),
        ("llama", pickled, r"pickles \(pytorch_model.bin\), which can run code and are never opened"),
        (
            "llama",
            tensors(several_wrong),
            r"(?s)missing: language_model.norm.weight.*up_proj.weight has shape \(3, 5\).*not part .*extra.weight",
        ),
        ("llama", tensors(lambda t: t.update({Q: t[Q].astype(np.int8)})), "q_proj.weight is stored as I8; expected"),
        ("llama", tensors(lambda t: t.update({"norm.weight": t[NORM]})),
         "has norm.weight and .* has model.norm.weight: one too many"),
        ("llama_sharded", without(SHARD), f"shards that are not there: {SHARD}"),
        ("llama_sharded", cut(SHARD, 1_000), f"{SHARD} is damaged or not a safetensors file"),
        ("llama_sharded", cut(INDEX, 1_000), f"{INDEX} is not valid JSON"),
        ("llama_sharded", saying(INDEX, "weight_map", value={}), "shards that are not there: none at all"),
        ("llama_sharded", first_shard_only, r"(?s)missing: language_model.layers.2.*missing: language_model.norm"),
        ("llama", cut(CONFIG, 40), f"{CONFIG} is not valid JSON"),
        ("llama", saying(CONFIG, "model_type", value="mamba"), "model_type 'mamba'; supported: llama, qwen2"),
        ("llama", saying(CONFIG, "hidden_act", value="relu"), "json: hidden_act is 'relu'; supported: silu, gelu"),
        ("llama", saying(CONFIG, "rope_parameters", value={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0,
         "original_max_position_embeddings": 64}), "rope_parameters.rope_type is 'yarn'; supported: default"),
        ("llama", saying(CONFIG, "rope_parameters", value={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0,
         "partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5; supported: 1"),
        ("llama", saying(CONFIG, "pretraining_tp", value=2), "pretraining_tp is 2; supported: 1"),
        ("llama", saying(CONFIG, "num_hidden_layers", value="three"), f"{CONFIG} does not describe a model"),
        ("llama", saying(CONFIG, "vocab_size", value=288), "stop_ids must be an id of the vocabulary"),
        ("gemma3_text", saying(CONFIG, "layer_types", value=["chunked_attention"] * 4), "layer_types has chunked_att"),
        ("gemma3", saying(CONFIG, "text_config", "model_type", value="mistral"), "'gemma3' with a decoder 'mistral'"),
        ("gemma3", saying(CONFIG, "vision_config", "hidden_act", value="relu"),
         "vision_config.hidden_act is 'relu'; supported: silu"),
        ("llama", saying(CONFIG, "quantization_config", value={"quant_method": "awq"}), "quantization_config is"),
        ("llama", saying(CONFIG, "num_hidden_layers", value=4), r"missing: language_model.layers.3.input_layernorm"),
        ("gemma3_text", saying(CONFIG, "use_bidirectional_attention", value=True), "use_bidirectional_attention"),
        ("gemma3", saying(IMAGES, "do_pan_and_scan", value=True), "do_pan_and_scan is True; supported: False"),
        ("gemma3", saying(IMAGES, "size", value={"height": 32, "width": 32}), "size is {'height': 32, 'width': 32}"),
        ("smolvlm", saying(IMAGES, "do_image_splitting", value=False), "do_image_splitting is False; supported: True"),
        ("qwen2_5_vl", saying(IMAGES, "temporal_patch_size", value=1), "temporal_patch_size is 1; supported: 2"),
        ("qwen3_vl", saying(IMAGES, "merge_size", value=1), "merge_size is 1; supported: 2"),
        ("paligemma2", other_steps, "(?s)do_resize is False.* rescale_factor is 0.5.* do_normalize .* resample is 0"),
        ("qwen3_vl", without(IMAGES), "has no preprocessor_config.json"),
        *((f, without("tokenizer.json"), "has no tokenizer.json") for f in ("llama", "gemma3_text", "qwen3", *SEES)),
        *((f, without("tokenizer_config.json"), "has no tokenizer_config.json") for f in ("llama", "gemma3", "qwen3")),
        *((f, saying(CONFIG, "vision_config", name, value=1), f"vision_config.{name} is 1; supported: 3")
          for f, name in (("gemma3", "num_channels"), ("smolvlm", "num_channels"), ("qwen3_vl", "in_channels"))),
        *(("qwen3_vl", saying(CONFIG, "text_config", "rope_parameters", "mrope_section", value=v),
           "mrope_section is .*; supported: three numbers that add up to 8") for v in ([1, 1, 1], [4, 4], None)),
        ("qwen3_vl", saying(CONFIG, "text_config", "rope_parameters", "mrope_interleaved", value=False),
         "text_config.rope_parameters.mrope_interleaved is False; supported: True"),
        ("smolvlm", without("chat_template.jinja"), "has no chat template"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_used_is_refused(
    family: str, damage: Damage, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface.Tensor, "read", out_of_reach)
    folder = shutil.copytree(FIXTURES / family, tmp_path / "model")
    damage(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match=said):
        pe.load_model(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_what_is_wrong_with_a_tokenizer_is_one_line_that_ends_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def wordy(*_: object, **__: object) -> None:
        raise ValueError("Couldn't build the tokenizer:\n\n" + "(1) a reason,\n" * 40)

    monkeypatch.setattr(huggingface.transformers().AutoTokenizer, "from_pretrained", wordy)
    with pytest.raises(UserError, match=r"read \(ValueError: Couldn't build the tokenizer: [^\\\n]*\w,? \.\.\.\)\. Is"):
        pe.load_model(FIXTURES / "llama")


def test_all_that_is_not_supported_is_listed_at_once(tmp_path: Path) -> None:
    """Of the whole, of its decoder, of its tower and of its preprocessor, each by its full name."""
    folder = shutil.copytree(FIXTURES / "gemma3", tmp_path / "model")
    saying(CONFIG, "quantization_config", value={"quant_method": "awq"})(folder)
    saying(CONFIG, "text_config", "hidden_activation", value="relu")(folder)
    saying(CONFIG, "text_config", "pretraining_tp", value=2)(folder)
    saying(CONFIG, "text_config", "use_bidirectional_attention", value=True)(folder)
    far = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5}
    saying(CONFIG, "text_config", "rope_parameters", "full_attention", value=far)(folder)
    saying(CONFIG, "vision_config", "hidden_act", value="relu")(folder)
    saying(CONFIG, "vision_config", "num_channels", value=4)(folder)
    saying(IMAGES, "resample", value=0)(folder)
    saying(IMAGES, "do_pan_and_scan", value=True)(folder)
    with pytest.raises(UserError) as refused:
        pe.load_model(folder)
    first, *lines = str(refused.value).splitlines()
    assert first == "model asks for what is not supported:"
    assert [line.partition(" is ")[0].strip() for line in lines] == [
        "config.json: quantization_config",
        "config.json: text_config.use_bidirectional_attention",
        "config.json: text_config.hidden_activation",
        "config.json: text_config.pretraining_tp",
        "config.json: text_config.rope_parameters.full_attention.rope_type",
        "config.json: text_config.rope_parameters.full_attention.partial_rotary_factor",
        "config.json: vision_config.hidden_act",
        "config.json: vision_config.num_channels",
        "preprocessor_config.json: do_pan_and_scan",
        "preprocessor_config.json: resample",
    ]


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "llama", tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for family in ("llama", "evil"):
        saying(CONFIG, "model_type", value=family)(folder)
        saying(CONFIG, "auto_map", value={"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.T", "evil.T"]})(folder)
        if family == "llama":
            assert pe.load_model(folder).config.family == "llama"
        else:
            with pytest.raises(UserError, match=r"code of its own .auto_map., which is never executed"):
                pe.load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_name_that_the_hub_does_not_give_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, **_: object) -> str:
        raise OSError(f"{name}: no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    with pytest.raises(UserError, match=r"no model 'org/name': .* the hub did not give it: OSError: org/name"):
        pe.load_model("org/name")


def test_a_name_of_the_hub_is_fetched_without_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fetched(name: str, *, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(FIXTURES / "llama")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert huggingface.fetched("org/name") == FIXTURES / "llama"
    assert pe.load_model("org/name").config.decoder.layers == 3
    assert not [p for p in asked["org/name"] if p.endswith((".bin", ".pt", ".py"))]


# --- prompts ------------------------------------------------------------------------------------------------------


def test_a_text_model_refuses_pictures() -> None:
    loaded = pe.load_model(FIXTURES / "llama")
    with pytest.raises(UserError, match="llama reads text only"):
        loaded.processor.encode([ASKED], Gallery(loaded.config))


@pytest.mark.parametrize("family", ["gemma3", "smolvlm", "qwen3_vl"])
def test_a_prompt_that_is_too_long_is_refused_and_no_picture_split(family: str) -> None:
    loaded = pe.load_model(FIXTURES / family)
    gallery = Gallery(loaded.config)
    (prompt,) = loaded.processor.encode([ASKED], gallery)
    assert prompt.tokens.count(loaded.config.image_id) == gallery.tokens(prompt.images[0])
    with pytest.raises(PromptTooLong, match=f"{family} reads 512"):
        loaded.processor.encode([ASKED], gallery, room=513 - len(prompt.tokens))


@pytest.mark.parametrize("family", ["gemma3", "paligemma2", "smolvlm", "qwen2_5_vl", "qwen3_vl"])
def test_placeholders_are_neither_sampled_nor_typed(family: str) -> None:
    loaded = pe.load_model(FIXTURES / family)
    config, tokenizer = loaded.config, loaded.processor.tokenizer
    assert config.image_id in config.forbidden_ids
    typed = [Message("user", [PICTURE, Text(tokenizer.convert_ids_to_tokens(config.image_id) * 3)])]
    gallery = Gallery(config)
    (prompt,) = loaded.processor.encode([typed], gallery)
    assert prompt.tokens.count(config.image_id) == gallery.tokens(prompt.images[0])
    (reply,) = loaded.processor.encode_replies([tokenizer.convert_ids_to_tokens(config.image_id)])
    assert config.image_id not in reply


def test_a_tokenizer_that_pads_with_its_stop_token_can_still_stop(tmp_path: Path) -> None:
    """As SmolLM2 does."""
    folder = shutil.copytree(FIXTURES / "llama", tmp_path / "model")
    saying("tokenizer_config.json", "pad_token", value="<|im_end|>")(folder)
    config = pe.load_model(folder).config
    assert config.pad_id == config.stop_id
    assert config.forbidden_ids == ()


def test_a_template_that_forgets_a_picture_is_refused() -> None:
    loaded = pe.load_model(FIXTURES / "smolvlm")
    loaded.processor.tokenizer.chat_template = "{{ messages[0]['content'][-1]['text'] }}"
    with pytest.raises(UserError, match=r"wrote 0 image placeholders \(<image>\) for 1 images"):
        Processor(loaded.processor.tokenizer, loaded.config).encode([ASKED], Gallery(loaded.config))
