#!/usr/bin/env -S python3 -IS
"""A stand-in for adb with a device behind it. $PHONE is a folder that is the device:

    devices.json    {serial number: state}, as `adb devices` lists them
    screen.png      what `screencap` gives
    faults.json     [[part of a command line, fault], ..]: each is used up by the first command to a device that fits
    returns.json    {"after": so many `reconnect`s, or looks for it while it is waited for, bring a lost device back,
                    "restarted": whether as after a restart}
    settings/NAME   what `settings get` tells and `settings put` changes
    buttons         lines "left top right bottom name value": a tap inside puts that setting
    calls           the arguments of adb, a JSON list a line
    touched         what `input`, `am` and `monkey` were told: arguments end with \\037, commands with \\036
    hanging         process ids of commands that hang

Complaints and statuses are those of adb 29, in which a broken connection looks like success with half of the output.
"""

import json
import os
import sys
import time

PHONE = os.environ["PHONE"]
COMPLAINTS = {
    "gone": "error: device '{serial}' not found",
    "offline": "error: device offline",
    "unauthorized": "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.\nOtherwise check for a confirmation dialog on your device.",
    "closed": "error: closed",
}
TOOLS = r"""
noted() { printf '%s\037' "$@" >> touched; printf '\036' >> touched; }
input() {
    noted input "$@"
    case $1 in
    text) case $2 in *[!\ -~]*) echo "java.lang.NullPointerException" >&2; return 255;; esac;;
    tap) while read -r left top right bottom name value; do
            if [ "$2" -ge "$left" ] && [ "$2" -le "$right" ] && [ "$3" -ge "$top" ] && [ "$3" -le "$bottom" ]
            then settings put global "$name" "$value"; fi
        done < buttons;;
    esac
}
settings() {
    if [ "$1" = put ]; then printf %s "$4" > "settings/$3"
    elif [ -e "settings/$3" ]; then command cat "settings/$3"; echo
    else echo null; fi
}
cmd() {
    case "$*" in
    "connectivity airplane-mode enable") settings put global airplane_mode_on 1;;
    "connectivity airplane-mode disable") settings put global airplane_mode_on 0;;
    *) echo "cmd: Can't find service: $1" >&2; return 20;;
    esac
}
am() {
    noted am "$@"
    case "$*" in *absent*) echo 'Error: Activity class {com.absent/.Main} does not exist.' >&2;; esac
}
monkey() {
    noted monkey "$@"
    case "$*" in *absent*) echo '** No activities found to run, monkey aborted.'; return 251;; esac
}
getprop() { if [ "$1" = sys.boot_completed ]; then echo 1; else echo; fi; }
cat() { if [ "$1" = /proc/sys/kernel/random/boot_id ]; then command cat boot; else command cat "$@"; fi; }
sleep() { :; }
"""


def path(name):
    return os.path.join(PHONE, name)


def read(name):
    with open(path(name)) as file:
        return json.load(file)


def write(name, value):
    with open(path(name), "w") as file:
        json.dump(value, file)


def note(name, line):
    with open(path(name), "a") as file:
        file.write(json.dumps(line) + "\n")


def adb(arguments):
    """Carries out what needs no device, and finds the device for everything else."""
    note("calls", arguments)
    if arguments[0] == "devices":
        print("List of devices attached")
        for serial, state in read("devices.json").items():
            if state != "gone":
                print(f"{serial}\t{state}")
    if arguments[0] != "-s":
        return 0
    serial, command = arguments[1], arguments[2:]
    if command[0] == "reconnect":
        returning(serial)
        return 0
    if command[0] == "wait-for-device":
        while read("devices.json").get(serial) != "device":
            time.sleep(0.02)
            returning(serial)
        command = command[1:]
    return at_device(serial, command)


def returning(serial):
    returns = read("returns.json")
    returns["after"] -= 1
    write("returns.json", returns)
    if returns["after"] == 0:
        write("devices.json", read("devices.json") | {serial: "device"})
        if returns.get("restarted"):
            with open(path("boot"), "w") as file:
                file.write("the second boot\n")


def at_device(serial, command):
    """The status of a command, after the fault that was meant for it."""
    fault = next_fault(" ".join(command))
    if fault in ("gone", "offline", "unauthorized"):
        write("devices.json", read("devices.json") | {serial: fault})
    if fault == "hang":
        note("hanging", os.getpid())
        time.sleep(3600)
    state = read("devices.json").get(serial, "gone")
    if state != "device" or fault == "closed":
        print(COMPLAINTS[fault if fault == "closed" else state].format(serial=serial), file=sys.stderr)
        return 255 if command[0] == "exec-out" else 1
    output, errors, status = carried_out(command)
    if fault == "broken":
        output, errors, status = output[: len(output) // 2], b"", 0
        write("devices.json", read("devices.json") | {serial: "offline"})
    if fault == "garbage":
        output = b"\x89PNG and no more"
    if fault == "warned":
        output = b"[Warning] Multiple displays were found\n" + output
    sys.stdout.buffer.write(output)
    sys.stderr.buffer.write(errors)
    return status


def next_fault(line):
    faults = read("faults.json")
    for place, (part, fault) in enumerate(faults):
        if part in line:
            write("faults.json", faults[:place] + faults[place + 1 :])
            return fault
    return None


def carried_out(command):
    """Output, errors and status; a real shell reads the line, so that quotes are what they are."""
    if command == ["exec-out", "screencap", "-p"]:
        with open(path("screen.png"), "rb") as file:
            return file.read(), b"", 0
    if command[0] == "emu":
        return b"OK\n", b"", 0
    assert command[0] == "shell", command
    sys.stdin.read()  # which adb would pass on
    os.chdir(PHONE)
    kept = [(os.POSIX_SPAWN_OPEN, number, name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for number, name in FILES]
    shell = ["sh", "-c", TOOLS + " ".join(command[1:])]
    child = os.posix_spawn("/bin/sh", shell, {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, file_actions=kept)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open("output", "rb") as output, open("errors", "rb") as errors:
        return output.read(), errors.read(), status


FILES = ((1, "output"), (2, "errors"))

if __name__ == "__main__":
    sys.exit(adb(sys.argv[1:]))
