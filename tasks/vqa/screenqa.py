"""ScreenQA: questions about Android screens (Hsiao et al., 2022; arXiv 2209.08199), scored as SQuAD scores them.

Each question has one or more right answers in words. "<no answer>" is one of them where people found that the screen
does not say: as a reply it is right there, to the letter, and nowhere else; to any other reply it is no target.

    pe-rlhf data prepare screenqa --from FOLDER      short_answers/*.json, and RICO's screens (combined/*.jpg)
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.evaluators.squad import NO_ANSWER, squad
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.vqa.questions import ImageQuestions, most_frequent, tuning
from pe_rlhf_mm.types import Sample


@register_task("vqa/screenqa@1")
class ScreenQA(ImageQuestions):
    """A screen, a question, a short answer."""

    data = "screenqa"
    images = "RICO's screens (combined/, from the RICO data set)"
    evaluators: Sequence[str] = ("pe/squad",)
    tuning = tuning(max_tokens=24)

    def worth(self, reply: str, answers: Sequence[str]) -> float:
        """F1 of words, against the answer that suits the reply best."""
        return squad(reply, answers)[1]

    def best(self, answers: Sequence[str]) -> str:
        """The first answer in words; "<no answer>" where there is no other."""
        return most_frequent([answer for answer in answers if answer != NO_ANSWER] or answers)

    def solve(self, sample: Sample) -> Sequence[str]:
        """The best answer."""
        return [self.best(sample.target)]
