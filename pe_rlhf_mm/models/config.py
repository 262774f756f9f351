"""What a vision-language model is made of, as data: every family is a set of values, never a subclass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from pe_rlhf_mm.errors import UserError

NormKind = Literal["rms", "rms_plus_one", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
Quantization = Literal["int8", "nf4"]
Attention = Literal["auto", "xla", "flash", "cudnn"]
Remat = Literal["everything", "products", "host", "layers"]
"""What a layer keeps for its backward pass (`stack.py`, `KEPT`)."""


def _refuse_other_than_counts(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number above 0, not {value!r}")


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow frequencies are divided by `factor`, fast ones kept, those between blended (Llama 3.1)."""

    factor: float
    low: float
    high: float
    trained_context: int


@dataclass(frozen=True)
class Rope:
    """Rotary positions. `factor` divides all frequencies.

    `sections` shares the frequencies out among several position axes, in chunks or `interleaved` (multimodal RoPE of
    Qwen). `axial`: each axis has a full range of frequencies of its own (vision towers).
    """

    theta: float
    factor: float = 1.0
    llama3: Llama3Scaling | None = None
    sections: tuple[int, ...] = ()
    interleaved: bool = False
    axial: bool = False


@dataclass(frozen=True)
class LayerKind:
    """What differs between the layers of one stack: their rotary positions, and how far they see.

    `window` counts tokens in a decoder, and patches along one side in a tower; None sees everything.
    """

    rope: Rope | None = None
    window: int | None = None


@dataclass(frozen=True)
class BlockConfig:
    """A stack of transformer layers. The decoder and the vision tower are stacks of the same block.

    `pattern` names the kind of each layer by its place in `kinds`. `query_scale` None is head_width^-1/2. `soft_cap`
    bounds attention scores by soft_cap · tanh(score / soft_cap). `attention`: the kernel that computes it
    (`models/kernels.py`); all compute the same.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    kinds: tuple[LayerKind, ...] = (LayerKind(),)
    pattern: tuple[int, ...] = ()
    norm: NormKind = "rms"
    norm_epsilon: float = 1e-6
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    activation: Activation = "silu"
    query_scale: float | None = None
    soft_cap: float | None = None
    attention: Attention = "auto"

    def __post_init__(self) -> None:
        _refuse_other_than_counts(self, "layers", "width", "heads", "kv_heads", "head_width", "mlp_width")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if len(self.kinds) > 1 and len(self.pattern) != self.layers:
            raise ValueError(f"pattern names the kind of {len(self.pattern)} layers, there are {self.layers}")

    @property
    def scale(self) -> float:
        return self.head_width**-0.5 if self.query_scale is None else self.query_scale

    @property
    def position_axes(self) -> int:
        """Numbers in a token's position: 1, or 3 (time, row, column) where rotary positions are multimodal."""
        return max(len(kind.rope.sections) or 1 if kind.rope else 1 for kind in self.kinds)


@dataclass(frozen=True)
class Square:
    """Every picture is squashed to one size."""

    size: int
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"


@dataclass(frozen=True)
class Tiled:
    """A picture is enlarged or shrunk to `longest_edge`, cut into square tiles, and followed by a view of the whole."""

    size: int
    longest_edge: int


@dataclass(frozen=True)
class Native:
    """A picture keeps its shape; its size is rounded to whole blocks of patches between two limits of area."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class Connector:
    """From merged patches to vectors of the decoder's width: pooled or side by side, normed, by one matrix or two."""

    pool: bool = False
    norm: NormKind | None = None
    hidden: bool = False
    bias: bool = False


