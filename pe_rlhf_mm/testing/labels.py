"""Checks of what a reward model is trained on: a task's pairs and ratings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from pe_rlhf_mm.data.labels import Label, fault
from pe_rlhf_mm.testing.contents import Content, content_of, prompt_of
from pe_rlhf_mm.testing.problems import Problems, check_messages, check_part
from pe_rlhf_mm.types import Preference, Rated, Reply, Text

METHODS = {"preferences": Preference, "ratings": Rated}
NAMES = {Preference: "pair", Rated: "rating"}

Read = Callable[..., Iterable[Label]]


def check_labels(task: object, splits: Sequence[str], problems: Problems, n: int) -> None:
    """Notes what is wrong with the first `n` pairs and ratings of every split, of a task that has such methods."""
    for method, kind in METHODS.items():
        read: Read | None = getattr(task, method, None)
        if read is not None:
            for split in splits:
                with problems.during(f"{method}({split!r})"):
                    _check_split(read, method, kind, split, problems, n)


def _check_split(read: Read, method: str, kind: type[Label], split: str, problems: Problems, n: int) -> None:
    name, before = NAMES[kind], len(problems)
    labels, again = (list(itertools.islice(read(split, seed=0), n)) for _ in range(2))
    problems.expect(bool(labels), f"{method}({split!r}) yields nothing; it must yield one at least")
    for number, label in enumerate(labels):
        what = f"{name} {number} of {split!r}"
        if problems.expect(
            isinstance(label, kind), f"{what} is a {type(label).__name__}; expected pe_rlhf_mm.{kind.__name__}"
        ):
            _check_label(label, what, problems)
    if len(problems) == before:
        problems.expect(
            [_told(label) for label in labels] == [_told(label) for label in again],
            f"{method}({split!r}, seed=0) gives other {name}s when it is called again",
        )


def _check_label(label: Label, what: str, problems: Problems) -> None:
    before = len(problems)
    for reply in _replies(label):
        _check_reply(reply, what, problems)
    if len(problems) == before:
        contents = [content_of(reply) for reply in _replies(label)]
        first = contents[0][0] if len(contents[0]) == 1 else contents[0]
        problems.expect(len(set(contents)) == len(contents), f"{what}: both replies are {first!r:.80}")
    wrong = fault(label)
    problems.expect(wrong is None, f"{what}: {wrong}")
    check_messages(label.messages, what, problems)


def _check_reply(reply: Reply, what: str, problems: Problems) -> None:
    parts = [Text(reply)] if isinstance(reply, str) else reply
    if problems.expect(
        isinstance(parts, Sequence),
        f"{what} has the reply {reply!r:.80}; expected a string, or a list of Text and Image",
    ):
        for part in parts:
            check_part(part, what, problems)


def _replies(label: Label) -> tuple[Reply, ...]:
    return (label.chosen, label.rejected) if isinstance(label, Preference) else (label.reply,)


def _told(label: Label) -> Content:
    """What two passes must have in common."""
    replies = tuple(content_of(reply) for reply in _replies(label))
    said = (label.probability, label.margin) if isinstance(label, Preference) else (label.label,)
    return prompt_of(label.messages), replies, said
