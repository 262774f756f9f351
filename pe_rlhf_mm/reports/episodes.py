"""What `samples.jsonl` keeps of an episode.

The line of a sample that was played has, beside `id`, `question` (the goal) and what is said of each policy's replies
(`{"sft": {"reward", "score"}, "rl": ..}`), its episodes: `{"episodes": {"sft": RECORD, "rl": RECORD}}`. A record is

    {"end": how it ended, "why": of a lost one, "steps": [{"image", "text", "reply", "point", "to", "error", "reward"}]}

with a step for every reply, and one without a reply for what was left to be seen. `image` is a path in the run folder,
`text` what was shown in place of a picture; `point` (and `to`, the end of a drag) are fractions of the picture, from
its left and top edge; `error` says why a reply was not carried out; `reward` is what it earned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pe_rlhf_mm.envs.episode import ending, lost_by
from pe_rlhf_mm.types import Image, Outcome, Step, Text


def episode_record(outcome: Outcome, save_image: Callable[[bytes], str]) -> dict[str, Any]:
    """An episode as JSON. `save_image` keeps a PNG and returns its path in the run folder. Raises ImageError."""
    from pe_rlhf_mm.data.images import encode_png, open_image

    return record_of(outcome, lambda image: save_image(encode_png(open_image(image))))


def record_of(outcome: Outcome, path_of: Callable[[Image], str]) -> dict[str, Any]:
    """An episode as JSON; `path_of` tells where a picture lies. Actions may be what a log keeps of them."""
    shown: dict[str, str | None] = {"image": None, "text": None}
    records = []
    for reply, seen, answer in zip(outcome.replies, outcome.steps, outcome.steps[1:], strict=False):
        shown = _shown(seen, path_of) or shown
        action = answer.info.get("action")
        records.append(
            {
                **shown,
                "reply": reply,
                "point": _end(action, "point"),
                "to": _end(action, "to"),
                "error": answer.info.get("action_error"),
                "reward": answer.reward,
            }
        )
    left = _shown(outcome.steps[-1], path_of)
    if left is not None:
        records.append({**left, "reply": None, "point": None, "to": None, "error": None, "reward": 0.0})
    return {"end": ending(outcome), "why": lost_by(outcome), "steps": records}


def goal_of(outcome: Outcome) -> str:
    """What the agent was told to do: the texts of the first observation."""
    return _text(outcome.steps[0])


def _end(action: object, name: str) -> Any:
    return action.get(name) if isinstance(action, Mapping) else getattr(action, name, None)


def _shown(step: Step, path_of: Callable[[Image], str]) -> dict[str, str | None] | None:
    """The last picture of an observation, or its text; None where there is nothing new to see."""
    pictures = [part for message in step.observation for part in message.parts if isinstance(part, Image)]
    if pictures:
        return {"image": path_of(pictures[-1]), "text": None}
    return {"image": None, "text": _text(step)} if step.observation else None


def _text(step: Step) -> str:
    return "\n".join(part.text for message in step.observation for part in message.parts if isinstance(part, Text))
