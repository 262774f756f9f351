"""A checkpoint's tokenizer: read without torch, with its chat template, and what ends a reply found out."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from pe_rlhf_mm.checkpoints.huggingface import transformers
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models.families import Ids

PLAIN = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
"""Base models have no chat template: they continue text."""
PALIGEMMA = (
    "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}{% endfor %}"
    "{{ bos_token }}{% for m in messages %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}"
    "{% endfor %}{% endfor %}{{ '\\n' }}"
)
"""PaliGemma was trained on the images, the beginning, a text and a line break."""


def read_tokenizer(folder: Path) -> Any:
    """Reads a tokenizer and its chat template. Raises UserError if a file is missing or damaged."""
    _refuse_missing(folder)
    try:
        tokenizer = transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # what a damaged file raises there has no common class
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
        raise UserError(
            f"the tokenizer in {folder} cannot be read ({reason}). Is tokenizer.json or tokenizer_config.json damaged? "
            "Copy the checkpoint again."
        ) from error
    if not tokenizer.chat_template:
        tokenizer.chat_template = _template(folder)
    return tokenizer


def _refuse_missing(folder: Path) -> None:
    """Raises UserError unless the vocabulary and the special tokens are there.

    transformers would make up what is missing: a vocabulary of a few special tokens, other ones for padding and stops.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{folder} has no tokenizer.json, which holds the vocabulary. Copy the checkpoint again.")
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(
            f"{folder} has no tokenizer_config.json, which says what pads and what ends a reply. Copy the checkpoint "
            "again."
        )


def _template(folder: Path) -> str:
    """The template of older checkpoints, kept beside the tokenizer; or that of models that never chatted."""
    old = folder / "chat_template.json"
    if old.is_file():
        return str(read_json(old).get("chat_template"))
    config = read_json(folder / "config.json")
    if config.get("model_type") == "paligemma":
        return PALIGEMMA
    if "text_config" in config or "vision" in config:
        raise UserError(
            f"{folder} has no chat template: expected chat_template.jinja, or chat_template in tokenizer_config.json; "
            "copy the checkpoint again."
        )
    return PLAIN


def special_ids(folder: Path, tokenizer: Any) -> Ids:
    """Padding, and the tokens that end a reply: the one that the template writes after it first."""
    stops = [*_end_of_turn(tokenizer), *_generation_stops(folder)]
    if tokenizer.eos_token_id is not None:
        stops.append(tokenizer.eos_token_id)
    if not stops:
        raise UserError(
            f"nothing in {folder} says which token ends a reply; expected eos_token in tokenizer_config.json."
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[-1]
    return Ids(pad, tuple(dict.fromkeys(stops)))


def _end_of_turn(tokenizer: Any) -> list[int]:
    """The first special token that the template writes after a reply; none if it writes none."""
    question, answer = "question", "the answer"
    for content in ((question, answer), ([{"type": "text", "text": question}], [{"type": "text", "text": answer}])):
        turns = [{"role": role, "content": c} for role, c in zip(("user", "assistant"), content, strict=True)]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception:  # templates raise what they like; some take only one of the two forms
            continue
        _, found, after = text.rpartition(answer)
        ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
        special = [i for i in ids if i in tokenizer.all_special_ids or i in tokenizer.added_tokens_decoder]
        if special:
            return special[:1]
    return []


def _generation_stops(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    stops = read_json(path).get("eos_token_id") if path.is_file() else None
    return [stops] if isinstance(stops, int) else list(stops or [])
