"""Evaluators in the place of a reward model: whose reply each reward is of, and what becomes of replies without one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from chat_server import Answer, prompt_of, said, serving
from models import CONFIG, FIRST_WORD, Heard, processor, random_roles

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import fingerprint
from pe_rlhf_mm.cli.main import run as command
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import agents
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.reinforce import reinforce
from pe_rlhf_mm.training.scorers import Asked, EvaluatorReward, Scorer, Worth, evaluator_reward, reward_by, rewarded
from pe_rlhf_mm.types import Completions, Message, Outcome, Prompts, Sample, Score, Step

WORDS = processor()
SAMPLES = [Sample(str(number), [Message("user", "?")], target=number) for number in range(4)]
SETTINGS = RLConfig(steps=2, prompts=4, group=2, learning_rate=0.02, temperature=1.0, max_tokens=3, beta=0.05)
SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=3, targets=("q", "v")),
    sft=pe.SFTConfig(steps=2, batch_size=8, learning_rate=1e-3),
    rl=RLConfig(steps=2, prompts=4, learning_rate=1e-3, max_tokens=4, evaluate_every=2, evaluation_samples=4),
    test_samples=4,
)


class Told:
    """Scores by a table of (sample id, try), and remembers what it was shown."""

    def __init__(self, scores: dict[tuple[str, int], Score]):
        self.scores, self.shown = scores, dict[tuple[str, int], str]()

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        self.shown |= {(o.sample.id, o.repeat): o.replies[0] for o in outcomes}
        return [self.scores[o.sample.id, o.repeat] for o in outcomes]


def completions() -> Completions:
    """Two of each of two prompts, of three tokens, the last of which is not one in the first of each."""
    tokens = jnp.arange(12).reshape(2, 2, 3) + FIRST_WORD
    return Completions(tokens, jnp.ones(tokens.shape, bool).at[:, 0, 2].set(False))


def worth_of(scores: dict[tuple[str, int], Score]) -> tuple[Worth, Told]:
    told, nothing = Told(scores), Prompts(jnp.zeros((2, 1), int), jnp.ones((2, 1), bool), None)
    scorer = reward_by(EvaluatorReward("told", told), WORDS, SAMPLES)
    return scorer.worth({}, Asked(nothing, (3, 1)), completions()), told


# --- one batch ----------------------------------------------------------------------------------------------------


def test_every_reply_is_scored_as_the_reply_to_its_own_sample() -> None:
    scores = {("3", 0): Score(0.25), ("3", 1): Score(1.0), ("1", 0): Score(-2.0), ("1", 1): Score(0.0)}
    worth, told = worth_of(scores)
    np.testing.assert_array_equal(worth.rewards, [[0.25, 1.0], [-2.0, 0.0]])
    assert worth.metrics == {"scored": pytest.approx(-0.75 / 4), "unscored": 0}
    ids = {("3", 0): [0, 1], ("3", 1): [3, 4, 5], ("1", 0): [6, 7], ("1", 1): [9, 10, 11]}
    assert told.shown == {key: WORDS.decode([FIRST_WORD + i for i in row]) for key, row in ids.items()}
    assert worth.of_known(completions()).mask.tolist() == completions().mask.tolist()


def test_a_reply_without_a_score_teaches_nothing_and_is_counted() -> None:
    scores = {("3", 0): Score(0.5), ("3", 1): Score(None, "no"), ("1", 0): Score(None, "no"), ("1", 1): Score(1.0)}
    worth, _ = worth_of(scores)
    assert worth.metrics == {"scored": pytest.approx(0.75), "unscored": 0.5}
    left = [[[True, True, False], [False] * 3], [[False] * 3, [True] * 3]]
    assert worth.of_known(completions()).mask.tolist() == left


def test_the_part_that_is_called_reward_is_the_reward() -> None:
    worth, _ = worth_of(dict.fromkeys([("3", 0), ("3", 1), ("1", 0), ("1", 1)], Score(10.0, parts={"reward": 1.0})))
    np.testing.assert_array_equal(worth.rewards, np.ones((2, 2)))


def test_where_nothing_is_scored_rl_ends() -> None:
    nothing = dict.fromkeys([("3", 0), ("3", 1), ("1", 0), ("1", 1)], Score(None, "the server is down"))
    with pytest.raises(UserError, match=r"scored none of 4 replies\. Of the first one it said: the server is down"):
        worth_of(nothing)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo"])
def test_what_nothing_is_known_of_moves_nothing(algorithm: str) -> None:
    """Whatever stands in the place of its reward."""

    def end_with(instead: float) -> tuple[str, list[float]]:
        def worth(said: Mapping[str, object], asked: Asked, drawn: Completions) -> Worth:
            even = drawn.tokens[:, :, 0] % 2 == 0
            rewards = jnp.where(even, drawn.tokens[:, :, 1] / 40, instead)
            return Worth(rewards, even, {})

        prompts, heard = [EncodedPrompt([FIRST_WORD + i], ()) for i in range(4)], Heard()
        settings = replace(SETTINGS, group=4, algorithm=algorithm)  # or few have a known one beside them
        gallery = Gallery(CONFIG)
        after = reinforce(
            random_roles("sft"), WORDS, gallery, prompts, settings, scorer=Scorer((), worth), observer=heard
        )
        return fingerprint(after.pick("policy")), [numbers["loss"] for numbers in heard.steps]

    assert end_with(0.0) == end_with(5.0)
    assert end_with(0.0)[0] != fingerprint(random_roles("sft").start("policy", "sft").pick("policy"))


def test_the_numbers_that_a_scorer_is_told_are_those_of_the_prompts() -> None:
    prompts = [EncodedPrompt([FIRST_WORD + i] * (1 + 9 * (i % 2)), ()) for i in range(8)]  # of two lengths
    seen = []

    def worth(said: Mapping[str, object], asked: Asked, drawn: Completions) -> Worth:
        rows = zip(asked.numbers, np.asarray(asked.prompts.tokens), np.asarray(asked.prompts.mask), strict=True)
        seen.extend((number, tokens[mask].tolist()) for number, tokens, mask in rows)
        rewards = jnp.zeros(drawn.tokens.shape[:2])
        return Worth(rewards, rewards == 0, {})

    reinforce(
        random_roles("sft"), WORDS, Gallery(CONFIG), prompts, replace(SETTINGS, steps=4), scorer=Scorer((), worth)
    )
    assert len({number for number, _ in seen}) > 4
    for number, tokens in seen:
        assert tokens == prompts[number].tokens


def test_a_tuning_without_a_reward_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(SMALL, rl=replace(SMALL.rl, reward="fickle_tasks:Fickle"))
    summary = pe.tune("fickle_tasks:Pictures", out=tmp_path / "run", config=config, quiet=True)
    assert (summary["reward_model"], summary["learned_reward"]) == (None, None)
    assert sorted(path.name for path in (tmp_path / "run/adapters").iterdir()) == ["policy", "sft", "value"]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "rl" and "loss" in line]
    assert all(0 < line["scored"] < 1 and line["unscored"] == 0 for line in steps)
    page = (tmp_path / "run/report.html").read_text()
    assert "RL: reward by an evaluator" in page
    assert "fickle_tasks:Fickle" in page.partition("<h2")[0]  # what the reward was stands at the top
    assert "test pairs ranked right" not in page  # and no stage that the run does not have
    assert summary["rl"]["accuracy"] is not None


def test_the_reward_of_the_paper_s_direct_rlaif(tmp_path: Path) -> None:
    """A judge grades replies: 10 is worth 1, and 1 is worth -1."""
    grades: list[int] = []

    def grade(request: dict[str, Any], n: int) -> Answer:
        grades.append(1 + 9 * (len(prompt_of(request)) % 2))
        return said(str(grades[-1]))

    with serving(grade) as server:
        config = replace(SMALL, rl=replace(SMALL.rl, reward="pe/judge-score", judge=server.reference, steps=1))
        pe.tune(f"{ToyTask.__module__}:ToyTask", out=tmp_path / "run", config=config, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (step,) = (line for line in lines if line["stage"] == "rl" and "loss" in line)
    assert len(grades) <= 4  # equal replies to equal questions are graded once
    assert -1 <= step["scored"] <= 1
    if len(set(grades)) == 1:
        assert step["scored"] == (1 if grades[0] == 10 else -1)


def test_episodes_are_rewarded_at_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [Step([]), Step([], reward=3.0), Step([], reward=4.0, terminated=True)]
    played = [Outcome(sample, ["a", "b"], steps) for sample in SAMPLES[:2]]
    told = Told({("0", 0): Score(0.5), ("1", 0): Score(None, "unreadable")})
    one, other = rewarded(EvaluatorReward("told", told), played)
    assert [step.reward for step in one.steps] == [0, 0, 0.5]
    assert (one.unanswered, other.unanswered) == (None, "unreadable")
    monkeypatch.setattr(agents, "DIVERGENCE_EPISODES", 4)
    rl = replace(SMALL.rl, reward="fickle_tasks:Fickle", environments=2, max_turns=2, max_tokens=8)
    config = replace(SMALL, rl=rl, sft=replace(SMALL.sft, demonstrations=16))
    pe.tune("fickle_tasks:Canvas", out=tmp_path / "run", config=config, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (first, _) = (line for line in lines if line["stage"] == "rl" and "loss" in line)
    assert 0 < first["scored"] < 1  # what the environment gives, and what the evaluator gives, are different sums
    assert "earned" not in first


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "judge", "why"),
    [
        ("lerned", "", "rl.reward is neither learned nor task: unknown evaluator 'lerned'"),
        ("pe/exact-mach", "", "Did you mean pe/exact-match"),
        ("pe/judge-score", "", "asks a judge, and none is named: --rl.judge REF"),
        ("pe/exact-match", "tiny-vlm", "pe/exact-match@1 asks none: leave it out"),
        ("learned", "tiny-vlm", "rl.judge is given, and rl.reward is learned"),
        ("pe/drift", "", "needs a policy, and none was given"),
        ("pe/reward-model", "", "needs a reward, and none was given"),
        ("pe/judge-score", "http://host/v1", "must look like http://host:port/v1#model"),
        ("pe/judge-score", "http://127.0.0.1:9/v1#small", "nobody answers at http://127.0.0.1:9/v1#small"),
    ],
)
def test_what_cannot_be_a_reward_is_said_before_anything_is_trained(
    reward: str, judge: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=why):
        evaluator_reward(replace(SETTINGS, reward=reward, judge=judge))
    options = ["--rl.reward", reward, *(["--rl.judge", judge] if judge else [])]
    assert command(["tune", "pe/easy-vqa", "--out", str(tmp_path / "run"), *options]) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
