"""Tiny trained tokenizers with the special tokens and the chat format of each family."""

from __future__ import annotations

import json

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

CORPUS = [
    "click the red button, then open the login page and type the password.",
    "What color is the circle? Which of the two pictures shows more?",
    "yes no red green blue square triangle circle",
    "the quick brown fox jumps over the lazy dog",
]
TILES_PER_SIDE = 4


def parts(image: str) -> str:
    """The part of a template that writes one message's content, be it a string or a list of texts and pictures."""
    return (
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
    )


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    + parts("<|vision_start|><|image_pad|><|vision_end|>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + CHATML
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    + parts("<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Gemma knows no system role: what a system message says opens the turn that follows.
GEMMA = (
    "{% set ns = namespace(open=false) %}{{ bos_token }}{% for m in messages %}"
    "{% if not ns.open %}<start_of_turn>{{ {'assistant': 'model', 'system': 'user'}.get(m['role'], m['role']) }}\n"
    "{% endif %}"
    + parts("<start_of_image>")
    + "{% set ns.open = m['role'] == 'system' %}{{ '\n\n' if ns.open else '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def llama() -> PreTrainedTokenizerBase:
    return byte_level(transformers.GPT2Tokenizer, CHATML, ["<|im_start|>", "<|im_end|>"], end="<|im_end|>")


def smolvlm() -> PreTrainedTokenizerBase:
    sides = range(1, TILES_PER_SIDE + 1)
    tiles = [f"<row_{row}_col_{column}>" for row in sides for column in sides]
    marks = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", *tiles]
    return byte_level(transformers.GPT2Tokenizer, SMOLVLM, marks, end="<end_of_utterance>")


def qwen(template: str = CHATML) -> PreTrainedTokenizerBase:
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    return byte_level(transformers.Qwen2Tokenizer, template, marks, end="<|im_end|>")


def qwen_with_system() -> PreTrainedTokenizerBase:
    return qwen(CHATML_WITH_SYSTEM)


def gemma() -> PreTrainedTokenizerBase:
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    return with_byte_fallback(GEMMA, marks)


def paligemma() -> PreTrainedTokenizerBase:
    return with_byte_fallback(None, {"image_token": "<image>"})


def with_byte_fallback(template: str | None, marks: dict[str, str]) -> PreTrainedTokenizerBase:
    """Pieces with ▁ for spaces; characters that no piece holds are written as bytes."""
    characters = sorted({c for line in CORPUS for c in line.replace(" ", "▁")} | {"\n"})
    trainer = Tokenizer(models.BPE())
    trainer.normalizer = normalizers.Replace(" ", "▁")
    pieces, merges = trained(trainer, len(characters) + 32, characters)
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = transformers.GemmaTokenizer(
        vocab={piece: i for i, piece in enumerate([*first, *pieces])},
        merges=merges,
        add_bos_token=True,
        chat_template=template,
        extra_special_tokens=marks,
    )
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    return tokenizer


def byte_level(kind: type, template: str, marks: list[str], end: str) -> PreTrainedTokenizerBase:
    trainer = Tokenizer(models.BPE())
    trainer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces, merges = trained(trainer, 288, pre_tokenizers.ByteLevel.alphabet())
    return kind(
        vocab={piece: i for i, piece in enumerate(["<|endoftext|>", *pieces])},
        merges=merges,
        bos_token="<|im_start|>",
        eos_token=end,
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        chat_template=template,
        additional_special_tokens=marks,
    )


def trained(trainer: Tokenizer, size: int, alphabet: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces in the order of their ids, and merges."""
    options = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    trainer.train_from_iterator(CORPUS * 4, options)
    model = json.loads(trainer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(pair) for pair in model["merges"]]
