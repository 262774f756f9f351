"""The command line as its user meets it: real processes, their exit codes, and what they say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from published_files import hh_pair, write_hh

from pe_rlhf_mm.cli.main import VERBS

ROOT = Path(__file__).parent.parent
TASK = """
from pe_rlhf_mm.testing import ToyTask

class Colors(ToyTask):
    '''Colors of squares.'''

class OneSplit(ToyTask):
    SIZES = {"train": 4}

class Broken(ToyTask):
    def samples(self, split, *, seed=0):
        yield self.pictures[split]

class NoDisplay(ToyTask):
    def __init__(self):
        raise RuntimeError("no display")

class NoBrowser(ToyTask):
    def __init__(self):
        raise BrokenPipeError("no browser")

class Failing(ToyTask):
    def samples(self, split, *, seed=0):
        raise OSError("no disk")

def red(messages):
    return "red"

def slow(messages):
    import time
    print("asked", flush=True)
    time.sleep(60)

PRICE = 3

class Grim(ToyTask):
    upsetting = "The colours are grim."
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a user's files."""
    (tmp_path / "mine.py").write_text(TASK)
    (tmp_path / "missing.py").write_text("import numpyy\nclass Task: ...")
    (tmp_path / "syntax.py").write_text("class Task(:")
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pe_rlhf_mm", *arguments]


def environment(columns: int = 120) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": str(columns)}


def run(folder: Path, *arguments: str, columns: int = 120) -> subprocess.CompletedProcess[str]:
    env = environment(columns)
    return subprocess.run(
        command(*arguments), cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120
    )


# --- what is said -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, tmp_path: Path) -> None:
    done = run(tmp_path, *verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: pe-rlhf {verb} ")
    assert done.stderr == ""


def test_help_names_every_verb_and_is_no_mistake(tmp_path: Path) -> None:
    asked, nothing = run(tmp_path, "--help"), run(tmp_path)
    assert (asked.returncode, nothing.returncode) == (0, 2)
    assert asked.stdout == nothing.stdout
    assert set(VERBS) <= {line[2:20].strip() for line in asked.stdout.splitlines()}


def test_the_console_script_is_the_same_command(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "pe-rlhf"
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == run(tmp_path, "--version").stdout == "pe-rlhf 0.1.0\n"


def test_lists_are_tables_and_json(tmp_path: Path) -> None:
    for kind, id in (("tasks", "pe/easy-vqa@1"), ("evaluators", "pe/exact-match@1")):
        assert re.search(rf"^{id} +pe-rlhf-mm$", run(tmp_path, kind, "list").stdout, re.M)
        assert {"id": id, "from": "pe-rlhf-mm"} in json.loads(run(tmp_path, kind, "list", "--json").stdout)
    assert run(tmp_path, "models", "list").stdout.startswith("tiny-vlm                     2.1 MiB\n")
    names = [model["name"] for model in json.loads(run(tmp_path, "models", "list", "--json").stdout)]
    assert names == ["tiny-vlm", "tiny-vlm-xs", "tiny-vlm-xxs"]


def test_a_task_is_shown_with_a_sample(here: Path) -> None:
    assert run(here, "tasks", "show", "mine.py:Colors").stdout == (
        "mine.py:Colors\n"
        "  Colors of squares.\n"
        "  evaluators    pe/exact-match\n"
        "  first sample  train-0\n"
        "  user          <image> Which color is it?\n"
        "  target        'red'\n"
    )


def test_what_is_shown_and_checked_is_json_too(here: Path) -> None:
    shown = json.loads(run(here, "tasks", "show", "mine.py:Colors", "--json").stdout)
    assert (shown["id"], shown["evaluators"]) == (f"{here}/mine.py:Colors", ["pe/exact-match"])
    assert [role for role, _ in shown["messages"]] == ["user"]
    assert json.loads(run(here, "evaluators", "show", "pe/drift", "--json").stdout)["asks for"][0] == "--policy"
    for kind, name, conforms in (("evaluators", "pe/exact-match", True), ("tasks", "mine.py:Broken", False)):
        done = run(here, kind, "check", name, "--json")
        told = json.loads(done.stdout)
        assert (told["conforms"], not told["problems"], done.returncode) == (conforms, conforms, 0 if conforms else 2)


def test_upsetting_texts_are_shown_only_when_asked_for(here: Path) -> None:
    assert run(here, "tasks", "show", "mine.py:Grim").stdout == (
        "mine.py:Grim\n"
        "  \n"
        "  evaluators    pe/exact-match\n"
        "  first sample  train-0\n"
        "  user          <image> <18 characters>\n"
        "  target        <3 characters>\n"
        "\n"
        "The colours are grim. Their lengths are shown; --reveal prints them.\n"
    )
    revealed = run(here, "tasks", "show", "mine.py:Grim", "--reveal").stdout
    assert revealed.splitlines()[-2:] == ["  user          <image> Which color is it?", "  target        'red'"]


@pytest.mark.parametrize("name", ["text/harmless", "text/helpful-hh"])
def test_the_texts_of_hh_are_upsetting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, subset in enumerate(("harmless-base", "helpful-base")):
        write_hh(tmp_path / "from", subset, pairs=[hh_pair(number)])
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))
    assert run(tmp_path, "data", "prepare", "hh", "--from", "from").returncode == 0
    shown = run(tmp_path, "tasks", "show", name).stdout
    assert not re.search("Hello|boil|No idea", shown)
    assert "The texts are upsetting by design. Their lengths are shown; --reveal prints them." in shown
    assert "eggs?" in run(tmp_path, "tasks", "show", name, "--reveal").stdout


