"""What was said of replies, by a task or in a file, to the encoded examples that are trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import Label, fault, read_labels
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor, has_picture
from pe_rlhf_mm.errors import PromptTooLong, UserError
from pe_rlhf_mm.training.config import PreferenceConfig, RewardConfig
from pe_rlhf_mm.training.reward import Judged, Row
from pe_rlhf_mm.types import Message, Preference, PreferenceTask, Rated, RatedTask, Reply, Task


class LabelSource(NamedTuple):
    """What the labels of a task are called, and the method that yields them."""

    kind: str
    read: Callable[..., Iterable[Label]]


def label_source(task: Task, loss: str) -> LabelSource:
    """What a loss takes of a task: its ratings for `pointwise`, if it has any, and otherwise its pairs.

    Raises UserError where there is nothing, or nothing but ratings for `pairwise`.
    """
    name = type(task).__name__
    if isinstance(task, RatedTask) and loss == "pointwise":
        return LabelSource("ratings", task.ratings)
    if isinstance(task, PreferenceTask):
        return LabelSource("preferences", task.preferences)
    if isinstance(task, RatedTask):
        raise UserError(
            f"{name} has ratings and no preferences, and the loss 'pairwise' learns from preferences only. Set "
            "--reward.loss pointwise, or RewardConfig(loss='pointwise')."
        )
    raise UserError(
        f"{name} has no preferences(split, seed) and no ratings(split, seed), so no reward model can be trained for it."
        " Take that of a run on another task: --start-from RUN."
    )


def training_labels(task: Task, settings: RewardConfig, *, seed: int) -> Sequence[Label]:
    """Those of the file that the settings name, or the task's own."""
    if not settings.labels:
        return list(label_source(task, settings.loss).read("train", seed=seed))
    labels = read_labels(settings.labels)
    if settings.loss == "pairwise" and any(isinstance(label, Rated) for label in labels):
        raise UserError(
            f"{settings.labels} has ratings, and the loss 'pairwise' learns from preferences only. Set "
            "--reward.loss pointwise, or leave them out."
        )
    if len({type(label) for label in labels}) == 1:
        return labels
    return [rating for label in labels for rating in as_ratings(label)]


def flipped(labels: Sequence[Label], share: float, *, seed: int) -> list[Label]:
    """Labels of which so large a share, drawn from the seed, says the contrary of what it said."""
    turned = set(np.random.default_rng(seed).permutation(len(labels))[: round(share * len(labels))].tolist())
    return [_contrary(label) if i in turned else label for i, label in enumerate(labels)]


def _contrary(label: Label) -> Label:
    if isinstance(label, Rated):
        return replace(label, label=1 - label.label)
    return replace(label, probability=1 - label.probability)


def pair_source(task: Task, method: str) -> LabelSource:
    """The pairs of a task. Raises UserError if it has none."""
    if not isinstance(task, PreferenceTask):
        raise UserError(
            f"{type(task).__name__} has no preferences(split, seed), and the method {method} learns from nothing else. "
            "Name a file of pairs, --preferences.labels FILE, or take --method rlhf."
        )
    return LabelSource("preferences", task.preferences)


def preference_source(task: Task, method: str) -> LabelSource:
    """What a method learns from: ratings, for `kto`, if the task has any, and otherwise its pairs.

    Raises UserError if it has neither, or no pairs where these are needed.
    """
    if method == "kto" and isinstance(task, RatedTask):
        return LabelSource("ratings", task.ratings)
    if method == "kto" and not isinstance(task, PreferenceTask):
        raise UserError(
            f"{type(task).__name__} has no ratings(split, seed) and no preferences(split, seed), and the method kto "
            "learns from nothing else. Name a file of them, --preferences.labels FILE, or take --method rlhf."
        )
    return pair_source(task, method)


def training_ratings(task: Task, settings: PreferenceConfig, *, seed: int) -> Sequence[Label]:
    """Those of the file that the settings name, or the task's own; a pair is two. Raises UserError for pictures."""
    if settings.labels:
        labels = read_labels(settings.labels)
    else:
        labels = list(preference_source(task, "kto").read("train", seed=seed))
    ratings = [rating for label in labels for rating in as_ratings(label)]
    _refuse_pictures([rating.reply for rating in ratings], settings.labels or type(task).__name__, "kto")
    return ratings


