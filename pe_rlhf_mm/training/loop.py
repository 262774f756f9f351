"""The loop of SFT, reward models and preferences: draw a batch, take a step, tell the observer, keep the best."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.streams import Fed
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.training.observer import Observer, refuse_non_finite
from pe_rlhf_mm.training.step import Learned, Loss, new_state, train_step


def train(
    stage: str,
    roles: Roles,
    trainable: Learned,
    fed: Fed,
    loss: Loss[Learned],
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    key: jax.Array,
    observer: Observer,
    validate: Callable[[Learned], float] | None = None,
    validate_every: int = 0,
    validate_from: int = 1,
) -> Learned:
    """Trains for `steps` steps. With `validate`, returns what scored best on it; otherwise what came out last.

    It is asked every so many steps and after the last; with `validate_from` 0, of what training begins with too.
    Raises TrainingDiverged at the first step whose loss or gradient is not finite.
    """
    observer.begin(stage, steps)
    observer.note(stage, 0, {"padding_share": fed.padding_share})
    state = new_state(trainable, roles, optimizer, key)
    best, best_score = None, float("-inf")

    def validated(step: int) -> None:
        nonlocal best, best_score
        if validate is None or step < validate_from or (step % validate_every and step != steps):
            return
        score = validate(state.trainable)
        observer.note(stage, step, {"validation_accuracy": score})
        if score > best_score:  # a step gives the weights it was given away
            best, best_score = jax.tree.map(jax.numpy.copy, state.trainable), score

    validated(0)
    for step in range(1, steps + 1):
        state, metrics = train_step(state, roles, by_rows(next(fed.batches)), loss=loss, optimizer=optimizer)
        # Fetching the numbers also waits for the step: several CPU devices dead-lock if steps pile up.
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        refuse_non_finite(stage, step, numbers)
        observer.step(stage, step, numbers)
        validated(step)
    fed.batches.close()
    return state.trainable if best is None else best
