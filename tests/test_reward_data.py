"""What a reward model is trained on: pairs and ratings, from tasks and files, of text and of pictures."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from models import slot_of
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import Roles, only_backbone
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import write_labels
from pe_rlhf_mm.errors import ImageError, PromptTooLong, UserError
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import reward
from pe_rlhf_mm.training.config import RewardConfig, TuneConfig
from pe_rlhf_mm.training.examine import _learned_reward
from pe_rlhf_mm.training.judged import as_ratings, judge, label_source
from pe_rlhf_mm.training.prepare import prepare
from pe_rlhf_mm.training.reward_accuracy import reward_accuracy
from pe_rlhf_mm.types import Image, Message, Preference, Rated, Sample, Text

FIXTURES = Path(__file__).parent / "fixtures"
CAUSAL = ("gemma3", "qwen2_5_vl", "qwen3_vl", "smolvlm")
"""Families whose replies see what comes before them, whether they stand in a prompt or behind it."""
SEES = (*CAUSAL, "paligemma2")


@functools.cache
def model(name: str) -> Model:
    return pe.load_model(FIXTURES / name if name in SEES or name == "qwen3" else name)


def picture(*color: int, width: int = 40) -> Image:
    ramp = np.linspace(0, 1, width)[None, :, None] * np.array(color) + np.zeros((40, 1, 1))
    return Image(Pillow.fromarray(ramp.astype(np.uint8)))


RED, BLUE = picture(255, 20, 0), picture(0, 60, 255, width=72)
ASK = (Message("user", (picture(90, 200, 30), Text("Draw it."))),)
TEXTS = [Preference(ASK, "a b c", "d"), Preference((Message("user", "Say it."),), "e f", "a longer reply of words")]
DRAWN = Preference(ASK, (Text("here: "), RED, Text(" it is")), (BLUE,))


def judges(of: Model) -> Roles:
    """A trained reward model, as far as anybody can tell."""
    made = only_backbone(of.state)
    made = made._replace(slots={"reward": slot_of(of.config)}, scales={"reward": np.float32(1.5)})
    return made.with_head("reward", jax.random.normal(jax.random.key(7), (of.config.decoder.width,)))


def scored(of: Model, labels: Sequence[Preference | Rated]) -> np.ndarray:
    gallery = Gallery(of.config)
    examples = judge(labels, of.processor, gallery, room=4)
    return reward.score_judged(judges(of), of.processor, gallery, examples).scores


# --- pictures in replies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*CAUSAL, "tiny-vlm"])
def test_replies_of_text_score_alike_in_one_row_and_in_rows_of_their_own(family: str) -> None:
    together, apart = scored(model(family), TEXTS), scored(model(family), [*TEXTS, DRAWN])
    assert np.ptp(together) > 0.1, "or equality would say little"
    np.testing.assert_allclose(apart[:2], together, rtol=0, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize("family", [*SEES, "tiny-vlm"])
def test_pictures_that_change_places_change_scores(family: str) -> None:
    both = scored(model(family), [DRAWN, replace(DRAWN, chosen=DRAWN.rejected, rejected=DRAWN.chosen)])
    np.testing.assert_allclose(both[0], both[1, ::-1], rtol=0, atol=1e-5 * np.abs(both).max())
    assert abs(both[0, 0] - both[0, 1]) > 1e-3
    other = scored(model(family), [replace(DRAWN, chosen=(Text("here: "), BLUE, Text(" it is")))])
    assert abs(other[0, 0] - both[0, 0]) > 1e-3, "the picture itself is seen, not only its place"


@pytest.mark.parametrize("family", CAUSAL)
def test_a_reply_with_pictures_is_written_as_the_template_writes_an_answer(family: str) -> None:
    """The template itself is the reference: what it writes of a finished conversation begins with ours."""
    processor, gallery = model(family).processor, Gallery(model(family).config)
    reply = (RED, Text(" and then "), BLUE, Text("no <image> <start_of_image> more"))
    (answered,) = processor.encode_answered([ASK], [reply], gallery)
    whole = processor.render([*ASK, Message("assistant", reply)], add_generation_prompt=False)
    whole = processor.expand(whole, [gallery.shape(n) for n in answered.images])
    tokens = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert answered.tokens[:-1] == tokens[: len(answered.tokens) - 1], "the last may grow together with what follows"
    assert len(answered.images) == 3
    count = sum(gallery.tokens(n) for n in answered.images)
    assert answered.tokens.count(processor.config.image_id) == count


def test_positions_go_on_through_the_pictures_of_a_reply() -> None:
    """Qwen2.5-VL by hand: a picture of r x c tokens moves what follows on by max(r, c)."""
    of = model("qwen2_5_vl")
    gallery = Gallery(of.config)
    (prompt,) = of.processor.encode([ASK], gallery)
    (answered,) = of.processor.encode_answered([ASK], [(BLUE, Text("x"))], gallery)
    start, (rows, columns) = prompt.positions.max() + 1, np.array(gallery.shape(answered.images[1]).grid) // 2
    assert rows != columns
    behind = answered.positions[len(prompt.tokens) :]
    np.testing.assert_array_equal(answered.positions[: len(prompt.tokens)], prompt.positions)
    np.testing.assert_array_equal(behind[0], [start] * 3)  # <|vision_start|>
    np.testing.assert_array_equal(behind[rows * columns], start + np.array([1, rows, columns]))
    np.testing.assert_array_equal(behind[rows * columns + 1], [start + 1 + max(rows, columns)] * 3)


def test_every_reply_of_a_set_with_pictures_has_a_row_that_only_the_stop_token_completes() -> None:
    of = model("tiny-vlm")
    gallery, stop = Gallery(of.config), [of.config.stop_id]
    examples = judge([*TEXTS, DRAWN], of.processor, gallery, room=4)
    assert [[row.completions for row in e.rows] for e in examples] == [[[stop], [stop]]] * 3
    batch = next(reward.feed(of.processor, gallery, examples, batch_size=3, seed=0).batches(0))
    assert batch.prompts.tokens.shape[0] == 6
    assert batch.completions.tokens.shape == (6, 1, 8)
    assert batch.completions.mask.sum() == 6
    assert batch.labels.shape == (3, 2)


def test_parts_without_a_picture_are_text() -> None:
    of = model("tiny-vlm")
    parts = [replace(TEXTS[0], chosen=(Text("a "), Text("b c")))]
    assert (
        judge(parts, of.processor, Gallery(of.config), room=4)[0].rows
        == judge(TEXTS[:1], of.processor, Gallery(of.config), room=4)[0].rows
    )


@pytest.mark.parametrize(
    ("name", "reply", "kind", "said"),
    [
        ("tiny-vlm", (Text("word " * 800), RED), PromptTooLong, "prompt 0 .* tiny-vlm reads 512"),
        ("tiny-vlm", (Image("nowhere.png"),), ImageError, "does not exist"),
        ("tiny-vlm", (RED, "red"), UserError, "reply 0 is .*expected a string, or a list of Text and Image"),
        ("tiny-vlm", 7, UserError, "reply 0 is 7; expected a string, or a list of Text and Image"),
        ("qwen3", (RED,), UserError, "reads text only"),
    ],
)
def test_a_reply_that_cannot_be_read_is_named(name: str, reply: Any, kind: type, said: str) -> None:
    of, ask = model(name), (Message("user", "Draw it."),)
    with pytest.raises(kind, match=said):
        judge([Preference(ask, reply, (RED,))], of.processor, Gallery(of.config), room=4)


def test_a_demonstration_has_no_pictures() -> None:
    with pytest.raises(UserError, match="reply 1 has a picture, and a policy writes text only"):
        model("tiny-vlm").processor.encode_replies(["red", (RED,)])


# --- pairs and ratings ------------------------------------------------------------------------------------------


def test_a_rating_scores_as_the_reply_of_a_pair_does() -> None:
    of = model("tiny-vlm")
    alone = scored(of, [rating for pair in TEXTS for rating in as_ratings(pair)])
    np.testing.assert_allclose(alone.reshape(2, 2), scored(of, TEXTS), rtol=1e-5, atol=1e-5)


def test_labels_and_margins_come_along() -> None:
    of = model("tiny-vlm")
    pairs = [replace(TEXTS[0], probability=0.8, margin=0.5), TEXTS[1]]
    examples = judge(pairs, of.processor, Gallery(of.config), room=4)
    np.testing.assert_allclose([e.labels for e in examples], [[0.8, 0.2], [1.0, 0.0]])
    assert [e.margin for e in examples] == [0.5, 0.0]
    (rated,) = judge([Rated(ASK, "red", 0.3)], of.processor, Gallery(of.config), room=4)
    assert (list(rated.labels), rated.margin) == ([0.3], 0.0)


def test_a_pair_is_two_ratings() -> None:
    pair = replace(DRAWN, probability=0.75, cluster="c", metadata={"domain": "d"})
    assert as_ratings(pair) == [
        Rated(ASK, DRAWN.chosen, 0.75, "c", {"domain": "d"}),
        Rated(ASK, DRAWN.rejected, 0.25, "c", {"domain": "d"}),
    ]


@pytest.mark.parametrize("label", [replace(TEXTS[0], probability=1.5), replace(TEXTS[0], margin=-1.0)])
def test_numbers_out_of_range_never_reach_a_loss(label: Preference) -> None:
    of = model("tiny-vlm")
    with pytest.raises(UserError, match=r"label 1: (probability|margin) is .*; expected a number"):
        judge([TEXTS[0], label], of.processor, Gallery(of.config), room=4)


# --- where labels come from -------------------------------------------------------------------------------------


class RatedToy:
    """The toy task with ratings in place of pairs: the colour, and another one."""

    evaluators = ToyTask.evaluators
    samples, environment, solve = ToyTask.samples, ToyTask.environment, ToyTask.solve
    SIZES, COLORS = ToyTask.SIZES, ToyTask.COLORS

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        for pair in ToyTask().preferences(split, seed=seed):
            domain = {"domain": "warm" if pair.chosen in ("red", "yellow") else "cold"}
            yield from (replace(rating, metadata=domain) for rating in as_ratings(pair))


class BothToy(ToyTask):
    ratings = RatedToy.ratings


class DrawnToy(ToyTask):
    """Which of two drawings is of the colour that was asked for."""

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        for sample in self.samples(split):
            right, wrong = (Image(Pillow.new("RGB", (32, 32), color)) for color in ("red", "blue"))
            yield Preference(sample.messages, (Text("Here:"), right), (Text("Here:"), wrong))


def test_a_loss_takes_what_it_can_learn_from() -> None:
    kinds = {
        (type(task).__name__, loss): label_source(task, loss).kind
        for task, loss in (
            (ToyTask(), "pairwise"),
            (ToyTask(), "pointwise"),
            (RatedToy(), "pointwise"),
            (BothToy(), "pairwise"),
            (BothToy(), "pointwise"),
        )
    }
    assert list(kinds.values()) == ["preferences", "preferences", "ratings", "preferences", "ratings"]
    with pytest.raises(UserError, match=r"RatedToy has ratings and no preferences.*Set --reward\.loss pointwise"):
        label_source(RatedToy(), "pairwise")
    with pytest.raises(UserError, match=r"object has no preferences.*and no ratings.*--start-from RUN"):
        label_source(object(), "pairwise")


def read(path: Path, labels: Sequence[Preference | Rated], **settings: Any) -> Any:
    write_labels(path, labels)
    config = TuneConfig(reward=RewardConfig(labels=str(path), **settings))
    return prepare(ToyTask(), model("tiny-vlm"), config)


def test_a_file_of_labels_takes_the_place_of_the_training_pairs_and_of_no_others(tmp_path: Path) -> None:
    pairs = [Preference(ASK, f"reply {i}", "no", probability=0.9) for i in range(5)]
    own = prepare(ToyTask(), model("tiny-vlm"), TuneConfig())
    data = read(tmp_path / "labels.jsonl", pairs)
    said = [model("tiny-vlm").processor.decode(e.rows[0].completions[0]) for e in data.judged]
    assert said == [f"reply {i}" for i in range(5)]
    assert [e.labels[0] for e in data.judged] == [0.9] * 5
    assert [e.rows[0].completions for e in data.validation_judged] == [
        e.rows[0].completions for e in own.validation_judged
    ]
    assert len(read(tmp_path / "labels.jsonl", pairs, pairs=3).judged) == 3


def test_a_file_of_pairs_and_ratings_is_one_of_ratings(tmp_path: Path) -> None:
    mixed = [TEXTS[0], Rated(ASK, "red", 0.3)]
    data = read(tmp_path / "labels.jsonl", mixed, loss="pointwise")
    assert [list(e.labels) for e in data.judged] == [[1.0], [0.0], [0.3]]
    pairs = read(tmp_path / "pairs.jsonl", TEXTS, loss="pointwise")
    assert [list(e.labels) for e in pairs.judged] == [[1.0, 0.0]] * 2
    with pytest.raises(UserError, match=r"has ratings, and the loss 'pairwise'.*Set --reward\.loss pointwise"):
        read(tmp_path / "labels.jsonl", mixed)


def test_a_broken_file_of_labels_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"version": 1}\n')
    config = TuneConfig(reward=RewardConfig(labels=str(tmp_path / "labels.jsonl")))
    with pytest.raises(UserError, match=r"labels\.jsonl, line 1: "):
        prepare(ToyTask(), model("tiny-vlm"), config)


# --- the whole job ----------------------------------------------------------------------------------------------

SMALL = pe.TuneConfig(
    sft=pe.SFTConfig(steps=3, batch_size=8, demonstrations=8),
    reward=pe.RewardConfig(steps=80, batch_size=16, learning_rate=4e-3, validate_every=20, validation_pairs=16),
    rl=pe.RLConfig(steps=2, prompts=4, max_tokens=4, evaluate_every=2, evaluation_samples=4),
)


def test_a_task_that_has_only_ratings_is_tuned_by_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Set --reward\.loss pointwise"):
        pe.tune(f"{__name__}:RatedToy", out=tmp_path / "run", config=SMALL, quiet=True)
    assert not (tmp_path / "run").exists()
    config = replace(SMALL, reward=replace(SMALL.reward, loss="pointwise"))
    summary = pe.tune(f"{__name__}:RatedToy", out=tmp_path / "run", config=config, quiet=True)
    found = summary["reward_model"]
    assert found["n"] == 32
    assert found["accuracy"] > 0.8
    domains = found["by"]["domain"]
    assert {name: row["n"] for name, row in domains.items()} == {"cold": 16, "warm": 16}
    assert sum(row["accuracy"] for row in domains.values()) / 2 == pytest.approx(found["accuracy"])
    written = json.loads((tmp_path / "run/summary.json").read_text())
    assert written["reward_model"]["by"]["domain"]["warm"]["n"] == 16


def test_a_reward_model_learns_which_picture_is_the_better_answer(tmp_path: Path) -> None:
    summary = pe.tune(f"{__name__}:DrawnToy", out=tmp_path / "run", config=SMALL, quiet=True)
    assert summary["reward_model"]["accuracy"] == 1.0
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    before, after = (np.array([s[name]["reward"] for s in samples]) for name in ("sft", "rl"))
    found = summary["learned_reward"]
    np.testing.assert_allclose([found[n]["mean"] for n in ("sft", "rl")], [before.mean(), after.mean()], atol=1e-4)
    assert {row["n"] for row in found.values()} == {16}


def test_accuracy_is_told_apart_by_confidence_in_its_order_and_by_no_other_metadata() -> None:
    """By hand: confidence 9 has 1 and 0.5, confidence 10 has 0; the label without one is in the whole only."""
    told = [{"confidence": 9, "worker": "a"}, {"confidence": 10}, {"confidence": 9, "domain": ["no", "value"]}, {}]
    labels = [replace(TEXTS[0], metadata=metadata, cluster=f"{i // 2}") for i, metadata in enumerate(told)]
    found = reward_accuracy(labels, [1.0, 0.0, 0.5, 1.0])
    assert (found["accuracy"], found["n"]) == (0.625, 4)
    assert list(found["interval"]) == [0.5, 0.75], "two clusters, of means 0.5 and 0.75"
    assert list(found["by"]) == ["confidence", "length of the better reply"]
    assert [(value, row["accuracy"], row["n"]) for value, row in found["by"]["confidence"].items()] == [
        ("9", 0.75, 2),
        ("10", 0.0, 1),
    ]


def test_accuracy_tells_whether_a_reward_model_judges_by_length() -> None:
    """By hand: it takes the longer reply of every pair, whose better one is a, of three pairs the longer one."""
    pairs = [
        ("aaa", "b", 1.0),
        ("aaa", "b", 0.9),
        ("a", "bbb", 1.0),
        ("b", "aaa", 0.2),
        ("a", "b", 1.0),
        ("aa", "b", 0.5),
    ]
    labels = [Preference(ASK, chosen, rejected, probability) for chosen, rejected, probability in pairs]
    found = reward_accuracy(labels, [1.0, 1.0, 0.0, 1.0, 1.0, 0.5])["by"]["length of the better reply"]
    assert {name: (row["accuracy"], row["n"]) for name, row in found.items()} == {
        "longer": (1.0, 3),
        "shorter": (0.0, 1),
    }


def test_the_gain_in_reward_is_paired_and_its_interval_clustered_by_hand() -> None:
    """Rewards differ wildly from sample to sample, and by exactly 1 within each: the gain is 1, and as nobody knows
    what rewards lie between, nothing can be said of clusters that were not met."""
    samples = [Sample(str(i), ASK, cluster=f"{i // 2}") for i in range(6)]
    before = np.array([-9.0, 4, 0, 7, 2, 8], np.float32)
    found = _learned_reward(samples, np.stack([before, before + 1], axis=1))
    assert [found[name]["mean"] for name in ("sft", "rl", "gain")] == [2, 3, 1]
    assert np.isnan(found["gain"]["interval"]).all()
    assert list(found["sft"]["interval"]) == [-2.5, 5], "the means of the lowest and of the highest of three clusters"
