"""The way to an Android device: the `adb` executable. Nothing else here starts a process, and none may take for ever.

A command goes to the device as one line for its shell, every word quoted, and ends by telling its status: a connection
that breaks leaves adb with status 0 and half of the output, which must not be taken for an answer.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pe_rlhf_mm.errors import ImageError, UserError
from pe_rlhf_mm.types import Image

if TYPE_CHECKING:
    from PIL import Image as Pillow

Command = Sequence[str]
"""The words of a command for the device's shell, as they are meant: unquoted."""
Done = subprocess.CompletedProcess[bytes]
T = TypeVar("T")

INSTALL = (
    "Install Android's platform-tools: the package `adb` of Debian and Ubuntu, `android-platform-tools` of Homebrew, "
    "or the archive from https://developer.android.com/tools/releases/platform-tools"
)
PNG = b"\x89PNG\r\n\x1a\n"
BOOTED = 'until [ "$(getprop sys.boot_completed)" = 1 ]; do sleep 1; done'
STATUS = "[status of the command]"
TOLD = re.compile(rf"(.*){re.escape(STATUS)} (\d+)\r?\n", re.S)
REFUSED = re.compile(
    r"^(?:adb|error): .*(?:device .*not found|no devices|no emulators|unauthorized|offline|still authorizing"
    r"|still connecting|no permissions|insufficient permissions|cannot connect to daemon|closed$)",
    re.M,
)
"""What adb says when it could not reach the device: nothing has been started there."""


class DeviceLost(Exception):
    """The device cannot be reached or did not answer in time. `started`: the command may have been carried out."""

    def __init__(self, why: str, *, started: bool):
        super().__init__(why)
        self.started = started


class CommandFailed(Exception):
    """A command that came to its end, on the device or in adb, with a status other than 0; `said`: what it printed."""

    def __init__(self, command: str, status: int, said: str):
        super().__init__(f"`{command[:200]}` failed with status {status}: {said[:500]}")
        self.status, self.said = status, said


def find_adb(executable: str | Path | None = None) -> str:
    """The adb to run: the one given, $ANDROID_ADB, the one under $ANDROID_HOME, or that of the PATH.

    Raises UserError if there is none, or if the one that was named cannot be run.
    """
    for named, by in ((executable, "the argument `executable`"), (os.environ.get("ANDROID_ADB"), "ANDROID_ADB")):
        if named:
            found = shutil.which(str(named))
            if found is None:
                raise UserError(f"{by} names {str(named)!r}, which is no program that can be run. {INSTALL}.")
            return found
    home = os.environ.get("ANDROID_HOME")
    found = (shutil.which(str(Path(home, "platform-tools", "adb"))) if home else None) or shutil.which("adb")
    if found is None:
        raise UserError(
            f"no adb was found: not by ANDROID_ADB, not in ANDROID_HOME/platform-tools, not on the PATH. {INSTALL}."
        )
    return found