def test_what_conforms_is_said_to_conform(here: Path) -> None:
    for kind, name in (("tasks", "mine.py:Colors"), ("tasks", "pe/easy-vqa"), ("evaluators", "pe/exact-match")):
        done = run(here, kind, "check", name)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} conforms\n", "")


def test_what_does_not_conform_is_a_list_of_problems(here: Path) -> None:
    done = run(here, "tasks", "check", "mine.py:OneSplit")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: mine.py:OneSplit does not conform:\n  - samples('validation') raised")
    assert run(here, "tasks", "check", "mine.py:Broken").returncode == 2


def test_an_evaluation_is_a_table_and_json(here: Path) -> None:
    """Squares are red, green, blue, yellow in turn: of 16, 4 are red."""
    asked = ("eval", "run", "mine.py:Colors", "--policy", "mine.py:red")
    table = run(here, *asked)
    assert table.returncode == 0, table.stderr
    assert re.search(r"^mine.py:Colors +pe/exact-match@1 +16 +16 +0\.250   \[0\.", table.stdout, re.M)
    done = run(here, *asked, "--limit", "5", "--json")
    assert done.stderr == ""
    (metric,) = json.loads(done.stdout)["metrics"]
    assert (metric["value"], metric["n"], metric["unscored"]) == (0.4, 5, 0)


def test_help_breaks_lines_only_where_they_are_full(tmp_path: Path) -> None:
    """And not where the docstring of a setting does, or of one in a section."""
    told = run(tmp_path, "tune", "--help", columns=1000).stdout
    assert "and `adam` two a weight. (default: adam)" in told
    assert "tells of a reward that rises while the control falls. (default: False)" in told


def test_help_of_tune_shows_the_settings_of_a_named_task(tmp_path: Path) -> None:
    """140 are the steps of easy-VQA, 1000 those of the paper."""
    assert re.search(r"--sft.steps INT\s+\(default: 76\)", run(tmp_path, "tune", "pe/easy-vqa", "--help").stdout)
    assert re.search(r"--sft.steps INT\s+\(default: 1000\)", run(tmp_path, "tune", "--help").stdout)


