"""What a Hugging Face configuration may ask for: whatever else would change the result is named, all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pe_rlhf_mm.models.config import Activation

ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
ROPES = ("default", "mrope", "linear", "llama3")
LAYERS = {"full_attention", "sliding_attention"}
INTERLEAVED = {"qwen2_5_vl_text": False, "qwen3_vl_text": True}
"""Decoders whose rotary positions have three axes, and whether the axes' frequencies are interleaved; it is of the
family, whatever the configuration says."""
LANCZOS, BILINEAR, BICUBIC = 1, 2, 3
"""Pillow's numbers, which preprocessors are configured with."""


def unsupported(config: Any, images: Mapping[str, Any]) -> list[str]:
    """A line for every field of config.json, and of its preprocessor's configuration, that is not supported."""
    text = config.get_text_config()
    place = "" if text is config else "text_config."
    found = [f"config.json: {line}" for line in (*_whole(config, text, place), *_decoder(text, place), *_tower(config))]
    steps = STEPS[config.model_type](config) if config.model_type in STEPS else {}
    return found + [f"preprocessor_config.json: {line}" for line in _others(images, "", **steps)]


def _others(fields: Mapping[str, Any], place: str, **supported: Any) -> Iterator[str]:
    """Fields with another value than the supported one, or than all of a tuple of them. None is no value."""
    for name, value in supported.items():
        known = value if isinstance(value, tuple) else (value,)
        if fields.get(name) is not None and fields[name] not in known:
            yield f"{place}{name} is {fields[name]!r}; supported: {', '.join(map(str, known))}"


def _whole(config: Any, text: Any, place: str) -> Iterator[str]:
    if getattr(config, "quantization_config", None) is not None:
        yield f"quantization_config is {config.quantization_config!r}; supported: none, weights are read in full"
    if config.model_type != "paligemma":
        yield from _others(vars(text), place, use_bidirectional_attention=False)


def _decoder(text: Any, place: str) -> Iterator[str]:
    fields = vars(text)
    activation = "hidden_activation" if "hidden_activation" in fields else "hidden_act"
    yield from _others(fields, place, **{activation: tuple(ACTIVATIONS)}, pretraining_tp=1)
    types = set(fields.get("layer_types") or ["full_attention"])
    if types - LAYERS:
        yield f"{place}layer_types has {', '.join(sorted(types - LAYERS))}; supported: {', '.join(sorted(LAYERS))}"
    ropes = fields.get("rope_parameters") or {}
    kinds = {name: ropes[name] for name in sorted(types) if name in ropes} or {"": ropes}
    for name, values in kinds.items():
        yield from _rope(text, values, ".".join(filter(None, (f"{place}rope_parameters", name))) + ".")


def _rope(text: Any, values: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _others(values, place, rope_type=ROPES, partial_rotary_factor=1)
    if text.model_type not in INTERLEAVED:
        return
    yield from _others(values, place, mrope_interleaved=INTERLEAVED[text.model_type])
    half = (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads) // 2
    sections = values.get("mrope_section") or []
    if len(sections) != 3 or sum(sections) != half:
        yield f"{place}mrope_section is {sections}; supported: three numbers that add up to {half}, half a head's width"


def _tower(config: Any) -> Iterator[str]:
    tower = getattr(config, "vision_config", None)
    if tower is not None:
        yield from _others(vars(tower), "vision_config.", hidden_act=tuple(ACTIVATIONS), num_channels=3, in_channels=3)


def _steps(**own: Any) -> dict[str, Any]:
    """What `data/views.py` does to pictures, and all that it does."""
    return {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, **own}


def _squashed(config: Any) -> dict[str, int]:
    return dict.fromkeys(("height", "width"), config.vision_config.image_size)


def _qwen_steps(config: Any) -> dict[str, Any]:
    tower = config.vision_config
    return _steps(
        resample=BICUBIC,
        patch_size=tower.patch_size,
        merge_size=tower.spatial_merge_size,
        temporal_patch_size=tower.temporal_patch_size,
    )


def _smolvlm_steps(config: Any) -> dict[str, Any]:
    return _steps(do_image_splitting=True, resample=LANCZOS)


STEPS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "smolvlm": _smolvlm_steps,
    "idefics3": _smolvlm_steps,
    "gemma3": lambda config: _steps(do_pan_and_scan=False, resample=BILINEAR, size=_squashed(config)),
    "paligemma": lambda config: _steps(resample=BICUBIC, size=_squashed(config)),
    "qwen2_5_vl": _qwen_steps,
    "qwen3_vl": _qwen_steps,
}
"""Settings of a family's preprocessor that must be so, or not given."""
