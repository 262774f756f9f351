"""What lies in a program's temporary memory, where there is no compiler to ask: arrays that have to be made.

A product makes an array, and so do a look-up, a sum, a kernel and a loop; it is there until the last value that is made
of it element by element has been used, for which nothing is made. What all layers keep is what a loop stacks. This is
an estimate: it knows of no fusion that failed, no copy and no gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.places import places_of
from pe_rlhf_mm.models.sharding import partition
from pe_rlhf_mm.planning.buffers import Buffer

MADE = ("dot", "conv_", "gather", "scatter", "sort", "top_k", "arg", "cum", "random", "reduce", "pallas", "shard_map")
"""How the names of primitives begin whose results are arrays of their own."""
Numbers = frozenset[int]


class Cuts(NamedTuple):
    """Into how many parts arrays are cut: those of rows, of words, and of the shapes of weights. `matrices`: those of a
    layer, which are put together where they are used; into how many parts they stay cut."""

    rows: int
    row_parts: int
    words: int
    word_parts: int
    weights: Mapping[tuple[int, ...], int]
    matrices: Mapping[tuple[int, ...], int]


def cuts_of(config: VLMConfig, rows: int, mesh: Mesh | AbstractMesh) -> Cuts:
    """Those of a model on a mesh, where a step has so many rows."""
    weights, places = jax.tree.leaves(vlm.abstract_state(config)), jax.tree.leaves(places_of(config, mesh))  # type: ignore[arg-type]
    pairs = zip(weights, places, strict=True)
    parts = {x.shape: math.prod(x.shape) // math.prod(place.shard_shape(x.shape)) for x, place in pairs}
    over = partition(("vocabulary",), (config.vocabulary,), mesh)[0] or ()
    return Cuts(
        rows=rows,
        row_parts=mesh.shape["data"] * mesh.shape["fsdp"],
        words=config.vocabulary,
        word_parts=math.prod(mesh.shape[name] for name in ((over,) if isinstance(over, str) else over)),
        weights=parts,
        matrices={shape[1:]: max(1, cut // mesh.shape["fsdp"]) for shape, cut in parts.items() if len(shape) == 3},
    )


def bytes_of(array: Any, cuts: Cuts) -> int:
    """Of an array on one device, as its shape tells. Axes of layers and of roles may stand before that of rows."""
    kind = getattr(array, "dtype", None)
    shape: tuple[int, ...] = getattr(array, "shape", ())
    if kind is None or jnp.issubdtype(kind, jax.dtypes.extended):
        return 0
    size = math.prod(shape) * kind.itemsize
    if shape in cuts.weights:
        return size // cuts.weights[shape]
    if cuts.words in shape:
        return size // cuts.word_parts
    by_rows = len(shape) > 1 and (cuts.rows in shape[1:3] or shape[0] % cuts.rows == 0)
    return size // cuts.row_parts if by_rows else size


def estimated(jaxpr: Any, cuts: Cuts) -> list[Buffer]:
    """The arrays that are there when they take most, with their bytes on one device and their shapes on all."""
    return _Walk(cuts).fullest(jaxpr)


def _total(buffers: Iterable[Buffer]) -> int:
    return sum(buffer.size for buffer in buffers)


class _Step(NamedTuple):
    """One equation: the arrays that it makes, what is there while it works, and on which arrays its operands stand."""

    made: Sequence[tuple[int, Buffer]]
    inside: Sequence[Buffer]
    used: Numbers


class _Walk:
    """Goes through a program in its order, into the functions that it calls."""

    def __init__(self, cuts: Cuts) -> None:
        self.cuts, self.steps, self.arrays = cuts, list[_Step](), 0

    def fullest(self, jaxpr: Any) -> list[Buffer]:
        ends = self._through(jaxpr, [frozenset()] * len(jaxpr.invars))
        sizes = [bytes_of(atom.aval, self.cuts) for atom in jaxpr.outvars]
        return min((self._most(self._in_order(order)) for order in (ends, self._least_first(ends, sizes))), key=_total)

    def _most(self, steps: Sequence[_Step]) -> list[Buffer]:
        last = {array: number for number, step in enumerate(steps) for array in step.used}
        alive: dict[int, Buffer] = {}
        most, found = 0, list[Buffer]()
        for number, step in enumerate(steps):
            alive.update((array, buffer) for array, buffer in step.made if array in last)
            now = _total(alive.values()) + _total(step.inside)
            if now > most:
                most, found = now, [*alive.values(), *step.inside]
            for array in [array for array in step.used if last[array] == number]:
                alive.pop(array, None)
        return found

    def _least_first(self, ends: Sequence[Numbers], sizes: Sequence[int]) -> list[Numbers]:
        """Large results that need little before those that need much, small ones last: of two models that learn, one
        after the other."""
        maker = {array: step for step in self.steps for array, _ in step.made}

        def behind(end: Numbers) -> int:
            seen, waiting = set(end), list(end)
            while waiting:
                new = maker[waiting.pop()].used - seen
                seen |= new
                waiting += new
            return len(seen)

        small = max(sizes, default=0) / 1000
        pairs = sorted(zip(ends, sizes, strict=True), key=lambda pair: (pair[1] < small, behind(pair[0])))
        return [end for end, _ in pairs]

    def _in_order(self, ends: Sequence[Numbers]) -> list[_Step]:
        """Each result in turn with what it needs, and written when that is there; without what none needs."""
        maker = {array: number for number, step in enumerate(self.steps) for array, _ in step.made}
        order, done = list[_Step](), set[int]()
        for end in ends:
            waiting = [maker[array] for array in sorted(end, reverse=True)]
            while waiting:
                step = self.steps[waiting[-1]]
                needed = [maker[array] for array in sorted(step.used, reverse=True) if maker[array] not in done]
                waiting += needed
                if not needed and (number := waiting.pop()) not in done:
                    done.add(number)
                    order.append(step)
            order.append(_Step((), (), end))
        return order

    def _through(self, jaxpr: Any, given: Sequence[Numbers]) -> list[Numbers]:
        """The arrays that each result stands on."""
        stands: dict[Any, Numbers] = dict(zip(jaxpr.invars, given, strict=True))

        def on(atom: Any) -> Numbers:
            return frozenset() if hasattr(atom, "val") else stands.get(atom, frozenset())

        for equation in jaxpr.eqns:
            found = self._equation(equation, [on(atom) for atom in equation.invars])
            stands.update(zip(equation.outvars, found, strict=True))
        return [on(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: Sequence[Numbers]) -> list[Numbers]:
        name, parameters = equation.primitive.name, equation.params
        used = frozenset[int]().union(*operands)
        if name in ("scan", "while", "cond"):
            return self._made(equation, used, self._inside(name, parameters))
        called = next((parameters[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in parameters), None)
        if name.startswith(MADE):
            return self._made(equation, used)
        if called is not None:
            jaxpr = getattr(called, "jaxpr", called)
            return self._through(jaxpr, operands[len(operands) - len(jaxpr.invars) :])
        return [used] * len(equation.outvars)

    def _inside(self, name: str, parameters: Mapping[str, Any]) -> list[Buffer]:
        """What one turn of a loop, or the branch that takes most, makes meanwhile; in a layer, its matrices too."""
        bodies = {"scan": "jaxpr", "while": "body_jaxpr"}
        closed = parameters["branches"] if name == "cond" else [parameters[bodies[name]]]
        backward = parameters.get("reverse", False)
        inner = [_Walk(self.cuts).fullest(c.jaxpr) + self._gathered(c.jaxpr, backward) for c in closed]
        return max(inner, key=_total)

    def _gathered(self, layer: Any, backward: bool) -> list[Buffer]:
        """Matrices of a layer that are put together: going back all of them at once, and otherwise one by one."""
        if self.cuts.row_parts == 1:
            return []
        shaped = [(var.aval, self.cuts.matrices.get(getattr(var.aval, "shape", ()))) for var in layer.invars]
        found = sorted(Buffer(x.size * x.dtype.itemsize // cut, "all-gather", x.shape) for x, cut in shaped if cut)
        return found if backward else found[-1:]

    def _made(self, equation: Any, used: Numbers, inside: Sequence[Buffer] = ()) -> list[Numbers]:
        made = []
        for var in equation.outvars:
            self.arrays += 1
            size = 0 if type(var).__name__ == "DropVar" else bytes_of(var.aval, self.cuts)
            made.append((self.arrays, Buffer(size, equation.primitive.name, getattr(var.aval, "shape", ()))))
        self.steps.append(_Step(made, inside, used))
        return [frozenset({number}) for number, _ in made]
