"""Judges whose verdicts are known, and what evaluators make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pe_rlhf_mm.registry import evaluators
from pe_rlhf_mm.types import Message, Outcome, Sample, Score, Text, Verdict

JUDGED = ("pe/judge-harmless", "pe/judge-ui", "pe/judge-score", "pe/judge-win-rate")


class Saying:
    """A judge whose probabilities are what a function makes of a prompt; remembers the prompts."""

    id = "saying"

    def __init__(self, probabilities: Callable[[str], Mapping[str, float] | None]):
        self._probabilities = probabilities
        self.prompts: list[Sequence[Message]] = []

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        self.prompts += conversations
        found = [self._probabilities(text_of(prompt)) for prompt in conversations]
        return [
            Verdict(None, "no idea") if likely is None else Verdict({c: likely.get(c, 0.0) for c in choices})
            for likely in found
        ]


def text_of(prompt: Sequence[Message]) -> str:
    return "".join(part.text if isinstance(part, Text) else "<image>" for m in prompt for part in m.parts)


def outcome(reply: str, target: object = None, *, id: str = "s", asked: str = "What is it?") -> Outcome:
    return Outcome(Sample(id, (Message("user", asked),), target), [reply])


def score(
    name: str, judge: Saying, *outcomes: Outcome, against: Mapping[str, Sequence[str]] | None = None
) -> list[Score]:
    return evaluators.make(name, {"judge": judge, "against": against}).score(outcomes)


def between(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>\n")[2].partition(f"\n</{tag}>")[0]


def longer_wins(prompt: str) -> dict[str, float]:
    one, other = (len(between(prompt, f"reply_{place}")) for place in (1, 2))
    return {"1": 0.9, "2": 0.1} if one > other else {"1": 0.2, "2": 0.8}
