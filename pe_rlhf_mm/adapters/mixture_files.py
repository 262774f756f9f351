"""A mixture of adapters on disk: experts and gates in one file, so that a role is whole wherever its folder goes."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.gates import KINDS, Gate
from pe_rlhf_mm.adapters.lora import LowRank
from pe_rlhf_mm.adapters.mixture import Mixture
from pe_rlhf_mm.adapters.origin import MIXTURE, Origin
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.adapters.tensors import read_tensors, write_tensors
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig


def write_mixture(folder: Path, mixture: Mixture, origin: Origin) -> None:
    """Writes `mixture.safetensors`, replacing an older one only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    held, tensors = hosts.fetched(mixture), dict[str, np.ndarray]()
    for target, low in held.experts.items():
        tensors |= {f"experts.{target}.a": low.a, f"experts.{target}.b": low.b}
    for place, gate in held.gates.items():
        tensors |= {f"gates.{place}.{name}": part for name, part in gate._asdict().items()}
    write_tensors(folder / MIXTURE, {**tensors, "scales": held.scales, "balance": held.balance}, origin.metadata())


def read_mixture(folder: Path, config: VLMConfig) -> Mixture:
    """Reads one. Raises UserError for a damaged file, and for a mixture of another model."""
    path = folder / MIXTURE
    tensors = read_tensors(path)
    targets = tuple(name.split(".")[1] for name in tensors if name.startswith("experts.") and name.endswith(".a"))
    places = tuple(place for place in KINDS["layer"] if f"gates.{place}.weight" in tensors)
    _refuse_misfits(path, tensors, targets, places, config)
    held = {name: jnp.asarray(tensor) for name, tensor in tensors.items()}
    experts = {t: LowRank(held[f"experts.{t}.a"], held[f"experts.{t}.b"]) for t in targets}
    gates = {place: Gate(*(held[f"gates.{place}.{name}"] for name in Gate._fields)) for place in places}
    return Mixture(experts, held["scales"], gates, held["balance"])


def _refuse_misfits(
    path: Path, tensors: dict[str, np.ndarray], targets: tuple[str, ...], places: tuple[str, ...], config: VLMConfig
) -> None:
    layers, width = config.decoder.layers, config.decoder.width
    count = len(tensors["scales"]) if tensors.get("scales", np.float32(0)).ndim == 1 else 0
    wanted: dict[str, tuple[int, ...]] = {"scales": (count,), "balance": ()}
    for target, (_, size_in, size_out) in adapted(config, targets).items():
        rank = tensors[f"experts.{target}.a"].shape[-1]
        wanted |= {f"experts.{target}.a": (layers, count, size_in, rank)}
        wanted |= {f"experts.{target}.b": (layers, count, rank, size_out)}
    for place in places:
        sizes = ((layers, width, count), (layers, count), (layers,))
        wanted |= {f"gates.{place}.{name}": size for name, size in zip(Gate._fields, sizes, strict=True)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = [f"{n}: {found.get(n, 'missing')}, expected {s}" for n, s in wanted.items() if found.get(n) != s]
    wrong += [f"not part of a mixture: {n}" for n in found.keys() - wanted.keys()]
    if wrong or not targets or not places:
        raise UserError(f"{path} is no mixture of adapters of {config.name}:\n  " + "\n  ".join(sorted(wrong)))
