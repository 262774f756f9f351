"""Android in the Wild: the next action of a demonstration (Rawles et al., 2023; arXiv 2307.10088), scored by its rule.

Taps count within 0.14 of each other or in one element, swipes by their axis, and typed texts are not compared: the
score says less than it seems to. Results are told apart by the five sets that the data are of (`domain`).

    pe-rlhf data prepare aitw --from FOLDER      files of google_apps/, install/ .. and standard.json
"""

from __future__ import annotations

from pe_rlhf_mm.envs.matching import StepTarget
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.android.recorded import Record, RecordedSteps, action_of, boxes_of


@register_task("android/aitw@1")
class AndroidInTheWild(RecordedSteps):
    """A screen and a goal."""

    data = "aitw"
    kinds = ("click", "drag", "type", "key", "back", "home", "done", "infeasible")
    domain = "set"

    def target(self, record: Record) -> StepTarget:
        """The action, and the boxes of all that was read off the screen."""
        size = record["width"], record["height"]
        return StepTarget(action_of(record), "aitw", boxes_of(record), self.dialect, size)
