"""Settings of the recipes.

Defaults are the paper's where it gives them (PE-RLHF, arXiv 2403.10704, A.3); what it leaves open is marked "ours". A
task may bring settings of its own for the model it is shown with.

Nothing here imports jax: the command line reads these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.models.config import Attention, Quantization, Remat
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training.checks import not_negative, positive, refuse_other_types, within
from pe_rlhf_mm.training.lora_config import LoraConfig
from pe_rlhf_mm.training.machines import MeshConfig

RANKED = ("online-dpo", "best-of-n")
"""Algorithms that learn from which replies of a group have the best reward, not from how good it is."""
GROUPED = ("rloo", "grpo", "dr-grpo", *RANKED)
"""Algorithms that measure a reply against the others of its group."""
SAVE_EVERY = 60.0
"""Seconds from one save of a run to the next: what a crash costs at most. A save costs far less of them."""


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning on demonstrations."""

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-4
    demonstrations: int = 0
    """Use only so many demonstrations of the training split; 0 means all."""
    start_from: str = ""
    """Go on with these adapters instead of fresh ones: of the run RUN, or RUN:role, or a folder in PEFT's layout."""
    packed_length: int = 0
    """Pack demonstrations into rows of so many tokens, `batch_size` rows a step; 0: one a row, in a few lengths."""

    def __post_init__(self) -> None:
        refuse_other_types(self)
        positive(self, "steps", "batch_size", "learning_rate")
        not_negative(self, "demonstrations", "packed_length")


@dataclass(frozen=True)
class RewardConfig:
    """Reward modelling; the checkpoint with the best validation accuracy is kept."""

    steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 1e-4
    dropout: float = 0.01
    loss: Literal["pairwise", "pointwise"] = "pairwise"
    """`pairwise`: which of two replies is better. `pointwise`: whether a reply is right, from the task's ratings, or
    where it has none from its pairs, each of which is two ratings."""
    margin: float = 0.0
    """How much the margins count that pairs carry; 0, the paper's loss, means not at all."""
    labels: str = ""
    """Train on the pairs or ratings of this file (`data/labels.py`), an AI judge's for instance, instead of the task's
    own; validation and test stay the task's."""
    pairs: int = 0
    """Use only so many pairs, or ratings, of the training split; 0 means all."""
    validate_every: int = 250
    validation_pairs: int = 512
    """Validate on so many pairs, or ratings."""
    packed_length: int = 0
    """Pack replies into rows of so many tokens, `batch_size` rows a step; only pointwise. 0: one example a row."""
    members: int = 1
    """Train so many reward models at once, as adapters over one backbone, each in an order of the data of its own."""
    learning_rates: tuple[float, ...] = ()
    """Of the members, in turn; none named: `learning_rate`."""
    dropouts: tuple[float, ...] = ()
    """Of the members, in turn; none named: `dropout`."""
    passes: Literal["apart", "together"] = "apart"
    """How a step goes through its members: `apart`, one after another, in the memory of one; `together`, in one pass,
    for which a backbone that a mesh keeps in parts is gathered once."""
    combine: Literal["warm", "mean", "worst", "uncertainty"] = "warm"
    """What members make together. `warm`: one reward model, the average of their weights. `mean` and `worst`: the mean
    and the least of what they say of a reply. `uncertainty`: the mean, less `doubt` times the variance."""
    doubt: float = 0.5
    """Of `uncertainty`: how dear it is that members differ (ours)."""
    control: bool = False
    """Keep the last member out of the reward. It reads along in RL, and an alarm tells of a reward that rises while the
    control falls."""
    flip: float = 0.0
    """Turn round the labels of this share of the training pairs, or ratings: a study of how robust a reward model is.
    Validation and test keep theirs."""

    def __post_init__(self) -> None:
        refuse_other_types(self)
        positive(self, "steps", "batch_size", "learning_rate", "validate_every", "validation_pairs", "members")
        not_negative(self, "margin", "pairs", "packed_length", "doubt")
        within(self, "dropouts", self.dropouts, 0, 1)
        within(self, "learning_rates", self.learning_rates, 1e-12, 1)
        within(self, "flip", [self.flip], 0, 1)
        self._refuse_impossible_members()
        if self.packed_length and self.loss == "pairwise":
            raise OutOfRange(
                "RewardConfig.packed_length is for the loss pointwise: the replies of a pair share a row already"
            )
        if not 0 <= self.dropout < 1:
            raise OutOfRange(f"RewardConfig.dropout must be in [0, 1), not {self.dropout}")

    def _refuse_impossible_members(self) -> None:
        if self.members == 1:
            for name in ("learning_rates", "dropouts", "control"):
                if getattr(self, name):
                    raise OutOfRange(f"RewardConfig.{name} is for several members, and members is 1")
        elif self.packed_length:
            raise OutOfRange("RewardConfig.members read one example a row: leave packed_length at 0")


