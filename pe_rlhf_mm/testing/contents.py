"""What samples are made of, wherever they come from: prompts that stand in two splits, and samples that repeat."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pe_rlhf_mm.testing.problems import Problems
from pe_rlhf_mm.types import Image, Message, Reply, Sample, Text

REPEATED = 0.05
"""The share of a split's samples that may repeat another one, target and all; published sets have a few that do."""

Content = tuple[object, ...]


def check_contents(splits: Mapping[str, Sequence[Sample]], problems: Problems) -> None:
    """Notes prompts that two splits share, and a split that repeats itself; a prompt is its texts and its pictures.

    One question about two pictures is two prompts. A sample repeats another one only if their targets are equal too.
    """
    prompts = {split: [prompt_of(sample.messages) for sample in samples] for split, samples in splits.items()}
    for one, other in itertools.combinations(splits, 2):
        known = {prompt: sample.id for prompt, sample in zip(prompts[one], splits[one], strict=True)}
        again = [(sample.id, known[p]) for p, sample in zip(prompts[other], splits[other], strict=True) if p in known]
        problems.expect(
            not again,
            f"{len(again)} prompts of {other!r} stand in {one!r} too, such as those of {again[:1]}: what is tested has "
            "been seen before. Split by what prompts are made of",
        )
    for split, samples in splits.items():
        counts = Counter((p, repr(sample.target)) for p, sample in zip(prompts[split], samples, strict=True))
        repeats = len(samples) - len(counts)
        problems.expect(
            repeats <= REPEATED * len(samples),
            f"{repeats} of {len(samples)} samples of {split!r} repeat another one, target and all; {REPEATED:.0%} may. "
            "Does every prompt have its text and its picture?",
        )


def prompt_of(messages: Sequence[Message]) -> Content:
    """A conversation by its contents: roles, texts and digests of pictures."""
    return tuple((message.role, *content_of(message.content)) for message in messages)


def content_of(content: Reply) -> Content:
    """A message or a reply by its contents: the text, and digests of the pictures."""
    parts = (Text(content),) if isinstance(content, str) else content
    return tuple(_digest(part) if isinstance(part, Image) else part.text for part in parts)


def _digest(image: Image) -> bytes:
    """Of the file, or of the pixels where there is none."""
    source = image.source
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    if isinstance(source, str | Path):
        return hashlib.sha256(Path(source).read_bytes()).digest()
    return hashlib.sha256(f"{source.mode} {source.size}".encode() + source.tobytes()).digest()
