"""Text that is typed on a device: by Android's own `input`, which knows ASCII, or by the keyboard app ADBKeyboard."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from pe_rlhf_mm.envs.actions import ActionError
from pe_rlhf_mm.envs.device.adb import Command

Keyboard = Callable[[str], list[Command]]
"""The commands that type a text. Raises ActionError for one that cannot be typed."""

LONGEST = 1000
"""Characters that are typed at a time: each takes the device a few milliseconds, and a command has a time-out."""
BREAKS = {"\n": "KEYCODE_ENTER", "\t": "KEYCODE_TAB"}


def input_text(text: str) -> list[Command]:
    """Printable ASCII, line breaks and tabs, by `input text`, which every device has."""
    _expect_short(text)
    strange = re.search(r"[^\n\t -~]", text)
    if strange:
        raise ActionError(f"this device types printable ASCII only, and the text has {strange.group()!r}")
    commands: list[Command] = []
    for piece in re.findall(r"\n|\t|[^\n\t]+", text):
        if piece in BREAKS:
            commands.append(("input", "keyevent", BREAKS[piece]))
        else:  # `input` types a space for "%s", so that a "%" before an "s" has to be typed by itself
            commands += [("input", "text", part.replace(" ", "%s")) for part in re.split(r"(?<=%)(?=s)", piece)]
    return commands


def adb_keyboard(text: str) -> list[Command]:
    """Any text, by a broadcast to the app ADBKeyboard (https://github.com/senzhk/ADBKeyBoard).

    It must be the keyboard in use, and nothing tells whether it is: a broadcast that nobody hears is no failure.
    """
    _expect_short(text)
    return [("am", "broadcast", "-a", "ADB_INPUT_B64", "--es", "msg", base64.b64encode(text.encode()).decode())]


def _expect_short(text: str) -> None:
    if len(text) > LONGEST:
        raise ActionError(f"the text has {len(text)} characters; at most {LONGEST} can be typed at a time")