def test_options_may_stand_before_the_task(tmp_path: Path) -> None:
    code = """
import sys
import pe_rlhf_mm.training.tune as training
training.tune = lambda task, **options: sys.exit(f"{task} {options['config'].seed} {options['config'].sft.steps}")
from pe_rlhf_mm.cli.main import run
run(sys.argv[1:])
"""
    for order in (["--seed", "3", "pe/easy-vqa"], ["pe/easy-vqa", "--seed", "3"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "tune", *order], env=environment(), capture_output=True, text=True, check=False
        )
        assert done.stderr == "pe/easy-vqa 3 76\n"


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dance", "no command `pe-rlhf dance`"),
        ("task list", "no command `pe-rlhf task list`. Did you mean `pe-rlhf tasks list`"),
        ("tasks", "no command `pe-rlhf tasks`. Did you mean `pe-rlhf tasks list` or"),
        ("eval pe/easy-vqa", "Did you mean `pe-rlhf eval run`"),
        ("tasks list --verbose", "Unrecognized options: --verbose"),
        ("tasks show", "Missing from pe-rlhf tasks show: +│\n│ +NAME"),
        ("tasks show pe/easy-vqua", r"unknown task 'pe/easy-vqua'. Did you mean pe/easy-vqa .*`pe-rlhf tasks list`"),
        ("tasks check mine.py", "names a file; .*: mine.py:ClassName"),
        ("tasks check nowhere.py:Task", "there is no file 'nowhere.py' .looked in /"),
        ("tasks check mine.py:Colours", "mine.py has no 'Colours'. Did you mean Colors"),
        ("tasks check mine.py:PRICE", "'PRICE' in mine.py is 3; expected a class or a function"),
        ("evaluators check pe/exact", "unknown evaluator 'pe/exact'. Did you mean pe/exact-match"),
        ("eval run pe/easy-vqua --policy tiny-vlm", "unknown task 'pe/easy-vqua'. Did you mean pe/easy-vqa"),
        ("eval run pe/easy-vqa", "Missing from pe-rlhf eval run: +│\n│ +--policy"),
        ("eval run mine.py:Colors --policy big-vlm", "no model 'big-vlm': it is neither a folder nor one of tiny-vlm"),
        ("eval run mine.py:Colors --policy mine.py:blue", "policy: mine.py has no 'blue'"),
        (
            "eval run mine.py:Colors --policy mine.py:red --split tests",
            "no split 'tests'; it has train, valid",
        ),
        ("eval run mine.py:Colors --policy mine.py:red --limit 0", "limit must be at least 1, not 0"),
        ("eval run mine.py:Colors --policy mine.py:red --limit few", "--limit.*'few'"),
        ("tune", "Missing from pe-rlhf tune: +│\n│ +TASK"),
        ("tune pe/easy-vqua", "unknown task 'pe/easy-vqua'. Did you mean pe/easy-vqa"),
        ("tune --seed 1 pe/easy-vqua", "unknown task 'pe/easy-vqua'. Did you mean pe/easy-vqa"),
        ("tune pe/easy-vqa --rl.beta 2", r"RLConfig.beta must be in \[0, 1\], not 2.0"),
        ("tune pe/easy-vqa --sft.steps 0", "SFTConfig.steps must be above 0, not 0"),
        ("tune pe/easy-vqa --rl.bta 0.1", "Unrecognized options: --rl.bta.*(.|\n)*Perhaps you meant:(.|\n)*--rl.beta"),
        ("tune pe/easy-vqa --mode half", "invalid choice 'half' for argument '--mode'"),
        ("tune pe/easy-vqa --model big-vlm", "no model 'big-vlm': it is neither a folder nor one of tiny-vlm"),
        ("report nowhere", "nowhere is no run folder"),
        ("models fetch smollm2 --out model", "unknown model 'smollm2'. Did you mean smollm2-135m"),
        ("models fetch smollm2-135m", "Missing from pe-rlhf models fetch: +│\n│ +--out"),
    ],
)
def test_a_mistake_is_named_in_a_paragraph(line: str, said: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    done = run(here, *line.split())
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_of_something_else_is_left_as_it_is(overwrite: list[str], here: Path) -> None:
    """Without --overwrite whatever it holds, and with it where it is no run."""
    before = {path: path.read_bytes() for path in here.iterdir()}
    done = run(here, "tune", "mine.py:Colors", "--out", ".", *overwrite)
    assert done.returncode == 2
    assert ("--overwrite to start it anew" in done.stderr) == (not overwrite)
    assert {path: path.read_bytes() for path in here.iterdir() if path.name != "__pycache__"} == before


def test_a_run_that_exists_is_left_as_it_is(here: Path) -> None:
    kept = here / "run"
    kept.mkdir()
    for name, contents in (("config.json", b'{"task": "pe/easy-vqa"}\r\n'), ("metrics.jsonl", b'{"step": 1}\n\x00')):
        (kept / name).write_bytes(contents)
    done = run(here, "tune", "mine.py:Colors", "--out", "run")
    assert done.returncode == 2
    assert "run holds a run that is not finished. Go on with it by --resume, give another --out, or" in done.stderr
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        "config.json": b'{"task": "pe/easy-vqa"}\r\n',
        "metrics.jsonl": b'{"step": 1}\n\x00',
    }


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("missing.py:Task", 'missing.py", line 1', "ModuleNotFoundError: No module named 'numpyy'"),
        ("syntax.py:Task", 'syntax.py", line 1', "SyntaxError: invalid syntax"),
        ("mine.py:NoDisplay", 'mine.py", line 16', "RuntimeError: no display"),
        ("mine.py:Failing", 'mine.py", line 24', "(in samples('test') of Failing)"),
    ],
)
def test_an_error_in_the_code_of_a_user_is_shown_with_its_line_and_without_our_frames(
    name: str, place: str, said: str, here: Path
) -> None:
    done = run(here, "eval", "run", name, "--policy", "mine.py:red")
    assert done.returncode == 1
    assert place in done.stderr
    assert done.stderr.splitlines()[-1] == said
    assert str(ROOT / "pe_rlhf_mm") not in done.stderr


