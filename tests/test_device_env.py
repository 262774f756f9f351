"""Devices, on the other side of a real adb process that is not the real adb: `fake_adb.py` says what it can do."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.envs.actions import ActionError, UIAction, codec
from pe_rlhf_mm.envs.device.adb import Adb, CommandFailed, DeviceLost, find_adb
from pe_rlhf_mm.envs.device.environment import DeviceEnv
from pe_rlhf_mm.envs.device.gestures import commands
from pe_rlhf_mm.envs.device.keyboard import adb_keyboard, input_text
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing import check_env
from pe_rlhf_mm.types import Image, Message, Sample, Step, Text

ROOT = Path(__file__).parent.parent
FAKE = ROOT / "tests" / "fake_adb.py"
SERIAL = "emulator-5554"
SOON = {"patience": 0.2, "attempts": 1}
"""For devices that do not come back, however long one waits."""


class Phone:
    """The folder that is the device, and the adb that leads to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "settings").mkdir(parents=True)
        (folder / "boot").write_text("the first boot\n")
        (folder / "buttons").write_text("10 20 29 39 airplane_mode_on 1\n")
        self.set(devices={SERIAL: "device"}, faults=[], returns={"after": 0})
        self.show((60, 100))
        self.adb = folder / "adb"  # by this Python, for the one on the PATH may take long to start
        self.adb.write_text(f"#!{sys.executable} -IS\n{FAKE.read_text()}")
        self.adb.chmod(0o755)

    def set(self, **files: Any) -> None:
        for name, value in files.items():
            (self.folder / f"{name}.json").write_text(json.dumps(value))

    def show(self, size: tuple[int, int], color: str = "white") -> None:
        Pillow.new("RGB", size, color).save(self.folder / "screen.png")

    def noted(self, name: str) -> list[Any]:
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def touched(self) -> list[list[str]]:
        file = self.folder / "touched"
        said = file.read_bytes().decode() if file.exists() else ""
        return [command.split("\x1f")[:-1] for command in said.split("\x1e")[:-1]]


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    for name in ("ANDROID_ADB", "ANDROID_HOME", "ANDROID_SERIAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHONE", str(tmp_path / "phone"))
    phone = Phone(tmp_path / "phone")
    monkeypatch.setenv("PATH", str(phone.folder), prepend=":")
    return phone


# --- adb itself, and which device --------------------------------------------------------------------------------


def test_adb_is_found_by_argument_then_variables_then_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: tmp_path / name / "adb" for name in ("given", "named", "home/platform-tools", "path")}
    for place in places.values():
        place.parent.mkdir(parents=True)
        place.symlink_to(FAKE)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANDROID_ADB", str(places["named"]))
    assert find_adb(places["given"]) == str(places["given"])
    assert find_adb() == str(places["named"])
    monkeypatch.delenv("ANDROID_ADB")
    assert find_adb() == str(places["home/platform-tools"])
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "elsewhere"))
    assert find_adb() == str(places["path"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no adb was found: .* Install Android's platform-tools"):
        find_adb()


def test_an_adb_that_is_named_and_not_there_is_an_error_and_no_other_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"the argument `executable` names '.*/none', which is no program"):
        find_adb(tmp_path / "none")
    (tmp_path / "text").write_text("no program")
    monkeypatch.setenv("ANDROID_ADB", str(tmp_path / "text"))
    with pytest.raises(UserError, match=r"ANDROID_ADB names '.*/text', which is no program"):
        find_adb()


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ({}, "`adb devices` lists none. Start an emulator, or attach a phone with USB debugging switched on"),
        ({"one": "device", "two": "offline"}, r"lists one \(device\), two \(offline\). Say which one: Adb\("),
    ],
)
def test_it_must_be_clear_which_device(phone: Phone, devices: dict[str, str], said: str) -> None:
    phone.set(devices=devices)
    with pytest.raises(UserError, match=said):
        env().reset(SAMPLE, seed=0)


