"""A checkpoint as a user holds it: weights, config and processor together."""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from pe_rlhf_mm.adapters.roles import count
from pe_rlhf_mm.checkpoints import backbone, huggingface
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor, refuse_misfit
from pe_rlhf_mm.data.tokenizer import read_tokenizer, special_ids
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models import quantize as quantization
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import Attention, VLMConfig, with_attention
from pe_rlhf_mm.types import Image, Prompts

ASSETS = Path(__file__).parent.parent / "assets"
SHIPPED = {
    "tiny-vlm": ASSETS / "tiny-vlm",
    "tiny-vlm-s": ASSETS / "tiny-vlm",
    "tiny-vlm-xs": ASSETS / "tiny-vlm-xs",
    "tiny-vlm-xxs": ASSETS / "tiny-vlm-xxs",
}
"""Checkpoints that come with the package."""
DTYPES = ("float32", "bfloat16", "float16")
"""Of the weights of a backbone."""
_HELD: weakref.WeakValueDictionary[tuple[Hashable, ...], nnx.State] = weakref.WeakValueDictionary()
"""Weights that somebody holds, by the files they were read from and how."""


@functools.partial(jax.jit, static_argnames="config")
def _logits(config: VLMConfig, state: nnx.State, prompts: Prompts) -> Float[Array, "B S V"]:
    model = vlm.bind(config, state)
    return model.logits(model.hidden(vlm.prompt_rows(config, prompts), prompts.images)[0]).astype(jnp.float32)


@dataclass(frozen=True, repr=False)
class Model:
    """A vision-language model: its weights, its config, and the processor that speaks its template."""

    name: str
    config: VLMConfig
    state: nnx.State
    processor: Processor

    def __repr__(self) -> str:
        """One line: weights would be thousands."""
        kinds = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(self.state)})
        return f"Model({self.name!r}, {self.config.family}, {count(self.state):,} weights in {', '.join(kinds)})"

    def logits(
        self, tokens: Int[np.ndarray, "B S"], images: Sequence[Sequence[Any]] | None = None
    ) -> Float[Array, "B S V"]:
        """Logits after every token, float32 [B, S, V].

        tokens: int [B, S], without padding. images: for each row its images (paths, bytes, or PIL images), in the order
        of their placeholders; each image takes as many placeholder ids as the tower yields vectors. Raises UserError
        when tokens and images do not agree, or an id is not in the vocabulary.
        """
        try:
            ids = np.asarray(tokens)
        except ValueError as error:
            raise UserError("tokens must be integers of shape [B, S], but the rows differ in length") from error
        if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(f"tokens must be integers of shape [B, S], not {ids.dtype} of shape {ids.shape}")
        if not 0 <= ids.min() <= ids.max() < self.config.vocabulary:
            raise UserError(f"token ids must be in [0, {self.config.vocabulary}); found {ids.min()} to {ids.max()}")
        if ids.shape[1] > self.config.context:
            raise UserError(f"{self.name} reads {self.config.context} tokens; {ids.shape[1]} were given")
        rows: Sequence[Sequence[Any]] = images if images is not None else [()] * len(ids)
        if len(rows) != len(ids):
            raise UserError(f"images were given for {len(rows)} rows, tokens for {len(ids)}")
        for i, row in enumerate(rows):
            if not isinstance(row, list | tuple):
                raise UserError(f"images must be a list of images for each row; for row {i} it is {row!r:.80}")
        gallery = Gallery(self.config)
        numbers = [[gallery.add(i if isinstance(i, Image) else Image(i)) for i in row] for row in rows]
        asked = (ids == self.config.image_id).sum(axis=1)
        given = np.array([sum(gallery.tokens(n) for n in row) for row in numbers])
        for row in np.nonzero(asked != given)[0][:1]:
            raise UserError(
                f"row {row} has {asked[row]} image placeholders (id {self.config.image_id}) for {len(numbers[row])} "
                f"images that need {given[row]}"
            )
        encoded = [
            EncodedPrompt(row.tolist(), tuple(images), self.processor.positions(row.tolist(), images, gallery))
            for row, images in zip(ids, numbers, strict=True)
        ]
        return _logits(self.config, self.state, self.processor.prompts(encoded, gallery, length=ids.shape[1]))