class Adb:
    """One device, by its serial number: the one given, $ANDROID_SERIAL, or the only one attached.

    A command may take `timeout` seconds. A device that is lost gets up to `attempts` new connections, and `patience`
    seconds for each; `reconnects` counts them. What adb refused to start is repeated after that, and so is what only
    looks. What may have been carried out is not repeated, for nobody knows whether it was: DeviceLost is raised.
    """

    def __init__(
        self,
        serial: str | None = None,
        *,
        executable: str | Path | None = None,
        timeout: float = 20.0,
        patience: float = 60.0,
        attempts: int = 2,
    ):
        self.executable = find_adb(executable)
        self.timeout, self.patience, self.attempts, self.reconnects = timeout, patience, attempts, 0
        self._wanted = serial or os.environ.get("ANDROID_SERIAL")

    @functools.cached_property
    def serial(self) -> str:
        """The device's serial number, looked up once. Raises UserError if no device has it, or if several might."""
        _text(self._process("start-server"))  # by itself: what it writes should not come before a picture
        if self._wanted and ":" in self._wanted:
            self._process("connect", self._wanted)  # how that went shows in the list
        listed = dict(re.findall(r"^(\S+)\t(.+)$", _text(self._process("devices")), re.M))
        named = ", ".join(f"{serial} ({state})" for serial, state in listed.items()) or "none"
        if self._wanted:
            if self._wanted not in listed:
                raise UserError(f"no Android device {self._wanted!r} is attached; `adb devices` lists {named}.")
            return self._wanted
        if len(listed) == 1:
            return next(iter(listed))
        todo = (
            "Say which one: Adb('serial number'), or ANDROID_SERIAL."
            if listed
            else "Start an emulator, or attach a phone with USB debugging switched on, until `adb devices` lists it."
        )
        raise UserError(f"one Android device is needed, and `adb devices` lists {named}. {todo}")

    def shell(self, *words: str, repeatable: bool = False) -> str:
        """What a command prints on the device. `repeatable`: it only looks, so that it may be run again after a fault.

        Raises CommandFailed if it fails there, and DeviceLost.
        """
        return self._on_device(shlex.join(words), repeatable=repeatable)

    def script(self, commands: Sequence[Command]) -> str:
        """What commands print, complaints included, that are run one after the other up to the first that fails.

        It takes one call of adb. Raises CommandFailed if one fails, and DeviceLost.
        """
        return self._on_device(f"{{ {' && '.join(map(shlex.join, commands))}; }} 2>&1", repeatable=False)

    def run(self, *arguments: str) -> str:
        """What any other adb command prints: "install", "push", "emu". Raises CommandFailed and DeviceLost."""
        return self._call(arguments, _text, repeatable=False)

    def screenshot(self) -> Pillow.Image:
        """The screen as it stands, turned as the device is, in RGB. Raises DeviceLost."""
        return self._call(("exec-out", "screencap", "-p"), _picture, repeatable=True)

    def boot(self) -> str:
        """What is another one after the device has been started again. Raises DeviceLost."""
        return self.shell("cat", "/proc/sys/kernel/random/boot_id", repeatable=True).strip()

    def _on_device(self, line: str, *, repeatable: bool) -> str:
        told = functools.partial(_told, line)
        return self._call(("shell", f'{line}; echo "{STATUS} $?"'), told, repeatable=repeatable)

    def _call(self, arguments: Command, read: Callable[[Done], T], *, repeatable: bool) -> T:
        for _ in range(self.attempts):
            try:
                return read(self._process("-s", self.serial, *arguments))
            except DeviceLost as lost:
                self._reconnect()
                if lost.started and not repeatable:
                    raise
        return read(self._process("-s", self.serial, *arguments))

    def _reconnect(self) -> None:
        """Drops the connection and waits for a new one. Whether it is there shows in the next command."""
        self.reconnects += 1
        with contextlib.suppress(DeviceLost):
            self._process("-s", self.serial, "reconnect")
            if ":" in self.serial:  # a network address, which adb gives up when the connection breaks
                self._process("connect", self.serial)
            self._process("-s", self.serial, "wait-for-device", "shell", BOOTED, limit=self.patience)

    def _process(self, *arguments: str, limit: float | None = None) -> Done:
        """Runs adb, which is killed after `limit` seconds, and returns its output and status."""
        limit, said = limit or self.timeout, shlex.join(arguments)[:200]
        try:
            # With this process's own input, adb would read what is meant for others.
            done = subprocess.run(
                [self.executable, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceLost(f"`adb {said}` did not answer within {limit:g} s", started=True) from None
        except OSError as error:
            raise UserError(f"{self.executable} cannot be run: {error.strerror or error}. {INSTALL}.") from error
        complaint = done.stderr.decode(errors="replace")
        if done.returncode and REFUSED.search(complaint):
            raise DeviceLost(f"`adb {said}`: {_flat(complaint)}", started=False)
        return done


def _text(done: Done) -> str:
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise CommandFailed(shlex.join(done.args), done.returncode, _flat(text + done.stderr.decode(errors="replace")))
    return text


def _told(line: str, done: Done) -> str:
    """What a line has printed, if it came to its end, and to a good one."""
    errors = done.stderr.decode(errors="replace")
    told = TOLD.fullmatch(done.stdout.decode(errors="replace"))
    if told is None:
        raise DeviceLost(_flat(f"the connection broke during `{line[:200]}` {errors[:200]}"), started=True)
    text, status = told.groups()
    if status != "0":
        raise CommandFailed(line, int(status), _flat(text + errors))
    return text


def _flat(said: str) -> str:
    return " ".join(said.split())


def _picture(done: Done) -> Pillow.Image:
    """The picture. Devices with several displays write a warning before it; a broken connection leaves half of it."""
    from pe_rlhf_mm.data.images import open_image

    try:
        return open_image(Image(done.stdout[max(done.stdout.find(PNG), 0) :]))
    except ImageError as error:
        raise DeviceLost(f"a screenshot came as {done.stdout[:80]!r}..: {error}", started=True) from error
