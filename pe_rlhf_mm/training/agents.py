"""The whole job for a task that is played in an environment: episodes take the place of prompts and completions.

Who sees what: SFT sees the oracle's episodes of some samples of the training split; the reward model, if it is asked
for, ratings of the training split; RL plays samples of the training split; the validation split draws the curve
and chooses the checkpoint that is kept; the test split is met after all training is over.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import Label
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.data.transcript import Transcript
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.evaluation.evaluate import collect_samples
from pe_rlhf_mm.evaluation.scoring import Evaluation, check_evaluators, summarize
from pe_rlhf_mm.reports.episodes import episode_record, goal_of
from pe_rlhf_mm.rollout.episodes import play_episodes
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training.demonstrate import demonstrate, transcript
from pe_rlhf_mm.training.episodes import collect_episodes, reinforce_episodes
from pe_rlhf_mm.training.examine import gain, numbers
from pe_rlhf_mm.training.job import Job
from pe_rlhf_mm.training.judged import flipped, judge, label_source
from pe_rlhf_mm.training.jury import jury_of, missing
from pe_rlhf_mm.training.observer import counted
from pe_rlhf_mm.training.policy_gradient import ALGORITHMS
from pe_rlhf_mm.training.prepare import SPLITS, new_gallery
from pe_rlhf_mm.training.reward import Judged
from pe_rlhf_mm.training.reward_accuracy import examine_reward
from pe_rlhf_mm.training.reward_stage import reward_stage
from pe_rlhf_mm.training.sft import sft_episodes
from pe_rlhf_mm.types import Sample

RATINGS = 4096
"""Ratings of the training split that are made where the settings say "all": making them takes playing, and some tasks
never run out."""
DIVERGENCE_EPISODES = 64
"""Episodes that the divergence from the SFT policy is estimated on, or a few more."""


class AgentData(NamedTuple):
    """What training may see of a task that is played."""

    gallery: Gallery
    demonstrations: Sequence[Transcript]
    judged: Sequence[Judged]
    validation_judged: Sequence[Judged]
    samples: Sequence[Sample]
    validation: Sequence[Sample]


def agent_stages(job: Job, pool: EnvPool) -> tuple[Roles, dict[str, Any]]:
    """SFT, reward model unless the task's own reward is used, RL and examination: the roles and the numbers."""
    config, processor = job.config, job.model.processor
    with job.watch.of("demonstrations"):
        data = _prepare(job, pool)
    begun, gallery = job.begun(), data.gallery
    imitate = functools.partial(
        sft_episodes, begun, processor, gallery, data.demonstrations, config.sft, dropout=config.lora.dropout
    )
    roles = job.stage("sft", ["sft"], begun, lambda: imitate(**job.how))
    if config.learns_reward:
        roles = reward_stage(job, roles, gallery, data.judged, data.validation_judged)
    roles = _improved(job, pool, roles.start("anchor", "sft"), data)
    with job.watch.of("evaluation"):
        return roles, _examine(job, pool, roles, data)


def _improved(job: Job, pool: EnvPool, roles: Roles, data: AgentData) -> Roles:
    """RL, with what is being trained saved whenever it is validated."""
    model, config, learning = job.model, job.config, ALGORITHMS[job.config.rl.algorithm].roles

    def monitor(now: Roles) -> float:
        job.run.save(now, model.config, *learning)
        return _played(job, pool, now, "policy", data.validation).headline.value

    screens = functools.partial(new_gallery, model, config)
    improve = functools.partial(
        reinforce_episodes,
        roles,
        model.processor,
        screens,
        pool,
        data.samples,
        config.rl,
        job.evaluator,
        jury=jury_of(config.reward),
        monitor=monitor,
    )
    return job.stage("rl", learning, roles, lambda: improve(**job.how))


def _prepare(job: Job, pool: EnvPool) -> AgentData:
    """Plays demonstrations and encodes what training may see. Raises UserError, PromptTooLong, ImageError."""
    task, model, config, seed = job.task, job.model, job.config, job.config.seed
    given, processor, gallery = job.given, model.processor, new_gallery(model, config)
    check_evaluators(task)
    for split in SPLITS:
        collect_samples(task, split, limit=1, seed=seed)
    samples = collect_samples(task, "train", limit=None, seed=seed)
    validation = pick(collect_samples(task, "validation", limit=None), config.rl.evaluation_samples, seed=seed)
    transcripts: list[Transcript] = []
    if "sft" not in given:
        chosen = pick(samples, config.sft.demonstrations, seed=seed)
        shown = hosts.led(lambda: demonstrate(task, pool.here, chosen, seed=seed, observer=job.observer))
        transcripts = [transcript(outcome, processor, gallery, room=config.rl.max_tokens) for outcome in shown]
    judged, held_out = [], []
    if config.learns_reward and missing(config.reward, given):
        told = flipped(_labels(job, "train", config.reward.pairs or RATINGS), config.reward.flip, seed=seed)
        known = _labels(job, "validation", config.reward.validation_pairs)
        judged, held_out = (judge(some, processor, gallery, room=config.rl.max_tokens) for some in (told, known))
    return AgentData(gallery, transcripts, judged, held_out, samples, validation)


