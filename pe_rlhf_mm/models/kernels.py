"""The kernels of attention: which there are, what each cannot do, and which one is taken.

All of them compute what `attention.attend` computes. A stack asks `kernel_for` while it is traced, and the answer
follows from its config, its shapes and the platform that is compiled for: from nothing that a compiled program would
not know of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import attention, cudnn, flash
from pe_rlhf_mm.models.attention import KeyValues, Sight
from pe_rlhf_mm.models.config import Attention, BlockConfig
from pe_rlhf_mm.models.sharding import platform


class Kernel(NamedTuple):
    """One way to compute attention.

    `prepare` makes what its `attend` is given of who sees whom, for each kind of layer; without `Sight`, all of the
    rows and tokens of a shape see all. `cannot`: why it does not compute a stack in a type of number on a platform;
    nothing if it does. `pays`: whether `auto` takes it there for so many tokens, where it can.
    """

    prepare: Callable[[Sight | None, tuple[int, ...]], Any]
    attend: Callable[[Array, KeyValues, Any, BlockConfig], Array]
    cannot: Callable[[BlockConfig, Any, str], str]
    pays: Callable[[BlockConfig, int, str], bool]


def _mask(sight: Sight | None, _: tuple[int, ...]) -> Bool[Array, "kinds B S seen"] | None:
    return None if sight is None else attention.mask_of(sight)


def _numbers(sight: Sight | None, shape: tuple[int, ...]) -> flash.Numbers:
    return flash.numbers_of(attention.everybody(*shape) if sight is None else sight)


KERNELS: dict[Attention, Kernel] = {
    "flash": Kernel(_numbers, flash.attend, flash.cannot, flash.pays),
    "cudnn": Kernel(_mask, cudnn.attend, cudnn.cannot, cudnn.pays),
    "xla": Kernel(_mask, attention.attend, lambda config, dtype, platform: "", lambda config, length, platform: True),
}
"""In the order in which `auto` looks for one that can and pays."""


def kernel_for(config: BlockConfig, dtype: Any, length: int) -> Kernel:
    """The kernel that a stack names, or the first that pays. Raises UserError for one that cannot do what it should."""
    here = platform()
    if config.attention == "auto":
        can = (kernel for kernel in KERNELS.values() if not kernel.cannot(config, jnp.dtype(dtype), here))
        return next(kernel for kernel in can if kernel.pays(config, length, here))
    kernel = KERNELS[config.attention]
    if why := kernel.cannot(config, jnp.dtype(dtype), here):
        raise UserError(f"attention {config.attention!r} is not to be had here: {why}. Use 'auto', or 'xla'.")
    return kernel
