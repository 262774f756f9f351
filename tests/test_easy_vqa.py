"""easy-VQA: nothing lost, no picture in two splits, and pairs that say what they should."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from pe_rlhf_mm.data.images import open_image
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.tasks.vqa.easy_vqa import COLORS, KINDS, SHAPES, EasyVQA, data_folder, held_out, wrong_reply
from pe_rlhf_mm.types import Sample

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return {split: list(EasyVQA().samples(split)) for split in SPLITS}


def pictures(samples: list[Sample]) -> set[str]:
    return {str(sample.messages[0].content[0].source) for sample in samples}


def test_no_published_question_is_lost(samples: dict[str, list[Sample]]) -> None:
    assert len(samples["train"]) + len(samples["validation"]) == 38_575
    assert len(samples["test"]) == 9_673


@pytest.mark.parametrize("split", SPLITS)
def test_an_id_is_the_place_in_the_published_list(samples: dict[str, list[Sample]], split: str) -> None:
    folder = data_folder() / ("test" if split == "test" else "train")
    published = json.loads((folder / "questions.json").read_text())
    for sample in samples[split]:
        name, _, number = sample.id.rpartition("-")
        question, answer, image = published[int(number)]
        picture, text = sample.messages[0].content
        assert name == folder.name
        assert (text.text, sample.target) == (question, answer)
        assert picture.source == folder / "images" / f"{image}.png"
        assert sample.cluster == f"{folder.name}-{image}"


def test_ids_are_unique_and_the_same_each_time(samples: dict[str, list[Sample]]) -> None:
    ids = [sample.id for split in SPLITS for sample in samples[split]]
    assert len(set(ids)) == len(ids) == 48_248
    assert ids == [sample.id for split in SPLITS for sample in EasyVQA().samples(split, seed=7)]


def test_no_picture_is_in_two_splits(samples: dict[str, list[Sample]]) -> None:
    shown = {split: pictures(samples[split]) for split in SPLITS}
    assert not shown["train"] & shown["validation"]
    assert not (shown["train"] | shown["validation"]) & shown["test"]
    assert len(shown["train"] | shown["validation"]) == 4000
    assert len(shown["test"]) == 1000


def test_preference_pairs_stay_on_the_pictures_of_their_split(samples: dict[str, list[Sample]]) -> None:
    for split in SPLITS:
        pairs = list(EasyVQA().preferences(split))
        assert [p.messages for p in pairs] == [s.messages for s in samples[split]]
        assert [p.cluster for p in pairs] == [s.cluster for s in samples[split]]


def test_about_a_tenth_of_the_training_pictures_are_held_out(samples: dict[str, list[Sample]]) -> None:
    """25 of 256 hashes: 4000 · 25/256 = 391, with a standard deviation of √(4000 · .098 · .902) = 19."""
    assert abs(len(pictures(samples["validation"])) - 391) < 3 * 19
    assert len(pictures(samples["validation"])) == sum(held_out(image) for image in range(4000))


def test_a_picture_can_be_opened(samples: dict[str, list[Sample]]) -> None:
    for split in SPLITS:
        assert open_image(samples[split][-1].messages[0].content[0]).size == (64, 64)


def test_every_right_answer_has_a_kind(samples: dict[str, list[Sample]]) -> None:
    known = {answer for kind in KINDS for answer in kind}
    assert len(known) == 2 + 3 + 8
    for split in SPLITS:
        assert {sample.target for sample in samples[split]} == known


@pytest.mark.parametrize("split", SPLITS)
def test_a_pair_prefers_the_published_answer_to_another_one(samples: dict[str, list[Sample]], split: str) -> None:
    pairs = list(EasyVQA().preferences(split))
    assert [p.chosen for p in pairs] == [s.target for s in samples[split]]
    assert all(p.rejected != p.chosen for p in pairs)


@pytest.mark.parametrize(("answer", "others"), [("yes", 1), ("circle", 2), ("teal", 7)])
def test_wrong_replies_come_in_the_stated_shares(answer: str, others: int) -> None:
    """Of the same kind: 6/10, and 2/10 · others/12 among those that are any of the 12 other answers. None: 2/10."""
    rng, kind = random.Random(0), next(kind for kind in (("yes", "no"), SHAPES, COLORS) if answer in kind)
    wrong = Counter(wrong_reply("what is it that lies here?", answer, rng) for _ in range(20_000))
    known = {answer for kind in KINDS for answer in kind}
    shares = {
        0.6 + 0.2 * others / 12: sum(wrong[other] for other in kind),
        0.2: sum(count for reply, count in wrong.items() if reply not in known),
    }
    assert wrong[answer] == 0
    assert known - {answer} <= set(wrong)
    for expected, count in shares.items():
        assert abs(count / 20_000 - expected) < 4 * (expected * (1 - expected) / 20_000) ** 0.5


def test_a_reply_that_is_no_answer_is_made_of_the_question_or_broken_off() -> None:
    known, rng = {answer for kind in KINDS for answer in kind}, random.Random(0)
    question = "is there not a red shape?"
    for reply in {wrong_reply(question, "no", rng) for _ in range(2_000)} - known:
        assert reply.strip() in question or any(answer.startswith(reply) for answer in known)


def test_the_seed_decides_the_wrong_replies() -> None:
    def rejected(seed: int) -> list[str]:
        return [p.rejected for p in EasyVQA().preferences("validation", seed=seed)]

    assert rejected(1) == rejected(1)
    assert rejected(1) != rejected(2)


def test_the_solution_is_the_published_answer(samples: dict[str, list[Sample]]) -> None:
    assert all(EasyVQA().solve(sample) == [sample.target] for sample in samples["validation"])


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(UserError, match=r"no split 'dev'; it has train, validation, test"):
        next(EasyVQA().samples("dev"))
