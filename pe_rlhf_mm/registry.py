"""Ids for tasks and evaluators: `namespace/name@version`. Nothing is imported until it is asked for.

Entries come from a table (built-ins), from the entry points of installed packages, from the decorators, and from a
reference to a user's own code: `package.module:Attribute` or `path/to/file.py:Attribute`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Evaluator, Task

Entry = TypeVar("Entry")
Factory = TypeVar("Factory", bound=Callable[..., Any])

USER_MODULE = "pe_rlhf_mm_user."
"""What stands before its path in the name of a module that was imported from a file."""
_ID = re.compile(r"[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*@[0-9]+")


class UnknownId(UserError):
    """No entry of that name; the message names close ones."""


class DuplicateId(UserError):
    """Two owners claim one id."""


class BrokenEntry(UserError):
    """An entry that exists but does not lead to anything usable."""


class Registry(Generic[Entry]):
    """A table from ids to factories. Targets may be strings, `module:Attribute`, imported on first use."""

    def __init__(self, kind: str, builtin: Mapping[str, str], *, parts: Sequence[str] = ()):
        """`parts`: what every instance must have."""
        self.kind, self.parts = kind, parts
        self._entries: dict[str, tuple[str | Callable[..., Entry], str]] = {}
        for id, target in builtin.items():
            self.add(id, target, owner="pe-rlhf-mm")

    @functools.cached_property
    def _table(self) -> dict[str, tuple[str | Callable[..., Entry], str]]:
        """All entries, those of installed packages included: their metadata is read once, and nothing is imported."""
        for point in importlib.metadata.entry_points(group=f"pe_rlhf_mm.{self.kind}s"):
            self.add(point.name, point.value, owner=point.dist.name if point.dist else "an installed package")
        return self._entries

    def add(self, id: str, target: str | Callable[..., Entry], *, owner: str = "this program") -> None:
        """Adds an entry. Raises DuplicateId if the id is taken by something else, UserError if it is no id."""
        if not _ID.fullmatch(id):
            raise UserError(
                f"{self.kind} id {id!r} (from {owner}) must look like 'namespace/name@1': "
                "lower-case letters, digits, '.', '_', '-', and a version number"
            )
        present, present_owner = self._entries.get(id, (target, owner))
        if not _same(present, target):
            raise DuplicateId(
                f"{self.kind} {id!r} is registered twice: {_where(present)} (from {present_owner}) and "
                f"{_where(target)} (from {owner}). Rename one, or raise its version."
            )
        if not isinstance(present, str) or isinstance(target, str):
            target = present  # a decorated class replaces the string that names it; nothing replaces a class
        self._entries[id] = (target, present_owner)

    def register(self, id: str) -> Callable[[Factory], Factory]:
        """Decorator form of `add`."""

        def decorate(factory: Factory) -> Factory:
            self.add(id, factory, owner=factory.__module__)
            return factory

        return decorate

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._table, key=_order))

    def owner(self, id: str) -> str:
        """The package that brought an id."""
        return self._table[id][1]

    def resolve(self, reference: str) -> str:
        """The full id of `namespace/name` (newest version) or `namespace/name@version`; of path.py:Class, it with the
        whole path. Raises UnknownId."""
        known = [id for id in self._table if reference in (id, id.partition("@")[0])]
        if known:
            return max(known, key=_order)
        if ":" in reference:
            return _from_anywhere(reference)
        if reference.endswith(".py"):
            raise UnknownId(f"{self.kind} {reference!r} names a file; name what is in it too: {reference}:ClassName")
        names = [*self._table, *{id.partition("@")[0] for id in self._table}]
        close = difflib.get_close_matches(reference, names, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(self)}."
        raise UnknownId(f"unknown {self.kind} {reference!r}. {hint} See `pe-rlhf {self.kind}s list`.")

    def factory(self, reference: str) -> Callable[..., Entry]:
        """The class or function behind a reference. Errors raised while importing it come through as themselves."""
        id = self.resolve(reference)
        target, id = (self._table[id][0], id) if id in self._table else (reference, reference)
        if not isinstance(target, str):
            return target
        factory: Callable[..., Entry] = import_attribute(target, f"{self.kind} {id!r}")
        return factory

    def asks(self, reference: str) -> list[str]:
        """The names of what the factory behind a reference can be given."""
        return [parameter.name for parameter in _parameters(self.factory(reference))]

    def ready(self, reference: str, offered: Mapping[str, Any] | None = None) -> Callable[[], Entry]:
        """The factory behind a reference, given what it asks for by name out of `offered`, where None is nothing.

        Raises UserError if it cannot do without something that is not offered.
        """
        factory, offered = self.factory(reference), offered or {}
        given = {p.name: offered[p.name] for p in _parameters(factory) if offered.get(p.name) is not None}
        for parameter in _parameters(factory):
            if parameter.default is parameter.empty and parameter.name not in given:
                name = parameter.name
                article = "an" if name[0] in "aeiou" else "a"
                raise UserError(
                    f"the {self.kind} {reference} needs {article} {name}, and none was given"
                    + (f": --{name} on the command line, given=Given({name}=..) in Python." if name in offered else ".")
                )
        return functools.partial(factory, **given)

    def make(self, reference: str, offered: Mapping[str, Any] | None = None) -> Entry:
        """A new instance of what a reference names. Raises as `ready`, and BrokenEntry if it lacks a part."""
        entry = self.ready(reference, offered)()
        missing = self.missing(entry)
        if missing:
            has = ", ".join(self.parts)
            raise BrokenEntry(f"{reference} is no {self.kind}: it has no {' and no '.join(missing)}; expected {has}")
        return entry

    def missing(self, entry: object) -> list[str]:
        """The parts that an instance lacks."""
        # On the class first: a property of the user's that raises is there, and raises where it is read.
        return [part for part in self.parts if not (hasattr(type(entry), part) or hasattr(entry, part))]


def import_attribute(reference: str, what: str) -> Any:
    """The object that `package.module:attribute` or `path/to/file.py:attribute` names; `what` opens the error messages.

    Raises BrokenEntry if there is no such file, module or attribute, or if it cannot be called. Errors raised by the
    code itself come through.
    """
    place, _, attribute = reference.rpartition(":")
    module = _import_file(Path(place), what) if place.endswith(".py") else _import_module(place, what)
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        close = difflib.get_close_matches(attribute, public, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise BrokenEntry(f"{what}: {place} has no {attribute!r}.{hint}")
    found = getattr(module, attribute)
    if not callable(found):
        raise BrokenEntry(f"{what}: {attribute!r} in {place} is {found!r:.80}; expected a class or a function")
    return found


def title(id: str) -> str:
    """An id as people read it: of what stands in a file, the file without its folders."""
    place, _, name = id.rpartition(":")
    return f"{Path(place).name}:{name}" if place.endswith(".py") else id


def reference_to(thing: object) -> str:
    """What names a class, a function or an object's class: `package.module:name`, or `/path/to/file.py:name`."""
    place = getattr(thing, "__module__", "?").removeprefix(USER_MODULE)
    return f"{place}:{getattr(thing, '__qualname__', type(thing).__name__)}"


