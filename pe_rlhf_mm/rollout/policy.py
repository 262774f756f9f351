"""A policy as a user holds it: conversations in, replies out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Key

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.origin import fingerprints
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.streams import blocks
from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.types import Message


def reply(
    processor: Processor,
    weights: Weights,
    gallery: Gallery,
    prompts: Sequence[EncodedPrompt],
    sampling: Sampling,
    *,
    samples: int = 1,
    seed: int | Sequence[int] = 0,
    batch_size: int = 128,
) -> list[list[list[int]]]:
    """`samples` completions of each prompt, as token ids with their stop token.

    `seed`: one for all, or one for each prompt, with which it is given the same completions whatever else is asked.
    """
    drawn = samples * sampling.max_tokens
    sizes = np.array([(len(p.tokens), drawn) for p in prompts]).reshape(-1, 2)
    keys, replies = _keys(seed, len(prompts)), dict[int, list[list[int]]]()
    for block in blocks(sizes, rows=batch_size) if prompts else ():
        batch = by_rows(processor.prompts([prompts[i] for i in block.filled], gallery, length=block.shape[0]))
        found = sample(
            processor.config, *weights, batch, keys[np.array(block.filled)], group=samples, sampling=sampling
        )
        tokens, mask = hosts.fetched(found.completions)
        for i, *group in zip(block.indices, tokens, mask, strict=False):
            replies[i] = [t[m].tolist() for t, m in zip(*group, strict=True)]
    return [replies[i] for i in range(len(prompts))]


def _keys(seed: int | Sequence[int], count: int) -> Key[Array, "N"]:
    if isinstance(seed, int):
        return jax.random.split(jax.random.key(seed), count)
    return jax.vmap(jax.random.key)(np.array(seed, np.uint32))


@dataclass(frozen=True, repr=False)
class Policy:
    """A model with one role's weights, ready to answer."""

    processor: Processor
    weights: Weights
    name: str = "policy"

    def __repr__(self) -> str:
        """One line: weights would be thousands."""
        adapted = ", ".join(self.weights.bank.matrices) if self.weights.bank is not None else "none"
        return f"Policy({self.name!r}, of {self.processor.config.name}, adapted matrices: {adapted})"

    def fingerprint(self) -> str:
        """What the policy is known again by: a hash of its weights (see `adapters/origin.py`) and of its adapters."""
        digest = hashlib.sha256(to_json(fingerprints(self.weights.state)).encode())
        for leaf in jax.tree.leaves(self.weights.bank):
            digest.update(hosts.fetched(leaf).tobytes())
        return digest.hexdigest()[:16]

    def gallery(self) -> Gallery:
        """For pictures that are shown to this policy."""
        return Gallery(self.processor.config, look_with=self.weights.state, adapted=self.weights.adapted)

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        max_tokens: int = 64,
        samples: int = 1,
        seed: int | Sequence[int] = 0,
    ) -> list[list[str]]:
        """`samples` replies to each conversation; greedy at temperature 0.

        `seed`: one for all, or one for each conversation, which is then given the same replies whatever else is asked.
        Raises PromptTooLong, ImageError, and OutOfRange for sampling values out of range.
        """
        if type(samples) is not int or samples < 1:
            raise OutOfRange(f"samples must be a whole number above 0, not {samples!r}")
        sampling = Sampling(temperature, top_k, top_p, max_tokens)
        gallery = self.gallery()
        prompts = self.processor.encode(conversations, gallery, room=max_tokens)
        return self._answers(prompts, gallery, sampling, samples, seed)

    def complete(
        self, texts: Sequence[str], *, max_tokens: int = 64, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """What the model writes after each text, without a chat template: how base models are asked.

        Raises PromptTooLong, and OutOfRange for sampling values out of range.
        """
        sampling, gallery = Sampling(temperature, max_tokens=max_tokens), Gallery(self.processor.config)
        prompts = self.processor.encode_texts(texts, room=max_tokens)
        return [group[0] for group in self._answers(prompts, gallery, sampling, 1, seed)]

    def _answers(
        self,
        prompts: Sequence[EncodedPrompt],
        gallery: Gallery,
        sampling: Sampling,
        samples: int,
        seed: int | Sequence[int],
    ) -> list[list[str]]:
        drawn = reply(self.processor, self.weights, gallery, prompts, sampling, samples=samples, seed=seed)
        return [[self.processor.decode(tokens) for tokens in group] for group in drawn]

    def __call__(self, messages: Sequence[Message]) -> str:
        """The greedy reply to one conversation: a policy is a plain function from messages to text."""
        return self.generate([messages])[0][0]
