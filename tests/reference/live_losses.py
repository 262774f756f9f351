"""Our losses against TRL's own code on the same arrays: its trainers' `_compute_loss`, given log-probabilities.

A trainer is a great many things around its loss. Here it is an object with what the loss reads, and the model is one
that says the log-probabilities it was given. Values and gradients must agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
import torch
from trl import DPOTrainer, GRPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from pe_rlhf_mm.algorithms import kl, losses, masked, preferences

RNG = np.random.default_rng(0)
PROMPTS, GROUP, STEPS = 3, 4, 6
LENGTHS = np.array([6, 3, 1, 5, 6, 6, 2, 4, 1, 1, 6, 3]).reshape(PROMPTS, GROUP)
MASK = np.arange(STEPS) < LENGTHS[..., None]
CLIP, BETA = 0.2, 0.3
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def logprobs(scale: float = 0.3) -> np.ndarray:
    """Of tokens, near those of another policy: some ratios are clipped, and some are not."""
    return (-1.5 + scale * RNG.standard_normal(MASK.shape)).astype(np.float32)


NOW, DRAWN, ANCHOR = logprobs(), logprobs(), logprobs()
ADVANTAGES = RNG.standard_normal((PROMPTS, GROUP)).astype(np.float32)


def passing() -> SimpleNamespace:
    """An accelerator of one process."""
    alone: Callable[..., Any] = lambda x, **_: x  # noqa: E731
    return SimpleNamespace(
        device="cpu", num_processes=1, gather=alone, gather_for_metrics=alone, reduce=alone, sync_gradients=True
    )


def rows(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.reshape(-1, *x.shape[2:]))


def differentiated(loss: Callable[[torch.Tensor], torch.Tensor], at: np.ndarray) -> tuple[float, np.ndarray]:
    """TRL's loss of rows, and its gradient in our shape."""
    x = rows(at).requires_grad_()
    found = loss(x)
    found.backward()
    assert x.grad is not None
    return found.item(), x.grad.numpy().reshape(at.shape)


def agree(ours: Callable[[Any], Any], theirs: Callable[[torch.Tensor], torch.Tensor], at: np.ndarray) -> None:
    value, gradient = jax.value_and_grad(ours)(at)
    expected, expected_gradient = differentiated(theirs, at)
    np.testing.assert_allclose(value, expected, **CLOSE)
    np.testing.assert_allclose(gradient, expected_gradient, **CLOSE)


# --- RL -----------------------------------------------------------------------------------------------------------


