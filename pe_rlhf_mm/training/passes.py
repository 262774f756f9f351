"""What several roles say of the same rows: in one pass over the backbone that they share, or each in its own.

A pass gathers every matrix W of a backbone that is kept in parts, whoever asks. Roles that differ in their adapters
alone go through it together: hidden states have one more axis, e, along which nothing but the adapters varies,

    y[e] = gain[e] ∘ (x[e] W + scale[e] · (x[e] a[e]) b[e]),      gain 1 but for DoRA

and W, the images, and who sees whom are there once for all of them. Gradients come back through one pass as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters import dora, lora
from pe_rlhf_mm.adapters.mixture import Mixture
from pe_rlhf_mm.adapters.roles import Head, Roles, Weights, adapted_by
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.sharding import parts_of
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.types import Completions, Packed, Prompts

# --- what is read -----------------------------------------------------------------------------------------------


class Readable(Protocol):
    """Rows in which a policy has chosen tokens, and the hidden states that say something of these."""

    @property
    def tokens(self) -> Int[Array, "B *n"]:
        """The chosen ones."""

    @property
    def mask(self) -> Bool[Array, "B *n"]:
        """Which of them are real."""

    def read(self, config: VLMConfig, weights: Weights, how: forward.Pass) -> forward.Read:
        """The hidden states of every token."""

    def before(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B *n D"]:
        """Where a policy is read: before each chosen token."""

    def valued(self, hidden: Float[Array, "B S D"]) -> Any:
        """Where a value model is read."""

    def judged(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B *m D"]:
        """Where a reward model is read."""


class Completed(NamedTuple):
    """[prompt | c1 | .. | cG]. V is read before each token, a reward at the last one of each completion."""

    prompts: Prompts
    completions: Completions

    @property
    def tokens(self) -> Int[Array, "B G T"]:
        return self.completions.tokens

    @property
    def mask(self) -> Bool[Array, "B G T"]:
        return self.completions.mask

    def read(self, config: VLMConfig, weights: Weights, how: forward.Pass) -> forward.Read:
        return forward.read(config, weights, self.prompts, self.completions, how)

    def before(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B G T D"]:
        return vlm.before_each(hidden, *self.tokens.shape[1:])

    def valued(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B G T D"]:
        return self.before(hidden)

    def judged(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B G D"]:
        return vlm.at_last(hidden, self.mask)


class Episodes(NamedTuple):
    """N episodes in packed rows. V is read before each chosen token, and at `ends`, places among the B·S; a reward at
    each chosen token."""

    packed: Packed
    ends: Int[Array, " N"]

    @property
    def tokens(self) -> Int[Array, "B K"]:
        return jnp.take_along_axis(self.packed.tokens, self.packed.asked, axis=1)

    @property
    def mask(self) -> Bool[Array, "B K"]:
        return self.packed.mask

    def read(self, config: VLMConfig, weights: Weights, how: forward.Pass) -> forward.Read:
        return forward.read_packed(config, weights, self.packed, how)

    def before(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B K D"]:
        return vlm.at(hidden, self.packed.before)

    def valued(self, hidden: Float[Array, "B S D"]) -> tuple[Float[Array, "B K D"], Float[Array, "N D"]]:
        return self.before(hidden), hidden.reshape(-1, hidden.shape[-1])[self.ends]

    def judged(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B K D"]:
        return vlm.at(hidden, self.packed.asked)


# --- what a role says -------------------------------------------------------------------------------------------

Reader = Callable[[VLMConfig, nnx.State, Any, Readable, forward.Read, Sampling], Any]
"""(config, weights, the role's head, rows, how it has read them, how tokens were drawn) -> what it says."""


def _policy(
    config: VLMConfig, state: nnx.State, head: None, rows: Readable, own: forward.Read, sampling: Sampling
) -> forward.PolicyStatistics:
    found = forward.statistics(config, state, rows.before(own.states), rows.tokens, rows.mask, sampling)
    return found._replace(usage=own.usage)


def _value(
    config: VLMConfig, state: nnx.State, head: Head, rows: Readable, own: forward.Read, sampling: Sampling
) -> Any:
    return jax.tree.map(head.__call__, rows.valued(own.states))


def _reward(
    config: VLMConfig, state: nnx.State, head: Head, rows: Readable, own: forward.Read, sampling: Sampling
) -> Float[Array, "B *m"]:
    return head(rows.judged(own.states))


READERS: dict[str, Reader] = {"policy": _policy, "anchor": _policy, "value": _value, "reward": _reward}


def reader_of(role: str) -> Reader:
    """A member of several, `reward-2` for instance, is read as the one is."""
    return READERS[role.partition("-")[0]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["state", "slots", "scales", "mixture", "heads"],
    meta_fields=["readers"],
)
@dataclass(frozen=True)
class Joint:
    """What one pass reads: weights, what each of its roles has of its own, and how each is read.

    `slots`, `scales`: their adapters, none where the weights are one role's copy, or one role has a `mixture`. It does
    not know its roles by name, so policy and anchor go through the same program also where each has a pass of its own.
    """

    state: nnx.State
    slots: tuple[lora.Slot, ...]
    scales: tuple[Float[Array, ""], ...]
    mixture: Mixture | None
    heads: tuple[Head | None, ...]
    readers: tuple[Reader, ...]


def joint(roles: Roles, names: Sequence[str]) -> Joint:
    """Of roles that share the backbone, any number, or of one that has a mixture, or a copy of all weights."""
    heads, readers = tuple(roles.heads.get(name) for name in names), tuple(map(reader_of, names))
    if names[0] in roles.copies:
        return Joint(roles.copies[names[0]], (), (), None, heads, readers)
    if names[0] in roles.mixtures:
        return Joint(roles.backbone, (), (), roles.mixtures[names[0]], heads, readers)
    slots, scales = tuple(roles.slots[name] for name in names), tuple(roles.scales[name] for name in names)
    return Joint(roles.backbone, slots, scales, None, heads, readers)


def read(
    config: VLMConfig, of: Joint, rows: Readable, sampling: Sampling, how: forward.Pass = forward.SCORING
) -> list[Any]:
    """What every role of one pass says of rows, in their order."""
    every, said = _each(of, lambda weights: rows.read(config, weights, how)), list[Any]()
    for reader, head, found in zip(of.readers, of.heads, every, strict=True):
        # One after another, or a compiler may have the logits of all policies at once.
        own = jax.lax.optimization_barrier((found, said[-1]))[0] if said else found
        said.append(reader(config, of.state, head, rows, own, sampling))
    return said


score = functools.partial(jax.jit, static_argnames=("config", "sampling"))(read)
"""`read`, compiled."""


def _each(of: Joint, compute: Callable[[Weights], forward.Read]) -> Iterable[forward.Read]:
    """What every role has read, with its weights."""
    if not of.slots:
        return [compute(Weights(of.state, None if of.mixture is None else of.mixture.bank))]
    if len(of.slots) == 1:
        return [compute(adapted_by(of.state, of.slots[0], of.scales[0]))]
    # Without a name for the axis of roles, every constraint on a layout would leave it to the compiler how to cut that
    # axis. With the name of no mesh axis it is whole on every device, and rows are cut as in a pass of one role.
    each = jax.vmap(
        lambda slot, scale, gains: compute(Weights(of.state, lora.only(slot, scale, gains))).states,
        in_axes=(1, 0, 1),
        spmd_axis_name=(),
    )
    gains = [dora.gains(of.state, slot, scale) for slot, scale in zip(of.slots, of.scales, strict=True)]
    return map(forward.Read, each(lora.side_by_side(of.slots), jnp.stack(of.scales), lora.gains_side_by_side(gains)))


# --- which roles share a pass -----------------------------------------------------------------------------------


def together(roles: Roles, names: Sequence[str]) -> list[tuple[str, ...]]:
    """All that have adapters in one pass. A copy of all weights has nothing to share, and a pass of its own; so has a
    mixture, in which an axis of experts is where roles would have theirs."""
    sharing = tuple(name for name in names if name in roles.slots)
    return [*([sharing] if sharing else []), *((name,) for name in names if name not in roles.slots)]


def apart(roles: Roles, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Every role in its own: what one has computed is let go before the next one begins."""
    return [(name,) for name in names]


def where_it_pays(roles: Roles, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Together where the mesh keeps weights in parts. Where every device has them whole there is nothing to gather, and
    what one role computes is less to hold, and on a CPU faster to get at, than what all do."""
    return together(roles, names) if parts_of("embed") > 1 else apart(roles, names)


PASSES = {"auto": where_it_pays, "together": together, "apart": apart}


def said(
    config: VLMConfig,
    roles: Roles,
    names: Sequence[str],
    rows: Readable,
    settings: RLConfig,
    read: Callable[[VLMConfig, Joint, Readable, Sampling], list[Any]] = score,
) -> dict[str, Any]:
    """What each of the named roles says of rows, in as many passes as `settings.passes` makes of them."""
    found: dict[str, Any] = {}
    for group in PASSES[settings.passes](roles, names):
        found |= zip(group, read(config, joint(roles, group), rows, settings.sampling), strict=True)
    return found
