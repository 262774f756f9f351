"""The examination after training: test questions that no stage has seen, answered before and after the tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import encode_png, open_image
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.evaluation.evaluate import collect_samples
from pe_rlhf_mm.evaluation.intervals import clustered_mean, of_differences
from pe_rlhf_mm.evaluation.scoring import Evaluation, summarize
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.reports.methods import METHODS
from pe_rlhf_mm.rollout.policy import reply
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.judged import label_source
from pe_rlhf_mm.training.jury import jury_of
from pe_rlhf_mm.training.observer import Observer
from pe_rlhf_mm.training.prepare import Questions, ask, new_gallery
from pe_rlhf_mm.training.reinforce import mean_divergence
from pe_rlhf_mm.training.reward import Row, score
from pe_rlhf_mm.training.reward_accuracy import examine_reward
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.types import Image, Outcome, PreferenceTask, RatedTask, Sample, Task, Text

PARTS = 4
"""Steps of the progress bar: replies of the SFT policy, of the tuned policy, labels, rewards and divergence."""


class Answers(NamedTuple):
    """One policy's greedy completions of the test prompts, and the verdict on them."""

    tokens: list[list[int]]
    texts: list[str]
    evaluation: Evaluation


def answer(
    id: str,
    task: Task,
    roles: Roles,
    role: str,
    processor: Processor,
    questions: Questions,
    max_tokens: int,
) -> Answers:
    """Greedy replies of a role, scored by the task's evaluators."""
    greedy = Sampling(temperature=0.0, max_tokens=max_tokens)
    drawn = reply(processor, roles.weights(role), questions.gallery, questions.prompts, greedy)
    tokens = [group[0] for group in drawn]
    texts = [processor.decode(t) for t in tokens]
    outcomes = [Outcome(sample, [text]) for sample, text in zip(questions.samples, texts, strict=True)]
    return Answers(tokens, texts, summarize(id, outcomes, task.evaluators))


def examine(
    id: str, task: Task, model: Model, roles: Roles, config: TuneConfig, run: Run, observer: Observer
) -> dict[str, Any]:
    """Tests the SFT policy, the reward model and the tuned policy; writes `samples.jsonl`; returns the numbers.

    Without a reward model, which only RL needs, what it would say is null.
    """
    processor, gallery, stage = model.processor, new_gallery(model, config), METHODS[config.method].stage
    samples = pick(collect_samples(task, "test", limit=None), config.test_samples, seed=config.seed)
    observer.begin("evaluation", PARTS)
    questions = ask(samples, processor, gallery, room=config.rl.max_tokens)
    found = {}
    for part, (role, name) in enumerate((("sft", "sft"), ("policy", stage)), start=1):
        found[role] = answer(id, task, roles, role, processor, questions, config.rl.max_tokens)
        observer.step("evaluation", part, _known({name: found[role].evaluation.headline.value}))

    accuracy, rewards = None, np.full((len(samples), 2), np.nan)
    if config.learns_reward:
        labels = _labels(task, "test", config.test_samples, config)
        held_out = _labels(task, "validation", config.reward.validation_pairs, config)
        jury = jury_of(config.reward)
        accuracy = examine_reward(roles, processor, gallery, labels, held_out, jury)
        observer.step("evaluation", 3, _known({"reward_model": accuracy["accuracy"]}))
        replies = zip(questions.prompts, found["sft"].tokens, found["policy"].tokens, strict=True)
        rewards = score(roles, processor, gallery, [(Row(prompt, group),) for prompt, *group in replies], jury)

    divergence = mean_divergence(roles, processor, gallery, questions.prompts, config.rl, seed=config.seed)
    observer.step("evaluation", PARTS, {"kl": divergence.nats})
    run.write_samples(_lines(questions, {"sft": found["sft"], stage: found["policy"]}, rewards, run))
    return {
        "sft": numbers(found["sft"].evaluation),
        "reward_model": accuracy,
        stage: {**numbers(found["policy"].evaluation), "kl": divergence.nats, "kl_n": divergence.prompts},
        "gain": gain(found["sft"].evaluation, found["policy"].evaluation),
        "learned_reward": None if accuracy is None else _learned_reward(samples, rewards),
    }


def _known(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without the numbers that nobody could tell."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _labels(task: Task, split: str, count: int, config: TuneConfig) -> list[Label]:
    """What the reward model is tested on; nothing of a task without labels that its loss can be tested on."""
    kinds = (PreferenceTask, RatedTask) if config.reward.loss == "pointwise" else (PreferenceTask,)
    if not isinstance(task, kinds):
        return []
    return pick(list(label_source(task, config.reward.loss).read(split, seed=config.seed)), count, seed=config.seed)


def _learned_reward(samples: Sequence[Sample], rewards: Float[np.ndarray, "N 2"]) -> dict[str, Any]:
    """Mean reward of the replies before and after RL and of their paired difference, in deviations of the reward model.

    Every task has it: where there is nothing to score replies against, it is all there is.
    """
    clusters = [sample.cluster or sample.id for sample in samples]
    before, after = rewards.T.astype(float)
    columns = {"sft": before, "rl": after, "gain": after - before}
    means = {name: clustered_mean(column.tolist(), clusters) for name, column in columns.items()}
    return {name: {"mean": mean, "n": len(samples), "interval": interval} for name, (mean, interval) in means.items()}


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """The headline: its value, over how many samples, and its interval."""
    metric = evaluation.headline
    return {"accuracy": metric.value, "n": metric.n, "interval": metric.interval}


def gain(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """The paired difference: both policies met the same questions."""
    columns = (before.scores[before.headline.evaluator], after.scores[after.headline.evaluator], before.outcomes)
    known = [
        (b.value, a.value, o.sample)
        for b, a, o in zip(*columns, strict=True)
        if b.value is not None and a.value is not None
    ]
    differences = [after - before for before, after, _ in known]
    clusters, bounds = [sample.cluster or sample.id for *_, sample in known], of_differences(before.headline.bounds)
    mean, interval = clustered_mean(differences, clusters, bounds=bounds)
    return {"accuracy": mean, "interval": interval}


def _lines(
    questions: Questions, found: Mapping[str, Answers], rewards: Float[np.ndarray, "N 2"], run: Run
) -> Iterator[dict[str, Any]]:
    """One record a sample: the question, its picture, both replies with their rewards and scores."""
    paths: dict[int, str] = {}
    for i, (sample, prompt) in enumerate(zip(questions.samples, questions.prompts, strict=True)):
        parts = [part for message in sample.messages for part in message.parts]
        first = prompt.images[0] if prompt.images else None  # its number: equal pictures have one number
        if first is not None and first not in paths:
            picture = next(part for part in parts if isinstance(part, Image))
            paths[first] = run.save_image(encode_png(open_image(picture)))
        yield {
            "id": sample.id,
            "question": " ".join(part.text for part in parts if isinstance(part, Text)),
            "target": sample.target,
            "image": paths[first] if first is not None else None,
            **{
                name: {
                    "reply": answers.texts[i],
                    "reward": round(float(rewards[i, column]), 4),
                    "score": answers.evaluation.scores[answers.evaluation.headline.evaluator][i].value,
                }
                for column, (name, answers) in enumerate(found.items())
            },
        }