def of_grpo(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    trainer = MagicMock(
        beta=BETA, loss_type=kind, epsilon_low=CLIP, epsilon_high=CLIP, importance_sampling_level="token",
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, aux_loss_enabled=False,
        max_completion_length=STEPS, current_gradient_accumulation_steps=1, accelerator=passing(),
        _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
    )  # fmt: skip
    tokens = torch.zeros((PROMPTS * GROUP, STEPS), dtype=torch.long)
    given = {
        "prompt_ids": tokens[:, :1], "prompt_mask": tokens[:, :1] + 1, "completion_ids": tokens,
        "completion_mask": rows(MASK).int(), "advantages": torch.tensor(ADVANTAGES.reshape(-1)),
        "old_per_token_logps": rows(DRAWN), "ref_per_token_logps": rows(ANCHOR),
    }  # fmt: skip

    def loss(now: torch.Tensor) -> torch.Tensor:
        trainer._get_per_token_logps_and_entropies.return_value = (now, torch.zeros_like(now), None)
        return GRPOTrainer._compute_loss(trainer, trainer.model, given)

    return loss


def test_grpo_with_its_kl_term() -> None:
    def ours(now: Any) -> Any:
        advantages = np.broadcast_to(ADVANTAGES[..., None], MASK.shape)
        penalty = masked.sequence_mean_mean(kl.k3(now, ANCHOR), MASK)
        return losses.grpo(now, DRAWN, advantages, MASK, CLIP) + BETA * penalty

    agree(ours, of_grpo("grpo"), NOW)


def test_dr_grpo_with_a_kl_term() -> None:
    def ours(now: Any) -> Any:
        advantages = np.broadcast_to(ADVANTAGES[..., None], MASK.shape)
        penalty = masked.sequence_sum_mean(kl.k3(now, ANCHOR), MASK) / STEPS
        return losses.dr_grpo(now, DRAWN, advantages, MASK, CLIP, STEPS) + BETA * penalty

    agree(ours, of_grpo("dr_grpo"), NOW)


# --- preferences --------------------------------------------------------------------------------------------------

PAIRS = 6
POLICY, REFERENCE = (RNG.normal(-20, 4, (PAIRS, 2)).astype(np.float32) for _ in range(2))


def saying(logprobs: torch.Tensor) -> Callable[..., SimpleNamespace]:
    """A model whose log-probabilities of whole replies are these: those of their only tokens."""
    one = torch.zeros_like(logprobs)[:, None]
    return lambda **_: SimpleNamespace(
        log_probs=logprobs[:, None], entropy=one, mean_logits=one, is_top1=one.bool(), log_sum_sq_probs=one
    )


def of_dpo(pairs: torch.Tensor) -> torch.Tensor:
    trainer = MagicMock(
        beta=BETA, loss_types=["sigmoid"], loss_weights=[1.0], ld_alpha=None, f_divergence_type="reverse_kl",
        precompute_ref_logps=True, aux_loss_enabled=False, use_weighting=False, accelerator=passing(),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    tokens = torch.zeros((2 * PAIRS, 2), dtype=torch.long)
    given = {
        "input_ids": tokens, "attention_mask": tokens + 1, "completion_mask": torch.tensor([[0, 1]] * 2 * PAIRS),
        "ref_chosen_logps": torch.tensor(REFERENCE[:, 0]), "ref_rejected_logps": torch.tensor(REFERENCE[:, 1]),
    }  # fmt: skip
    return DPOTrainer._compute_loss(trainer, saying(pairs.reshape(PAIRS, 2).T.reshape(-1)), given, False)


def test_dpo() -> None:
    agree(lambda policy: preferences.dpo(policy, REFERENCE, np.ones(PAIRS, np.float32), BETA), of_dpo, POLICY)


RIGHT, WRONG = 1.5, 0.7
LABELS = np.array([True, False, True, True, False, False])


def of_kto(replies: torch.Tensor) -> torch.Tensor:
    """Rated replies and, behind other prompts, the same ones, from which no gradient comes back."""
    rated, strangers = replies.reshape(PAIRS, 2).T
    trainer = MagicMock(
        beta=BETA, loss_type="kto", desirable_weight=RIGHT, undesirable_weight=WRONG, calculate_KL=True,
        precompute_ref_logps=True, aux_loss_enabled=False, accelerator=passing(), _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    trainer._compute_kl_logps.return_value = strangers
    tokens = torch.zeros((PAIRS, 2), dtype=torch.long)
    given = {
        "input_ids": tokens, "attention_mask": tokens + 1, "completion_mask": torch.tensor([[0, 1]] * PAIRS),
        "label": torch.tensor(LABELS), "ref_logps": torch.tensor(REFERENCE[:, 0]),
        "ref_KL_logps": torch.tensor(REFERENCE[:, 1]),
    }  # fmt: skip
    return KTOTrainer._compute_loss(trainer, saying(rated), given, False)


@pytest.mark.parametrize("shift", [-8.0, 8.0], ids=["nearer than the anchor", "further"])
def test_kto(shift: float) -> None:
    policy = POLICY + np.array([0, shift], np.float32)

    def ours(policy: Any) -> Any:
        return preferences.kto(policy, REFERENCE, LABELS.astype(np.float32), BETA, RIGHT, WRONG)

    agree(ours, of_kto, policy)
