"""`pe-rlhf eval run` on several tasks, its exit codes, and what `evaluators` and `models` show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.models.model import SHIPPED
from pe_rlhf_mm.types import Message, Outcome, Sample, Score


class Evens:
    """Ten numbers that are even or odd."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(10):
            yield Sample(str(i), [Message("user", f"Is {i} even?")], "yes" if i % 2 == 0 else "no")

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


class Odds(Evens):
    """The same ten, scored by what has no opinion of three of them."""

    evaluators: Sequence[str] = (f"{__name__}:Shy",)


class Shy:
    """1 for `yes`; of numbers above 6 it says nothing."""

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [Score(None, "too large") if int(o.sample.id) > 6 else Score(1.0) for o in outcomes]


EVENS, ODDS, YES = f"{__name__}:Evens", f"{__name__}:Odds", f"{__name__}:yes"


def yes(messages: Sequence[Message]) -> str:
    return "yes"


def test_several_tasks_are_evaluated_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "evals"
    assert run(["eval", "run", EVENS, ODDS, "--policy", YES, "--out", str(out), "--json", "--max-unscored", "0.3"]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert (one["metrics"][0]["value"], one["metrics"][0]["n"]) == (0.5, 10)
    assert (other["metrics"][0]["value"], other["metrics"][0]["n"], other["metrics"][0]["unscored"]) == (1, 7, 3)
    logs = sorted(path.name for path in out.iterdir())
    assert logs == ["test_eval_command-Evens", "test_eval_command-Odds"]
    assert all((out / log / "results.json").is_file() for log in logs)
    assert run(["eval", "run", EVENS, ODDS, "--policy", YES, "--max-unscored", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("95 % interval") == 2
    assert "7 (3 unscored)" in printed


def test_one_task_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "run", EVENS, "--policy", YES, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"][0]["n"] == 10


def test_scores_that_are_missing_are_an_exit_code_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "run", ODDS, "--policy", YES]) == 3
    said = capsys.readouterr()
    assert "30.0 % of test_eval_command:Shy could not be scored, and --max-unscored allows 5 %" in said.err
    assert "1.000" in said.out, "what could be scored is told all the same"
    assert run(["eval", "run", ODDS, "--policy", YES, "--max-unscored", "0.3"]) == 0
    assert run(["eval", "run", ODDS, "--policy", YES, "--max-unscored", "0.29"]) == 3


def test_so_they_are_where_a_log_is_scored_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "run", EVENS, "--policy", YES, "--out", str(tmp_path / "log")]) == 0
    shy = ["eval", "score", str(tmp_path / "log"), "--evaluator", f"{__name__}:Shy"]
    assert run(shy) == 3
    assert (
        "30.0 % of test_eval_command:Shy could not be scored, and --max-unscored allows 5 %" in capsys.readouterr().err
    )
    assert run([*shy, "--max-unscored", "0.3"]) == 0
    assert run([*shy, "--max-unscored", "2"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([EVENS, EVENS], "each of them once"),
        ([], "name one task at least"),
        ([EVENS, "pe/easy-vqua"], "Did you mean pe/easy-vqa"),
    ],
)
def test_wrong_tasks_are_refused_before_anything_is_asked(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "run", *arguments, "--policy", YES]) == 2
    assert said in capsys.readouterr().err


def test_an_evaluator_is_shown_with_what_it_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluators", "show", "pe/judge-win-rate"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("pe/judge-win-rate@1\n  1 for a win")
    assert printed.endswith("asks for      --judge, --against\n")
    assert run(["evaluators", "show", "pe/anls"]) == 0
    assert "asks for" not in capsys.readouterr().out
    assert run(["evaluators", "show", "pe/anlsy"]) == 2


def test_a_model_is_shown_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "tiny-vlm", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["layers"], shown["width"], shown["vocabulary"], shown["context"]) == (4, 128, 512, 512)
    assert shown["vision"] == "2 layers of width 96, square views"
    assert shown["prompt of Hello"] == "<|user|>Hello<|end|><|assistant|>"
    assert run(["models", "check", "tiny-vlm"]) == 0
    printed = capsys.readouterr().out
    assert "weights          1,099,712\n" in printed
    assert "replied" in printed


def test_weights_that_are_no_numbers_do_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("decoder.layers"))
    save_file(weights | {name: weights[name] * float("nan")}, folder / "model.safetensors")
    assert run(["models", "check", str(folder)]) == 2
    assert "its weights are damaged" in capsys.readouterr().err