def _from_anywhere(reference: str) -> str:
    """The same file has one name, whichever folder it is named from."""
    place, _, name = reference.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else reference


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    """What can be given by name."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # of something that is not written in Python
        return []
    return [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _order(id: str) -> tuple[str, int]:
    name, _, version = id.partition("@")
    return name, int(version)


def _where(target: object) -> str:
    return target if isinstance(target, str) else reference_to(target)


def _same(one: object, other: object) -> bool:
    """Whether two targets are one thing: a string may name the very class that a decorator registers."""
    return one is other or _where(one) == _where(other)


def _import_module(name: str, what: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise BrokenEntry(f"{what}: {name!r} is neither the name of a module nor a file that ends in .py")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise BrokenEntry(
                f"{what}: there is no module {name!r}. Is its package installed? A file is named by path.py:name."
            ) from error
        raise  # something that the module itself imports is missing: that is the author's error, shown as it is


def _import_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise BrokenEntry(f"{what}: there is no file {str(path)!r} (looked in {Path.cwd()})")
    # One module object a file, however often it is named: classes stay identical.
    name = USER_MODULE + str(path.resolve())
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# The pages of a browser that are tasks are many: their names stand in a file, one a line.
_PAGES = (Path(__file__).parent / "tasks" / "miniwob" / "pages.txt").read_text().split()

tasks: Registry[Task] = Registry(
    "task",
    {
        **{
            f"miniwob/{name}@1": f"pe_rlhf_mm.tasks.miniwob.task:{name}"
            for name in ("click-mix", "mix", "type-mix", *_PAGES)
        },
        "android/aitw@1": "pe_rlhf_mm.tasks.android.aitw:AndroidInTheWild",
        "android/control@1": "pe_rlhf_mm.tasks.android.control:AndroidControl",
        "android/control-low@1": "pe_rlhf_mm.tasks.android.control:AndroidControlLow",
        "canvas/dialog@1": "pe_rlhf_mm.tasks.canvas.dialog:AnswerDialog",
        "canvas/fill@1": "pe_rlhf_mm.tasks.canvas.fill:Fill",
        "canvas/menu@1": "pe_rlhf_mm.tasks.canvas.menu:OpenMenu",
        "canvas/mix@1": "pe_rlhf_mm.tasks.canvas.mix:Mix",
        "canvas/press@1": "pe_rlhf_mm.tasks.canvas.press:Press",
        "canvas/scroll@1": "pe_rlhf_mm.tasks.canvas.scroll:Scroll",
        "canvas/tick@1": "pe_rlhf_mm.tasks.canvas.tick:Tick",
        "pe/easy-vqa@1": "pe_rlhf_mm.tasks.vqa.easy_vqa:EasyVQA",
        "text/bolt@1": "pe_rlhf_mm.tasks.text.bolt:Bolt",
        "text/harmless@1": "pe_rlhf_mm.tasks.text.harmless:Harmless",
        "text/helpful-hh@1": "pe_rlhf_mm.tasks.text.helpful_hh:HelpfulHH",
        "text/helpful-shp@1": "pe_rlhf_mm.tasks.text.helpful_shp:HelpfulSHP",
        "text/tldr@1": "pe_rlhf_mm.tasks.text.tldr:TLDR",
        "ui/screenspot@1": "pe_rlhf_mm.tasks.ui.screenspot:ScreenSpot",
        "ui/uibert-refexp@1": "pe_rlhf_mm.tasks.ui.uibert_refexp:UIBertRefExp",
        "vqa/okvqa@1": "pe_rlhf_mm.tasks.vqa.okvqa:OKVQA",
        "vqa/screenqa@1": "pe_rlhf_mm.tasks.vqa.screenqa:ScreenQA",
        "vqa/textvqa@1": "pe_rlhf_mm.tasks.vqa.textvqa:TextVQA",
        "vqa/vqav2@1": "pe_rlhf_mm.tasks.vqa.vqav2:VQAv2",
    },
    parts=("evaluators", "samples", "environment", "solve"),
)
evaluators: Registry[Evaluator] = Registry(
    "evaluator",
    {
        "pe/anls@1": "pe_rlhf_mm.evaluators.anls:ANLS",
        "pe/click-in-box@1": "pe_rlhf_mm.evaluators.click_in_box:ClickInBox",
        "pe/drift@1": "pe_rlhf_mm.evaluators.drift:Drift",
        "pe/exact-match@1": "pe_rlhf_mm.evaluators.exact_match:ExactMatch",
        "pe/judge-harmless@1": "pe_rlhf_mm.evaluators.judge_harmless:JudgeHarmless",
        "pe/judge-score@1": "pe_rlhf_mm.evaluators.judge_score:JudgeScore",
        "pe/judge-ui@1": "pe_rlhf_mm.evaluators.judge_ui:JudgeUI",
        "pe/judge-win-rate@1": "pe_rlhf_mm.evaluators.judge_win_rate:JudgeWinRate",
        "pe/multiple-choice@1": "pe_rlhf_mm.evaluators.multiple_choice:MultipleChoice",
        "pe/relaxed-accuracy@1": "pe_rlhf_mm.evaluators.relaxed_accuracy:RelaxedAccuracy",
        "pe/reward-model@1": "pe_rlhf_mm.evaluators.reward_model:LearnedReward",
        "pe/rouge@1": "pe_rlhf_mm.evaluators.rouge:Rouge",
        "pe/squad@1": "pe_rlhf_mm.evaluators.squad:Squad",
        "pe/ui-step@1": "pe_rlhf_mm.evaluators.ui_step:UIStep",
        "pe/ui-success@1": "pe_rlhf_mm.evaluators.ui_success:UISuccess",
        "pe/vqa-accuracy@1": "pe_rlhf_mm.evaluators.vqa_accuracy:VQAAccuracy",
        "pe/vqa-accuracy-always@1": "pe_rlhf_mm.evaluators.vqa_accuracy:VQAAccuracyAlways",
    },
    parts=("score",),
)

register_task = tasks.register
register_evaluator = evaluators.register
