"""The loop of every stage: draw a batch, take a step, tell the observer and the keeper, keep the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Generic, NamedTuple

import jax
import optax

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.roles import Learned, Roles
from pe_rlhf_mm.data.streams import Fed
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.training.accumulation import WHOLE, Parts
from pe_rlhf_mm.training.keeper import Forgetful, Keeper, Reached
from pe_rlhf_mm.training.observer import Observer, refuse_non_finite
from pe_rlhf_mm.training.step import Loss, new_state, train_step
from pe_rlhf_mm.training.termination import held


class Drawing(NamedTuple, Generic[Learned]):
    """How batches are made of what is fed, how many steps are taken on each, and in which parts a step reads it.

    `draw`: (what is trained, what was fed, the number of the step, the coefficient) -> (the batch, what was measured in
    drawing). `coefficient`: that of the first batch; `adapt`: (the coefficient, what was measured) -> that of the next.
    """

    draw: Callable[[Learned, Any, int, float], tuple[Any, Mapping[str, Any]]]
    epochs: int = 1
    parts: Parts = WHOLE
    coefficient: float = 0.0
    adapt: Callable[[float, Mapping[str, float]], float] = lambda coefficient, measured: coefficient


AS_FED: Drawing[Any] = Drawing(lambda trainable, fed, step, coefficient: (by_rows(fed), {}))
"""The batch is what was fed; nothing is drawn with what is trained."""


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
    keeper: Keeper = Forgetful(),
    drawing: Drawing[Learned] = AS_FED,
    validate: Callable[[Learned], float] | None = None,
    validate_every: int = 0,
    validate_from: int = 1,
) -> Learned:
    """Trains for `steps` steps. With `validate`, returns what scored best on it; otherwise what came out last.

    It is asked every so many steps, when all those on a batch are done, and after the last; with `validate_from` 0, of
    what training begins with too. What the keeper has of this stage is gone on with: a step is kept before it is
    validated, so that comes first then; and only the last step on a batch is, so that the next comes out the same.
    Raises TrainingDiverged at the first step whose loss or gradient is not finite.
    """
    reached = keeper.begin(stage, Reached(new_state(trainable, roles, optimizer, key), coefficient=drawing.coefficient))
    start, epochs = int(reached.state.step), drawing.epochs
    observer.begin(stage, steps)
    if not start and fed.padding_share is not None:
        observer.note(stage, 0, {"padding_share": fed.padding_share})

    def validated(reached: Reached[Learned], step: int) -> Reached[Learned]:
        if validate is None or step < validate_from:
            return reached
        if (step - epochs) // validate_every == step // validate_every and step != steps:
            return reached
        told = validate(reached.state.trainable)
        score = hosts.led(lambda: told)  # or hosts could keep different ones
        observer.note(stage, step, {"validation_accuracy": score})
        if score <= reached.best_score:
            return reached
        best = jax.tree.map(jax.numpy.copy, roles.frozen(reached.state.trainable))  # a step gives its weights away
        return reached._replace(best=best, best_score=score)

    reached = validated(reached, start)
    with closing(fed.batches(start // epochs)) as batches:
        for done in range(start, steps, epochs):
            batch, drawn = drawing.draw(reached.state.trainable, next(batches), done + 1, reached.coefficient)
            with held():
                for step in range(done + 1, min(done + epochs, steps) + 1):
                    how = {"loss": loss, "optimizer": optimizer, "parts": drawing.parts}
                    state, metrics = train_step(reached.state, roles, batch, **how)
                    reached = reached._replace(state=state)
                    # Fetching the numbers also waits for the step: several CPU devices dead-lock if steps pile up.
                    numbers = {name: float(value) for name, value in jax.device_get({**drawn, **metrics}).items()}
                    refuse_non_finite(stage, step, numbers)
                    observer.step(stage, step, numbers)
                reached = reached._replace(coefficient=drawing.adapt(reached.coefficient, numbers))
                keeper.step(stage, reached)
            reached = validated(reached, step)
    return reached.state.trainable if reached.best is None else reached.best
