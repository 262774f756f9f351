"""Published questions about images with the answers of several people: what their tasks share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluators.vqa_accuracy import vqa_accuracy, vqa_accuracy_always
from pe_rlhf_mm.tasks.vqa.wrong_answers import Known, answer_type, spread, wrong_answer
from pe_rlhf_mm.training.config import RewardConfig, RLConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.types import Image, Message, Preference, Rated, Sample, Text

Record = dict[str, Any]


def tuning(max_tokens: int) -> TuneConfig:
    """Settings for tiny-vlm and models of its kind, whatever the pictures."""
    return TuneConfig(
        sft=SFTConfig(steps=300, batch_size=32, learning_rate=1e-3, demonstrations=8192),
        reward=RewardConfig(
            steps=500, batch_size=32, learning_rate=2e-3, pairs=16384, validate_every=50, validation_pairs=512
        ),
        rl=RLConfig(
            steps=150,
            prompts=64,
            group=4,
            learning_rate=4e-4,
            value_learning_rate=1e-3,
            temperature=1.0,
            max_tokens=max_tokens,
            evaluate_every=25,
        ),
        test_samples=2048,
    )


def most_frequent(answers: Sequence[str]) -> str:
    """What most people said; of several, the one that stands first."""
    return Counter(answers).most_common(1)[0][0]


class ImageQuestions:
    """One image, one question; the target is the list of the people's answers.

    `data`: the name of the prepared set. `images`: what its folder must hold.
    """

    data: ClassVar[str]
    images: ClassVar[str]
    evaluators: Sequence[str] = ("pe/vqa-accuracy",)
    tuning = tuning(max_tokens=8)

    def worth(self, reply: str, answers: Sequence[str]) -> float:
        """How right a reply is, 0 to 1: the label of reward data."""
        return vqa_accuracy_always(reply, answers)

    def best(self, answers: Sequence[str]) -> str:
        """The answer to be learnt."""
        return most_frequent(answers)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """The questions of a split, in the published order."""
        for record in prepared(self.data, split):
            yield Sample(
                id=str(record["question_id"]),
                messages=self._ask(record),
                target=tuple(record["answers"]),
                **_about(record),
            )

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        """The best answer to each question against a wrong one, drawn from the seed; the margin is what it is worth."""
        for record, wrong in self._with_wrong(split, seed):
            best = self.best(record["answers"])
            margin = self.worth(best, record["answers"])
            if margin > 0:
                yield Preference(self._ask(record), best, wrong, margin=margin, **_about(record))

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        """Two replies to each question, what one of the people said and what none did; the label is their worth."""
        rng = random.Random(f"said/{seed}")
        for record, wrong in self._with_wrong(split, seed):
            for reply in (rng.choice(record["answers"]), wrong):
                yield Rated(self._ask(record), reply, self.worth(reply, record["answers"]), **_about(record))

    def environment(self) -> None:
        """A single turn needs none."""

    def solve(self, sample: Sample) -> Sequence[str] | None:
        """The most frequent answer, if it is worth all; where people disagree more than that, nobody knows."""
        best = self.best(sample.target)
        return [best] if vqa_accuracy(best, sample.target) == 1 else None

    def _ask(self, record: Record) -> tuple[Message]:
        if record["image"] is None:
            raise UserError(
                f"question {record['question_id']} has no image: '{self.data}' was prepared from a folder without "
                f"{self.images}. Put them there and prepare it again: pe-rlhf data prepare {self.data} --from FOLDER"
            )
        return (Message("user", (Image(record["image"]), Text(record["question"]))),)

    def _with_wrong(self, split: str, seed: int) -> Iterator[tuple[Record, str]]:
        """Every question that has a wrong answer, with it."""
        records, rng = prepared(self.data, split), random.Random(seed)
        known = self._known(records)
        for record in records:
            worth = partial(self.worth, answers=record["answers"])
            kind = answer_type(self.best(record["answers"]))
            wrong = wrong_answer(record["question"], kind, known, worth, rng)
            if wrong is not None:
                yield record, wrong

    def _known(self, records: Sequence[Record]) -> Known:
        return Known.of([self.best(records[place]["answers"]) for place in spread(len(records))])


def _about(record: Record) -> dict[str, Any]:
    """What results are clustered and broken down by; the answer type as it is published, where it is."""
    kind = record.get("answer_type") or answer_type(most_frequent(record["answers"]))
    return {"cluster": str(record["image_id"]), "metadata": {"answer_type": kind}}
