"""A row [prompt | c1 | .. | cG] is worth exactly as much as G rows of one completion each."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, IMAGE_TOKENS, Batch, random_batch, random_roles

from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.algorithms import losses
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import Remat
from pe_rlhf_mm.models.stack import KEPT
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.passes import Completed
from pe_rlhf_mm.types import Completions, Features, Pixels, Prompts

ROLES = random_roles("policy", "reward")
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
"""float32: sums over rows of another length are taken in another order."""


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(np.random.default_rng(0), rows=3, group=3, length=12, steps=5)


def separate(batch: Batch) -> Batch:
    """Every completion in a row of its own, behind its own copy of the prompt."""
    prompts, completions = batch
    group = completions.tokens.shape[1]
    again = jax.tree.map(lambda x: np.repeat(x, group, axis=0), prompts)
    return Batch(again, Completions(*(x.reshape(-1, 1, x.shape[-1]) for x in completions)))


def statistics(roles: Roles, batch: Batch) -> forward.PolicyStatistics:
    return forward.score_policy(CONFIG, roles.weights("policy"), *batch, forward.PLAIN)


def rewards(roles: Roles, batch: Batch) -> jax.Array:
    return forward.score_rewards(CONFIG, roles.weights("reward"), roles.heads["reward"], *batch)


@jax.jit
def all_logits(prompts: Prompts, completions: Completions) -> jax.Array:
    model = vlm.bind(CONFIG, ROLES.backbone)
    return model.logits(
        model.hidden(vlm.join(CONFIG, prompts, completions), prompts.images, ROLES.weights("policy").bank)[0]
    )


def own(batch: Batch, x: jax.Array) -> np.ndarray:
    """The unmasked completion tokens' part of [B, S, V], in one order for both layouts."""
    mask = batch.completions.mask
    columns = np.asarray(x)[:, -mask.shape[1] * mask.shape[2] :].reshape(*mask.shape, -1)
    return columns[mask]


def test_logits_of_one_row_equal_those_of_separate_rows(batch: Batch) -> None:
    alone = separate(batch)
    np.testing.assert_allclose(own(batch, all_logits(*batch)), own(alone, all_logits(*alone)), **CLOSE)


def test_log_probabilities_and_rewards_of_one_row_equal_those_of_separate_rows(batch: Batch) -> None:
    alone, mask = separate(batch), batch.completions.mask
    together, apart = statistics(ROLES, batch), statistics(ROLES, alone)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(np.asarray(one)[mask], np.asarray(other)[alone.completions.mask], **CLOSE)
    np.testing.assert_allclose(rewards(ROLES, batch).reshape(-1), rewards(ROLES, alone)[:, 0], **CLOSE)


def sft_loss(roles: Roles, batch: Batch) -> jax.Array:
    return losses.sft(statistics(roles, batch).logprobs, jnp.asarray(batch.completions.mask))


def reinforce_loss(roles: Roles, batch: Batch) -> jax.Array:
    mask = jnp.asarray(batch.completions.mask)
    advantages = jnp.sin(jnp.arange(mask.size)).reshape(mask.shape)
    return losses.reinforce(statistics(roles, batch).logprobs, advantages, mask)


def pairwise_loss(roles: Roles, batch: Batch) -> jax.Array:
    scores = rewards(roles, batch).reshape(3, 3)
    return losses.pairwise(scores[:, 0], scores[:, 1], jnp.array([1.0, 0.7, 0.2]))


@pytest.mark.parametrize("loss", [sft_loss, reinforce_loss, pairwise_loss])
def test_losses_and_gradients_of_one_row_equal_those_of_separate_rows(
    batch: Batch, loss: Callable[[Roles, Batch], jax.Array]
) -> None:
    trained = ROLES.pick("policy", "reward")
    values = [jax.value_and_grad(lambda t, b=b: loss(ROLES.put(t), b))(trained) for b in (batch, separate(batch))]
    (one, gradient), (other, expected) = values
    np.testing.assert_allclose(one, other, **CLOSE)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1e-3
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, **CLOSE)


def test_a_completion_does_not_see_its_siblings(batch: Batch) -> None:
    tokens = batch.completions.tokens.copy()
    tokens[:, 1] = np.where(batch.completions.mask[:, 1], (tokens[:, 1] + 5) % 30 + FIRST_WORD, tokens[:, 1])
    changed = Batch(batch.prompts, batch.completions._replace(tokens=tokens))
    before, after = (np.asarray(statistics(ROLES, b).full_logprobs) for b in (batch, changed))
    kept = batch.completions.mask[:, [0, 2]]
    assert (before[:, [0, 2]][kept] == after[:, [0, 2]][kept]).all()
    assert (before[:, 1] != after[:, 1])[batch.completions.mask[:, 1]].any()


