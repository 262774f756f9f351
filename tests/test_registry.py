"""Ids, and the way from a reference to a class: built-ins, decorators, entry points, modules and files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.registry import BrokenEntry, DuplicateId, Registry, UnknownId
from pe_rlhf_mm.testing import ToyTask

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tasks() -> Registry:
    """One version of apples, and three of pears."""
    pears = {f"acme/pears@{version}": f"colorsys:pears_{version}" for version in (2, 10, 9)}
    return Registry("task", {"acme/apples@1": "fractions:Fraction", **pears})


# --- ids --------------------------------------------------------------------------------------------------------


def test_an_id_without_a_version_means_the_newest(tasks: Registry) -> None:
    assert tasks.resolve("acme/pears") == "acme/pears@10"  # by number: as text, "9" would come last
    assert tasks.resolve("acme/pears@9") == "acme/pears@9"


def test_ids_are_listed_by_name_then_by_version(tasks: Registry) -> None:
    ours = [id for id in tasks if id.startswith("acme/")]
    assert ours == ["acme/apples@1", "acme/pears@2", "acme/pears@9", "acme/pears@10"]


@pytest.mark.parametrize(
    "id",
    ["pears", "acme/pears", "acme/pears@", "acme/pears@new", "Acme/pears@1", "acme/pears@1.0", "a b/c@1", "/c@1"],
)
def test_what_is_no_id_is_refused_with_the_form_of_one(tasks: Registry, id: str) -> None:
    with pytest.raises(UserError, match=r"must look like 'namespace/name@1'.* and a version number") as caught:
        tasks.add(id, ToyTask, owner="acme-tasks")
    assert f"task id {id!r} (from acme-tasks)" in str(caught.value)


def test_an_unknown_id_is_answered_with_close_ones(tasks: Registry) -> None:
    with pytest.raises(UnknownId, match=r"unknown task 'acme/peers'. Did you mean .*acme/pears.*`pe-rlhf tasks list`"):
        tasks.resolve("acme/peers")


def test_an_unknown_version_is_answered_with_the_versions_there_are(tasks: Registry) -> None:
    with pytest.raises(UnknownId, match=r"unknown task 'acme/apples@7'. Did you mean acme/apples@1 or "):
        tasks.resolve("acme/apples@7")


def test_an_id_close_to_nothing_is_answered_with_all(tasks: Registry) -> None:
    with pytest.raises(UnknownId, match=r"There are: acme/apples@1, acme/pears@2, acme/pears@9, acme/pears@10"):
        tasks.resolve("zzz")


# --- owners -----------------------------------------------------------------------------------------------------


def test_two_owners_of_one_id_are_both_named(tasks: Registry) -> None:
    tasks.add("acme/plums@1", "fractions:Fraction", owner="acme-tasks")
    with pytest.raises(DuplicateId) as caught:
        tasks.add("acme/plums@1", "decimal:Decimal", owner="other-tasks")
    assert str(caught.value) == (
        "task 'acme/plums@1' is registered twice: fractions:Fraction (from acme-tasks) and decimal:Decimal "
        "(from other-tasks). Rename one, or raise its version."
    )
    assert tasks.owner("acme/plums@1") == "acme-tasks"
    assert tasks.factory("acme/plums").__name__ == "Fraction"


def test_a_decorated_class_may_be_the_one_that_a_string_names(tasks: Registry) -> None:
    class_ = tasks.factory("acme/apples")
    assert tasks.register("acme/apples@1")(class_) is class_
    assert tasks.owner("acme/apples@1") == "pe-rlhf-mm"


def test_a_decorator_returns_the_class_and_registers_it(tasks: Registry) -> None:
    @tasks.register("mine/toy@1")
    class Mine(ToyTask):
        pass

    assert tasks.factory("mine/toy") is Mine
    assert isinstance(tasks.make("mine/toy"), Mine)
    assert tasks.owner("mine/toy@1") == __name__


def test_a_decorator_cannot_take_the_id_of_another_class(tasks: Registry) -> None:
    tasks.register("mine/toy@1")(ToyTask)
    with pytest.raises(DuplicateId, match=r"pe_rlhf_mm.testing.toys:ToyTask .* and test_registry:.*Other"):

        @tasks.register("mine/toy@1")
        class Other:
            pass


# --- references -------------------------------------------------------------------------------------------------


def test_targets_are_imported_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lazy_fruit.py").write_text("class Kiwi: ...")
    monkeypatch.syspath_prepend(tmp_path)
    tasks = Registry("task", {"acme/kiwi@1": "lazy_fruit:Kiwi"})
    assert tasks.resolve("acme/kiwi") in list(tasks)
    assert "lazy_fruit" not in sys.modules
    assert tasks.factory("acme/kiwi").__module__ == "lazy_fruit"


def test_what_comes_with_the_package_can_be_made() -> None:
    offered = dict.fromkeys(("judge", "reward", "policy", "anchor", "max_tokens"), object())
    for entries in (registry.tasks, registry.evaluators):
        for id in entries:
            if entries.owner(id) == "pe-rlhf-mm":
                assert entries.make(id, offered) is not None


def test_a_module_and_a_file_are_references_too(tasks: Registry, tmp_path: Path) -> None:
    (tmp_path / "fruit.py").write_text("class Kiwi: ...")
    assert tasks.factory("pe_rlhf_mm.testing.toys:ToyTask") is ToyTask
    assert tasks.factory(f"{tmp_path}/fruit.py:Kiwi").__name__ == "Kiwi"


def test_one_file_gives_one_class(tasks: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fruit.py").write_text("class Kiwi: ...")
    monkeypatch.chdir(tmp_path)
    assert tasks.factory("fruit.py:Kiwi") is tasks.factory(f"{tmp_path}/../{tmp_path.name}/fruit.py:Kiwi")


def test_files_of_one_name_in_two_folders_are_two_modules(tasks: Registry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fruit.py").write_text(f"class Kiwi: basket = {name!r}")
    assert [tasks.factory(f"{tmp_path}/{name}/fruit.py:Kiwi").basket for name in ("one", "two")] == ["one", "two"]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere.py:Kiwi", r"task 'nowhere.py:Kiwi': there is no file 'nowhere.py' \(looked in "),
        ("nowhere.at_all:Kiwi", r"there is no module 'nowhere.at_all'. Is its package installed\?"),
        ("fractions.nowhere:Kiwi", r"there is no module 'fractions.nowhere'"),
        ("fruit.py:Kivi", r"fruit.py has no 'Kivi'. Did you mean Kiwi\?"),
        ("fruit.py:", "fruit.py has no ''"),
        ("fractions:Fractoin", r"fractions has no 'Fractoin'. Did you mean Fraction\?"),
        ("fruit.py:PRICE", "'PRICE' in fruit.py is 3; expected a class or a function"),
        ("baskets/fruit:Kiwi", "'baskets/fruit' is neither the name of a module nor a file that ends in .py"),
        (":Kiwi", "'' is neither the name of a module nor a file"),
        (".fruit:Kiwi", "'.fruit' is neither the name of a module nor a file"),
    ],
)
def test_a_reference_that_leads_nowhere_says_where_it_ends(
    tasks: Registry, reference: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fruit.py").write_text("PRICE = 3\nclass Kiwi: ...")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenEntry, match=said) as caught:
        tasks.factory(reference)
    assert str(caught.value).startswith(f"task {reference!r}: ")


def test_a_file_without_a_class_says_what_is_missing(tasks: Registry) -> None:
    with pytest.raises(UnknownId, match=r"'fruit.py' names a file; .*: fruit.py:ClassName"):
        tasks.resolve("fruit.py")


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("import numpyy", ModuleNotFoundError, "No module named 'numpyy'"),
        ("from fractions import Fractoin", ImportError, "cannot import name 'Fractoin'"),
        ("class Kiwi(:", SyntaxError, "invalid syntax"),
        ("1 / 0", ZeroDivisionError, "division by zero"),
        ("raise SystemExit(3)", SystemExit, "3"),
    ],
)
def test_an_error_in_the_code_of_a_user_is_shown_as_itself(
    tasks: Registry, code: str, error: type, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file and of a module; and again at the second attempt, when half a module must not have been kept."""
    (tmp_path / "broken_fruit.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for reference in (f"{tmp_path}/broken_fruit.py:Kiwi", "broken_fruit:Kiwi"):
        for _ in range(2):
            with pytest.raises(error, match=said) as caught:
                tasks.factory(reference)
            assert type(caught.value) is error


# --- installed packages -----------------------------------------------------------------------------------------


def install(folder: Path, package: str, points: str, code: str | None = None) -> None:
    """What pip leaves of a package: its module, and its metadata."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    if code is not None:
        (folder / f"{package}.py").write_text(code)


def ask(folder: Path, code: str) -> str:
    """What a new interpreter, with the packages of a folder, prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom pe_rlhf_mm import registry\n{code}"],
        env={"PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_entry_points_of_a_package_are_ids_without_importing_it(tmp_path: Path) -> None:
    points = "[pe_rlhf_mm.tasks]\nacme/kiwi@1 = acme:Kiwi\n\n[pe_rlhf_mm.evaluators]\nacme/ripe@2 = acme:Ripe\n"
    everything = "print(*registry.tasks, *registry.evaluators, 'acme' in sys.modules)"
    before = ask(tmp_path, everything).split()
    install(tmp_path, "acme", points, "class Kiwi: ...\nclass Ripe: ...\n")
    assert sorted(ask(tmp_path, everything).split()) == sorted(["acme/kiwi@1", "acme/ripe@2", *before])
    assert ask(tmp_path, "print(registry.tasks.owner('acme/kiwi@1'))") == "acme"
    assert ask(tmp_path, "print(registry.evaluators.factory('acme/ripe').__name__)") == "Ripe"


def test_a_decorator_and_an_entry_point_may_name_one_class(tmp_path: Path) -> None:
    code = "import pe_rlhf_mm as pe\n@pe.register_task('acme/kiwi@1')\nclass Kiwi: ..."
    install(tmp_path, "acme", "[pe_rlhf_mm.tasks]\nacme/kiwi@1 = acme:Kiwi\n", code)
    assert ask(tmp_path, "print(registry.tasks.factory('acme/kiwi').__name__, list(registry.tasks)[0])") == (
        "Kiwi acme/kiwi@1"
    )
    assert ask(tmp_path, "import acme; print(registry.tasks.factory('acme/kiwi') is acme.Kiwi)") == "True"


def test_an_id_of_two_packages_names_both(tmp_path: Path) -> None:
    install(tmp_path, "acme", "[pe_rlhf_mm.tasks]\nfruit/kiwi@1 = acme:Kiwi\n")
    install(tmp_path, "other", "[pe_rlhf_mm.tasks]\nfruit/kiwi@1 = other:Kiwi\n")
    said = ask(tmp_path, "try: list(registry.tasks)\nexcept registry.DuplicateId as error: print(error)")
    assert "task 'fruit/kiwi@1' is registered twice" in said
    assert "acme:Kiwi (from acme)" in said
    assert "other:Kiwi (from other)" in said


def test_a_package_with_a_malformed_id_is_named(tmp_path: Path) -> None:
    install(tmp_path, "acme", "[pe_rlhf_mm.tasks]\nKiwi = acme:Kiwi\n")
    said = ask(tmp_path, "try: list(registry.tasks)\nexcept registry.UserError as error: print(error)")
    assert said.startswith("task id 'Kiwi' (from acme) must look like 'namespace/name@1'")


def test_an_entry_point_that_leads_nowhere_is_no_trouble_until_it_is_asked_for(tmp_path: Path) -> None:
    install(tmp_path, "acme", "[pe_rlhf_mm.tasks]\nacme/kiwi@1 = acme:Kiwi\n")
    assert "acme/kiwi@1" in ask(tmp_path, "print(*registry.tasks)").split()
    said = ask(tmp_path, "try: registry.tasks.make('acme/kiwi')\nexcept registry.BrokenEntry as error: print(error)")
    assert said == (
        "task 'acme/kiwi@1': there is no module 'acme'. Is its package installed? A file is named by path.py:name."
    )


def test_a_file_that_registers_its_class_can_be_named_both_ways(tmp_path: Path) -> None:
    (tmp_path / "fruit.py").write_text("import pe_rlhf_mm as pe\n@pe.register_task('mine/kiwi@1')\nclass Kiwi: ...")
    code = f"named = registry.tasks.factory('{tmp_path}/fruit.py:Kiwi')\n"
    assert ask(tmp_path, f"{code}print(registry.tasks.factory('mine/kiwi') is named)") == "True"


def test_what_lacks_a_part_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(BrokenEntry, match="fractions:Fraction is no task: it has no evaluators and no samples"):
        registry.tasks.make("fractions:Fraction")
    with pytest.raises(BrokenEntry, match="fractions:Fraction is no evaluator: it has no score; expected score"):
        registry.evaluators.make("fractions:Fraction")


def test_a_part_may_be_made_when_the_instance_is(tmp_path: Path) -> None:
    (tmp_path / "fruit.py").write_text("class Kiwi:\n    def __init__(self): self.score = sum\n")
    made = Registry("evaluator", {}, parts=("score",)).make(f"{tmp_path / 'fruit.py'}:Kiwi")
    assert made.score is sum
