"""Conversations to token ids and image numbers, and sampled ids back to text."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Int

from pe_rlhf_mm.data import expansion
from pe_rlhf_mm.data.images import Gallery, ImageShape
from pe_rlhf_mm.errors import PromptTooLong, UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.types import Completions, Image, Message, Prompts, Reply, Role, Text


class EncodedPrompt(NamedTuple):
    """A prompt's token ids, and the numbers of its images in a gallery, in order of appearance.

    `positions` are there for models whose image tokens have a row and a column.
    """

    tokens: list[int]
    images: tuple[int, ...]
    positions: Int[np.ndarray, "L A"] | None = None


class Placeholder(NamedTuple):
    """What a family's template writes for an image, and what takes its place once the image's shape is known."""

    text: str
    expand: Callable[[tuple[int, int], tuple[int, int], int], str]


PLACEHOLDERS = {
    "gemma3": Placeholder("<start_of_image>", expansion.expand_gemma3),
    "paligemma": Placeholder("<image>", expansion.expand_paligemma),
    "smolvlm": Placeholder("<image>", expansion.expand_idefics3),
    "qwen2_5_vl": Placeholder("<|image_pad|>", expansion.expand_qwen),
    "qwen3_vl": Placeholder("<|image_pad|>", expansion.expand_qwen),
}
"""By family; of any other, a placeholder is as many image tokens as the image takes."""


def _is_part(part: object) -> bool:
    return isinstance(part, Image) or (isinstance(part, Text) and isinstance(part.text, str))


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
            if not _is_part(part):
                raise UserError(f"{name} has the part {part!r:.80}; expected Image(..), or Text(..) of a string.")


def _refuse_malformed_replies(replies: Sequence[Reply]) -> None:
    """Raises UserError unless every reply is a string, or made of text and images."""
    for i, reply in enumerate(replies):
        parts = () if isinstance(reply, str) else reply
        if not isinstance(parts, Sequence) or not all(map(_is_part, parts)):
            raise UserError(f"reply {i} is {reply!r:.80}; expected a string, or a list of Text and Image.")


def _as_text(reply: Reply) -> str:
    """The texts of a reply, joined."""
    return reply if isinstance(reply, str) else "".join(part.text for part in reply if isinstance(part, Text))


def has_picture(reply: Reply) -> bool:
    """Whether any part of a reply is a picture."""
    parts = () if isinstance(reply, str) or not isinstance(reply, Sequence) else reply
    return any(isinstance(part, Image) for part in parts)


def refuse_misfit(tokenizer: Any, config: VLMConfig) -> None:
    """Raises UserError unless the tokenizer's ids are those of the model."""
    if len(tokenizer) > max(config.vocabulary, config.image_id + 1):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, and config.json says vocabulary {config.vocabulary}. "
            "Are they of the same checkpoint?"
        )
    if config.vision is not None and tokenizer.convert_ids_to_tokens(config.image_id) is None:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and none of id {config.image_id}, which config.json names "
            "as image placeholder. Are they of the same checkpoint?"
        )


