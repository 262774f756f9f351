"""An environment whose screen is a web page of the MiniWoB kind, in a real browser."""

from __future__ import annotations

import io
import threading
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from pe_rlhf_mm.envs.actions import LONGEST_REPLY, ActionError, Codec, UIAction
from pe_rlhf_mm.envs.web.browser import Browser
from pe_rlhf_mm.envs.web.gestures import AREA, check
from pe_rlhf_mm.envs.web.page import Look, Problem
from pe_rlhf_mm.envs.web.replay import Lost, Recording
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Image, Message, Sample, Step, Text

_shared: list[Browser] = []
_sharing = threading.Lock()


def shared_browser() -> Browser:
    """The browser of this process, which all environments share that are not given another one."""
    with _sharing:
        if not _shared:
            _shared.append(Browser())
        return _shared[0]


class WebEnv:
    """Episodes on the pages below a folder; which page and which of its problems comes from the sample.

    Of `sample.metadata` it reads `page` (a file below `folder`: "miniwob/click-test.html"), `seed` (of the problem)
    and, where there is one, `mode` ("train" or "test": MiniWoB's setDataMode). The goal is the page's own utterance.
    The reward is its raw one, without the time that the page takes off, and 0 where that is negative: if a wrong click
    cost more than no click, a policy that fails more often than it wins would learn to do nothing.

    `in_place`: pages (as in `page`) on which a problem that is posed in the loaded page looks as it does after loading
    it again; that takes 7 ms of a core instead of 150. `scale`: pixels of the picture for each pixel of the page. At
    1 a picture has 160 x 210, as in what is published of MiniWoB, and costs a quarter of the memory and of the image
    tokens that it does at 2, which makes small print easier to read. `timeout`: seconds for each call to the page.

    A page or a browser that crashes or hangs is replaced, and the episode is played again up to where it was;
    `info["replays"]` counts that. Where it cannot be brought back the step carries `info["lost"]`.
    """

    def __init__(
        self,
        folder: Path,
        codec: Codec,
        *,
        in_place: Container[str] = (),
        max_steps: int = 10,
        scale: int = 1,
        timeout: float = 10.0,
        browser: Browser | None = None,
    ):
        self.folder = folder.resolve()
        self.codec = codec
        self.size = (AREA[0] * scale, AREA[1] * scale)
        """Width and height of its pictures."""
        self.browser = browser or shared_browser()
        self._in_place, self._max_steps = in_place, max_steps
        self.recording = Recording(self.browser, self.folder, scale=scale, timeout=timeout)
        self._picture: Any = None
        self._steps_left = 0

    def reset(self, sample: Sample, *, seed: int) -> Step:
        """Poses the sample's problem and shows it. Raises UserError for a page that does not exist."""
        page = self.folder / sample.metadata["page"]
        if not page.is_file():
            raise UserError(f"sample {sample.id!r}: there is no page {page}")
        problem = Problem(page, sample.metadata["seed"], sample.metadata.get("mode", "train"))
        self._steps_left = self._max_steps
        try:
            goal, look = self.browser.run(
                self.recording.begin(problem, in_place=sample.metadata["page"] in self._in_place)
            )
        except Lost as lost:
            return self._lost(lost)
        return Step(self._shown(look, goal), info={"replays": self.recording.replays})

    def step(self, reply: str) -> Step:
        """Carries out what a reply says. What is no action, or cannot be done to a page, leaves the page as it is."""
        if not self._steps_left:
            raise RuntimeError("the episode is over; reset the environment before the next step")
        self._steps_left -= 1
        try:
            action = self._action(reply)
        except ActionError as error:
            observation = [Message("user", [Image(self._picture), Text(str(error))])]
            return self._answer(observation, {"action_error": str(error)})
        try:
            look = self.browser.run(self.recording.act(action))
        except Lost as lost:
            return self._lost(lost)
        if look.done:
            self._steps_left = 0
            info = {"action": action, "replays": self.recording.replays}
            return Step([], max(look.reward, 0.0), terminated=True, info=info)
        return self._answer(self._shown(look), {"action": action})

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression or function in the page as it is: for oracles, never for a policy.

        Raises Lost where the episode cannot be brought back after a fault.
        """
        return self.browser.run(self.recording.evaluate(script, argument))

    def close(self) -> None:
        """Closes the page; the browser stays, for the other environments of this process."""
        self.browser.run(self.recording.close())

    def _answer(self, observation: Sequence[Message], told: Mapping[str, Any]) -> Step:
        """To a reply that the page goes on after. The last one has failed: if what comes after a budget were worth
        anything to a learner, it would learn to use it up rather than to risk a wrong click."""
        info = {**told, "replays": self.recording.replays}
        if self._steps_left:
            return Step(observation, info=info)
        return Step(observation, terminated=True, info={**info, "out_of_steps": True})

    def _action(self, reply: str) -> UIAction:
        if len(reply) > LONGEST_REPLY:
            raise ActionError(f"a reply of {len(reply)} characters is no action; expected at most {LONGEST_REPLY}")
        action = self.codec.parse(reply, self.size)
        check(action)
        return action

    def _shown(self, look: Look, goal: str | None = None) -> Sequence[Message]:
        from PIL import Image as Pillow

        self._picture = Pillow.open(io.BytesIO(look.picture)).convert("RGB")
        return [Message("user", [Image(self._picture), *([] if goal is None else [Text(goal)])])]

    def _lost(self, lost: Lost) -> Step:
        self._steps_left = 0
        return Step([], truncated=True, info={"lost": str(lost), "replays": self.recording.replays})
