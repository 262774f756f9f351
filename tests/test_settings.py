"""Settings that make no sense are refused when they are written down, not after an hour of training."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, processor, random_roles

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli.tune import _table
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.errors import OutOfRange, PromptTooLong, UserError
from pe_rlhf_mm.evaluation.intervals import Interval
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.testing import ToyTask, check_task
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.lora_config import LoraConfig
from pe_rlhf_mm.training.passes import Completed
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.progress import ProgressBar
from pe_rlhf_mm.training.reinforce import mean_divergence
from pe_rlhf_mm.training.reward import ranked_right
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.types import Completions, Preference


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: pe.RLConfig(top_p=2.0), "RLConfig.top_p must be above 0 and at most 1, not 2.0"),
        (lambda: pe.RLConfig(top_k=-1), "RLConfig.top_k must be 0"),
        (lambda: pe.RLConfig(temperature=math.inf), "RLConfig.temperature must be a finite number"),
        (lambda: pe.RLConfig(kl="foo"), "RLConfig.kl must be one of return, loss, k3, not 'foo'"),
        (lambda: pe.RLConfig(max_tokens=0), "RLConfig.max_tokens must be at least 1"),
        (lambda: pe.RewardConfig(loss="foo"), "RewardConfig.loss must be one of pairwise, pointwise, not 'foo'"),
        (lambda: pe.RewardConfig(pairs=-1), "RewardConfig.pairs must be 0 or more, not -1"),
        (lambda: pe.RewardConfig(members=0), "RewardConfig.members must be above 0, not 0"),
        (lambda: pe.RewardConfig(control=True), "RewardConfig.control is for several members, and members is 1"),
        (lambda: pe.RewardConfig(dropouts=(0.1,)), "RewardConfig.dropouts is for several members, and members is 1"),
        (lambda: pe.RewardConfig(members=2, dropouts=(0.1, 1.0)), r"dropouts must be numbers in \[0, 1\), not 1.0"),
        (
            lambda: pe.RewardConfig(members=2, learning_rates=(math.nan,)),
            "learning_rates must be .* not nan",
        ),
        (lambda: pe.RewardConfig(flip=1.5), r"RewardConfig.flip must be numbers in \[0, 1\), not 1.5"),
        (
            lambda: pe.RewardConfig(combine="median"),
            "combine must be one of warm, mean, worst, uncertainty",
        ),
        (
            lambda: pe.RewardConfig(members=2, loss="pointwise", packed_length=64),
            "RewardConfig.members read one example a row",
        ),
        (
            lambda: pe.TuneConfig(mode="full", reward=pe.RewardConfig(members=2)),
            "RewardConfig.members is 2, and they are adapters over one backbone: mode full has none",
        ),
        (lambda: pe.SFTConfig(steps=2.5), "SFTConfig.steps must be a whole number, not 2.5"),
        (lambda: pe.SFTConfig(learning_rate=math.nan), "SFTConfig.learning_rate must be a finite number"),
        (lambda: pe.SFTConfig(demonstrations=-3), "SFTConfig.demonstrations must be 0 or more, not -3"),
        (lambda: LoraConfig(targets="qv"), "LoraConfig.targets must name some of q, k, .*, not 'qv'"),
        (lambda: LoraConfig(targets=()), r"LoraConfig.targets must name some of q, k, .*, not \(\)"),
        (lambda: LoraConfig(targets=("q", "z")), "LoraConfig.targets must name some of q, k"),
        (lambda: LoraConfig(targets=3), "LoraConfig.targets must name some of q, k, .*, not 3"),
        (lambda: LoraConfig(targets=(["q"],)), "LoraConfig.targets must name some of q, k"),
        (lambda: LoraConfig(reward_targets=("z",)), r"LoraConfig.reward_targets must name some of q, k, .*\('z',\)"),
        (lambda: LoraConfig(scaling="dora"), "scaling"),
        (lambda: pe.TuneConfig(remat=True), "TuneConfig.remat must be one of everything, products, .*, not True"),
        (lambda: pe.TuneConfig(rl={"steps": 3}), r"TuneConfig.rl must be made by RLConfig\(..\), not {'steps': 3}"),
        (lambda: pe.TuneConfig(quantize="int4"), "TuneConfig.quantize must be one of int8, nf4, None, not 'int4'"),
        (lambda: pe.TuneConfig(mode="loar"), "TuneConfig.mode must be one of lora, full, not 'loar'"),
        (lambda: pe.TuneConfig(seed=-1), "TuneConfig.seed must be 0 or more, not -1"),
        (lambda: pe.TuneConfig(seed=2**63), r"TuneConfig.seed must be below 2\^63, not 9223372036854775808"),
        (lambda: pe.MeshConfig(fsdp=0), "MeshConfig.fsdp must be above 0, not 0"),
        (lambda: pe.MeshConfig(model=1.5), "MeshConfig.model must be a whole number, not 1.5"),
        (lambda: pe.TuneConfig(mesh=4), r"TuneConfig.mesh must be made by MeshConfig\(..\), not 4"),
        (lambda: pe.TuneConfig(test_samples=-5), "TuneConfig.test_samples must be 0 or more, not -5"),
        (lambda: pe.evaluate("pe/easy-vqa", policy=str, seed=-1), "seed must be at least 0, not -1"),
        (lambda: pe.evaluate("pe/easy-vqa", policy=str, max_tokens=-3), "max_tokens must be at least 1, not -3"),
    ],
)
def test_a_setting_out_of_range_is_named_at_once(make: Callable[[], object], said: str) -> None:
    with pytest.raises(OutOfRange, match=said):
        make()


def test_sampling_is_checked_where_python_leaves_assertions_out() -> None:
    line = "import pe_rlhf_mm as pe; pe.RLConfig(top_p=2.0)"
    done = subprocess.run([sys.executable, "-O", "-c", line], capture_output=True, text=True, check=False)
    assert "OutOfRange: RLConfig.top_p must be above 0 and at most 1, not 2.0" in done.stderr


def test_settings_are_read_without_jax() -> None:
    line = "import sys, pe_rlhf_mm.training.config; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout == "False\n"


def test_pairs_are_ranked_by_the_reply_that_is_more_likely_the_better_one() -> None:
    chosen, rejected = np.array([2.0, 2.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(ranked_right(chosen, rejected, np.array([1.0, 0.1, 0.5, 0.9])), [1, 0, 0.5, 0.5])


class Colors(ToyTask):
    """A toy with whatever replies a test wants."""

    reply: str | None = None
    worst: str = "blue"

    def solve(self, sample: object) -> list[str] | None:
        return None if self.reply is None else [self.reply]

    def preferences(self, split: str, *, seed: int = 0) -> list[Preference]:
        return [Preference(sample.messages, "red", self.worst) for sample in self.samples(split)]


def colors(**parts: object) -> Colors:
    task = Colors()
    for name, value in parts.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [
        (colors(), UserError, "Colors.solve gave no reply for any of .* training samples"),
        (colors(reply="word " * 800), PromptTooLong, "reply 0 .* tiny-vlm reads 512"),
        (colors(reply="red", worst="word " * 800), PromptTooLong, "reply 0 .* tiny-vlm reads 512"),
    ],
)
def test_replies_that_cannot_be_learnt_from_are_refused_before_training(
    task: Colors, kind: type[UserError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        prepare(task, load_model("tiny-vlm"), pe.TuneConfig())


def test_a_task_whose_test_split_has_no_pairs_does_not_conform(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pe_rlhf_mm import Preference\n"
        "from pe_rlhf_mm.testing import ToyTask\n"
        "class NoTestPairs(ToyTask):\n"
        "    def preferences(self, split, *, seed=0):\n"
        "        found = [Preference(s.messages, 'red', 'blue') for s in self.samples(split)]\n"
        "        return [] if split == 'test' else found\n"
    )
    assert any("preferences('test') yields nothing" in p for p in check_task(f"{tmp_path / 'mine.py'}:NoTestPairs"))


def test_what_is_not_known_is_null_in_json_and_a_dash_in_tables() -> None:
    unknown = Interval(math.nan, math.nan)
    assert json.loads(to_json({"interval": unknown, "n": [1, 0.5]})) == {"interval": [None, None], "n": [1, 0.5]}
    assert (unknown.text(".1%"), Interval(0.25, 0.5).text(".1%")) == ("–", "[25.0%, 50.0%]")


def test_every_line_of_a_run_is_valid_json(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"task": "mine"})
    run.note("rl", 2, {"validation_accuracy": math.nan})
    run.write_samples([{"id": "one", "target": math.inf}])
    run.close("finished")
    (metric,) = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metric)["validation_accuracy"] is None
    assert (run.folder / "samples.jsonl").read_text() == '{"id": "one", "target": null}\n'


def test_the_table_of_a_run_shows_dashes_for_what_is_not_known_and_no_zero_below_zero() -> None:
    """Figures by hand: nothing could be scored, and a divergence of -0.004 nats is 0.00."""
    unknown = {"accuracy": math.nan, "interval": Interval(math.nan, math.nan), "n": 0}
    costs = {"trainable_fraction": 0.05, "seconds": 1.0, "peak_rss_gib": 1.0}
    reward = {"mean": -0.0004, "interval": unknown["interval"], "n": 1}
    costs["learned_reward"] = {"sft": reward, "rl": {**reward, "mean": 0.5}, "gain": {**reward, "mean": 0.5}}
    summary = {"method": "rlhf", "sft": unknown, "reward_model": unknown, "gain": unknown, **costs}
    summary["rl"] = {**unknown, "kl": -0.004}
    lines = _table(summary, Path("run")).splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["SFT", "–", "–", "0"],
        ["reward", "model", "–", "–", "0"],
        ["RL", "–", "–", "0"],
        ["gain", "by", "RL", "–", "–"],
    ]
    assert lines[5] == "learned reward +0.000 by SFT, +0.500 by RL: +0.500 – deviations"
    assert lines[6].startswith("KL to the SFT policy 0.00 nats a reply; ")


def test_a_progress_line_shows_no_zero_below_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as bar:
        bar.begin("rl", 1)
        bar.step("rl", 1, {"kl": -0.0004})
    assert "kl 0.000" in capsys.readouterr().err


def test_the_divergence_is_that_of_its_prompts_whatever_the_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens 9, 10 and 11 after three prompts: x = 0.09, 0.10, 0.11, the mean 0.10, filled-up rows left out."""
    roles, prompts = random_roles("policy", "anchor"), [EncodedPrompt([n], ()) for n in (9, 10, 11)]

    def echo(config: object, state: object, bank: object, batch: object, key: object, **_: object) -> object:
        said = jnp.asarray(batch.tokens[:, -1:, None])
        return type("Drawn", (), {"completions": Completions(said, jnp.ones(said.shape, bool))})

    def said(config: object, roles: object, names: object, rows: Completed, _: object) -> object:
        return {
            name: forward.PolicyStatistics(*[rows.tokens * (0.01 if name == "policy" else 0.0)] * 3) for name in names
        }

    monkeypatch.setattr("pe_rlhf_mm.training.reinforce.sample", echo)
    monkeypatch.setattr("pe_rlhf_mm.training.passes.said", said)
    for size in (1, 2, 3, 128):
        settings = replace(pe.RLConfig(), prompts=size)
        found = mean_divergence(roles, processor(), Gallery(CONFIG), prompts, settings, seed=0)
        assert found.prompts == 3
        assert found.nats == pytest.approx(0.1)
