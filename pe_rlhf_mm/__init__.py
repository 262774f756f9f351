"""PE-RLHF for agents that see: parameter-efficient RLHF of vision-language models in JAX.

The public names are loaded on first use, so that `import pe_rlhf_mm` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pe_rlhf_mm.data.labels import read_labels as read_labels
    from pe_rlhf_mm.data.labels import write_labels as write_labels
    from pe_rlhf_mm.errors import UserError as UserError
    from pe_rlhf_mm.evaluation.evaluate import evaluate as evaluate
    from pe_rlhf_mm.evaluation.given import Given as Given
    from pe_rlhf_mm.evaluation.scoring import Evaluation as Evaluation
    from pe_rlhf_mm.judging.labelling import label as label
    from pe_rlhf_mm.judging.load import load_judge as load_judge
    from pe_rlhf_mm.models.model import Model as Model
    from pe_rlhf_mm.models.model import load_model as load_model
    from pe_rlhf_mm.models.sharding import make_mesh as make_mesh
    from pe_rlhf_mm.registry import register_evaluator as register_evaluator
    from pe_rlhf_mm.registry import register_task as register_task
    from pe_rlhf_mm.rollout.export import load_adapter as load_adapter
    from pe_rlhf_mm.rollout.export import save_adapter as save_adapter
    from pe_rlhf_mm.rollout.load import load_policy as load_policy
    from pe_rlhf_mm.rollout.policy import Policy as Policy
    from pe_rlhf_mm.training.config import PreferenceConfig as PreferenceConfig
    from pe_rlhf_mm.training.config import RewardConfig as RewardConfig
    from pe_rlhf_mm.training.config import RLConfig as RLConfig
    from pe_rlhf_mm.training.config import SFTConfig as SFTConfig
    from pe_rlhf_mm.training.config import TuneConfig as TuneConfig
    from pe_rlhf_mm.training.lora_config import LoraConfig as LoraConfig
    from pe_rlhf_mm.training.machines import MeshConfig as MeshConfig
    from pe_rlhf_mm.training.reward_model import RewardModel as RewardModel
    from pe_rlhf_mm.training.reward_model import average_rewards as average_rewards
    from pe_rlhf_mm.training.reward_model import load_reward as load_reward
    from pe_rlhf_mm.training.reward_model import load_run_reward as load_run_reward
    from pe_rlhf_mm.training.tune import tune as tune
    from pe_rlhf_mm.types import Image as Image
    from pe_rlhf_mm.types import Judge as Judge
    from pe_rlhf_mm.types import Message as Message
    from pe_rlhf_mm.types import Outcome as Outcome
    from pe_rlhf_mm.types import Preference as Preference
    from pe_rlhf_mm.types import Rated as Rated
    from pe_rlhf_mm.types import Sample as Sample
    from pe_rlhf_mm.types import Score as Score
    from pe_rlhf_mm.types import Step as Step
    from pe_rlhf_mm.types import Text as Text
    from pe_rlhf_mm.types import Verdict as Verdict

_HOMES = {
    "data.labels": ("read_labels", "write_labels"),
    "errors": ("UserError",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.scoring": ("Evaluation",),
    "evaluation.given": ("Given",),
    "judging.labelling": ("label",),
    "judging.load": ("load_judge",),
    "models.model": ("Model", "load_model"),
    "models.sharding": ("make_mesh",),
    "registry": ("register_evaluator", "register_task"),
    "rollout.export": ("load_adapter", "save_adapter"),
    "rollout.load": ("load_policy",),
    "rollout.policy": ("Policy",),
    "training.config": (
        "PreferenceConfig",
        "RewardConfig",
        "RLConfig",
        "SFTConfig",
        "TuneConfig",
    ),
    "training.lora_config": ("LoraConfig",),
    "training.machines": ("MeshConfig",),
    "training.reward_model": ("RewardModel", "average_rewards", "load_reward", "load_run_reward"),
    "training.tune": ("tune",),
    "types": (
        "Image",
        "Judge",
        "Message",
        "Outcome",
        "Preference",
        "Rated",
        "Sample",
        "Score",
        "Step",
        "Text",
        "Verdict",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - one table for what is public and where it lives
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pe_rlhf_mm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pe_rlhf_mm.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