def test_of_several_devices_the_one_that_is_named_is_used(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    phone.set(devices={"one": "device", "two": "device", "10.0.0.2:5555": "device"})
    assert Adb("two").serial == "two"
    monkeypatch.setenv("ANDROID_SERIAL", "one")
    assert Adb().serial == "one"
    assert Adb("10.0.0.2:5555").serial == "10.0.0.2:5555"
    assert ["connect", "10.0.0.2:5555"] in phone.noted("calls")
    with pytest.raises(UserError, match=r"no Android device 'three' is attached; `adb devices` lists one \(device\), "):
        assert Adb("three").serial


# --- what reaches the device -------------------------------------------------------------------------------------

NASTY = (
    'it\'s "50%" of $HOME; `touch pwned` $(touch pwned) & | > pwned < * ? ~ \\ \\n {a,b} #no !x',
    "100%sure 100% sure %s %%s %d %",
    " two  spaces ",
    "-5",
    "first line\nsecond\tcell\n",
)


def typed_by(touched: list[list[str]]) -> str:
    """The text that comes of commands, as Android's `input` types it: of "%s" a space, else every character."""
    keys = {"KEYCODE_ENTER": "\n", "KEYCODE_TAB": "\t"}
    return "".join(
        keys[argument] if kind == "keyevent" else " ".join(argument.split("%s")) for _, kind, argument in touched
    )


@pytest.mark.parametrize("text", NASTY)
def test_what_is_typed_is_the_text_and_nothing_of_it_is_run(phone: Phone, text: str) -> None:
    Adb().script(input_text(text))
    assert typed_by(phone.touched) == text
    assert not list(phone.folder.rglob("pwned"))


@pytest.mark.parametrize("word", [*NASTY[:4], "", "Zürich 東京"])
def test_words_of_a_command_reach_the_device_as_they_are(phone: Phone, word: str) -> None:
    Adb().shell("settings", "put", "global", "note", word)
    assert Adb().shell("settings", "get", "global", "note") == word + "\n"
    assert not list(phone.folder.rglob("pwned"))


def test_text_that_cannot_be_typed_is_refused_unless_another_keyboard_types_it() -> None:
    with pytest.raises(ActionError, match="types printable ASCII only, and the text has 'ü'"):
        input_text("Zürich")
    with pytest.raises(ActionError, match="has 1001 characters; at most 1000 can be typed at a time"):
        input_text("x" * 1001)
    # The Base64 form of the UTF-8 bytes 5a c3 bc.
    assert adb_keyboard("Zü") == [("am", "broadcast", "-a", "ADB_INPUT_B64", "--es", "msg", "WsO8")]


def test_a_command_that_fails_is_told_from_one_that_was_cut_off(phone: Phone) -> None:
    with pytest.raises(CommandFailed, match="`cat /none` failed with status 1: cat: /none: No such file"):
        Adb().shell("cat", "/none")
    (phone.folder / "settings" / "alarm").write_text("07:30")
    phone.set(faults=[["settings get", "broken"]])
    with pytest.raises(DeviceLost, match="the connection broke during `settings get global alarm`") as caught:
        Adb(**SOON).shell("settings", "get", "global", "alarm")
    assert caught.value.started


def test_other_commands_of_adb_are_passed_on(phone: Phone) -> None:
    assert Adb().run("emu", "avd", "snapshot", "load", "clean") == "OK\n"
    assert phone.noted("calls")[-1] == ["-s", SERIAL, "emu", "avd", "snapshot", "load", "clean"]


SIZE, APPS = (1080, 2400), {"Clock": "com.clock", "Notes": "com.notes/.Main"}


@pytest.mark.parametrize(
    ("action", "given"),
    [
        (UIAction("click", (0.5, 0.25)), ["input tap 540 600"]),
        (UIAction("click", (0, 0)), ["input tap 0 0"]),
        (UIAction("click", (1, 1)), ["input tap 1079 2399"]),
        (UIAction("double_click", (0.5, 0.25)), ["input tap 540 600"] * 2),
        (UIAction("long_press", (0.5, 0.25)), ["input swipe 540 600 540 600 1000"]),
        (UIAction("drag", (0.5, 0.25), (0, 1)), ["input swipe 540 600 0 2399 1000"]),
        # From the middle, 20 % of the screen to either side; to see what is below, the finger goes up.
        (UIAction("scroll", direction="down"), ["input swipe 540 1680 540 720 500"]),
        (UIAction("scroll", direction="up"), ["input swipe 540 720 540 1680 500"]),
        (UIAction("scroll", direction="right"), ["input swipe 756 1200 324 1200 500"]),
        # At the upper edge the finger starts 20 % below it, and stops 10 % from it.
        (UIAction("scroll", (0.5, 0.05), direction="down"), ["input swipe 540 600 540 240 500"]),
        (UIAction("type", text="a b"), ["input text a%sb"]),
        (UIAction("type", (0.5, 0.25), text="a"), ["input tap 540 600", "sleep 1", "input text a"]),
        (UIAction("type"), []),
        (UIAction("key", text="Enter"), ["input keyevent KEYCODE_ENTER"]),
        (UIAction("key", text="PAGE_DOWN"), ["input keyevent KEYCODE_PAGE_DOWN"]),
        (UIAction("key", text="7"), ["input keyevent KEYCODE_7"]),
        (UIAction("back"), ["input keyevent KEYCODE_BACK"]),
        (UIAction("home"), ["input keyevent KEYCODE_HOME"]),
        (UIAction("open_app", text="clock"), ["monkey -p com.clock -c android.intent.category.LAUNCHER 1"]),
        (UIAction("open_app", text="Notes"), ["am start -n com.notes/.Main"]),
        (UIAction("wait"), []),
    ],
)
def test_actions_are_commands_of_the_device(action: UIAction, given: list[str]) -> None:
    assert [" ".join(words) for words in commands(action, SIZE, apps=APPS)] == given


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (UIAction("click"), "does not say where"),
        (UIAction("click", element="7"), "elements have no marks here: say where by coordinates"),
        (UIAction("click", (1.01, 0.5)), r"the point \(1.01, 0.5\) is outside the screen"),
        (UIAction("click", (0.5, float("nan"))), "outside the screen"),
        (UIAction("drag", (0.5, 0.5)), "does not say where"),
        (UIAction("scroll"), "no direction"),
        (UIAction("scroll", (2, 0.5), direction="up"), "outside the screen"),
        (UIAction("key", text="Power"), "there is no key 'Power'; there are enter, tab, .*letters and digits"),
        (UIAction("open_app", text="Maps"), "there is no app 'Maps'; there are Clock, Notes"),
        (UIAction("answer", text="7"), "'answer' is no action of a touch screen"),
    ],
)
def test_actions_that_are_none_of_a_device_are_refused(action: UIAction, said: str) -> None:
    with pytest.raises(ActionError, match=said):
        commands(action, SIZE, apps=APPS)


