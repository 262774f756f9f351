"""Conversations to token ids and image numbers, and sampled ids back to text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.errors import PromptTooLong
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.types import Completions, Image, Message, Prompts, Text

ROUND_TO = 8
"""Lengths are rounded up to a multiple of this, so that few shapes are compiled."""


class EncodedPrompt(NamedTuple):
    """A prompt's token ids, and the numbers of its images in a gallery, in order of appearance."""

    tokens: list[int]
    images: tuple[int, ...]


def rounded(length: int) -> int:
    """The length rounded up to the next multiple of ROUND_TO."""
    return -(-length // ROUND_TO) * ROUND_TO


class Processor:
    """The chat template, tokenizer and image rules of one checkpoint.

    Images are expanded here and nowhere else: one placeholder in the template becomes exactly as many ids as the tower
    yields vectors.
    """

    def __init__(self, tokenizer: Any, config: VLMConfig):
        self.tokenizer = tokenizer
        self.config = config
        self._placeholder = tokenizer.convert_ids_to_tokens(config.image_id)
        self._expanded = self._placeholder * config.vision.image_tokens

    @classmethod
    def from_folder(cls, folder: Path, config: VLMConfig) -> Processor:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that torch is missing; we never want torch
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder), config)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template writes it, image placeholders expanded.

        A placeholder typed into a text part is taken apart, so that text can never claim an image.
        """
        safe = self._placeholder[:1] + " " + self._placeholder[1:]
        chat = []
        for message in messages:
            parts = [
                {"type": "image"}
                if isinstance(part, Image)
                else {"type": "text", "text": part.text.replace(self._placeholder, safe)}
                for part in message.parts
            ]
            chat.append({"role": message.role, "content": parts})
        text: str = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text.replace(self._placeholder, self._expanded)

    def _render_all(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """Renders each distinct wording once: data sets ask few questions about many images, and templates are slow."""
        known: dict[tuple, str] = {}
        texts = []
        for messages in conversations:
            key = tuple((m.role, *(p.text if isinstance(p, Text) else None for p in m.parts)) for m in messages)
            if key not in known:
                known[key] = self.render(messages)
            texts.append(known[key])
        return texts

    def encode(
        self, conversations: Sequence[Sequence[Message]], gallery: Gallery, *, room: int = 0
    ) -> list[EncodedPrompt]:
        """Tokenizes many conversations at once. `room` tokens are kept free for the completion.

        Raises PromptTooLong, naming the first conversation that does not fit: nothing is cut off silently, and an image
        can never be split.
        """
        texts = self._render_all(conversations)
        distinct = list(dict.fromkeys(texts))
        ids = self.tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
        tokens_of = dict(zip(distinct, ids, strict=True))
        encoded = []
        for i, (messages, text) in enumerate(zip(conversations, texts, strict=True)):
            tokens = tokens_of[text]
            if len(tokens) + room > self.config.context:
                start = next((p.text for m in messages for p in m.parts if isinstance(p, Text)), "")
                raise PromptTooLong(
                    f"prompt {i} ({start[:60]!r}...) has {len(tokens)} tokens; with {room} for the completion that is "
                    f"{len(tokens) + room}, and {self.config.name} reads {self.config.context}. "
                    "Shorten the prompt, or use a model with a longer context."
                )
            images = tuple(gallery.add(p) for m in messages for p in m.parts if isinstance(p, Image))
            encoded.append(EncodedPrompt(tokens, images))
        return encoded

    def encode_replies(self, replies: Sequence[str]) -> list[list[int]]:
        """Replies as completions: their tokens and the stop token."""
        ids = self.tokenizer(list(replies), add_special_tokens=False)["input_ids"] if replies else []
        return [[*tokens, self.config.stop_id] for tokens in ids]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a completion, without its stop token."""
        kept = [int(t) for t in tokens if t != self.config.stop_id]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def prompts(self, encoded: Sequence[EncodedPrompt], gallery: Gallery, *, length: int) -> Prompts:
        """A batch of prompts, padded on the left to `length`."""
        tokens = np.full((len(encoded), length), self.config.pad_id, np.int32)
        mask = np.zeros((len(encoded), length), bool)
        for i, prompt in enumerate(encoded):
            tokens[i, length - len(prompt.tokens) :] = prompt.tokens
            mask[i, length - len(prompt.tokens) :] = True
        return Prompts(tokens, mask, gallery.take([prompt.images for prompt in encoded]))

    def completions(self, groups: Sequence[Sequence[Sequence[int]]], *, length: int) -> Completions:
        """A batch of groups of given completions, padded on the right to `length`."""
        tokens = np.full((len(groups), len(groups[0]), length), self.config.pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for i, group in enumerate(groups):
            for j, completion in enumerate(group):
                tokens[i, j, : len(completion)] = completion
                mask[i, j, : len(completion)] = True
        return Completions(tokens, mask)