def default_dtype() -> jnp.dtype:
    """float32 on a CPU, bfloat16 on accelerators."""
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def checked_dtype(dtype: Any) -> jnp.dtype:
    """A type of weights that a user named; None is the default. Raises UserError for one that is not supported."""
    try:
        found = default_dtype() if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; supported: {', '.join(DTYPES)}, or None.")
    return found


def load_model(
    name: str | Path,
    *,
    dtype: Any = None,
    quantize: Literal["int8", "nf4"] | None = None,
    attention: Attention = "auto",
    mesh: Mesh | None = None,
) -> Model:
    """Loads a shipped model by name ("tiny-vlm"), a checkpoint folder, or a model of the Hugging Face hub ("org/name").

    `dtype` is that of the backbone, float32, bfloat16 or float16: by default float32 on CPU, bfloat16 on accelerators.
    `quantize` holds the matrices of its layers in 8 or 4 bits (`models/quantize.py`): for a backbone that stays frozen.
    `attention` names the kernel that computes it (`models/kernels.py`); by default that is the one that pays here.
    With a `mesh` (`pe.make_mesh`), or the one that `jax.set_mesh` has set, every weight goes straight to the devices
    that hold its parts (`models/sharding.py`). Weights that are in use already, read from the same files in the same
    way, are shared. Raises UserError for a name that is none of them, and for a folder that does not hold a whole
    checkpoint; nothing is half loaded.
    """
    dtype, kind = checked_dtype(dtype), quantization.checked(quantize)
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    folder, processor = folder_of(str(name)), load_processor(name, attention)
    config = processor.config

    def read() -> nnx.State:
        state = backbone.load_state(folder, config, dtype, mesh)
        return state if kind is None else quantization.quantized_state(state, kind)

    own = backbone.is_own(folder)
    load = read if own else functools.partial(huggingface.load_state, folder, config, dtype, kind, mesh)
    return Model(str(name), config, _in_use(load, folder, dtype, kind, mesh), processor)


def load_processor(name: str | Path, attention: Attention = "auto") -> Processor:
    """The processor of a model, and with it its config, without the weights. Raises UserError as `load_model`."""
    folder = folder_of(str(name))
    if folder.is_dir() and (run := _run_in(folder)):
        raise UserError(
            f"{name} is the folder of a run, not of a model. It was tuned from {run}: name that, or make a checkpoint "
            f"of the run by `pe-rlhf export {name} --format merged --out FOLDER`."
        )
    if backbone.is_own(folder):
        config, tokenizer = backbone.read_config(folder), read_tokenizer(folder)
    else:
        description, tokenizer = huggingface.read_description(folder), read_tokenizer(folder)
        config = huggingface.config_from(folder, description, special_ids(folder, tokenizer))
    refuse_misfit(tokenizer, config)
    return Processor(tokenizer, with_attention(config, attention))


def _in_use(read: Callable[[], nnx.State], folder: Path, *how: Hashable) -> nnx.State:
    """The weights of a folder, read unless somebody holds them already: a policy, its anchor and a reward model share
    one backbone in memory. Files that have changed are other weights."""
    found = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    files = [(name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    key = (folder.resolve(), *files, *how)
    state = _HELD.get(key)
    if state is None:
        state = _HELD[key] = read()
    return state


def _run_in(folder: Path) -> str | None:
    """The model that a run folder was tuned from; None for any other folder. Both have a config.json."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return str(config.get("model")) if "task" in config else None


def folder_of(name: str) -> Path:
    """Where the files of a model are; one of the hub is downloaded. Raises UserError for a name that is no model."""
    folder = SHIPPED.get(name, Path(name))
    if folder.is_dir():
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).parent.is_dir():
        return huggingface.fetched(name)
    raise UserError(
        f"no model {name!r}: it is neither a folder nor one of {', '.join(SHIPPED)}, nor the name of a model on the "
        "Hugging Face hub (org/name)"
    )