# --- episodes ----------------------------------------------------------------------------------------------------

SAMPLE = Sample(
    "airplane",
    [Message("system", codec("android_world").describe())],
    metadata={"goal": "Switch on airplane mode."},
)


def switch_off(adb: Adb, sample: Sample) -> None:
    adb.shell("cmd", "connectivity", "airplane-mode", "disable")


def switched_on(adb: Adb, sample: Sample, action: UIAction) -> float | None:
    on = adb.shell("settings", "get", "global", "airplane_mode_on", repeatable=True)
    return float(action.kind == "done" and on.strip() == "1")


def env(*, max_steps: int = 10, judge: Any = switched_on, **options: Any) -> DeviceEnv:
    return DeviceEnv(
        Adb(**options),
        reset_device=switch_off,
        judge=judge,
        apps={"Clock": "com.clock", "Absent": "com.absent", "Ghost": "com.absent/.Main"},
        max_steps=max_steps,
        settle=0,
    )


def say(**action: Any) -> str:
    return json.dumps(action)


def click(x: float, y: float) -> str:
    return say(action_type="click", x=x, y=y)


DONE, WAIT = say(action_type="status", goal_status="complete"), say(action_type="wait")


def pictures(step: Step) -> list[tuple[int, int]]:
    return [part.source.size for message in step.observation for part in message.parts if isinstance(part, Image)]