@dataclass(frozen=True)
class RLConfig:
    """Policy gradients with a baseline and a KL penalty to the SFT policy."""

    algorithm: Literal["reinforce", "rloo", "grpo", "dr-grpo", "ppo", "online-dpo", "best-of-n"] = "reinforce"
    """What a completion must do better than, and how far a step goes. `reinforce`: what the value model expects of it,
    as in the paper. `rloo`: what the others of its group earned; there is no value model then. `grpo`: the mean of its
    group, in deviations of the group, with a clipped ratio. `dr-grpo`: the same without its two divisions. `ppo`: what
    the value model expects from token to token (GAE), with a clipped ratio. `online-dpo`: DPO on the best and the worst
    of its group by reward. `best-of-n`: the likelihood of the best of its group."""
    steps: int = 1000
    prompts: int = 128
    """Prompts of one iteration."""
    group: int = 1
    """Completions of each prompt."""
    epochs: int = 1
    """Steps on one rollout, each on all of it; with 1 every rollout is drawn with the policy that learns from it."""
    learning_rate: float = 1e-5
    value_learning_rate: float = 1e-5
    beta: float = 0.05
    """J = E[(1 - beta) · reward - beta · KL]."""
    kl_target: float = 0.0
    """Nats a reply, or an episode, from the SFT policy at which beta is to hold the policy: it is moved after every
    rollout, up if that was further away, else down. 0: it stays as it is given."""
    kl_gain: float = 0.1
    """With `kl_target`: beta is multiplied by 1 + kl_gain times the relative error, which is at most 0.2 either way."""
    gamma: float = 1.0
    """What a reward is worth a turn earlier, of tasks that are played; the tokens of a turn are not discounted."""
    kl: Literal["return", "loss", "k3"] = "return"
    """Where the KL term acts: in every token's return (default), or as a differentiable term of the loss, half the
    squared log-ratio (`loss`) or the estimate of the GRPO paper (`k3`)."""
    entropy: float = 0.0
    """What a nat of entropy, mean over tokens, takes off the loss (ours: nothing)."""
    clip: float = 0.2
    """Of `ppo`, `grpo` and `dr-grpo`: a token gains nothing by becoming likelier, or less likely, by a larger share."""
    value_clip: float = 0.2
    """Of `ppo`: the value model gains nothing by moving further than this from what it said of a rollout at first."""
    truncation: float = 2.0
    """Of `reinforce` and `rloo`, with more than one epoch: the most that a token's importance weight may be (ours)."""
    gae_lambda: float = 0.95
    """Of `ppo`: 1 trusts what was earned, 0 what the value model expects a step later."""
    credit: Literal["token", "turn"] = "token"
    """Of `ppo`: what a step is. With `turn`, gae_lambda acts from turn to turn, and all tokens of a turn share its
    advantage."""
    dpo_beta: float = 0.1
    """Of `online-dpo`: the beta of DPO, how dear leaving the SFT policy is. `beta` is that of the KL term besides."""
    reward: str = "learned"
    """`learned`: the reward model's. `task`: what the environment gives; only for tasks that are played in one. Or the
    id of an evaluator, or path.py:Class of one, which scores each reply or episode: its part `reward`, or its value."""
    judge: str = ""
    """Whom that evaluator asks, if it asks a judge: what `--judge` of `pe-rlhf eval run` takes."""
    judge_calls: int = 10_000
    """Questions that a server as judge is asked at most."""
    max_turns: int = 8
    """Replies of an episode, of tasks that are played in an environment; longer ones are cut there."""
    environments: int = 8
    """How many of them are played at once."""
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 16
    passes: Literal["auto", "together", "apart"] = "auto"
    """How roles with adapters read a rollout: `together`, in one pass, for which a backbone that is kept in parts is
    gathered once; `apart`, in one each, which takes less memory; `auto`: together where the mesh keeps it in parts. In
    mode `full` they share nothing, and are always apart."""
    evaluate_every: int = 100
    """Steps from one evaluation on the validation split to the next; the policy that does best there is kept."""
    evaluation_samples: int = 256

    def __post_init__(self) -> None:
        refuse_other_types(self)
        positive(self, "steps", "prompts", "group", "learning_rate", "value_learning_rate", "temperature")
        positive(self, "evaluate_every", "evaluation_samples", "max_turns", "environments", "judge_calls")
        positive(self, "epochs", "value_clip", "dpo_beta")
        not_negative(self, "entropy", "kl_target")
        self._refuse_impossible_sampling()
        if not 0 <= self.beta <= 1:
            raise OutOfRange(f"RLConfig.beta must be in [0, 1], not {self.beta}")
        if not 0 < self.kl_gain < 5:
            raise OutOfRange(f"RLConfig.kl_gain must be above 0 and below 5, not {self.kl_gain}")
        if self.kl_target and not self.beta:
            raise OutOfRange("RLConfig.kl_target moves beta by a factor, and beta is 0: begin with one above 0")
        if not 0 < self.gamma <= 1:
            raise OutOfRange(f"RLConfig.gamma must be above 0 and at most 1, not {self.gamma}")
        if not 0 < self.clip < 1:
            raise OutOfRange(f"RLConfig.clip must be above 0 and below 1, not {self.clip}")
        if not self.truncation >= 1:
            raise OutOfRange(f"RLConfig.truncation must be at least 1, not {self.truncation}: less is no weight of 1")
        if not 0 <= self.gae_lambda <= 1:
            raise OutOfRange(f"RLConfig.gae_lambda must be in [0, 1], not {self.gae_lambda}")
        if self.credit == "turn" and self.algorithm != "ppo":
            raise OutOfRange(f"RLConfig.credit turn is for ppo, not for {self.algorithm}, which has no other credit")
        if self.algorithm in GROUPED and self.group < 2:
            raise OutOfRange(
                f"RLConfig.group must be at least 2 for {self.algorithm}, not {self.group}: a completion is measured "
                "against the others of its prompt"
            )
        if self.algorithm in RANKED and self.kl == "return" and self.beta:
            raise OutOfRange(
                f"RLConfig.kl return is not for {self.algorithm}, which ranks the replies of a group by reward alone: "
                "take kl loss or k3, or beta 0"
            )

    def _refuse_impossible_sampling(self) -> None:
        try:
            _ = self.sampling
        except OutOfRange as error:
            raise OutOfRange(f"RLConfig.{error}") from error

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn, by the sampler and by the trainer."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.max_tokens)


