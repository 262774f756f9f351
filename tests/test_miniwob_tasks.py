"""The tasks on pages of miniwob: what they are made of, and that they hold in the real browser."""

from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.registry import BrokenEntry, UnknownId, import_attribute
from pe_rlhf_mm.tasks.miniwob import oracles
from pe_rlhf_mm.tasks.miniwob.pages import CLICK_MIX, MIXTURES, PAGES, RELOADED, TYPE_MIX, WITH_MODES
from pe_rlhf_mm.tasks.miniwob.playing import look
from pe_rlhf_mm.tasks.miniwob.task import SPLITS, MiniWob
from pe_rlhf_mm.testing import check_task
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.types import Image, Step, Text

ROOT = Path(__file__).parent.parent


def named(name: str) -> MiniWob:
    """The task that the registry makes of a page or a mixture."""
    made = import_attribute(f"pe_rlhf_mm.tasks.miniwob.task:{name}", f"task 'miniwob/{name}@1'")()
    assert isinstance(made, MiniWob)
    return made


def prompt(made: MiniWob) -> str:
    (sample,) = itertools.islice(made.samples("train"), 1)
    (message,) = sample.messages
    assert message.role == "system"
    assert isinstance(message.content, str)
    return message.content


def goal(step: Step) -> str:
    (message,) = step.observation
    picture, text = message.parts
    assert isinstance(picture, Image)
    assert isinstance(text, Text)
    return text.text


def pixels(step: Step) -> bytes:
    picture = step.observation[0].parts[0]
    assert isinstance(picture, Image)
    return bytes(picture.source.tobytes())


# --- without a browser ------------------------------------------------------------------------------------------


def test_the_registry_lists_every_page_and_every_mixture() -> None:
    listed = {id for id in registry.tasks if id.startswith("miniwob/")}
    assert listed == {f"miniwob/{name}@1" for name in (*PAGES, *MIXTURES)}
    assert all(registry.tasks.make(id) is not None for id in listed)


def test_there_are_125_pages_and_none_of_an_airline() -> None:
    assert len(PAGES) == 125
    assert len(set(PAGES)) == 125
    assert {"click-test-2", "enter-text", "book-flight"} <= set(PAGES)
    assert not {"flight.Alaska", "chase-circle", "moving-items"} & set(PAGES)


@pytest.mark.parametrize("name", ["click-test-3", "PAGES_", "_private", "Clicks"])
def test_what_is_no_page_is_no_entry(name: str) -> None:
    with pytest.raises(BrokenEntry, match=f"has no {name!r}"):
        import_attribute(f"pe_rlhf_mm.tasks.miniwob.task:{name}", "task")


def test_an_unknown_page_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownId, match=r"miniwob has no page 'click-tst'\. Did you mean click-test"):
        MiniWob("click-test", "click-tst")
    with pytest.raises(UnknownId, match=r"miniwob has no page '\.\./\.\./secret'\. There are: ascending-numbers, "):
        MiniWob("../../secret")
    with pytest.raises(UserError, match="name one page"):
        MiniWob()


def test_tables_name_pages_only() -> None:
    tables = [oracles.CLICKING, oracles.TYPING, oracles.SAME, WITH_MODES, RELOADED, CLICK_MIX, TYPE_MIX]
    assert set().union(*tables) <= set(PAGES)
    assert set(oracles.SAME.values()) <= {*oracles.CLICKING, *oracles.TYPING}
    assert not oracles.SAME.keys() & {*oracles.CLICKING, *oracles.TYPING}
    assert all(oracles.oracle_of(page) for mixture in MIXTURES.values() for page in mixture.pages)


