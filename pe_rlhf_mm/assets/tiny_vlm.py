"""How tiny-vlm was made, and the sizes below it: models that have seen shapes, colours, places and a few words.

    python -m pe_rlhf_mm.assets.tiny_vlm xxs|xs|s FOLDER          (s: about an hour on 2 CPU cores)

Its pictures are the 4,000 *training* images of the `easy-vqa` package (MIT), and mirror images of them. It learns to
describe them, to name single properties, to point, and to say whether a statement is true. It never sees a question of
easy-VQA, nor the words "yes" and "no" as answers, nor any test image: those are left to the tuning that it is made for.
Last it learns what buttons and fields look like, on screens drawn at random (`screens.py`), and to copy what is quoted.
It never sees a page, a goal or an action of the tasks that it is to be tuned for.
"""

from __future__ import annotations

import dataclasses
import json
import random
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.assets import screens
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.data.tokenizer import read_tokenizer
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import BlockConfig, LayerKind, Rope, Square, VisionConfig, VLMConfig
from pe_rlhf_mm.tasks.vqa.easy_vqa import COLORS, SHAPES, data_folder
from pe_rlhf_mm.training.config import SFTConfig
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.sft import Demonstration, sft
from pe_rlhf_mm.types import Image, Message, Text

VOCABULARY = 512
SPECIAL = ["<|pad|>", "<|image|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]


def _sized(layers: int, width: int, kv_heads: int, mlp_width: int, *, tower: tuple[int, int]) -> VLMConfig:
    """Of a decoder with heads 32 wide; `tower`: the width of one of two layers, and that of its MLP."""
    tower_width, tower_mlp_width = tower
    return VLMConfig(
        decoder=BlockConfig(
            layers=layers, width=width, heads=width // 32, kv_heads=kv_heads, head_width=32, mlp_width=mlp_width,
            qk_norm=True, kinds=(LayerKind(Rope(10_000.0)),),
        ),
        vision=VisionConfig(
            BlockConfig(
                layers=2, width=tower_width, heads=4, kv_heads=4, head_width=tower_width // 4,
                mlp_width=tower_mlp_width, qk_norm=True,
            ),
            views=Square(64),
            patch_size=8,
            merge=2,
            side=8,
        ),
        vocabulary=VOCABULARY,
        context=512,
        pad_id=0,
        image_id=1,
        stop_ids=(2,),
        scaled_embedding=True,
    )  # fmt: skip


SIZES = {
    "xxs": _sized(2, 64, 1, 176, tower=(48, 128)),
    "xs": _sized(3, 96, 1, 256, tower=(64, 176)),
    "s": _sized(4, 128, 2, 352, tower=(96, 256)),
}
"""0.2, 0.5 and 1.1 million parameters; s is the size of tiny-vlm."""
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
PLACES = [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right")]
BATCH = 64
SCREENS = 12_000
"""Screens of a phase, which is asked about each several times."""
ABOUT_SCREENS = {"point at": screens.point_at, "what is at": screens.what_is_at}


class Phase(NamedTuple):
    """So many steps of lessons, mixed by weight; "is shape" is a true-or-false statement about the shape."""

    steps: int
    learning_rate: float
    mix: dict[str, float]


PHASES = (
    Phase(
        3000,
        2e-3,
        {
            "describe": 18, "point": 9, "shape": 5, "color": 4, "place": 4, "size": 5,
            "is shape": 15, "is color": 15, "is place": 15, "repeat": 10,
        },
    ),
    # Shapes are the hardest to see: most of the second phase is about them.
    Phase(
        2500,
        1e-3,
        {"describe": 15, "point": 5, "shape": 25, "is shape": 35, "is color": 10, "is place": 5, "repeat": 5},
    ),
    # A little of everything again, so that nothing stays forgotten.
    Phase(
        500,
        5e-4,
        {
            "describe": 15, "point": 5, "shape": 15, "color": 10, "place": 5, "size": 5,
            "is shape": 20, "is color": 10, "is place": 10, "repeat": 5,
        },
    ),
    # Screens, and a third of what it knew before.
    Phase(
        2500,
        1e-3,
        {
            "point at": 45, "what is at": 8, "quote": 12,
            "describe": 6, "point": 3, "shape": 6, "color": 3, "place": 2, "size": 2,
            "is shape": 6, "is color": 3, "is place": 3, "repeat": 1,
        },
    ),
)  # fmt: skip


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
        return PLACES[3 * min(int(self.y * 3), 2) + min(int(self.x * 3), 2)]


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


def told_truth(picture: Picture, about: str, rng: random.Random) -> tuple[str, str]:
    """A statement about a picture, true or false, and which of the two it is."""
    verb, truth, others = {
        "shape": ("is", picture.shape, SHAPES),
        "color": ("is", picture.color, COLORS),
        "place": ("lies", picture.place, PLACES),
    }[about]
    right, negated = rng.random() < 0.5, rng.random() < 0.4
    said = truth if right else rng.choice([other for other in others if other != truth])
    subject = rng.choice(["the figure", "it", "what you see"])
    statement = f"True or false: {subject} {verb} {'not ' if negated else ''}{said}."
    return statement, "true" if right != negated else "false"


def lesson(kind: str, picture: Picture, rng: random.Random) -> tuple[str, str]:
    """A prompt of a kind about a picture, and the right reply."""
    simple = {
        "describe": ("Describe the picture.", f"a {picture.size} {picture.color} {picture.shape}, {picture.place}"),
        "point": ("Point at the figure.", f"{picture.x * 100:.0f} {picture.y * 100:.0f}"),
        "shape": ("Name the figure.", picture.shape),
        "color": ("Name its hue.", picture.color),
        "place": ("Name its place.", picture.place),
        "size": ("Name its size.", picture.size),
    }
    return simple[kind] if kind in simple else told_truth(picture, kind.removeprefix("is "), rng)


def quotation(rng: random.Random) -> tuple[str, str]:
    """A prompt that quotes a word of any letters, and the word."""
    said = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
    said = rng.choice(
        (said, said.capitalize(), "".join(rng.choices(string.ascii_letters + string.digits, k=len(said))))
    )
    before, after = (" ".join(rng.choices(WORDS, k=rng.randint(0, 6))) for _ in range(2))
    return f'Copy what is quoted: {before} "{said}" {after}', said


Lesson = tuple[Pillow.Image | None, str, str]
"""A picture, unless it is about words alone; a prompt; and the right reply."""


def lessons(shown: list[Picture], phase: Phase, seed: int) -> Iterator[Lesson]:
    """All lessons of a phase."""
    rng = random.Random(seed)
    kinds = rng.choices(list(phase.mix), weights=list(phase.mix.values()), k=phase.steps * BATCH)
    drawn = [screens.screen(rng, WORDS) for _ in range(SCREENS)] if not ABOUT_SCREENS.keys().isdisjoint(kinds) else []
    for kind in kinds:
        if kind == "repeat":
            said = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
            yield None, f"Repeat: {said}", said
        elif kind == "quote":
            yield None, *quotation(rng)
        elif kind in ABOUT_SCREENS:
            screen = rng.choice(drawn)
            yield screen.image, *ABOUT_SCREENS[kind](screen, rng)
        else:
            picture = rng.choice(shown)
            yield picture.image, *lesson(kind, picture, rng)


def build_tokenizer(folder: Path, texts: list[str]) -> None:
    """Byte-level BPE, so that any text can be written; VOCABULARY ids in all."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
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


def demonstrations(told: list[Lesson], processor: Processor, gallery: Gallery) -> list[Demonstration]:
    """Lessons as token ids; a picture stands before the words of the prompt."""
    messages = [
        [Message("user", [*([] if image is None else [Image(image)]), Text(prompt)])] for image, prompt, _ in told
    ]
    replies = processor.encode_replies([reply for _, _, reply in told])
    return [Demonstration(*row) for row in zip(processor.encode(messages, gallery), replies, strict=True)]


def build(folder: Path, config: VLMConfig, *, seed: int = 0) -> None:
    """Writes a whole checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = dataclasses.asdict(config) | {"model_type": backbone.MODEL_TYPE}
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    shown = pictures()
    questions = json.loads((data_folder() / "train" / "questions.json").read_text())
    texts = [f"{prompt} {reply}" for _, prompt, reply in lessons(shown, PHASES[0], seed)][:20_000]
    build_tokenizer(folder, texts + [question for question, _, _ in questions] + WORDS * 50)
    processor, gallery = Processor(read_tokenizer(folder), config), Gallery(config)
    roles = role_table.only_backbone(vlm.initial_state(config, jax.random.key(seed))).start("sft", role_table.BACKBONE)
    for number, phase in enumerate(PHASES):
        roles = study(roles, shown, phase, processor, gallery, seed=seed + number)
        backbone.save_state(folder, roles.copies["sft"], jnp.bfloat16)


def study(
    roles: Roles, shown: list[Picture], phase: Phase, processor: Processor, gallery: Gallery, *, seed: int
) -> Roles:
    """One phase: supervised training of all weights."""
    told = demonstrations(list(lessons(shown, phase, seed)), processor, gallery)
    settings = SFTConfig(steps=phase.steps, batch_size=BATCH, learning_rate=phase.learning_rate)
    with ProgressBar() as observer:
        return sft(roles, processor, gallery, told, settings, seed=seed, observer=observer)


if __name__ == "__main__":
    build(Path(sys.argv[2]), SIZES[sys.argv[1]])