class Processor:
    """The chat template, tokenizer and image rules of one checkpoint.

    Images are expanded here and nowhere else: one placeholder in the template becomes exactly as many ids as the tower
    yields vectors.
    """

    def __init__(self, tokenizer: Any, config: VLMConfig):
        self.tokenizer = tokenizer
        self.config = config
        self._placeholder = self._placeholder_of(config)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= {self._placeholder.text} if self._placeholder else set()
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def _placeholder_of(self, config: VLMConfig) -> Placeholder | None:
        if config.vision is None:
            return None
        token = str(self.tokenizer.convert_ids_to_tokens(config.image_id))
        return PLACEHOLDERS.get(
            config.family,
            Placeholder(token, lambda grid, tiles, merge: token * expansion.tokens_per_view(grid, merge)),
        )

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template writes it, with one placeholder for each image.

        Special tokens typed into a text are taken apart: text can claim no image, and end no turn. Raises UserError for
        what is no conversation, or one that the template refuses.
        """
        from jinja2 import TemplateError

        _refuse_malformed(messages, "a conversation")
        chat = [{"role": message.role, "content": self._content(message)} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            turns = ", ".join(message.role for message in messages)
            raise UserError(f"the chat template of {self.config.name} refuses the turns {turns}: {error}") from error
        return text

    def expand(self, text: str, shapes: Sequence[ImageShape]) -> str:
        """A rendered conversation with every placeholder replaced by the tokens of its image.

        Raises UserError if the template wrote more or fewer placeholders than there are images.
        """
        if self._placeholder is None or self.config.vision is None:
            return text
        pieces, merge = text.split(self._placeholder.text), self.config.vision.merge
        if len(pieces) != len(shapes) + 1:
            raise UserError(
                f"the chat template of {self.config.name} wrote {len(pieces) - 1} image placeholders "
                f"({self._placeholder.text}) for {len(shapes)} images. Is it the template of a text model?"
            )
        expanded = [self._placeholder.expand(shape.grid, shape.tiles, merge) for shape in shapes]
        return "".join(a + b for a, b in zip(pieces, [*expanded, ""], strict=True))

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        """What the template gets: templates of text models take a string, all others a list of parts."""
        parts = self._parts(message)
        return parts if self.config.vision is not None else "".join(part["text"] for part in parts)

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

    def _render_all(
        self, conversations: Sequence[Sequence[Message]], shapes: Sequence[Sequence[ImageShape]]
    ) -> list[str]:
        """Renders each distinct wording once: data sets ask few questions about many images, and templates are slow."""
        known: dict[tuple, str] = {}
        texts = []
        for messages, seen in zip(conversations, shapes, strict=True):
            key = tuple((m.role, *(p.text if isinstance(p, Text) else None for p in m.parts)) for m in messages)
            if key not in known:
                known[key] = self.render(messages)
            texts.append(self.expand(known[key], seen))
        return texts

    def tokenize(self, texts: Sequence[str]) -> Sequence[list[int]]:
        """The ids of rendered texts."""
        # Without the places of tokens in the text, which the tokenizer's own call works out and nobody reads.
        backend = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode(
        self, conversations: Sequence[Sequence[Message]], gallery: Gallery, *, room: int = 0
    ) -> list[EncodedPrompt]:
        """Tokenizes many conversations at once. `room` tokens are kept free for the completion.

        Raises PromptTooLong, naming the first conversation that does not fit: nothing is cut off silently, and an image
        can never be split.
        """
        for i, messages in enumerate(conversations):
            _refuse_malformed(messages, f"prompt {i}")
        pictures = [[p for m in messages for p in m.parts if isinstance(p, Image)] for messages in conversations]
        images = [tuple(gallery.add(picture) for picture in row) for row in pictures]
        texts = self._render_all(conversations, [[gallery.shape(n) for n in row] for row in images])
        distinct = list(dict.fromkeys(texts))
        ids = self.tokenize(distinct)
        tokens_of = dict(zip(distinct, ids, strict=True))
        for i, (messages, text) in enumerate(zip(conversations, texts, strict=True)):
            start = next((p.text for m in messages for p in m.parts if isinstance(p, Text)), "")
            self._refuse_too_long(i, start, len(tokens_of[text]), room)
        return [
            EncodedPrompt(tokens_of[text], numbers, self.positions(tokens_of[text], numbers, gallery))
            for text, numbers in zip(texts, images, strict=True)
        ]

    def encode_texts(self, texts: Sequence[str], *, room: int = 0) -> list[EncodedPrompt]:
        """Bare texts as the tokenizer writes them, with the beginning it was trained on and without a template."""
        ids = self.tokenizer(list(texts))["input_ids"] if texts else []
        for i, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
            self._refuse_too_long(i, text, len(tokens), room)
        axes = self.config.decoder.position_axes
        counted = [np.repeat(np.arange(len(t))[:, None], axes, axis=1) if axes > 1 else None for t in ids]
        return [EncodedPrompt(tokens, (), positions) for tokens, positions in zip(ids, counted, strict=True)]

    def _refuse_too_long(self, i: int, start: str, length: int, room: int) -> None:
        if length + room > self.config.context:
            raise PromptTooLong(
                f"prompt {i} ({start[:60]!r}...) has {length} tokens; with {room} for the completion that is "
                f"{length + room}, and {self.config.name} reads {self.config.context}. "
                "Shorten the prompt, or use a model with a longer context."
            )

    def positions(
        self, tokens: Sequence[int], images: Sequence[int], gallery: Gallery
    ) -> Int[np.ndarray, "L A"] | None:
        """Rows and columns of image tokens, where the model's rotary positions know of them."""
        if self.config.vision is None or self.config.decoder.position_axes == 1:
            return None
        merge = self.config.vision.merge
        grids = [(grid[0] // merge, grid[1] // merge) for grid in (gallery.shape(n).grid for n in images)]
        try:
            return expansion.mrope_positions(tokens, self.config.image_id, grids)
        except ValueError as error:
            raise UserError(f"tokens and images do not agree: {error}") from error

    def encode_replies(self, replies: Sequence[Reply]) -> list[list[int]]:
        """Replies of text as completions: their tokens and the stop token. Special tokens in them are text.

        Raises UserError for one that is no reply, or that has a picture: see `encode_answered`.
        """
        _refuse_malformed_replies(replies)
        for i, reply in enumerate(replies):
            if has_picture(reply):
                raise UserError(f"reply {i} has a picture, and a policy writes text only; expected text.")
        texts = [self._plain(_as_text(reply)) for reply in replies]
        ids = self.tokenize(texts)
        return [[*tokens, self.config.stop_id] for tokens in ids]

    def encode_answered(
        self, conversations: Sequence[Sequence[Message]], replies: Sequence[Reply], gallery: Gallery
    ) -> list[EncodedPrompt]:
        """Conversations with a reply as prompts, which only the stop token is left to complete.

        Here a reply may have pictures, which completions cannot: where they stand, what they see and what sees them is
        that of pictures in a prompt. The tokens of a reply of text are those of `encode_replies`. Raises as `encode`.
        """
        _refuse_malformed_replies(replies)
        prompts, answered = self.encode(conversations, gallery, room=1), []
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            parts = self._parts(Message("assistant", reply))
            pictures = () if isinstance(reply, str) else [part for part in reply if isinstance(part, Image)]
            numbers = tuple(gallery.add(picture) for picture in pictures)
            written = "".join(part["text"] if part["type"] == "text" else self._picture for part in parts)
            text = self.expand(written, [gallery.shape(n) for n in numbers])
            tokens = [*prompt.tokens, *self.tokenize([text])[0]]
            self._refuse_too_long(i, _as_text(reply), len(tokens), 1)
            images = (*prompt.images, *numbers)
            answered.append(EncodedPrompt(tokens, images, self.positions(tokens, images, gallery)))
        return answered

    def encode_observation(self, observation: Sequence[Message], gallery: Gallery, *, stopped: bool) -> EncodedPrompt:
        """What stands between a reply and the next one: the end of the reply's turn, and what was answered to it.

        A reply that `stopped` by itself has its end already. Positions are left out: they depend on all that came
        before. Raises ImageError, and UserError for what is no message or what the template refuses.
        """
        replied = "[[reply]]"
        text = self.render([Message("user", "before"), Message("assistant", replied), *observation])
        pictures = [part for message in observation for part in message.parts if isinstance(part, Image)]
        numbers = tuple(gallery.add(picture) for picture in pictures)
        text = self.expand(text.partition(replied)[2], [gallery.shape(n) for n in numbers])
        tokens = self.tokenize([text])[0]
        ended = stopped and bool(tokens) and tokens[0] in self.config.stop_ids
        return EncodedPrompt(tokens[1:] if ended else tokens, numbers)

    @functools.cached_property
    def _picture(self) -> str:
        """What the template writes for a picture between two words, or the bare placeholder if it moves pictures."""
        assert self._placeholder is not None  # or the gallery would have refused the picture
        before, after = "before", "after"
        text = self.render([Message("user", (Text(before), Image(None), Text(after)))])
        between = text.partition(before)[2].partition(after)[0]
        return between if self._placeholder.text in between else self._placeholder.text

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a completion, without its stop token."""
        kept = [int(t) for t in tokens if t not in self.config.stop_ids]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def prompts(self, encoded: Sequence[EncodedPrompt], gallery: Gallery, *, length: int) -> Prompts:
        """A batch of prompts, padded on the left to `length`."""
        tokens = np.full((len(encoded), length), self.config.pad_id, np.int32)
        mask = np.zeros((len(encoded), length), bool)
        axes = self.config.decoder.position_axes
        positions = np.zeros((len(encoded), length, axes), np.int32) if axes > 1 else None
        for i, prompt in enumerate(encoded):
            start = length - len(prompt.tokens)
            tokens[i, start:], mask[i, start:] = prompt.tokens, True
            if positions is not None and prompt.positions is not None:
                positions[i, start:] = prompt.positions
        return Prompts(tokens, mask, gallery.take([prompt.images for prompt in encoded]), positions)

    def completions(self, groups: Sequence[Sequence[Sequence[int]]], *, length: int) -> Completions:
        """A batch of groups of given completions, padded on the right to `length`."""
        tokens = np.full((len(groups), len(groups[0]), length), self.config.pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for i, group in enumerate(groups):
            for j, completion in enumerate(group):
                tokens[i, j, : len(completion)] = completion
                mask[i, j, : len(completion)] = True
        return Completions(tokens, mask)