@dataclass(frozen=True)
class PreferenceConfig:
    """DPO, IPO or SLiC on pairs of replies, KTO on ratings; the policy that does best on the validation split is kept.

    Batch and beta are those of the DPO paper (arXiv 2305.18290, appendix B). How replies are drawn, and how many the
    validation split is asked for, the section `rl` says.
    """

    steps: int = 1000
    batch_size: int = 64
    """Pairs, or ratings, of one step."""
    learning_rate: float = 1e-5
    beta: float = 0.1
    """Of `dpo` and `kto`, how dear it is to leave the SFT policy; of `ipo`, the better reply is to gain 1 / (2 beta)
    nats."""
    delta: float = 1.0
    """Of `slic`: by how many nats the better reply is to be likelier than the worse one (ours)."""
    likelihood: float = 0.5
    """Of `slic`: how much the likelihood of the better reply counts (ours)."""
    right: float = 1.0
    """Of `kto`: how much a reply that is right counts."""
    wrong: float = 1.0
    """Of `kto`: how much one that is wrong counts; with many more of one kind, give the other more weight."""
    labels: str = ""
    """Train on the pairs or ratings of this file (`data/labels.py`) instead of the task's own."""
    pairs: int = 0
    """Use only so many pairs, or ratings, of the training split; 0 means all."""
    evaluate_every: int = 100
    """Steps from one evaluation on the validation split to the next."""

    def __post_init__(self) -> None:
        refuse_other_types(self)
        positive(self, "steps", "batch_size", "learning_rate", "beta", "evaluate_every")
        not_negative(self, "delta", "likelihood", "right", "wrong", "pairs")


