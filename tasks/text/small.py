"""What text tasks share that are shown with models of about a hundred million weights."""

from __future__ import annotations

from pe_rlhf_mm.training.config import RewardConfig, RLConfig, SFTConfig, TuneConfig

PROMPT = 2000
"""Characters of a prompt that are read; about 500 tokens, to which the authors of TL;DR cut their posts."""


def cut_at_paragraph(text: str, most: int = PROMPT) -> str:
    """A text of at most so many characters: cut at the last line break that leaves few enough, or else at the limit.

    As `process_query` of github.com/openai/summarize-from-feedback does it (with tokens in place of characters).
    """
    if len(text) <= most:
        return text
    end = text.rfind("\n", 0, most + 1)
    return text[: end if end >= 0 else most]


def tuning(max_tokens: int) -> TuneConfig:
    """Settings for SmolLM2-135M and its like: an evening on two cores, minutes on an accelerator."""
    return TuneConfig(
        sft=SFTConfig(steps=150, batch_size=16, learning_rate=2e-4, demonstrations=4096),
        reward=RewardConfig(
            steps=300, batch_size=16, learning_rate=2e-4, pairs=8192, validate_every=50, validation_pairs=256
        ),
        rl=RLConfig(
            steps=100,
            prompts=16,
            group=2,
            learning_rate=5e-5,
            value_learning_rate=1e-4,
            max_tokens=max_tokens,
            evaluate_every=25,
            evaluation_samples=64,
        ),
        test_samples=256,
    )