def training_pairs(task: Task, settings: PreferenceConfig, method: str, *, seed: int) -> Sequence[Label]:
    """Those of the file that the settings name, or the task's own: pairs of replies that a policy can write.

    Raises UserError for ratings, and for replies with pictures.
    """
    if settings.labels:
        labels = read_labels(settings.labels)
    else:
        labels = list(pair_source(task, method).read("train", seed=seed))
    whose = settings.labels or type(task).__name__
    if any(isinstance(label, Rated) for label in labels):
        raise UserError(
            f"{whose} has ratings, and the method {method} learns from preferences only. Leave them out, or take "
            "--method rlhf with --reward.loss pointwise, or --method kto."
        )
    pairs = [label for label in labels if isinstance(label, Preference)]
    _refuse_pictures([reply for pair in pairs for reply in (pair.chosen, pair.rejected)], whose, method)
    return labels


def _refuse_pictures(replies: Sequence[Reply], whose: str, method: str) -> None:
    if any(has_picture(reply) for reply in replies):
        raise UserError(
            f"{whose} has replies with pictures, which a policy cannot write, and the method {method} teaches it to "
            "write what was chosen. A reward model can look at them: take --method rlhf."
        )


def as_ratings(label: Label) -> list[Rated]:
    """A rating as it is; a pair as two."""
    if isinstance(label, Rated):
        return [label]
    said = zip((label.chosen, label.rejected), (label.probability, 1 - label.probability), strict=True)
    return [Rated(label.messages, reply, right, label.cluster, label.metadata) for reply, right in said]


def judge(labels: Sequence[Label], processor: Processor, gallery: Gallery, *, room: int) -> list[Judged]:
    """Encodes labels, which must be pairs all of them, or ratings all of them.

    Where any reply has a picture, every reply is read in a row of its own. Raises UserError for numbers out of range,
    PromptTooLong, ImageError.
    """
    for i, label in enumerate(labels):
        if (wrong := fault(label)) is not None:
            raise UserError(f"label {i}: {wrong}.")
    ratings = [as_ratings(label) for label in labels]
    apart = any(has_picture(rating.reply) for group in ratings for rating in group)
    prompts = [label.messages for label in labels]
    columns = [[rating.reply for rating in column] for column in zip(*ratings, strict=True)]
    rows = (_rows_apart if apart else _rows_together)(prompts, columns, processor, gallery, room=room)
    margins = [label.margin if isinstance(label, Preference) else 0.0 for label in labels]
    said = [[rating.label for rating in group] for group in ratings]
    return [Judged(*example) for example in zip(rows, said, margins, strict=True)]


def _rows_together(
    conversations: Sequence[Sequence[Message]],
    columns: Sequence[Sequence[Reply]],
    processor: Processor,
    gallery: Gallery,
    *,
    room: int,
) -> list[tuple[Row, ...]]:
    """One row an example: its prompt, and each reply as a completion."""
    prompts = processor.encode(conversations, gallery, room=room)
    completions = [processor.encode_replies(column) for column in columns]
    for column in completions:
        refuse_long_replies(prompts, column, processor)
    return [(Row(prompt, group),) for prompt, *group in zip(prompts, *completions, strict=True)]


def _rows_apart(
    conversations: Sequence[Sequence[Message]],
    columns: Sequence[Sequence[Reply]],
    processor: Processor,
    gallery: Gallery,
    *,
    room: int,
) -> list[tuple[Row, ...]]:
    """A row a reply, which is a part of its prompt; only the stop token, where the score is read, completes it."""
    stop = [processor.config.stop_id]
    answered = [processor.encode_answered(conversations, column, gallery) for column in columns]
    return [tuple(Row(prompt, [stop]) for prompt in group) for group in zip(*answered, strict=True)]


def refuse_long_replies(
    prompts: Sequence[EncodedPrompt], replies: Sequence[Sequence[int]], processor: Processor
) -> None:
    """Raises PromptTooLong, naming the first reply that runs past the model's context."""
    context = processor.config.context
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        if len(prompt.tokens) + len(reply) > context:
            raise PromptTooLong(
                f"reply {i} ({processor.decode(reply)[:60]!r}...) has {len(reply)} tokens behind a prompt of "
                f"{len(prompt.tokens)}, and {processor.config.name} reads {context}. Shorten it, or leave it out."
            )
