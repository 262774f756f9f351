"""smol-vlm-135m: SmolLM2-135M, the tower of tiny-vlm, and a matrix between them that has learned what is to be seen.

    pe-rlhf models fetch smollm2-135m --out models/smollm2
    python -m pe_rlhf_mm.assets.smol_vlm models/smollm2 models/smol-vlm     (--steps 400: half an hour on 2 CPU cores)

It studies the lessons of tiny-vlm (`tiny_vlm.py`): pictures of easy-VQA's training split, and none of its questions.
The tower, the matrix and adapters of the decoder learn; then the adapters are added to the decoder.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from pe_rlhf_mm.adapters import lora, roles
from pe_rlhf_mm.adapters.lora import Slot
from pe_rlhf_mm.adapters.roles import Roles, Weights
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.algorithms import losses
from pe_rlhf_mm.assets import tiny_vlm
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.checkpoints.folders import written_whole
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.data.tokenizer import read_tokenizer
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.model import Model, load_model
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.sft import one_a_row

BATCH, RANK, SCALE, LEARNING_RATE = 16, 16, 2.0, 1e-3
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
MIX: dict[str, float] = {
    "describe": 25, "point": 5, "shape": 15, "color": 10, "place": 5, "size": 5,
    "is shape": 20, "is color": 10, "is place": 5,
}  # fmt: skip
RESERVED = "<filename>"
"""A token that SmolLM2 keeps for code becomes the placeholder of images, so that the table keeps its size."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|image|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Learning(NamedTuple):
    """What the lessons change."""

    vision: nnx.State
    slot: Slot

    def weights(self, decoder: nnx.State) -> Weights:
        """A model with its decoder adapted."""
        state = nnx.State({"decoder": decoder["decoder"], "vision": self.vision["vision"]})
        return Weights(state, lora.only(self.slot, SCALE))


def assemble(text: Model, folder: Path, eyes: Model) -> tuple[VLMConfig, Processor]:
    """Writes the config and the tokenizer of both together to `folder`. Raises UserError for another text model."""
    source = Path(text.name)
    tokenizer = (source / "tokenizer.json").read_text()
    if text.config.family != "llama" or RESERVED not in tokenizer or eyes.config.vision is None:
        raise UserError(f"{source} is not SmolLM2. Run pe-rlhf models fetch smollm2-135m and give its folder.")
    for licence in source.glob("LICENSE*"):
        shutil.copyfile(licence, folder / licence.name)
    (folder / "tokenizer.json").write_text(tokenizer.replace(json.dumps(RESERVED), '"<|image|>"'))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings |= {"chat_template": TEMPLATE, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    config = dataclasses.replace(
        text.config,
        vision=eyes.config.vision,
        pad_id=ids["<|endoftext|>"],
        image_id=ids["<|image|>"],
        family=eyes.config.family,
    )
    values = dataclasses.asdict(config) | {"model_type": backbone.MODEL_TYPE}
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    return config, Processor(read_tokenizer(folder), config)


def beginning(config: VLMConfig, eyes: Model, key: jax.Array) -> Learning:
    """The tower as it was, a new matrix behind it, and adapters that change nothing yet."""
    vision = nnx.State({"vision": eyes.state["vision"]})
    fresh = vlm.initial_state(dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, layers=1)), key)
    vision["vision"]["connector"] = fresh["vision"]["connector"]
    return Learning(vision, lora.new_slot(key, adapted(config, TARGETS), rank=RANK))


def study(config: VLMConfig, processor: Processor, text: Model, eyes: Model, steps: int, seed: int) -> nnx.State:
    """All weights after so many steps of lessons, adapters added."""
    gallery, phase = Gallery(config), tiny_vlm.Phase(-(-steps * BATCH // tiny_vlm.BATCH), LEARNING_RATE, MIX)
    told = tiny_vlm.demonstrations(list(tiny_vlm.lessons(tiny_vlm.pictures(), phase, seed)), processor, gallery)
    fed = one_a_row(processor, gallery, told, batch_size=BATCH, seed=seed)

    def loss(learning: Learning, held: Roles, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        statistics = forward.policy(config, learning.weights(held.backbone), *batch)
        return losses.sft(statistics.logprobs, batch[1].mask), {}

    with ProgressBar() as observer:
        learned = train(
            "lessons",
            roles.only_backbone(text.state),
            beginning(config, eyes, jax.random.key(seed)),
            fed,
            loss,
            adam(LEARNING_RATE, steps, warmup=min(20, steps), decay=True),
            steps=steps,
            key=jax.random.key(seed),
            observer=observer,
        )
    return roles.merged(learned.weights(text.state))


def build(
    text: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    /,
    steps: int = 400,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Makes the checkpoint folder `out` from the folder of SmolLM2-135M."""
    with written_whole(out, overwrite=overwrite) as folder:
        decoder, eyes = load_model(text, dtype=np.float32), load_model("tiny-vlm")
        config, processor = assemble(decoder, folder, eyes)
        backbone.save_state(folder, study(config, processor, decoder, eyes, steps, seed), jnp.dtype(jnp.bfloat16))


if __name__ == "__main__":
    tyro.cli(build)