def test_making_tasks_and_reading_samples_imports_neither_browser_nor_pages() -> None:
    code = """
import sys
from pe_rlhf_mm.tasks.miniwob import task
for name in (*task.PAGES, *task.MIXTURES):
    made = getattr(task, name)()
    for split in task.SPLITS:
        next(iter(made.samples(split)))
print([name for name in ("playwright", "miniwob", "PIL", "numpy", "jax") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["click-test-2", "mix"])
def test_samples_are_stable_and_no_seed_is_in_two_splits(name: str) -> None:
    made = named(name)
    found = {split: list(made.samples(split)) for split in SPLITS}
    assert {split: len(samples) for split, samples in found.items()} == {
        "train": 4096,
        "validation": 512,
        "test": 1024,
    }
    ids = [sample.id for samples in found.values() for sample in samples]
    assert len(set(ids)) == len(ids)
    assert found == {split: list(named(name).samples(split, seed=7)) for split in SPLITS}


def test_settings_leave_as_many_replies_as_a_page_takes() -> None:
    expected = {"mix": 3, "type-mix": 6, "click-test-2": 10, "login-user": 10, "choose-date": 16}
    assert {name: settings_of(named(name)).rl.max_turns for name in expected} == expected


def test_no_seed_of_a_mixture_is_in_another_split_of_a_page() -> None:
    seeds = {
        split: {s.metadata["seed"] for name in ("click-test", "mix") for s in named(name).samples(split)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(seeds.values(), 2):
        assert not one & other


def test_a_sample_names_its_page_and_its_seed() -> None:
    (sample,) = itertools.islice(named("click-color").samples("test"), 1)
    assert (sample.id, dict(sample.metadata)) == ("click-color-0", {"page": "miniwob/click-color.html", "seed": 0})
    assert sample.cluster is None  # there is only one
    assert sample.target is None


def test_a_mixture_takes_its_pages_in_turn_and_clusters_by_page() -> None:
    samples = list(itertools.islice(MiniWob("enter-text", "click-test").samples("test"), 4))
    assert [sample.id for sample in samples] == ["enter-text-0", "click-test-0", "enter-text-1", "click-test-1"]
    assert [sample.cluster for sample in samples] == ["enter-text", "click-test", "enter-text", "click-test"]


def test_pages_with_other_problems_for_testing_pose_them_there() -> None:
    modes = {split: next(iter(named("click-test-transfer").samples(split))).metadata["mode"] for split in SPLITS}
    assert modes == {"train": "train", "validation": "train", "test": "test"}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="no split 'dev'; it has train, validation, test"):
        next(named("click-test").samples("dev"))


def test_the_prompt_is_a_role_and_the_grammar_of_what_the_page_asks_for() -> None:
    click, login, unknown = (prompt(named(name)) for name in ("click-test", "login-user", "drag-box"))
    assert click.startswith("Reach the goal")
    assert "click X Y" in click
    assert "type TEXT" not in click
    assert "type TEXT" in login
    assert "drag X Y X Y" in unknown
    assert "open_app" not in unknown
    assert "type TEXT" in prompt(named("mix"))


def test_another_dialect_is_told_and_spoken() -> None:
    made = MiniWob("click-test", dialect="norm1000")
    assert "1000" in prompt(made)
    with pytest.raises(UserError, match="no dialect of actions is called 'perzent'"):
        MiniWob("click-test", dialect="perzent")  # type: ignore[arg-type]


def test_a_page_that_takes_many_clicks_has_the_steps_for_it() -> None:
    assert MiniWob("click-test").max_steps == 10
    assert MiniWob("click-test", "number-checkboxes").max_steps == 20
    assert MiniWob("number-checkboxes", max_steps=3).max_steps == 3
    assert named("mix").max_steps == 3


def test_without_the_package_of_the_pages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    made = named("click-test")
    (sample,) = itertools.islice(made.samples("train"), 1)
    for ask in (made.environment, lambda: made.solve(sample), lambda: next(made.ratings("train"))):
        with pytest.raises(UserError, match=re.escape("pe-rlhf-mm[web]")):
            ask()


# --- in the browser ---------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_task_conforms() -> None:
    assert check_task(named("click-test-2"), n=2) == []


@pytest.mark.browser
def test_the_test_split_asks_for_what_was_never_right_before() -> None:
    made = named("click-test-transfer")
    environment = made.environment()
    goals = [goal(environment.reset(next(iter(made.samples(split))), seed=0)) for split in SPLITS]
    assert goals == ["Click button ONE.", "Click button ONE.", "Click button TWO."]
    environment.close()


@pytest.mark.browser
def test_a_problem_posed_in_the_loaded_page_looks_as_on_a_page_that_was_loaded_for_it() -> None:
    """After another problem that was left behind half done; a calendar that is open then keeps its month."""
    made = MiniWob(*MIXTURES["mix"].pages, "choose-date-medium")
    environment, fresh = made.environment(), MiniWob("book-flight", max_steps=1).environment()
    for page in made.files:
        one, other = itertools.islice(MiniWob(page).samples("test"), 2)
        environment.reset(one, seed=0)
        environment.step(made.codec.render(look(environment, page).right[0].action, environment.size))
        assert pixels(environment.reset(other, seed=0)) == pixels(fresh.reset(other, seed=0)), page
    environment.close()
    fresh.close()
