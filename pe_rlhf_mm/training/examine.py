"""The examination after training: test questions that no stage has seen, answered before and after RL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import encode_png, open_image
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.evaluation.evaluate import Evaluation, collect_samples, summarize
from pe_rlhf_mm.evaluation.intervals import clustered_mean
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.rollout.policy import reply
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.observer import Observer
from pe_rlhf_mm.training.prepare import Questions, ask, compare, new_gallery
from pe_rlhf_mm.training.reinforce import mean_divergence
from pe_rlhf_mm.training.reward import score_pairs
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.types import Image, Outcome, PreferenceTask, Sample, Task, Text

PARTS = 4
"""Steps of the progress bar: replies of the SFT policy, of the tuned policy, pairs, rewards and divergence."""


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
    id: str, task: PreferenceTask, model: Model, roles: Roles, config: TuneConfig, run: Run, observer: Observer
) -> dict[str, Any]:
    """Tests the SFT policy, the reward model and the tuned policy; writes `samples.jsonl`; returns the numbers."""
    processor, gallery = model.processor, new_gallery(model, config)
    samples = pick(collect_samples(task, "test", limit=None), config.test_samples, seed=config.seed)
    observer.begin("evaluation", PARTS)
    questions = ask(samples, processor, gallery, room=config.rl.max_tokens)
    found = {}
    for part, (role, name) in enumerate((("sft", "sft"), ("policy", "rl")), start=1):
        found[role] = answer(id, task, roles, role, processor, questions, config.rl.max_tokens)
        observer.step("evaluation", part, {name: found[role].evaluation.headline.value})

    preferences = pick(list(task.preferences("test", seed=config.seed)), config.test_samples, seed=config.seed)
    pairs = compare(preferences, processor, gallery, room=config.rl.max_tokens)
    right = score_pairs(roles, processor, gallery, pairs).right
    clusters = [p.cluster or str(i) for i, p in enumerate(preferences)]
    reward_accuracy, reward_interval = clustered_mean(right.tolist(), clusters)
    observer.step("evaluation", 3, {"reward_model": reward_accuracy})

    rewards = _rewards(roles, processor, questions, found["sft"].tokens, found["policy"].tokens)
    divergence = mean_divergence(roles, processor, gallery, questions.prompts, config.rl, seed=config.seed)
    observer.step("evaluation", PARTS, {"kl": divergence.nats})
    run.write_samples(_lines(samples, found["sft"], found["policy"], rewards, run))
    return {
        "sft": _numbers(found["sft"].evaluation),
        "reward_model": {"accuracy": reward_accuracy, "n": len(pairs), "interval": reward_interval},
        "rl": {**_numbers(found["policy"].evaluation), "kl": divergence.nats, "kl_n": divergence.prompts},
        "gain": _gain(found["sft"].evaluation, found["policy"].evaluation),
    }


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    metric = evaluation.headline
    return {"accuracy": metric.value, "n": metric.n, "interval": metric.interval}


def _gain(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """The paired difference: both policies met the same questions."""
    columns = (before.scores[before.headline.evaluator], after.scores[after.headline.evaluator], before.outcomes)
    known = [
        (b.value, a.value, o.sample)
        for b, a, o in zip(*columns, strict=True)
        if b.value is not None and a.value is not None
    ]
    differences = [after - before for before, after, _ in known]
    mean, interval = clustered_mean(differences, [sample.cluster or sample.id for *_, sample in known])
    return {"accuracy": mean, "interval": interval}


def _rewards(
    roles: Roles,
    processor: Processor,
    questions: Questions,
    before: Sequence[list[int]],
    after: Sequence[list[int]],
    *,
    batch_size: int = 128,
) -> np.ndarray:
    """The learned reward of both replies to every prompt, [n, 2]."""
    prompts = questions.prompts
    length, weights, head = rounded(max(len(p.tokens) for p in prompts)), roles.weights("reward"), roles.heads["reward"]
    steps = rounded(max(len(t) for t in (*before, *after)))
    scores = []
    for start in range(0, len(prompts), batch_size):
        rows = [min(i, len(prompts) - 1) for i in range(start, start + batch_size)]
        batch = processor.prompts([prompts[i] for i in rows], questions.gallery, length=length)
        replies = processor.completions([[before[i], after[i]] for i in rows], length=steps)
        scores.append(np.asarray(forward.score_rewards(processor.config, weights, head, batch, replies)))
    return np.concatenate(scores)[: len(prompts)]


def _lines(
    samples: Sequence[Sample], before: Answers, after: Answers, rewards: np.ndarray, run: Run
) -> Iterator[dict[str, Any]]:
    """One record a sample: the question, its picture, both replies with their rewards and scores."""
    paths: dict[str, str] = {}
    for i, sample in enumerate(samples):
        parts = [part for message in sample.messages for part in message.parts]
        images = [part for part in parts if isinstance(part, Image)]
        if images and str(images[0].source) not in paths:
            paths[str(images[0].source)] = run.save_image(encode_png(open_image(images[0])))
        yield {
            "id": sample.id,
            "question": " ".join(part.text for part in parts if isinstance(part, Text)),
            "target": sample.target,
            "image": paths[str(images[0].source)] if images else None,
            **{
                name: {
                    "reply": answers.texts[i],
                    "reward": round(float(rewards[i, column]), 4),
                    "score": answers.evaluation.scores[answers.evaluation.headline.evaluator][i].value,
                }
                for column, (name, answers) in enumerate((("sft", before), ("rl", after)))
            },
        }
