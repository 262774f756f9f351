"""Conversations to token ids and image numbers, and sampled ids back to text."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.errors import PromptTooLong, UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.types import Completions, Image, Message, Prompts, Role, Text

ROUND_TO = 8
"""Lengths are rounded up to a multiple of this, so that few shapes are compiled."""


class EncodedPrompt(NamedTuple):
    """A prompt's token ids, and the numbers of its images in a gallery, in order of appearance."""

    tokens: list[int]
    images: tuple[int, ...]


def rounded(length: int) -> int:
    """The length rounded up to the next multiple of ROUND_TO."""
    return -(-length // ROUND_TO) * ROUND_TO


def _refuse_malformed(conversation: object, name: str) -> None:
    """Raises UserError unless this is a conversation: messages of known roles, made of text and images."""
    if isinstance(conversation, str) or not isinstance(conversation, Sequence) or not conversation:
        raise UserError(f"{name} is {conversation!r:.80}; expected a list of Message, with one at least.")
    for message in conversation:
        if not isinstance(message, Message):
            raise UserError(f"{name} holds a {type(message).__name__} ({message!r:.80}); expected Message.")
        if message.role not in get_args(Role):
            raise UserError(f"{name} has a message of role {message.role!r}; there are {', '.join(get_args(Role))}.")
        if not isinstance(message.content, Sequence):
            raise UserError(
                f"{name} has a {message.role} message whose content is {message.content!r:.80}; "
                "expected a string, or a list of Text and Image."
            )
        for part in message.parts:
            if not isinstance(part, Image) and not (isinstance(part, Text) and isinstance(part.text, str)):
                raise UserError(f"{name} has the part {part!r:.80}; expected Image(..), or Text(..) of a string.")


class Processor:
    """The chat template, tokenizer and image rules of one checkpoint.

    Images are expanded here and nowhere else: one placeholder in the template becomes exactly as many ids as the tower
    yields vectors.
    """

    def __init__(self, tokenizer: Any, config: VLMConfig):
        self.tokenizer = tokenizer
        self.config = config
        self._placeholder = tokenizer.convert_ids_to_tokens(config.image_id)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = re.compile(
            "|".join(map(re.escape, sorted(special | {self._placeholder}, key=len, reverse=True)))
        )
        self._expanded = self._placeholder * config.vision.image_tokens

    @classmethod
    def from_folder(cls, folder: Path, config: VLMConfig) -> Processor:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that torch is missing; we never want torch
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # what a damaged file raises there has no common class
            raise UserError(
                f"the tokenizer in {folder} cannot be read: {error!r:.200}. Expected tokenizer.json and "
                "tokenizer_config.json beside config.json; copy the checkpoint again."
            ) from error
        if not tokenizer.chat_template:
            raise UserError(f"{folder / 'tokenizer_config.json'} has no chat_template; copy the checkpoint again.")
        if len(tokenizer) > config.vocabulary or tokenizer.convert_ids_to_tokens(config.image_id) is None:
            raise UserError(
                f"{folder / 'tokenizer.json'} has {len(tokenizer)} tokens and does not fit config.json, which says "
                f"vocabulary {config.vocabulary} and image_id {config.image_id}. Are they of the same checkpoint?"
            )
        return cls(tokenizer, config)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template writes it, image placeholders expanded.

        Special tokens typed into a text are taken apart: text can claim no image, and end no turn. Raises UserError for
        what is no conversation, or one that the template refuses.
        """
        from jinja2 import TemplateError

        _refuse_malformed(messages, "a conversation")
        chat = [{"role": message.role, "content": self._parts(message)} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            turns = ", ".join(message.role for message in messages)
            raise UserError(f"the chat template of {self.config.name} refuses the turns {turns}: {error}") from error
        return text.replace(self._placeholder, self._expanded)

    def _parts(self, message: Message) -> list[dict[str, str]]:
        """What the template gets. Neighbouring texts are joined first: two halves of a special token make a whole."""
        parts: list[dict[str, str]] = []
        for is_image, run in itertools.groupby(message.parts, lambda part: isinstance(part, Image)):
            if is_image:
                parts += [{"type": "image"} for _ in run]
            else:
                parts.append(
                    {"type": "text", "text": self._plain("".join(part.text for part in run if isinstance(part, Text)))}
                )
        return parts

    def _plain(self, text: str) -> str:
        """The text with its special tokens taken apart by a space."""
        return self._special.sub(lambda found: found[0][:1] + " " + found[0][1:], text)

    def _render_all(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """Renders each distinct wording once: data sets ask few questions about many images, and templates are slow."""
        known: dict[tuple, str] = {}
        texts = []
        for i, messages in enumerate(conversations):
            _refuse_malformed(messages, f"prompt {i}")
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
        """Replies as completions: their tokens and the stop token. Special tokens in them are text, as in prompts."""
        for i, reply in enumerate(replies):
            if not isinstance(reply, str):
                raise UserError(f"reply {i} is {reply!r:.80}; expected a string.")
        texts = [self._plain(reply) for reply in replies]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
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