def test_completions_change_places_with_their_numbers(batch: Batch) -> None:
    turned = Batch(batch.prompts, Completions(*(x[:, ::-1] for x in batch.completions)))
    np.testing.assert_allclose(rewards(ROLES, turned), rewards(ROLES, batch)[:, ::-1], **CLOSE)


def test_more_padding_on_both_sides_changes_nothing(batch: Batch) -> None:
    prompts, completions = batch
    wide = Batch(
        prompts._replace(tokens=np.pad(prompts.tokens, ((0, 0), (8, 0))), mask=np.pad(prompts.mask, ((0, 0), (8, 0)))),
        Completions(*(np.pad(x, ((0, 0), (0, 0), (0, 4))) for x in completions)),
    )
    mask = completions.mask
    np.testing.assert_allclose(
        np.asarray(statistics(ROLES, wide).logprobs)[..., : mask.shape[2]][mask],
        np.asarray(statistics(ROLES, batch).logprobs)[mask],
        **CLOSE,
    )
    np.testing.assert_allclose(rewards(ROLES, wide), rewards(ROLES, batch), **CLOSE)


def test_whatever_stands_in_padding_is_seen_by_nobody(batch: Batch) -> None:
    prompts, completions = batch
    other = Batch(
        prompts._replace(tokens=np.where(prompts.mask, prompts.tokens, FIRST_WORD + 3)),
        completions._replace(tokens=np.where(completions.mask, completions.tokens, FIRST_WORD + 4)),
    )
    np.testing.assert_array_equal(rewards(ROLES, other), rewards(ROLES, batch))


def test_an_image_reaches_its_own_row_and_no_other(batch: Batch) -> None:
    assert isinstance(batch.prompts.images, Pixels)
    patches = batch.prompts.images.patches.copy()
    patches[0] = 255 - patches[0]
    changed = Batch(batch.prompts._replace(images=batch.prompts.images._replace(patches=patches)), batch.completions)
    before, after = rewards(ROLES, batch), rewards(ROLES, changed)
    assert (before[0] != after[0]).all()
    np.testing.assert_array_equal(before[1:], after[1:])


def test_an_image_that_has_been_looked_at_is_worth_its_pixels(batch: Batch) -> None:
    features = vlm.bind(CONFIG, ROLES.backbone).look(batch.prompts.images)
    assert isinstance(features, Features)
    looked = Batch(batch.prompts._replace(images=features), batch.completions)
    np.testing.assert_allclose(rewards(ROLES, looked), rewards(ROLES, batch), **CLOSE)


def test_images_of_a_row_are_taken_in_the_order_of_their_placeholders() -> None:
    count = IMAGE_TOKENS
    tokens = np.full((1, 2 * count + 3), FIRST_WORD, np.int32)
    tokens[0, 1 : 1 + count] = tokens[0, 2 + count : 2 + 2 * count] = CONFIG.image_id
    vectors = np.arange(2 * count, dtype=np.float32)[None, :, None] * np.ones((1, 1, CONFIG.decoder.width), np.float32)
    x, _ = vlm.bind(CONFIG, ROLES.backbone).embed(tokens, Features(vectors))
    np.testing.assert_array_equal(x[0][tokens[0] == CONFIG.image_id][:, 0], np.arange(2 * count))


def test_values_are_read_before_the_token_they_are_compared_with(batch: Batch) -> None:
    """A value must not know the token it is the baseline of: changing token t moves values after t only."""
    head = ROLES.heads["reward"]
    longest = np.unravel_index(batch.completions.mask.sum(axis=-1).argmax(), (3, 3))
    tokens = batch.completions.tokens.copy()
    tokens[longest][2] = (tokens[longest][2] + 1) % 20 + FIRST_WORD
    changed = Batch(batch.prompts, batch.completions._replace(tokens=tokens))
    before, after = (
        np.asarray(head(rows.valued(rows.read(CONFIG, ROLES.weights("policy"), forward.SCORING).states)))[longest]
        for rows in (Completed(*batch), Completed(*changed))
    )
    assert (before[:3] == after[:3]).all()
    assert (before[3:] != after[3:]).all()


def test_whatever_layers_keep_the_gradient_is_the_same(batch: Batch) -> None:
    trained = ROLES.pick("policy")

    def loss(trainable: object, remat: Remat) -> jax.Array:
        weights = ROLES.put(trainable).weights("policy")
        return forward.read(CONFIG, weights, *batch, forward.Pass(remat=remat)).states.sum()

    plain, *others = (jax.jit(jax.grad(loss), static_argnums=1)(trained, remat) for remat in KEPT)
    for again in others:
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_prompt_without_images_needs_no_tower() -> None:
    text = random_batch(np.random.default_rng(1), images=False)
    assert text.prompts.images is None
    assert np.isfinite(rewards(ROLES, text)).all()
    assert isinstance(ROLES.weights("policy").bank, lora.Bank)
