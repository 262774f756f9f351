"""A request to end is answered at once or after the step, and never lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pe_rlhf_mm.cli.main import Ending
from pe_rlhf_mm.errors import Terminated
from pe_rlhf_mm.training.termination import held


@pytest.fixture(autouse=True)
def _answered() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, Ending())
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_request_waits_for_the_end_of_a_step() -> None:
    done = []

    def step() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("step")

    with pytest.raises(Terminated):
        step()
    assert done == ["step"]


def test_a_request_whose_exception_was_lost_is_answered_before_the_next_step() -> None:
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)  # as it were within a callback of C code, which goes on all the same
    with pytest.raises(Terminated), held():
        pytest.fail("a step was begun")
