"""How many rows were read, kept and set aside, and where the first of each sort are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 5
"""Places that are remembered of each reason."""


@dataclass
class Group:
    """Rows set aside for one reason, and where the first ones are."""

    rows: int = 0
    where: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Counts of a preparation, or of a stretch of it. `skipped` has a message for every bad row."""

    read: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, Group] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def keep(self, split: str, rows: int = 1) -> None:
        """Counts rows kept; a negative number takes some back."""
        self.kept[split] = self.kept.get(split, 0) + rows

    def put_aside(self, reason: str, where: list[str], rows: int = 1) -> None:
        """Counts rows set aside."""
        group = self.set_aside.setdefault(reason, Group())
        group.rows += rows
        group.where = (group.where + where)[:EXAMPLES]

    def add(self, other: Tally) -> None:
        """Counts what a later stretch counted."""
        self.read += other.read
        for split, rows in other.kept.items():
            self.keep(split, rows)
        for reason, group in other.set_aside.items():
            self.put_aside(reason, group.where, group.rows)
        self.skipped += other.skipped

    def reasons(self) -> str:
        """The reasons and their numbers, most frequent first."""
        numbers = {reason: group.rows for reason, group in self.set_aside.items()}
        if self.skipped:
            numbers["bad"] = len(self.skipped)
        return ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(numbers.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Tally:
        """From what `to_json` gave."""
        groups = {reason: Group(**group) for reason, group in values["set_aside"].items()}
        return cls(values["read"], values["kept"], groups, values["skipped"])
