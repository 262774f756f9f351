"""Pages written for tests, which speak MiniWoB's protocol, and how they are played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pe_rlhf_mm.envs.actions import ActionError, UIAction
from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.types import Image, Sample, Step, Text

HEAD = """<!DOCTYPE html><html><head><meta charset="utf-8"><style>
  body { margin: 0; font: 10px monospace; background: white } #area { position: relative; width: 160px; height: 210px }
</style><script>
  var WOB_TASK_READY = true, WOB_DONE_GLOBAL = false, WOB_RAW_REWARD_GLOBAL = 0, seed = 0, begin = () => {};
  Math.seedrandom = given => { seed = Number(given); };
  var core = {
    cover_div: {}, clearTimer() {}, getUtterance: () => 'Problem ' + seed + '.',
    startEpisodeReal() { WOB_DONE_GLOBAL = false; WOB_RAW_REWARD_GLOBAL = 0; begin(); },
    end(reward) { WOB_DONE_GLOBAL = true; WOB_RAW_REWARD_GLOBAL = reward; }};
  const show = text => { document.getElementById('text').textContent = text; };
</script></head><body><div id="area"><div id="text"></div>
"""


def write_page(folder: Path, name: str, script: str = "", body: str = "") -> str:
    """A page with a task area of a body and a script; `begin` poses the problem `seed` and `core.end` ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{HEAD}{body}</div><script>{script}</script></body></html>", encoding="utf-8")
    return name


class Json:
    """A codec for tests: the fields of an action as a JSON object."""

    def describe(self) -> str:
        return "Reply with a JSON object."

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        try:
            fields = json.loads(reply)
            return UIAction(**{name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ActionError(f"no action: {error}") from None

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        return json.dumps({name: value for name, value in vars(action).items() if value})


def sample(page: str, seed: int = 0, **metadata: Any) -> Sample:
    return Sample(f"{page}-{seed}", [], metadata={"page": page, "seed": seed, **metadata})


def start(env: WebEnv, page: str, seed: int = 0, **metadata: Any) -> Step:
    return env.reset(sample(page, seed, **metadata), seed=0)


def do(env: WebEnv, kind: str, **fields: Any) -> Step:
    """Carries out an action; points are given in pixels of the page."""
    for name in ("point", "to"):
        if name in fields:
            x, y = fields[name]
            fields[name] = [x / 160, y / 210]
    return env.step(json.dumps({"kind": kind, **fields}))


def middle(env: WebEnv, chosen: str) -> tuple[float, float]:
    """The middle of the first element that a CSS selector chooses, in pixels of the page."""
    left, top, width, height = env.evaluate(
        """chosen => {
          const box = document.querySelector(chosen).getBoundingClientRect();
          return [box.left, box.top, box.width, box.height]; }""",
        chosen,
    )
    return left + width / 2, top + height / 2


def seen(step: Step) -> bytes:
    """The pixels of the picture of a step."""
    (picture,) = (part for message in step.observation for part in message.parts if isinstance(part, Image))
    pixels: bytes = picture.source.tobytes()
    return pixels


def told(step: Step) -> list[str]:
    """The texts of a step."""
    return [part.text for message in step.observation for part in message.parts if isinstance(part, Text)]