def texts(step: Step) -> list[str]:
    return [part.text for message in step.observation for part in message.parts if isinstance(part, Text)]


def test_an_episode_ends_with_the_reward_of_its_judge(phone: Phone) -> None:
    environment = env()
    first = environment.reset(SAMPLE, seed=0)
    assert (pictures(first), texts(first), first.observation[0].role) == (
        [(60, 100)],
        [SAMPLE.metadata["goal"]],
        "user",
    )
    phone.show((60, 100), "teal")
    second = environment.step(click(20, 30))
    assert second.observation[0].parts[0].source.getpixel((0, 0)) == (0, 128, 128)  # type: ignore[union-attr]
    assert second.info["action"].point == pytest.approx((20.5 / 60, 30.5 / 100))
    assert (second.reward, second.terminated, second.truncated, texts(second)) == (0, False, False, [])
    last = environment.step(DONE)
    assert (last.reward, last.terminated, last.truncated, last.observation) == (1, True, False, [])
    assert phone.touched == ["input tap 20 30".split()]
    with pytest.raises(RuntimeError, match="call reset first"):
        environment.step(DONE)


@pytest.mark.parametrize(
    ("reply", "ended"),
    [
        (DONE, UIAction("done")),
        (say(action_type="status", goal_status="infeasible"), UIAction("infeasible")),
        (say(action_type="answer", text="seven"), UIAction("answer", text="seven")),
    ],
)
def test_the_judge_is_asked_whenever_the_agent_ends_the_episode(phone: Phone, reply: str, ended: UIAction) -> None:
    environment = env(judge=lambda adb, sample, action: 0.5 if (sample, action) == (SAMPLE, ended) else 0)
    environment.reset(SAMPLE, seed=0)
    step = environment.step(reply)
    assert (step.reward, step.terminated, step.truncated, step.info) == (0.5, True, False, {"action": ended})


def test_a_judge_that_cannot_tell_loses_the_episode_and_does_not_fail_it(phone: Phone) -> None:
    environment = env(judge=lambda adb, sample, action: None)
    environment.reset(SAMPLE, seed=0)
    assert_lost(environment.step(DONE), "the judge could not tell")


def test_a_device_that_is_turned_is_touched_where_the_new_picture_says(phone: Phone) -> None:
    environment = env()
    environment.reset(SAMPLE, seed=0)
    phone.show((100, 60))
    assert pictures(environment.step(click(59, 99))) == [(100, 60)]
    assert "outside the screen" in environment.step(click(59, 99)).info["action_error"]
    environment.step(click(99, 59))
    assert phone.touched == ["input tap 59 99".split(), "input tap 99 59".split()]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("no action", "no JSON object"),
        (click(60, 5), "outside the screen"),
        ("x" * 100_000, "the reply has 100000 characters"),
        (say(action_type="input_text", text="Zürich"), "types printable ASCII only"),
        (say(action_type="open_app", app_name="Maps"), "there is no app 'Maps'"),
        (say(action_type="open_app", app_name="Absent"), r"the device says: \*\* No activities found"),
        (say(action_type="open_app", app_name="Ghost"), "the device says: Error: Activity class .* does not exist"),
    ],
)
def test_what_cannot_be_carried_out_is_said_and_the_episode_goes_on(phone: Phone, reply: str, said: str) -> None:
    environment = env()
    environment.reset(SAMPLE, seed=0)
    step = environment.step(reply)
    assert re.search(said, step.info["action_error"])
    assert set(step.info) == {"action_error"}
    assert (pictures(step), texts(step)) == ([(60, 100)], [step.info["action_error"]])
    assert (step.reward, step.terminated, step.truncated) == (0, False, False)
    assert environment.step(WAIT).info == {"action": UIAction("wait")}


def test_the_budget_ends_an_episode(phone: Phone) -> None:
    environment = env(max_steps=2)
    environment.reset(SAMPLE, seed=0)
    assert not environment.step(WAIT).terminated
    cut = environment.step("no action")
    assert (cut.truncated, cut.terminated, cut.reward, pictures(cut)) == (False, True, 0, [(60, 100)])
    assert cut.info["out_of_steps"]
    environment.reset(SAMPLE, seed=0)
    environment.step(WAIT)
    last = environment.step(DONE)
    assert (last.terminated, "out_of_steps" in last.info) == (True, False)