def _labels(job: Job, split: str, count: int) -> list[Label]:
    labels = label_source(job.task, job.config.reward.loss).read(split, seed=job.config.seed)
    return hosts.led(lambda: list(counted(job.observer, "ratings", labels, count)))


def _played(job: Job, pool: EnvPool, roles: Roles, role: str, samples: Sequence[Sample]) -> Evaluation:
    """Greedy episodes of a role, scored by the task's evaluators."""
    rl = job.config.rl
    greedy, key = Sampling(temperature=0.0, max_tokens=rl.max_tokens), jax.random.key(0)
    weights, processor, gallery = roles.weights(role), job.model.processor, new_gallery(job.model, job.config)
    played = play_episodes(processor, weights, gallery, pool, samples, greedy, key, max_turns=rl.max_turns)
    return summarize(job.id, [p.outcome for p in played], job.task.evaluators)


def _examine(job: Job, pool: EnvPool, roles: Roles, data: AgentData) -> dict[str, Any]:
    """Test samples, played before and after RL; writes `samples.jsonl`; returns the numbers."""
    config, seed, processor = job.config, job.config.seed, job.model.processor
    gallery = new_gallery(job.model, config)
    samples = pick(collect_samples(job.task, "test", limit=None), config.test_samples, seed=seed)
    job.observer.begin("evaluation", 3)
    found: dict[str, Evaluation] = {}
    for part, (role, name) in enumerate((("sft", "sft"), ("policy", "rl")), start=1):
        found[name] = _played(job, pool, roles, role, samples)
        value = found[name].headline.value
        job.observer.step("evaluation", part, {name: value} if math.isfinite(value) else {})
    some = pick(data.samples, math.ceil(DIVERGENCE_EPISODES / config.rl.group), seed=seed)
    key, learned, jury = jax.random.key(seed), config.learns_reward, jury_of(config.reward)
    given = (processor, gallery, pool, roles, roles.pick("policy"), some, config.rl, None, key, config.rl.beta)
    _, drawn = collect_episodes(*given, jury=jury)
    divergence = float(drawn["kl"])
    job.observer.step("evaluation", 3, {"kl": divergence})
    job.run.write_samples(_lines(job, samples, found))
    return {
        "sft": numbers(found["sft"]),
        "reward_model": _test_of_reward_model(job, roles, gallery) if learned else None,
        "rl": {**numbers(found["rl"]), "kl": divergence, "kl_n": len(some)},
        "gain": gain(found["sft"], found["rl"]),
        "episodes": {name: evaluation.episodes._asdict() for name, evaluation in found.items() if evaluation.episodes},
    }


def _test_of_reward_model(job: Job, roles: Roles, gallery: Gallery) -> dict[str, Any]:
    config = job.config
    counts = {"test": config.test_samples or RATINGS, "validation": config.reward.validation_pairs}
    labels, held_out = (_labels(job, split, count) for split, count in counts.items())
    return examine_reward(roles, job.model.processor, gallery, labels, held_out, jury_of(config.reward))


def _lines(job: Job, samples: Sequence[Sample], found: dict[str, Evaluation]) -> Iterator[dict[str, Any]]:
    """One record a sample: the goal, and both policies' episodes with their scores."""
    for i, sample in enumerate(samples):
        outcomes = {name: evaluation.outcomes[i] for name, evaluation in found.items()}
        scores = {name: e.scores[e.headline.evaluator][i].value for name, e in found.items()}
        yield {
            "id": sample.id,
            "question": goal_of(outcomes["sft"]),
            "target": sample.target,
            "image": None,
            "episodes": {name: episode_record(o, job.run.save_image) for name, o in outcomes.items()},
            **{
                name: {"reply": "\n".join(o.replies), "reward": sum(s.reward for s in o.steps), "score": scores[name]}
                for name, o in outcomes.items()
            },
        }
