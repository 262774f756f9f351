"""From a task's splits to encoded data, once, before any training. What is not in `Data` no stage can see."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.evaluate import collect_samples
from pe_rlhf_mm.evaluation.scoring import check_evaluators
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.judged import (
    LabelSource,
    flipped,
    judge,
    label_source,
    preference_source,
    refuse_long_replies,
    training_labels,
    training_pairs,
    training_ratings,
)
from pe_rlhf_mm.training.jury import missing
from pe_rlhf_mm.training.reward import Judged
from pe_rlhf_mm.training.sft import Demonstration
from pe_rlhf_mm.types import Sample, Task

SPLITS = ("train", "validation", "test")


class Questions(NamedTuple):
    """Samples to be answered, and their prompts."""

    gallery: Gallery
    samples: Sequence[Sample]
    prompts: Sequence[EncodedPrompt]


class Data(NamedTuple):
    """The training and validation splits. `prompts` are what RL gets: no target comes with them. `samples` are those
    that they ask: what an evaluator reads that is the reward."""

    gallery: Gallery
    demonstrations: Sequence[Demonstration]
    judged: Sequence[Judged]
    prompts: Sequence[EncodedPrompt]
    samples: Sequence[Sample]
    validation_judged: Sequence[Judged]
    validation: Questions


def new_gallery(model: Model, config: TuneConfig) -> Gallery:
    """Images to be looked at once by the frozen tower (mode `lora`), or by every role's own tower (mode `full`)."""
    if config.mode == "full":
        return Gallery(model.config)
    return Gallery(model.config, look_with=model.state, adapted=config.lora.adapted(model.config))


def ask(samples: Sequence[Sample], processor: Processor, gallery: Gallery, *, room: int) -> Questions:
    """Encodes samples to be answered."""
    return Questions(gallery, samples, processor.encode([s.messages for s in samples], gallery, room=room))


def demonstrated(
    task: Task, samples: Sequence[Sample], processor: Processor, gallery: Gallery, *, room: int
) -> list[Demonstration]:
    """The task's own solutions; a sample it cannot solve is left out."""
    solved = []
    for sample in samples:
        solution = task.solve(sample)
        if isinstance(solution, str):
            raise UserError(
                f"{type(task).__name__}.solve gave the string {solution!r}; expected a list of replies or None"
            )
        if solution:
            solved.append((sample.messages, solution[0]))
    if not solved:
        raise UserError(
            f"{type(task).__name__}.solve gave no reply for any of {len(samples)} training samples, so there is "
            "nothing to imitate; expected a list of replies for some of them. Or take the SFT policy of a run on "
            "another task: --start-from RUN"
        )
    prompts = processor.encode([messages for messages, _ in solved], gallery, room=room)
    replies = processor.encode_replies([reply for _, reply in solved])
    refuse_long_replies(prompts, replies, processor)
    return [Demonstration(*row) for row in zip(prompts, replies, strict=True)]


def _refuse_what_would_fail_later(task: Task, *, seed: int) -> None:
    """The test split is met after all training: that it is empty, or cannot be scored, has to be said before."""
    check_evaluators(task)
    for split in SPLITS:
        collect_samples(task, split, limit=1, seed=seed)


def _refuse_empty(task: Task, source: LabelSource, split: str, *, seed: int) -> None:
    kind, read = source
    if next(iter(read(split, seed=seed)), None) is None:
        raise UserError(
            f"{type(task).__name__} has no {kind} in the split {split!r}; {kind}({split!r}) must yield one at least"
        )


def _labels(task: Task, config: TuneConfig, *, seed: int) -> tuple[list[Label], list[Label]]:
    """As many as are asked for, to train a reward model on and to validate it on."""
    settings, source = config.reward, label_source(task, config.reward.loss)
    for split in ("validation", "test") if settings.labels else SPLITS:
        _refuse_empty(task, source, split, seed=seed)
    training, validation = training_labels(task, settings, seed=seed), list(source.read("validation", seed=seed))
    chosen, held_out = pick(training, settings.pairs, seed=seed), pick(validation, settings.validation_pairs, seed=seed)
    return flipped(chosen, settings.flip, seed=seed), held_out


def _pairs(task: Task, config: TuneConfig, *, seed: int) -> tuple[list[Label], list[Label]]:
    """As many as are asked for, pairs or ratings, to train a policy on; it is validated by what it replies."""
    settings, method = config.preferences, config.method
    if not settings.labels:
        _refuse_empty(task, preference_source(task, method), "train", seed=seed)
    if method == "kto":
        return pick(training_ratings(task, settings, seed=seed), settings.pairs, seed=seed), []
    return pick(training_pairs(task, settings, method, seed=seed), settings.pairs, seed=seed), []


def prepare(task: Task, model: Model, config: TuneConfig, *, given: Collection[str] = ()) -> Data:
    """Reads and encodes what training may see; nothing of what only the `given` roles would need, trained elsewhere.

    Raises UserError for an empty split, PromptTooLong, ImageError.
    """
    processor, gallery, seed, room = model.processor, new_gallery(model, config), config.seed, config.rl.max_tokens
    _refuse_what_would_fail_later(task, seed=seed)
    training = collect_samples(task, "train", limit=None, seed=seed)
    validation = pick(collect_samples(task, "validation", limit=None), config.rl.evaluation_samples, seed=seed)
    labels: list[Label] = []
    held_out: list[Label] = []
    if config.method != "rlhf":
        labels, held_out = _pairs(task, config, seed=seed)
    elif config.learns_reward and missing(config.reward, given):
        labels, held_out = _labels(task, config, seed=seed)
    demonstrations: Sequence[Demonstration] = []
    if "sft" not in given:
        shown = pick(training, config.sft.demonstrations, seed=seed)
        demonstrations = demonstrated(task, shown, processor, gallery, room=room)
    return Data(
        gallery=gallery,
        demonstrations=demonstrations,
        judged=judge(labels, processor, gallery, room=room),
        prompts=processor.encode([sample.messages for sample in training], gallery, room=room),
        samples=training,
        validation_judged=judge(held_out, processor, gallery, room=room),
        validation=ask(validation, processor, gallery, room=room),
    )