@dataclass(frozen=True)
class VisionConfig:
    """Pictures cut into square patches; `merge` by `merge` neighbouring patches become one image token.

    `side`: learned positions are a side x side table, stretched over pictures of other shapes; 0: none. `frames`: the
    patch kernel expects that many frames, and a still picture is all of them. `deepstack`: after these layers the
    tower is read too, for the first layers of the decoder (Meng et al. 2024).
    """

    block: BlockConfig
    views: Square | Tiled | Native
    patch_size: int
    merge: int
    side: int = 0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    frames: int = 1
    patch_bias: bool = False
    connector: Connector = Connector()
    deepstack: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _refuse_other_than_counts(self, "patch_size", "merge", "frames")
        if not isinstance(self.views, Native):
            side = self.views.size // self.patch_size  # what does not fill a patch is left out, as 384 pixels by 14
            if side < 1 or side % self.merge:
                raise ValueError(
                    f"an image of {self.views.size} pixels has {side} patches of {self.patch_size} along a side; "
                    f"expected a multiple of merge ({self.merge})"
                )

    @property
    def patch_numbers(self) -> int:
        return self.patch_size**2 * 3

    @property
    def levels(self) -> int:
        """Vectors of the decoder's width that an image token carries: one, and one for each `deepstack` layer."""
        return 1 + len(self.deepstack)

    @property
    def merged_widths(self) -> tuple[int, ...]:
        """Numbers of every level that its projector is given for an image token."""
        width, patches = self.block.width, self.merge**2
        return (width * (1 if self.connector.pool else patches), *[width * patches for _ in self.deepstack])


@dataclass(frozen=True)
class VLMConfig:
    """A decoder, with a vision tower or without.

    `stop_ids`: any of them ends a reply; the first is the one that replies are written with. `forbidden_ids` (padding,
    image placeholders) are never sampled or trained on. `seen_at_once`: prompt tokens that see each other both ways,
    which is none, those of one image, or the whole prompt.
    """

    decoder: BlockConfig
    vision: VisionConfig | None
    vocabulary: int
    context: int
    pad_id: int
    stop_ids: tuple[int, ...]
    image_id: int = -1
    placeholder_ids: tuple[int, ...] = ()
    scaled_embedding: bool = False
    tied: bool = True
    logit_cap: float | None = None
    seen_at_once: Literal["nothing", "images", "prompt"] = "nothing"
    family: str = field(default="tiny-vlm", compare=False)
    name: str = field(default="tiny-vlm", compare=False)

    def __post_init__(self) -> None:
        _refuse_other_than_counts(self, "vocabulary", "context")
        ids = [("pad_id", self.pad_id), *(("stop_ids", i) for i in self.stop_ids)]
        if self.vision is not None:
            ids.append(("image_id", self.image_id))
        for name, value in ids:
            # A family may give its image placeholder an id beyond the table: it is replaced before it is looked up.
            if type(value) is not int or not 0 <= value < self.vocabulary + 8192 * (name == "image_id"):
                raise ValueError(f"{name} must be an id of the vocabulary, in [0, {self.vocabulary}), not {value!r}")
        if not self.stop_ids:
            raise ValueError("stop_ids must name one token at least")
        windowed = [kind.window for kind in self.decoder.kinds if kind.window]
        if windowed and self.decoder.position_axes > 1:
            raise ValueError("windows count tokens, and multimodal positions do not: this combination is not supported")

    @property
    def stop_id(self) -> int:
        return self.stop_ids[0]

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        # Some tokenizers pad with the token that ends a reply, which must stay possible.
        ids = {self.image_id, *self.placeholder_ids, *({self.pad_id} - {*self.stop_ids})}
        return tuple(sorted(i for i in ids if 0 <= i < self.vocabulary))


def with_attention(config: VLMConfig, kernel: Attention) -> VLMConfig:
    """The model whose decoder and tower compute attention by that kernel. Raises UserError for a name that is none."""
    if kernel not in get_args(Attention):
        raise UserError(f"attention is {kernel!r}; there are {', '.join(get_args(Attention))}.")
    decoder, vision = replace(config.decoder, attention=kernel), config.vision
    if vision is not None:
        vision = replace(vision, block=replace(vision.block, attention=kernel))
    return replace(config, decoder=decoder, vision=vision)
