"""What the sampler draws is what the trainer scores: the same tokens, the same probabilities, the same masks."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, Batch, random_batch, random_roles

from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.rollout.sampler import Sampled, sample
from pe_rlhf_mm.rollout.sampling import draw, tempered, truncated
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.types import Prompts

ROLES = random_roles("policy")
WEIGHTS = ROLES.weights("policy")
LONG = replace(CONFIG, stop_ids=(CONFIG.image_id,))
"""The same model, which never stops: its stop token can never be drawn."""
STEPS, GROUP = 40, 3


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return random_batch(np.random.default_rng(0), rows=3).prompts


def drawn(prompts: Prompts, sampling: Sampling, *, config: object = CONFIG, seed: int = 0) -> Sampled:
    keys = jax.random.split(jax.random.key(seed), len(prompts.tokens))
    return sample(config, *WEIGHTS, prompts, keys, group=GROUP, sampling=sampling)


@pytest.fixture(scope="module")
def long(prompts: Prompts) -> Sampled:
    return drawn(prompts, Sampling(max_tokens=STEPS), config=LONG)


@pytest.fixture(scope="module")
def short(prompts: Prompts) -> Sampled:
    """With a temperature that lets the stop token come soon for some."""
    return drawn(prompts, Sampling(temperature=3.0, max_tokens=STEPS))


def test_forty_cached_steps_equal_the_full_forward_pass(prompts: Prompts, long: Sampled) -> None:
    assert long.completions.mask.all()
    assert all(float(jnp.abs(low.b).max()) > 0 for low in ROLES.slots["policy"].values())
    again = forward.score_policy(CONFIG, WEIGHTS, prompts, long.completions, forward.PLAIN)
    np.testing.assert_allclose(long.logprobs, again.logprobs, rtol=0, atol=2e-5)


def test_greedy_tokens_are_the_likeliest_of_the_full_forward_pass(prompts: Prompts) -> None:
    greedy = drawn(prompts, Sampling(temperature=0.0, max_tokens=STEPS), config=LONG)
    model = vlm.bind(CONFIG, ROLES.backbone)
    states = forward.read(CONFIG, WEIGHTS, prompts, greedy.completions).states
    logits = tempered(model.logits(vlm.before_each(states, GROUP, STEPS)), forward.PLAIN, CONFIG.forbidden_ids)
    np.testing.assert_array_equal(greedy.completions.tokens, jnp.argmax(logits, axis=-1))
    assert (greedy.completions.tokens == greedy.completions.tokens[:, :1]).all()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7, max_tokens=8),
        Sampling(temperature=1.3, max_tokens=8),
        Sampling(top_k=5, max_tokens=8),
        Sampling(top_p=0.8, max_tokens=8),
        Sampling(temperature=0.6, top_k=7, top_p=0.7, max_tokens=8),
    ],
)
def test_the_trainer_gives_every_token_the_probability_it_was_drawn_with(prompts: Prompts, sampling: Sampling) -> None:
    sampled = drawn(prompts, sampling)
    mask = np.asarray(sampled.completions.mask)
    scored = forward.score_policy(CONFIG, WEIGHTS, prompts, sampled.completions, sampling)
    np.testing.assert_allclose(np.asarray(sampled.logprobs)[mask], np.asarray(scored.logprobs)[mask], atol=2e-5, rtol=0)
    plain = forward.score_policy(CONFIG, WEIGHTS, prompts, sampled.completions, forward.PLAIN)
    assert np.abs(np.asarray(plain.logprobs) - np.asarray(scored.logprobs))[mask].max() > 0.05


def test_the_mask_ends_with_the_stop_token_and_padding_follows(short: Sampled) -> None:
    tokens, mask = (np.asarray(x).reshape(-1, STEPS) for x in short.completions)
    finished = np.asarray(short.finished).reshape(-1)
    assert finished.any()
    for said, spoken, ended in zip(tokens, mask, finished, strict=True):
        n = spoken.sum()
        assert spoken[:n].all()
        assert (said[:n] == CONFIG.stop_id).sum() == ended
        assert (said[n - 1] == CONFIG.stop_id) == ended
        assert (said[n:] == CONFIG.pad_id).all()
    assert (np.asarray(short.logprobs)[~np.asarray(short.completions.mask)] == 0).all()


def test_a_completion_without_room_for_its_stop_token_is_not_finished(long: Sampled) -> None:
    assert not long.finished.any()


def test_padding_and_image_placeholders_are_never_drawn(prompts: Prompts) -> None:
    hot = drawn(prompts, Sampling(temperature=50.0, max_tokens=STEPS), config=LONG)
    assert set(np.unique(hot.completions.tokens)) == set(range(CONFIG.vocabulary)) - set(CONFIG.forbidden_ids)


def test_the_key_decides_and_siblings_are_drawn_independently(prompts: Prompts, short: Sampled) -> None:
    sampling = Sampling(temperature=3.0, max_tokens=STEPS)
    np.testing.assert_array_equal(drawn(prompts, sampling).completions.tokens, short.completions.tokens)
    assert (drawn(prompts, sampling, seed=1).completions.tokens != short.completions.tokens).any()
    first = np.asarray(short.completions.tokens)
    assert len({tuple(row) for row in first.reshape(-1, STEPS)}) == first[..., 0].size


def test_other_prompts_in_the_batch_do_not_matter(prompts: Prompts) -> None:
    greedy = Sampling(temperature=0.0, max_tokens=8)
    turned = jax.tree.map(lambda x: x[::-1], prompts)
    np.testing.assert_array_equal(
        drawn(prompts, greedy).completions.tokens, drawn(turned, greedy).completions.tokens[::-1]
    )


def test_draws_follow_the_probabilities() -> None:
    """Pearson's statistic of 20,000 draws, 3 degrees of freedom: above 16.3 once in a thousand seeds."""
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    logits = jnp.broadcast_to(jnp.log(probabilities), (20_000, 4))
    tokens = draw(jax.random.split(jax.random.key(0), 20_000), logits, Sampling())
    expected = 20_000 * probabilities
    assert (((np.bincount(tokens, minlength=4) - expected) ** 2) / expected).sum() < 16.3


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=2), {3, 1}),
        (Sampling(top_p=0.5), {3}),  # 0.5 is reached by the first
        (Sampling(top_p=0.51), {3, 1}),
        (Sampling(top_p=0.99), {3, 1, 0, 2}),
        (Sampling(top_k=3, top_p=0.6), {3, 1}),  # of 0.5, 0.25, 0.15 the share of the first is 0.556
        (Sampling(top_k=99), {3, 1, 0, 2}),
        (Sampling(top_p=1e-9), {3}),
    ],
)
def test_the_kept_tokens_are_those_worked_out_by_hand(sampling: Sampling, kept: set[int]) -> None:
    logits = jnp.log(jnp.array([0.15, 0.25, 0.1, 0.5]))
    assert set(np.flatnonzero(np.isfinite(truncated(logits, sampling)))) == kept


def test_a_token_that_left_the_kept_set_keeps_a_finite_log_probability() -> None:
    logits = jnp.log(jnp.array([0.15, 0.25, 0.1, 0.5]))
    shaped = truncated(logits, Sampling(top_k=1), jnp.array(2))
    np.testing.assert_allclose(jax.nn.softmax(shaped), [0, 0, 0.1 / 0.6, 0.5 / 0.6], atol=1e-6)


def test_the_first_token_is_scored_by_the_prompt_alone(prompts: Prompts) -> None:
    """The first token's probability comes from the last prompt token, in the sampler as in the trainer."""
    one = drawn(prompts, Sampling(temperature=0.0, max_tokens=1))
    alone = forward.score_policy(CONFIG, WEIGHTS, *Batch(prompts, one.completions), forward.PLAIN)
    np.testing.assert_allclose(one.logprobs, alone.logprobs, atol=2e-5, rtol=0)
