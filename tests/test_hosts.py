"""Two processes that train together, with a CPU device each, do what one does with two; or end, and say so."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from made_up_devices import seeing
from safetensors.numpy import load_file

import pe_rlhf_mm as pe
from pe_rlhf_mm import hosts
from pe_rlhf_mm.cli.main import run as command

HERE = Path(__file__).parent
ROUNDING = {"rel": 2e-4, "abs": 2e-5}
"""Of float32, in sums whose order the compiler chooses: as in `test_sharded_training.py`."""


class Said(NamedTuple):
    """How a process ended, and what it said: lines of its own, those of gloo left out."""

    code: int
    out: list[str]
    err: list[str]


def started(*arguments: str, devices: int) -> subprocess.Popen[str]:
    """A process of `hosts_run.py`."""
    line = [sys.executable, str(HERE / "hosts_run.py"), *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=seeing(devices))


def ended(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=600)
    lines = ([line for line in text.splitlines() if not line.startswith("[Gloo]")] for text in (out, err))
    return Said(process.returncode, *lines)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def two(folder: Path, *how: str) -> list[Said]:
    port = free_port()
    return [ended(p) for p in [started(str(folder), port, index, *how, devices=1) for index in "01"]]


class Ran(NamedTuple):
    folder: Path
    two: list[Said]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of two processes that was interrupted twice and went on in one, and the same in one without a break."""
    folder = tmp_path_factory.mktemp("hosts")
    both = two(folder)
    unfinished = folder / "unfinished"
    unfinished.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (unfinished / name).write_bytes((folder / "both" / name).read_bytes())
    alone = ended(started(str(folder), devices=2))
    assert alone.code == 0, alone.err
    return Ran(folder, both)


def metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [line.pop("stage") for line in found] == [line.pop("stage") for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, **ROUNDING)


def test_what_two_processes_measure_is_what_one_does(ran: Ran) -> None:
    """SFT, reward model and RL up to the step after which one of them was killed."""
    found, expected = metrics(ran.folder / "unfinished/metrics.jsonl"), metrics(ran.folder / "alone/metrics.jsonl")
    assert found[-1]["stage"] == "rl"
    assert found[-1]["step"] == 2
    assert_same(found, expected[: len(found)])


def test_all_end_after_the_same_step_if_one_is_asked_to(ran: Ran) -> None:
    assert [said.out[4] for said in ran.two] == ["asked to end"] * 2
    steps = [line["step"] for line in metrics(ran.folder / "asked.jsonl")]
    assert steps == [0, 1, 2]
    assert_same(metrics(ran.folder / "asked.jsonl"), metrics(ran.folder / "alone/metrics.jsonl")[:3])


def test_who_loses_a_peer_ends_and_says_so(ran: Ran) -> None:
    first, second = ran.two
    assert (first.code, second.code) == (hosts.LOST, -9), first.err
    last = first.err[-1]
    assert last.startswith("error: another host has ended, or cannot be reached (")
    assert last.endswith("cannot go on alone. Give the same command with --resume, on all of them.")


def test_a_run_that_lost_a_host_goes_on_on_one(ran: Ran) -> None:
    """It ends as the one that nothing happened to: the same curve, the same weights, the same replies."""
    assert_same(metrics(ran.folder / "both/metrics.jsonl"), metrics(ran.folder / "alone/metrics.jsonl"))
    lines = [(ran.folder / name / "samples.jsonl").read_text() for name in ("both", "alone")]
    assert lines[0] == lines[1]
    files = sorted(path.relative_to(ran.folder / "alone") for path in (ran.folder / "alone").rglob("*.safetensors"))
    assert len(files) == 4  # sft, reward and its head, policy
    for name in files:
        found, expected = (load_file(ran.folder / run / name) for run in ("both", "alone"))
        for tensor, value in expected.items():
            np.testing.assert_allclose(found[tensor], value, atol=2e-5, err_msg=f"{name} {tensor}")


def test_the_first_alone_writes(ran: Ran) -> None:
    """Each step stands once in the metrics, and what is written to the terminal comes from the first."""
    found = [
        (line["stage"], line["step"], "validation_accuracy" in line)
        for line in metrics(ran.folder / "both/metrics.jsonl")
    ]
    assert len(set(found)) == len(found)
    config = json.loads((ran.folder / "unfinished/config.json").read_text())
    assert "2 x cpu on 2 hosts" in config["hardware"]
    assert [said.out[:4] for said in ran.two] == [['"0 says"', "True False", "True", "no"]] * 2
    assert ran.two[1].err == []