def test_a_broken_pipe_in_the_code_of_a_user_is_no_reader_who_left(here: Path) -> None:
    done = run(here, "tasks", "check", "mine.py:NoBrowser")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "BrokenPipeError: no browser"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_on_a_group_of_verbs_lists_them(flag: str, tmp_path: Path) -> None:
    done = run(tmp_path, "tasks", flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^  (\w+ \w+)", done.stdout, re.M) == ["tasks list", "tasks show", "tasks check"]


def test_a_reader_may_leave_early(tmp_path: Path) -> None:
    """As `pe-rlhf tune --help | head -1` does: nobody reads, and nobody is told."""
    for line in ("tune --help", "tasks list", "--help"):
        unread, written = os.pipe()
        os.close(unread)
        for unbuffered in ("", "1"):
            buffering = environment() | {"PYTHONUNBUFFERED": unbuffered}
            done = subprocess.run(
                command(*line.split()), cwd=tmp_path, env=buffering, stdout=written, stderr=subprocess.PIPE, check=False
            )
            assert done.stderr == b""
        os.close(written)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_a_request_to_end_leave_a_line(number: signal.Signals, status: int, here: Path) -> None:
    asked = command("eval", "run", "mine.py:Colors", "--policy", "mine.py:slow", "--json")
    with subprocess.Popen(
        asked, cwd=here, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "asked\n"
        running.send_signal(number)
        _, stderr = running.communicate(timeout=20)
    assert running.returncode == status
    assert stderr.startswith("interrupted")
    assert stderr.count("\n") == 1
