"""From a task's splits to encoded data, once, before any training. What is not in `Data` no stage can see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import PromptTooLong, UserError
from pe_rlhf_mm.evaluation.evaluate import check_evaluators, collect_samples
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.reward import Comparison
from pe_rlhf_mm.training.sft import Demonstration
from pe_rlhf_mm.types import Preference, PreferenceTask, Sample


class Questions(NamedTuple):
    """Samples to be answered, and their prompts."""

    gallery: Gallery
    samples: Sequence[Sample]
    prompts: Sequence[EncodedPrompt]


class Data(NamedTuple):
    """The training and validation splits. `prompts` are what RL gets: no target comes with them."""

    gallery: Gallery
    demonstrations: Sequence[Demonstration]
    pairs: Sequence[Comparison]
    prompts: Sequence[EncodedPrompt]
    validation_pairs: Sequence[Comparison]
    validation: Questions


def new_gallery(model: Model, config: TuneConfig) -> Gallery:
    """Images to be looked at once by the frozen tower (mode `lora`), or by every role's own tower (mode `full`)."""
    return Gallery(model.config, look_with=model.state if config.mode == "lora" else None)


def ask(samples: Sequence[Sample], processor: Processor, gallery: Gallery, *, room: int) -> Questions:
    """Encodes samples to be answered."""
    return Questions(gallery, samples, processor.encode([s.messages for s in samples], gallery, room=room))


def _refuse_long_replies(
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


def compare(pairs: Sequence[Preference], processor: Processor, gallery: Gallery, *, room: int) -> list[Comparison]:
    """Encodes preference pairs."""
    prompts = processor.encode([p.messages for p in pairs], gallery, room=room)
    chosen = processor.encode_replies([p.chosen for p in pairs])
    rejected = processor.encode_replies([p.rejected for p in pairs])
    for replies in (chosen, rejected):
        _refuse_long_replies(prompts, replies, processor)
    probabilities = [p.probability for p in pairs]
    return [Comparison(*row) for row in zip(prompts, chosen, rejected, probabilities, strict=True)]


def _demonstrations(
    task: PreferenceTask, samples: Sequence[Sample], processor: Processor, gallery: Gallery, *, room: int
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
            "nothing to imitate; expected a list of replies for some of them"
        )
    prompts = processor.encode([messages for messages, _ in solved], gallery, room=room)
    replies = processor.encode_replies([reply for _, reply in solved])
    _refuse_long_replies(prompts, replies, processor)
    return [Demonstration(*row) for row in zip(prompts, replies, strict=True)]


def _refuse_what_would_fail_later(task: PreferenceTask, *, seed: int) -> None:
    """The test split is met after all training: that it is empty, or cannot be scored, has to be said before."""
    check_evaluators(task)
    for split in ("train", "validation", "test"):
        collect_samples(task, split, limit=1, seed=seed)
        if next(iter(task.preferences(split, seed=seed)), None) is None:
            raise UserError(
                f"{type(task).__name__} has no preferences in the split {split!r}; preferences({split!r}) must yield "
                "one at least"
            )


def prepare(task: PreferenceTask, model: Model, config: TuneConfig) -> Data:
    """Reads and encodes what training may see. Raises UserError for an empty split, PromptTooLong, ImageError."""
    processor, gallery, seed, room = model.processor, new_gallery(model, config), config.seed, config.rl.max_tokens
    _refuse_what_would_fail_later(task, seed=seed)
    training = collect_samples(task, "train", limit=None, seed=seed)
    validation = pick(collect_samples(task, "validation", limit=None), config.rl.evaluation_samples, seed=seed)
    pairs = pick(list(task.preferences("train", seed=seed)), config.reward.pairs, seed=seed)
    validation_pairs = pick(list(task.preferences("validation", seed=seed)), config.reward.validation_pairs, seed=seed)
    shown = pick(training, config.sft.demonstrations, seed=seed)
    return Data(
        gallery=gallery,
        demonstrations=_demonstrations(task, shown, processor, gallery, room=room),
        pairs=compare(pairs, processor, gallery, room=room),
        prompts=processor.encode([sample.messages for sample in training], gallery, room=room),
        validation_pairs=compare(validation_pairs, processor, gallery, room=room),
        validation=ask(validation, processor, gallery, room=room),
    )
