"""The house rules, so that taste need not be argued again."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "tasks").rglob("*.py"), *(ROOT / "evaluators").rglob("*.py")]) + sorted(
    p for p in (ROOT / "pe_rlhf_mm").rglob("*.py") if not {"tasks", "evaluators"} & set(p.relative_to(ROOT).parts)
)
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 60, 14

# A module may import from its own room and from rooms further left; rooms in one set may know each other.
ORDER: list[set[str]] = [
    {"errors", "types", "json_files", "locks", "hosts"},
    {"registry"},
    {"algorithms", "models", "adapters", "checkpoints", "data"},
    {"rollout", "envs"},
    {"evaluation", "reports"},
    {"training", "testing", "judging"},
    {"planning", "sweeping"},
    {"tasks", "evaluators"},
    {"cli", "assets"},
]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "pe_rlhf_mm" else ("pe_rlhf_mm", *parts))


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def rank(name: str) -> int:
    return next(i for i, rooms in enumerate(ORDER) if name in rooms)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules of ours that a file imports, and whether that happens when the file is loaded."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pe_rlhf_mm"):
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "pe_rlhf_mm" else [node.module]
            found += [(name, node in tree.body) for name in names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    here = room(module_of(path))
    if here in (None, "__init__", "__main__"):  # the package's front door sees everything
        return
    for module, at_load in imports(path):
        there = room(module)
        if there is None or there == here or module == "pe_rlhf_mm.__version__":
            continue
        assert rank(there) <= rank(here), f"{path} imports {module}{'' if at_load else ' (inside a function)'}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"
            assert len(arguments) <= MAX_PARAMETERS, f"{node.name} takes {len(arguments)} parameters"
            assert node.args.kwarg is None or node.name.startswith("_"), f"{node.name} hides its options in **"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_every_public_function_and_class_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or path.name == "__init__.py", "the file has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            bases = {ast.unparse(b) for b in getattr(node, "bases", [])}
            assert ast.get_docstring(node) or bases & {"NamedTuple", "Protocol"}, f"{node.name} has no docstring"


def test_the_readme_names_every_file_of_the_tree() -> None:
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].split("```")[1]
    named, there = set(re.findall(r"\b([\w-]+\.py)\b", tree)), {p.name for p in SOURCES}
    assert there - {"__init__.py", "__main__.py"} == named


def test_nothing_of_this_machine_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    home = str(ROOT.parent) + "/"
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".jinja", ""):
            assert home not in path.read_text(errors="replace"), name


def test_folders_at_the_top_refuse_a_bare_import() -> None:
    for name in ("tasks", "evaluators"):
        done = subprocess.run(
            ["python3", "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert f"pe_rlhf_mm.{name}" in done.stderr
