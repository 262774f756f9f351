"""Episodes of several turns: what is remembered between turns is worth what reading it all again would be."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import random_slot
from PIL import Image as Pillow

from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.packing import every_token, pack
from pe_rlhf_mm.data.transcript import Turn, after, length, next_turns, turn_positions
from pe_rlhf_mm.models.history import nothing_read
from pe_rlhf_mm.models.model import Model, load_model
from pe_rlhf_mm.rollout.sampler import take_turn
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.types import Image, Message, Text

FIXTURES = Path(__file__).parent / "fixtures"
FAMILIES = ("llama", "smolvlm", "gemma3", "qwen2_5_vl", "qwen3_vl")
SAMPLING = Sampling(temperature=0.8, max_tokens=5)
TURNS = 3


@functools.cache
def model(family: str) -> Model:
    return load_model(FIXTURES / family, dtype="float32")


def screen(number: int) -> Image:
    rng = np.random.default_rng(number)
    return Image(Pillow.fromarray(rng.integers(0, 255, (60, 40 + 20 * (number % 2), 3), np.uint8)))


def observation(found: Model, row: int, turn: int, *, shown: int = 0) -> list[Message]:
    pictures = [screen(10 * row + turn + shown)] if found.config.vision is not None else []
    return [Message("user", [*pictures, Text("what now? " * (row + 1) + str(shown))])]


def weights(found: Model) -> Weights:
    return Weights(found.state, lora.only(random_slot(3, config=found.config), 0.5))


def played(found: Model, gallery: Gallery, *, shown: int = 0, over_after: int = TURNS) -> tuple[list, list]:
    """Three episodes side by side, their turns and the log-probabilities of what was drawn.

    `shown`: what the first one is shown in its last turn; `over_after`: how many turns the second one has.
    """
    episodes: list[list[Turn]] = [[] for _ in range(3)]
    drawn: list[list[float]] = [[] for _ in range(3)]
    history = nothing_read(found.config, len(episodes), 512, jnp.float32)
    for turn in range(TURNS):
        reads: list = []
        for row, turns in enumerate(episodes):
            seen = observation(found, row, turn, shown=shown if (row, turn) == (0, TURNS - 1) else 0)
            if row == 1 and turn >= over_after:
                reads.append(None)
            elif turn == 0:
                reads.append(found.processor.encode([seen], gallery)[0])
            else:
                reads.append(after(turns, seen, found.processor, gallery))
        batch = next_turns(episodes, reads, found.processor, gallery)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(7), turn), len(episodes))
        sampled, history = take_turn(found.config, *weights(found), history, batch, keys, sampling=SAMPLING)
        tokens, mask = (np.asarray(x)[:, 0] for x in sampled.completions)
        for row, read in enumerate(reads):
            reply = tokens[row][mask[row]].tolist()
            assert bool(reply) == (read is not None)
            if read is not None:
                episodes[row].append(Turn(read, reply))
                drawn[row] += np.asarray(sampled.logprobs)[row, 0][mask[row]].tolist()
    return episodes, drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_turn_by_turn_equals_the_whole_episode_in_one_row(family: str) -> None:
    """Sampler against trainer: other code, another layout, the same log-probability of every chosen token."""
    found = model(family)
    gallery = Gallery(found.config, look_with=found.state)
    episodes, drawn = played(found, gallery, over_after=2)
    assert [len(turns) for turns in episodes] == [3, 2, 3]
    rows = pack(
        found.config, gallery, [[turns] for turns in episodes], capacity=max(map(length, episodes)), asked=every_token
    )
    logprobs = forward.packed_policy(found.config, weights(found), rows, SAMPLING).logprobs
    for row, expected in enumerate(drawn):
        found_here = np.asarray(logprobs[row])[rows.mask[row]]
        np.testing.assert_allclose(found_here, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_the_picture_of_a_turn_decides_the_answer_of_that_turn(family: str) -> None:
    found = model(family)
    gallery = Gallery(found.config, look_with=found.state)
    (one, *_), (first, *others) = played(found, gallery)
    (two, *_), (second, *same) = played(found, gallery, shown=5)
    assert [turns.reply for turns in one[:2]] == [turns.reply for turns in two[:2]]
    before = sum(len(turn.reply) for turn in one[:2])
    assert first[:before] == second[:before]
    assert abs(first[before] - second[before]) > 1e-4  # of the first token, whichever it was
    assert others == same


def test_only_what_was_chosen_is_asked_about() -> None:
    """In a row of an episode, the columns that a loss reads hold the replies' tokens and nothing else."""
    found = model("smolvlm")
    gallery = Gallery(found.config)
    episodes, _ = played(found, gallery)
    rows = pack(found.config, gallery, [[turns] for turns in episodes], capacity=600, asked=every_token)
    for row, turns in enumerate(episodes):
        columns = rows.asked[row][rows.mask[row]]
        assert rows.tokens[row][columns].tolist() == [token for turn in turns for token in turn.reply]
        assert rows.replied[row].nonzero()[0].tolist() == columns.tolist()
        assert not (rows.tokens[row][columns] == found.config.image_id).any()


def test_what_is_read_between_replies_is_what_the_template_writes() -> None:
    """Turn by turn, the text is that of the whole conversation, rendered at once."""
    found = model("qwen2_5_vl")
    gallery, processor = Gallery(found.config), found.processor
    first, then = observation(found, 0, 0), observation(found, 0, 1)
    (prompt,) = processor.encode([first], gallery)
    (reply,) = processor.encode_replies(["a cat"])
    read = after([Turn(prompt, reply)], then, processor, gallery)
    (whole,) = processor.encode([[*first, Message("assistant", "a cat"), *then]], gallery)
    assert [*prompt.tokens, *reply, *read.tokens] == whole.tokens
    assert (*prompt.images, *read.images) == whole.images
    positions = turn_positions([Turn(prompt, reply), Turn(read, [])], 3)
    np.testing.assert_array_equal(positions, whole.positions)


def test_a_reply_that_was_cut_off_is_ended_before_the_next_message() -> None:
    found = model("smolvlm")
    gallery, processor = Gallery(found.config), found.processor
    then = observation(found, 0, 1)
    (prompt,) = processor.encode([observation(found, 0, 0)], gallery)
    (reply,) = processor.encode_replies(["a cat"])
    ended = after([Turn(prompt, reply)], then, processor, gallery).tokens
    cut = after([Turn(prompt, reply[:-1])], then, processor, gallery).tokens
    assert cut == [found.config.stop_id, *ended]