def test_whose_coordinator_dies_is_ended_by_xla_and_says_so_too(tmp_path: Path) -> None:
    first, second = two(tmp_path, "idle")
    assert (first.code, second.code) == (-9, hosts.LOST), second.err
    assert "error: another host has ended" in second.err[-1]
    assert "XLA has said above what it knows" in second.err[-1]


# --- what needs no second process -------------------------------------------------------------------------------


def test_alone_nothing_is_joined_and_nothing_is_asked() -> None:
    with hosts.joined():
        assert not hosts.several()
        assert hosts.first()
        assert hosts.led(lambda: 3) == 3
        assert hosts.anyone(True)
        assert not hosts.anyone(False)
    assert not jax.distributed.is_initialized()


def sliced(count: int, slices: int) -> list[Any]:
    """So many devices in so many slices, a host of two devices after the other."""
    kind = dataclasses.make_dataclass("Device", ["id", "process_index", "slice_index"], frozen=True)
    kind.platform, kind.device_kind = "cpu", "made up"
    return [kind(i, i // 2, i * slices // count) for i in range(count)]


def test_only_data_goes_across_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: sliced(16, 2))
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    monkeypatch.setattr(hosts, "several", lambda: True)
    devices = pe.make_mesh(data=4, fsdp=2, model=2).devices
    assert [{device.slice_index for device in group.flat} for group in devices] == [{0}, {0}, {1}, {1}]
    assert len({device.id for device in devices.flat}) == 16
    with pytest.raises(pe.UserError, match=r"the devices are 2 slices, .* a multiple of 2 for mesh.data, not 1"):
        pe.make_mesh(fsdp=16)


def test_a_mesh_must_take_the_devices_of_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: sliced(4, 1))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(pe.UserError, match=r"this machine is one of 2 of a slice: .* --hosts.coordinator auto"):
        pe.make_mesh(fsdp=4)
    monkeypatch.setattr(hosts, "several", lambda: True)
    with pytest.raises(pe.UserError, match=r"2 hosts have 4 devices, and the mesh takes 2: .* --mesh.fsdp 4"):
        pe.make_mesh(fsdp=2)


def test_the_command_line_says_whom_to_join(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    heard: list[dict] = []

    @contextmanager
    def joined(**where: Any) -> Iterator[None]:
        heard.append(where)
        raise pe.UserError("far enough")
        yield

    monkeypatch.setattr(hosts, "joined", joined)
    line = ["tune", "pe_rlhf_mm.testing:ToyTask", "--hosts.coordinator", "a:1", "--hosts.count", "2"]
    assert command([*line, "--hosts.index", "1"]) == 2
    assert heard == [{"coordinator": "a:1", "count": 2, "index": 1}]
    for wrong, said in (
        (["--hosts.index", "2"], "HostsConfig.index must be one of 0 to 1, not 2"),
        (["--hosts.coordinator", "10.0.0.1"], "HostsConfig.coordinator must be HOST:PORT"),
    ):
        with pytest.raises(SystemExit, match="2"):
            command([*line, *wrong])
        assert said in capsys.readouterr().err
    assert len(heard) == 1


def test_who_cannot_be_joined_is_said() -> None:
    jax.devices()  # too late
    said = r"the other hosts cannot be joined: .* Give --hosts.coordinator HOST:PORT"
    with pytest.raises(pe.UserError, match=said), hosts.joined("a:1", 2, 1):
        raise AssertionError


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(pe.UserError, match=f"port {port} cannot be had"), hosts.joined(f"a:{port}", 2, 0):
            raise AssertionError


def waits(seconds: int) -> subprocess.Popen[str]:
    """The first of two processes, the second of which never comes; once it has said what it waits for."""
    line = f"hosts.SILENT, hosts.COMING = 1, {seconds}\nwith hosts.joined('127.0.0.1:{free_port()}', 2, 0): pass"
    program = [sys.executable, "-c", f"from pe_rlhf_mm import hosts\n{line}"]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting for the other hosts at 127.0.0.1:")
    return process


def test_where_nobody_comes_that_is_said() -> None:
    process = waits(3)
    _, err = process.communicate(timeout=60)
    assert process.returncode == hosts.LOST
    assert err.splitlines()[-1].startswith("error: not all hosts have come within 3 seconds")


def test_who_waits_for_others_can_be_ended() -> None:
    process = waits(60)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
