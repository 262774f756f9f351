"""A policy from whatever names one: a run folder, a model, a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.origin import JUDGES
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles, only_backbone
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models.config import Attention
from pe_rlhf_mm.models.model import Model, load_model
from pe_rlhf_mm.registry import import_attribute
from pe_rlhf_mm.rollout.endpoint import EndpointPolicy
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.types import Message


def load_policy(source: str | Path, *, role: str | None = None, attention: Attention = "auto") -> Policy:
    """The policy of a run folder, or a model as it is: a checkpoint folder, a shipped model, a model of the hub.

    Of a run it is the role `policy`, or `sft` where RL has not been reached, or the role asked for. `attention`: as in
    `load_model`. Raises UserError if
    the source is neither, has no such role, or if the role judges replies and writes none.
    """
    if role in JUDGES:
        raise UserError(refusal_of_judge(role, source))
    if is_run(Path(source)) or role is not None:
        loaded = load_run_role(Path(source), role, attention=attention)
        return Policy(loaded.model.processor, loaded.roles.weights(loaded.role), f"{source}:{loaded.role}")
    model = load_model(source, attention=attention)
    return Policy(model.processor, only_backbone(model.state).weights(BACKBONE), model.name)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run. Raises UserError for a folder that is neither a run nor a checkpoint."""
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no run folder and no checkpoint folder: it has no config.json")
    return folder.is_dir() and "task" in read_json(folder / "config.json")


def refusal_of_judge(role: str, source: str | Path) -> str:
    """Why that role is no policy, and what to do."""
    remedy = " Use pe.load_reward(model, folder), and score replies." * (role == "reward")
    return f"{source}: the role {role} reads a number off a head, and writes no replies: it is no policy.{remedy}"


class RunRole(NamedTuple):
    """One role of a run, with the model it is over."""

    model: Model
    roles: Roles
    role: str


def load_run_role(folder: Path, role: str | None = None, *, attention: Attention = "auto") -> RunRole:
    """Reads a role of a run folder; the policy, or the SFT policy, unless told otherwise. Raises UserError as above."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no run folder: it has no config.json")
    run = read_json(folder / "config.json")
    if "task" not in run or "model" not in run:
        raise UserError(
            f"{folder} is no run folder: its config.json names no task and model (is it a checkpoint folder?)"
        )
    saved = sorted(p.name for p in (folder / "adapters").glob("*") if p.is_dir() and any(p.iterdir()))
    wanted = role or next((r for r in ("policy", "sft") if r in saved), "policy")
    if wanted not in saved:
        raise UserError(f"{folder} has no role {wanted!r}; saved so far: {', '.join(saved) or 'none'}")
    # Adapters were trained on the backbone as it was rounded then.
    model = load_model(run["model"], quantize=run.get("settings", {}).get("quantize"), attention=attention)
    return RunRole(
        model, load_role(folder / "adapters" / wanted, only_backbone(model.state), wanted, model.config), wanted
    )


def policy_from(
    reference: Policy | EndpointPolicy | Callable[[Sequence[Message]], str] | str | Path,
) -> Policy | EndpointPolicy | Callable[..., str]:
    """A policy from whatever names one: itself, a function, `module:function`, RUN, RUN:role, a model, or the address
    of one, `http://host:port/v1#model`."""
    if not isinstance(reference, str | Path):
        if not callable(reference):
            raise UserError(
                f"{reference!r:.80} is no policy; expected a Policy, a function from messages to text, a run folder, "
                "or the name or folder of a model"
            )
        return reference
    reference = str(reference)
    if "://" in reference:
        return EndpointPolicy(reference)
    folder, _, role = reference.rpartition(":")
    if folder and Path(folder).is_dir() and not Path(reference).exists():
        return load_policy(folder, role=role)
    if ":" in reference and not Path(reference).exists():
        function: Callable[..., str] = import_attribute(reference, "policy")
        return function
    return load_policy(reference)