def test_a_sample_must_have_a_goal(phone: Phone) -> None:
    with pytest.raises(UserError, match="sample 'x' has the goal None; expected metadata="):
        env().reset(Sample("x", []), seed=0)


def test_the_environment_conforms(phone: Phone) -> None:
    assert check_env(env(), [SAMPLE], solve=lambda sample: [click(20, 30), DONE]) == []


# --- faults ------------------------------------------------------------------------------------------------------


def assert_lost(step: Step, why: str) -> None:
    assert why in step.info["lost"]
    assert (step.observation, step.reward, step.terminated, step.truncated) == ([], 0, False, True)


@pytest.mark.parametrize(
    ("command", "fault", "after"),
    [
        ("input tap", "gone", 1),  # refused: it was not carried out, and is now
        ("input tap", "closed", 1),
        ("input tap", "unauthorized", 1),
        ("input tap", "offline", 4),  # it comes while it is waited for
        ("screencap", "garbage", 1),
        ("screencap", "broken", 1),
        ("settings get", "broken", 1),  # the judge only looks
    ],
)
def test_a_device_that_comes_back_is_acted_on_exactly_once(phone: Phone, command: str, fault: str, after: int) -> None:
    environment = env()
    environment.reset(SAMPLE, seed=0)
    phone.set(faults=[[command, fault]], returns={"after": after})
    steps = [environment.step(click(20, 30)), environment.step(DONE)]
    assert phone.touched == ["input tap 20 30".split()]
    assert (steps[0].info["action"].kind, steps[1].reward, steps[1].terminated) == ("click", 1, True)
    assert environment.adb.reconnects == 1
    assert phone.noted("faults.json") == [[]]  # each had its turn


@pytest.mark.parametrize("state", ["gone", "offline", "unauthorized"])
def test_a_device_that_stays_away_loses_the_episode(phone: Phone, state: str) -> None:
    environment = env(**SOON)
    environment.reset(SAMPLE, seed=0)
    phone.set(faults=[["input tap", state]])
    said = {
        "gone": "device 'emulator-5554' not found",
        "unauthorized": "check for a confirmation dialog on your device",
    }
    assert_lost(environment.step(click(20, 30)), said.get(state, f"device {state}"))
    with pytest.raises(RuntimeError):
        environment.step(WAIT)
    assert_lost(environment.reset(SAMPLE, seed=0), said.get(state, f"device {state}"))
    phone.set(devices={SERIAL: "device"})
    assert pictures(environment.reset(SAMPLE, seed=0)) == [(60, 100)]


def test_a_device_that_was_never_authorized_says_so(phone: Phone) -> None:
    phone.set(devices={SERIAL: "unauthorized"})
    assert_lost(env(**SOON).reset(SAMPLE, seed=0), "device unauthorized")


def test_what_a_broken_connection_may_have_carried_out_is_not_done_again(phone: Phone) -> None:
    environment = env()
    environment.reset(SAMPLE, seed=0)
    phone.set(faults=[["input tap", "broken"]], returns={"after": 1})
    assert_lost(environment.step(click(20, 30)), "the connection broke during `{ input tap 20 30; }")
    assert phone.touched == ["input tap 20 30".split()]
    assert not environment.reset(SAMPLE, seed=0).info


def test_a_device_that_was_restarted_meanwhile_is_another_episode(phone: Phone) -> None:
    environment = env()
    environment.reset(SAMPLE, seed=0)
    phone.set(faults=[["input tap", "gone"]], returns={"after": 1, "restarted": True})
    assert_lost(environment.step(click(20, 30)), "started anew in mid-episode")
    assert not environment.reset(SAMPLE, seed=0).info


def test_pictures_that_stay_garbage_lose_the_episode(phone: Phone) -> None:
    phone.set(faults=[["screencap", "garbage"]] * 2)
    assert_lost(env(attempts=1).reset(SAMPLE, seed=0), "a screenshot came as b'\\x89PNG and no more'")


