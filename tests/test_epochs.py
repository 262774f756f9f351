"""Several steps on one batch: when it is drawn and with which weights, what is kept, and where it goes on."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import Heard, state

from pe_rlhf_mm.adapters.roles import Roles, only_backbone
from pe_rlhf_mm.data.pipeline import Stream
from pe_rlhf_mm.data.streams import Fed
from pe_rlhf_mm.errors import Terminated
from pe_rlhf_mm.training.keeper import Reached
from pe_rlhf_mm.training.loop import Drawing, train
from pe_rlhf_mm.training.optimizers import adam

STEPS, EPOCHS = 7, 3
"""Three batches: of steps 1 to 3, 4 to 6, and 7."""
OPTIMIZER = adam(1e-2, STEPS)
ROLES = only_backbone(state())


def distance(
    trainable: dict[str, jax.Array], roles: Roles, batch: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """From where what was trained was as the batch was drawn, and from noise of every step's own."""
    return jnp.mean((trainable["x"] - batch - jax.random.normal(key, (4,))) ** 2), {"x": trainable["x"][0]}


def copied(reached: Reached) -> Reached:
    return jax.tree.map(jnp.copy, reached)._replace(coefficient=reached.coefficient)


class Remembering:
    """A keeper in memory, which has copies of all that it was told."""

    def __init__(self, then: Reached | None = None):
        self.then, self.kept = then, {}

    def begin(self, stage: str, fresh: Reached) -> Reached:
        return fresh if self.then is None else copied(self.then)

    def step(self, stage: str, reached: Reached) -> None:
        self.kept[int(reached.state.step)] = copied(reached)


class Asking(Heard):
    """Asks the process to end as a step is told."""

    def __init__(self, at: int | None):
        super().__init__()
        self.at = at

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        super().step(stage, step, metrics)
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def trained(
    keeper: Remembering, asked: int | None = None
) -> tuple[np.ndarray, Asking, list[tuple[int, int, float, float]]]:
    """What came out, what was heard, and of every batch its number, the step it was drawn at, and x and the coefficient
    at that moment: half of it and what was measured since."""
    heard, drawn = Asking(asked), []

    def draw(now: dict[str, jax.Array], fed: int, step: int, coefficient: float) -> tuple[jax.Array, dict[str, Any]]:
        drawn.append((fed, step, float(now["x"][0]), coefficient))
        return coefficient + now["x"] * fed, {"fed": fed}

    def adapt(coefficient: float, measured: Mapping[str, float]) -> float:
        return coefficient / 2 + measured["fed"] + measured["x"]

    def batches(start: int) -> Stream[int]:
        def numbers() -> Iterator[int]:
            yield from itertools.count(start)

        return Stream(numbers())

    out = train(
        "rl", ROLES, {"x": jnp.zeros(4)}, Fed(batches), distance, OPTIMIZER, steps=STEPS, key=jax.random.key(1),
        observer=heard, keeper=keeper, drawing=Drawing(draw, EPOCHS, coefficient=1.0, adapt=adapt),
        validate=lambda now: float(-now["x"][1]), validate_every=4, validate_from=0,
    )  # fmt: skip
    return np.asarray(out["x"]), heard, drawn


def test_a_batch_is_drawn_with_the_weights_of_its_moment_and_serves_its_steps() -> None:
    _, heard, drawn = trained(Remembering())
    at = [numbers["x"] for numbers in heard.steps]
    second = 0.5 + 0 + at[2]
    assert drawn == [(0, 1, at[0], 1.0), (1, 4, at[3], second), (2, 7, at[6], second / 2 + 1 + at[5])]
    assert [numbers["fed"] for numbers in heard.steps] == [0, 0, 0, 1, 1, 1, 2]
    assert len(set(at)) == STEPS


def test_it_is_validated_when_the_steps_on_a_batch_are_done() -> None:
    """Asked for every 4 steps: before the first, at 6 instead of 4, and at the end."""
    _, heard, _ = trained(Remembering())
    assert [step for step, _ in heard.notes] == [0, 6, 7]


@pytest.mark.parametrize("kept", [3, 6, 7])
def test_what_is_kept_goes_on_to_the_same_end(kept: int) -> None:
    keeper = Remembering()
    out, heard, drawn = trained(keeper)
    assert sorted(keeper.kept) == [3, 6, 7], "within a batch there would be nothing to draw it with once more"
    again, later, redrawn = trained(Remembering(keeper.kept[kept]))
    np.testing.assert_array_equal(again, out)
    assert later.steps == heard.steps[kept:]
    assert redrawn == [one for one in drawn if one[1] > kept]
    assert later.notes == [note for note in heard.notes if note[0] >= kept]


def test_a_request_to_end_waits_for_the_steps_on_a_batch() -> None:
    def answer(*_: object) -> None:
        raise Terminated

    before, keeper = signal.signal(signal.SIGTERM, answer), Remembering()
    try:
        with pytest.raises(Terminated):
            trained(keeper, asked=4)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(keeper.kept) == [3, 6]
