"""What tasks share that are played by tiny-vlm."""

from __future__ import annotations

from pe_rlhf_mm.training.config import RewardConfig, RLConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.training.lora_config import LoraConfig


def tuning(max_turns: int) -> TuneConfig:
    """Settings for tiny-vlm on screens, by the task's own reward: chosen on `miniwob/mix`, in docs/results.md."""
    return TuneConfig(
        lora=LoraConfig(alpha=128.0, targets=("attention", "mlp")),
        sft=SFTConfig(steps=100, batch_size=16, learning_rate=2e-3, demonstrations=64),
        reward=RewardConfig(
            loss="pointwise",
            steps=300,
            batch_size=32,
            learning_rate=5e-4,
            pairs=2000,
            validate_every=50,
            validation_pairs=256,
        ),
        rl=RLConfig(
            reward="task",
            steps=200,
            prompts=16,
            group=4,
            learning_rate=1e-4,
            value_learning_rate=3e-4,
            temperature=0.5,
            max_tokens=16,
            max_turns=max_turns,
            environments=16,
            evaluate_every=50,
            evaluation_samples=128,
        ),
        test_samples=500,
    )