@dataclass(frozen=True)
class TuneConfig:
    """SFT, reward model and RL, or SFT and preference optimisation; evaluation: one run."""

    method: Literal["rlhf", "dpo", "ipo", "slic", "kto"] = "rlhf"
    """`rlhf`: a reward model, and RL against it. `dpo`, `ipo`, `slic`: the policy learns from the pairs themselves,
    without a reward model. `kto`: it learns so from ratings, or of pairs from each reply by itself. Only for tasks of
    one turn."""
    mode: Literal["lora", "full"] = "lora"
    """`lora`: adapters on one frozen backbone. `full`: every role trains its own copy of all weights."""
    quantize: Literal[Quantization, None] = None
    """Hold the frozen backbone's kernels in 8 or 4 bits; in mode `lora` only."""
    seed: int = 0
    lora: LoraConfig = field(default_factory=LoraConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    preferences: PreferenceConfig = field(default_factory=PreferenceConfig)
    test_samples: int = 0
    """Evaluate on so many test samples; 0 means all."""
    optimizer: Literal["adam", "adafactor"] = "adam"
    """Of all stages. `adafactor`, the paper's: of a matrix it remembers a number a row and a column, and `adam` two a
    weight."""
    remat: Remat = "products"
    """What a layer keeps for the backward pass, which computes the rest again: `everything`; `products` of matrices and
    what attention mixed; the same in the memory of the `host`; or its input alone, of all `layers`: least memory, and
    about a third more arithmetic."""
    accumulate: int = 1
    """Work through the batch of a step in so many parts, and add up their gradients: the memory of one, and the same
    step."""
    attention: Attention = "auto"
    """The kernel that computes attention: by default the one that pays on this platform. All compute the same."""
    mesh: MeshConfig = field(default_factory=MeshConfig)

    @property
    def learns_reward(self) -> bool:
        """Whether a reward model is trained, or taken from another run."""
        return self.method == "rlhf" and self.rl.reward == "learned"

    def __post_init__(self) -> None:
        refuse_other_types(self)
        not_negative(self, "seed", "test_samples")
        positive(self, "accumulate")
        if self.seed >= 2**63:
            raise OutOfRange(f"TuneConfig.seed must be below 2^63, not {self.seed}")
        if self.accumulate > 1 and self.method == "kto":
            raise OutOfRange(
                "TuneConfig.accumulate is for losses of each example by itself, and kto compares every reply with the "
                "mean of its batch: give kto whole batches"
            )
        if self.accumulate > 1 and self.method == "rlhf" and self.rl.entropy:
            raise OutOfRange(
                "TuneConfig.accumulate is for losses with one mean, and rl.entropy is taken over tokens where the rest "
                "is taken over completions: leave it at 0, or give RL whole batches"
            )
        if self.lora.kind == "dora" and self.reward.members > 1 and self.reward.combine == "warm":
            raise OutOfRange(
                "RewardConfig.combine warm is an average of adapters, and those of LoraConfig.kind dora have none: "
                "combine them by mean, worst or uncertainty, or use kind lora"
            )
        if self.lora.experts and (self.mode == "full" or self.sft.start_from):
            raise OutOfRange(
                "LoraConfig.experts makes the SFT policy a mixture of frozen adapters, so there is nothing that mode "
                "full or SFTConfig.start_from would train: leave those out, or the experts"
            )
        if self.mode == "full" and self.reward.members > 1:
            raise OutOfRange(
                f"RewardConfig.members is {self.reward.members}, and they are adapters over one backbone: mode full "
                "has none. Use mode lora, or one member."
            )
        if self.mode == "full" and self.quantize is not None:
            raise OutOfRange(
                f"mode full trains all weights, and a backbone quantised to {self.quantize} cannot be trained: use "
                "mode lora, or leave quantize out."
            )
