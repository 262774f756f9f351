"""What a vision-language model is made of, as data: every family is a set of values, never a subclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _refuse_other_than_counts(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number above 0, not {value!r}")


@dataclass(frozen=True)
class BlockConfig:
    """One transformer layer. The decoder and the vision tower are stacks of the same block.

    `rope_theta` None means that positions come from elsewhere (the tower learns its own).
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    rope_theta: float | None = 10_000.0
    qk_norm: bool = False
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _refuse_other_than_counts(self, "layers", "width", "heads", "kv_heads", "head_width", "mlp_width")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")


@dataclass(frozen=True)
class VisionConfig:
    """Square images cut into square patches; `merge` by `merge` neighbouring patches become one image token."""

    block: BlockConfig
    image_size: int
    patch_size: int
    merge: int

    def __post_init__(self) -> None:
        _refuse_other_than_counts(self, "image_size", "patch_size", "merge")
        if self.image_size % (self.patch_size * self.merge):
            token = f"patch_size x merge ({self.patch_size} x {self.merge})"
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of {token}")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def patch_numbers(self) -> int:
        return self.patch_size**2 * 3

    @property
    def image_tokens(self) -> int:
        return (self.grid // self.merge) ** 2


@dataclass(frozen=True)
class VLMConfig:
    """A decoder with a vision tower. `forbidden_ids` (padding, image placeholder) are never sampled or trained on."""

    decoder: BlockConfig
    vision: VisionConfig
    vocabulary: int
    context: int
    pad_id: int
    image_id: int
    stop_id: int
    name: str = field(default="tiny-vlm", compare=False)

    def __post_init__(self) -> None:
        _refuse_other_than_counts(self, "vocabulary", "context")
        for name in ("pad_id", "image_id", "stop_id"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < self.vocabulary:
                raise ValueError(f"{name} must be an id of the vocabulary, in [0, {self.vocabulary}), not {value!r}")

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        return (self.pad_id, self.image_id)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VLMConfig:
        """Builds a config from the nested dictionaries of a `config.json`."""
        vision = dict(values["vision"])
        vision["block"] = BlockConfig(**vision["block"])
        rest = {k: v for k, v in values.items() if k not in ("decoder", "vision", "model_type")}
        return cls(decoder=BlockConfig(**values["decoder"]), vision=VisionConfig(**vision), **rest)