def test_a_warning_before_the_picture_does_no_harm(phone: Phone) -> None:
    phone.set(faults=[["screencap", "warned"]])
    environment = env()
    assert pictures(environment.reset(SAMPLE, seed=0)) == [(60, 100)]
    assert environment.adb.reconnects == 0


def test_a_command_that_hangs_is_killed_and_loses_the_episode(phone: Phone) -> None:
    environment = env(**SOON)
    environment.reset(SAMPLE, seed=0)
    environment.adb.timeout = 2.0
    phone.set(faults=[["input tap", "hang"]])
    assert_lost(environment.step(click(20, 30)), "did not answer within 2 s")
    (pid,) = phone.noted("hanging")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_device_that_always_hangs_is_given_up(phone: Phone) -> None:
    environment = env(**SOON)
    environment.reset(SAMPLE, seed=0)
    environment.adb.timeout = 0.2  # never too short, for all that follows hangs
    phone.set(faults=[["", "hang"]] * 9)
    assert_lost(environment.step(WAIT), "did not answer within 0.2 s")


def test_tasks_whose_commands_fail_lose_their_episodes(phone: Phone) -> None:
    def broken(adb: Adb, sample: Sample) -> None:
        adb.shell("cmd", "nothing", "of", "it")

    environment = DeviceEnv(Adb(), reset_device=broken, judge=switched_on)
    assert_lost(environment.reset(SAMPLE, seed=0), "failed with status 20: cmd: Can't find service")


def test_another_keyboard_may_type(phone: Phone) -> None:
    environment = DeviceEnv(Adb(), reset_device=switch_off, judge=switched_on, keyboard=adb_keyboard, settle=0)
    environment.reset(SAMPLE, seed=0)
    environment.step(say(action_type="input_text", text="Zü"))
    assert phone.touched == ["am broadcast -a ADB_INPUT_B64 --es msg WsO8".split()]


def test_adb_does_not_read_what_is_meant_for_others(phone: Phone) -> None:
    """A command without an input of its own would swallow the lines of the process that started it."""
    code = (
        "import sys; from pe_rlhf_mm.envs.device.adb import Adb;"
        f"Adb(executable={str(phone.adb)!r}).shell('cat', '/proc/sys/kernel/random/boot_id'); print(sys.stdin.read())"
    )
    done = subprocess.run([sys.executable, "-c", code], input="mine", capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n"


# --- the page of the documentation -------------------------------------------------------------------------------


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    """The task of docs/android.md, written out as printed."""
    (code,) = re.findall(r"^```python file=airplane.py\n(.*?)^```", (ROOT / "docs/android.md").read_text(), re.M | re.S)
    file = tmp_path / "airplane.py"
    file.write_text(code)
    return file


def test_the_printed_task_can_be_played_by_hand(phone: Phone, printed: Path) -> None:
    typed = "\n".join(["open Settings", say(action_type="open_app", app_name="Settings"), click(20, 30), DONE])
    done = subprocess.run(
        [sys.executable, printed],
        check=False,
        input=typed,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout.split("\n")[-2], done.stderr) == ("reward 1.0", "")
    assert [command[:2] for command in phone.touched] == [
        ["am", "force-stop"],
        ["input", "keyevent"],
        ["monkey", "-p"],
        ["input", "tap"],
    ]


def test_the_environment_of_the_printed_task_conforms(phone: Phone, printed: Path) -> None:
    task = runpy.run_path(str(printed))["Airplane"]()
    environment = task.environment()
    environment._settle = 0
    samples = [sample for split in ("train", "validation", "test") for sample in task.samples(split)]
    assert check_env(environment, samples[:1], solve=lambda sample: [click(20, 30), DONE]) == []
    assert len({sample.id for sample in samples}) == 3
    assert task.solve(samples[0]) is None


def test_the_printed_task_is_thirty_odd_lines(printed: Path) -> None:
    assert len([line for line in printed.read_text().splitlines() if line.strip()]) <= 40
