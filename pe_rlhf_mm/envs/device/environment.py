"""Episodes on an Android device. What a task begins with, and whether it is done, is said by functions of the task."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from pe_rlhf_mm.envs.actions import ActionError, Dialect, UIAction, codec
from pe_rlhf_mm.envs.device.adb import Adb, Command, CommandFailed, DeviceLost
from pe_rlhf_mm.envs.device.gestures import commands
from pe_rlhf_mm.envs.device.keyboard import Keyboard, input_text
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Image, Message, Sample, Step, Text

ResetDevice = Callable[[Adb, Sample], None]
"""Brings the device into the state in which an episode begins."""
Judge = Callable[[Adb, Sample, UIAction], float | None]
"""The reward of an episode that the agent has ended by this action ("done", "infeasible" or "answer"); None if the
device does not tell, which is no failure of the agent: the episode counts as lost."""

ENDS = ("done", "infeasible", "answer")
COMPLAINT = re.compile(r"^(?:Error\b|\*\* No activities).*", re.M)
"""What `am` and `monkey` print when they open nothing; on some devices they end with status 0 all the same."""


class DeviceEnv:
    """The screen of an Android device, to be acted on in a dialect. The goal is the sample's `metadata["goal"]`.

    `apps`: the package, or "package/activity", of each app that can be opened by name. `settle`: seconds from an action
    to the screenshot. A device that is lost and does not come back, or has been started anew meanwhile, ends the
    episode with info "lost". One environment needs one device for itself.
    """

    def __init__(
        self,
        adb: Adb | None = None,
        *,
        reset_device: ResetDevice,
        judge: Judge,
        apps: Mapping[str, str] | None = None,
        dialect: Dialect = "android_world",
        keyboard: Keyboard = input_text,
        max_steps: int = 20,
        settle: float = 1.0,
    ):
        self.adb = adb or Adb()
        self._reset_device, self._judge = reset_device, judge
        self._codec, self._apps, self._keyboard = codec(dialect), dict(apps or {}), keyboard
        self._max_steps, self._settle = max_steps, settle
        self._left = 0

    def reset(self, sample: Sample, *, seed: int) -> Step:
        """The first screenshot and the goal. Nothing here is random. Raises UserError if there is no such device."""
        goal = sample.metadata.get("goal")
        if not isinstance(goal, str):
            raise UserError(
                f"sample {sample.id!r} has the goal {goal!r:.80}; expected metadata={{'goal': 'a sentence'}}"
            )
        self._sample, self._left = sample, self._max_steps
        try:
            self._reset_device(self.adb, sample)
            self._boot, self._reconnects = self.adb.boot(), self.adb.reconnects  # a restart is part of some resets
            return Step([Message("user", [self._look(), Text(goal)])])
        except (DeviceLost, CommandFailed) as error:
            return self._lost(str(error))

    def step(self, reply: str) -> Step:
        """Carries out the action of a reply, or asks the judge if it ends the episode."""
        if not self._left:
            raise RuntimeError("there is no episode to go on with: call reset first")
        self._left -= 1
        try:
            return self._step(reply)
        except (DeviceLost, CommandFailed) as error:
            return self._lost(str(error))

    def close(self) -> None:
        """Nothing: no process outlives its call, and adb's server is everybody's."""

    def _step(self, reply: str) -> Step:
        try:
            action = self._codec.parse(reply, self._size)
            if action.kind in ENDS:
                return self._judged(action)
            self._carry_out(commands(action, self._size, apps=self._apps, keyboard=self._keyboard))
        except ActionError as error:
            info: dict[str, object] = {"action_error": str(error)}
            said = [Text(str(error))]
        else:
            info, said = {"action": action}, []
            time.sleep(self._settle)
        if not self._left:
            info["out_of_steps"] = True
        return Step([Message("user", [self._look(), *said])], terminated=not self._left, info=info)

    def _carry_out(self, given: Sequence[Command]) -> None:
        """Raises ActionError, with the device's words, if it could not be done."""
        try:
            said = self.adb.script(given) if given else ""  # to wait is to do nothing
        except CommandFailed as error:
            raise ActionError(f"the device says: {error.said[:300]}") from error
        complaint = COMPLAINT.search(said)
        if complaint:
            raise ActionError(f"the device says: {complaint[0][:300]}")

    def _judged(self, action: UIAction) -> Step:
        reward = self._judge(self.adb, self._sample, action)
        self._expect_same_boot()
        if reward is None:
            return self._lost("the judge could not tell whether the task is done")
        self._left = 0
        return Step([], float(reward), terminated=True, info={"action": action})

    def _look(self) -> Image:
        """The screenshot, whose size is that to which the next reply refers: devices are turned."""
        picture = self.adb.screenshot()
        self._expect_same_boot()
        self._size = picture.size
        return Image(picture)

    def _expect_same_boot(self) -> None:
        """What has happened to a device that was away shows in whether it has been started anew."""
        if self.adb.reconnects != self._reconnects:
            self._reconnects = self.adb.reconnects
            if self.adb.boot() != self._boot:
                raise DeviceLost("the device has been started anew in mid-episode", started=True)

    def _lost(self, why: str) -> Step:
        self._left = 0
        return Step([], truncated=True, info={"lost": why})
