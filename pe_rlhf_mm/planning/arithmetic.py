"""How much a program multiplies: counted in what was traced, before any compiler has seen it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def products(jaxpr: Any, turns: int) -> int:
    """Floating-point operations of all products of matrices in a program, on all devices together.

    A product of [M, K] and [K, N] is 2·M·K·N. A scan counts as often as it runs, a loop that may end early `turns`
    times, and of the branches of a condition the dearest. What a rematerialised layer does again counts again; sums,
    exponentials and the like do not count, nor do kernels of attention: what nobody sees they leave out.
    """
    return sum(_of_equation(equation, turns) for equation in jaxpr.eqns)


def _of_equation(equation: Any, turns: int) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inside = [products(jaxpr, turns) for jaxpr in _jaxprs(parameters)]
    if name == "cond":
        return max(inside)
    times = {"scan": parameters.get("length"), "while": turns, "shard_map": _devices(parameters), "pallas_call": 0}
    return int(times.get(name, 1)) * sum(inside)


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs within an equation."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _devices(parameters: dict[str, Any]) -> int:
    """What stands within a shard_map is what one device does."""
    return getattr(parameters.get("mesh"), "size", 1)
