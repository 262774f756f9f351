"""How tiny-vlm was made: a model of 1.1 million parameters that has seen shapes, colours, places and a few words.

    python -m pe_rlhf_mm.training.tiny FOLDER          (about 20 minutes on 2 CPU cores)

Its pictures are the 4,000 *training* images of the `easy-vqa` package (MIT), and mirror images of them. It learns to
describe them, to name single properties, to point, and to say whether a statement is true. It never sees a question of
easy-VQA, nor the words "yes" and "no" as answers, nor any test image: those are left to the tuning that it is made for.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import BlockConfig, VisionConfig, VLMConfig
from pe_rlhf_mm.tasks.vqa.easy_vqa import COLORS, SHAPES, data_folder
from pe_rlhf_mm.training.config import SFTConfig
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.sft import Demonstration, sft
from pe_rlhf_mm.types import Image, Message, Text

SPECIAL = ["<|pad|>", "<|image|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
CONFIG = VLMConfig(
    decoder=BlockConfig(layers=4, width=128, heads=4, kv_heads=2, head_width=32, mlp_width=352, qk_norm=True),
    vision=VisionConfig(
        BlockConfig(
            layers=2, width=96, heads=4, kv_heads=4, head_width=24, mlp_width=256, rope_theta=None, qk_norm=True
        ),
        image_size=64,
        patch_size=8,
        merge=2,
    ),
    vocabulary=512,
    context=512,
    pad_id=0,
    image_id=1,
    stop_id=2,
)
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|image|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = """
open close save delete search send reply click type press scroll wait back home next previous submit cancel ok button
link field box menu tab list page window dialog icon text password name address subject message settings login sign up
in out on off new old first second third last one two three four five six seven eight nine ten yes no is are was the of
to and a for with that this it not be have from at by what which where when who how
""".split()


@dataclasses.dataclass(frozen=True)
class Picture:
    """One training image and what is to be seen on it."""

    image: Pillow.Image
    shape: str
    color: str
    x: float
    y: float
    size: str

    @property
    def place(self) -> str:
        vertical = ("top", "middle", "bottom")[min(int(self.y * 3), 2)]
        horizontal = ("left", "center", "right")[min(int(self.x * 3), 2)]
        return f"{vertical} {horizontal}"


def pictures() -> list[Picture]:
    """The training images and their mirror images; shape and color from the answers, place and size from the pixels."""
    folder = data_folder() / "train"
    seen: dict[int, dict[str, str]] = {}
    for question, answer, image in json.loads((folder / "questions.json").read_text()):
        facts = seen.setdefault(image, {})
        negated = " not " in question or " no " in question
        present = {answer} if answer not in ("yes", "no") else set(question.rstrip("?").split())
        if answer in ("yes", "no") and (answer == "yes") is negated:
            continue
        for word in present:
            facts |= {"shape": word} if word in SHAPES else {"color": word} if word in COLORS else {}
    found = []
    for number, facts in sorted(seen.items()):
        if len(facts) < 2:
            continue
        with Pillow.open(folder / "images" / f"{number}.png") as opened:
            image = opened.convert("RGB")
        for version in (image, ImageOps.mirror(image)):
            pixels = np.asarray(version, np.int32)
            away = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(axis=-1) > 60
            rows, columns = np.nonzero(away)
            extent = max(np.ptp(rows), np.ptp(columns))
            size = "small" if extent < 14 else "medium" if extent < 24 else "large"
            x, y = (columns.mean() + 0.5) / version.width, (rows.mean() + 0.5) / version.height
            found.append(Picture(version, facts["shape"], facts["color"], x, y, size))
    return found


def lesson(picture: Picture, rng: random.Random) -> tuple[str, str]:
    """A prompt about a picture, and the right reply."""
    kind = rng.random()
    if kind < 0.2:
        return "Describe the picture.", f"a {picture.size} {picture.color} {picture.shape}, {picture.place}"
    if kind < 0.3:
        return "Point at the figure.", f"{picture.x * 100:.0f} {picture.y * 100:.0f}"
    if kind < 0.5:
        return rng.choice(
            [
                ("Name the figure.", picture.shape),
                ("Name its hue.", picture.color),
                ("Name its place.", picture.place),
                ("Name its size.", picture.size),
            ]
        )
    told, truth, others = rng.choice(
        [
            ("is", picture.shape, SHAPES),
            ("is", picture.color, COLORS),
            (
                "lies",
                picture.place,
                [f"{v} {h}" for v in ("top", "middle", "bottom") for h in ("left", "center", "right")],
            ),
        ]
    )
    right, negated = rng.random() < 0.5, rng.random() < 0.4
    said = truth if right else rng.choice([o for o in others if o != truth])
    subject = rng.choice(["the figure", "it", "what you see"])
    return (
        f"True or false: {subject} {told} {'not ' if negated else ''}{said}.",
        "true" if right != negated else "false",
    )


def lessons(shown: list[Picture], count: int, seed: int) -> Iterator[tuple[Picture | None, str, str]]:
    """`count` prompts with their replies; one in ten is about words alone."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.1:
            said = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
            yield None, f"Repeat: {said}", said
        else:
            picture = rng.choice(shown)
            yield picture, *lesson(picture, rng)


def build_tokenizer(folder: Path, texts: list[str]) -> None:
    """Byte-level BPE, so that any text can be written; 512 ids in all."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocabulary,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|pad|>",
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def build(folder: Path, *, steps: int = 3000, seed: int = 0) -> None:
    """Writes a whole checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = dataclasses.asdict(CONFIG) | {"model_type": backbone.MODEL_TYPE}
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    shown = pictures()
    told = list(lessons(shown, steps * 64, seed))
    questions = json.loads((data_folder() / "train" / "questions.json").read_text())
    build_tokenizer(folder, [f"{p} {r}" for _, p, r in told[:20_000]] + [q for q, _, _ in questions] + WORDS * 50)
    processor, gallery = Processor.from_folder(folder, CONFIG), Gallery(CONFIG)

    numbers = {id(p): gallery.add(Image(p.image)) for p in shown}
    conversations = [[Message("user", [Text(prompt)])] for _, prompt, _ in told]
    image_ids = [CONFIG.image_id] * CONFIG.vision.image_tokens
    replies = processor.encode_replies([reply for _, _, reply in told])
    demonstrations = []
    for (picture, _, _), prompt, reply in zip(told, processor.encode(conversations, gallery), replies, strict=True):
        if picture is None:
            demonstrations.append(Demonstration(prompt, reply))
        else:
            tokens = [prompt.tokens[0], *image_ids, *prompt.tokens[1:]]
            demonstrations.append(Demonstration(EncodedPrompt(tokens, (numbers[id(picture)],)), reply))

    roles = role_table.only_backbone(vlm.initial_state(CONFIG, jax.random.key(seed))).start("sft", role_table.BACKBONE)
    settings = SFTConfig(steps=steps, batch_size=64, learning_rate=2e-3)
    with ProgressBar() as observer:
        roles = sft(roles, processor, gallery, demonstrations, settings, seed=seed, decay=True, observer=observer)
    backbone.save_state(folder, roles.copies["sft"], jnp.bfloat16)


if __name__ == "__main__":
    build(Path(sys.argv[1]), **({"steps": int(sys.argv[2])} if len(sys.argv) > 2 else {}))
