"""The tasks of questions about images, on tiny sets in the published formats that went through the real readers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pe_rlhf_mm.data.images import open_image
from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.registry import tasks
from pe_rlhf_mm.tasks.vqa.questions import ImageQuestions, most_frequent
from pe_rlhf_mm.tasks.vqa.wrong_answers import Known, answer_type, spread, wrong_answer
from pe_rlhf_mm.testing import check_task
from pe_rlhf_mm.types import Preference, Rated, Sample
from tests import published_files as files

COLOURS = ("red", "green", "blue", "teal")
TASKS = ("vqa/vqav2", "vqa/okvqa", "vqa/textvqa", "vqa/screenqa")
SPLITS = ("train", "validation", "test")


def questions(first: int, count: int) -> list[tuple[int, str, list[str]]]:
    """Three questions an image: a colour most agree on, yes or no, and a number all agree on."""
    rows = []
    for n in range(first, first + count):
        colour, other = COLOURS[n % 4], COLOURS[(n + 1) % 4]
        rows += [
            (n, "What color is the round thing?", [colour] * 7 + [other] * 2 + ["Dark."]),
            (n, "Is it red?", ["yes" if colour == "red" else "no"] * 10),
            (n, "How many are there?", [str(n % 3 + 1)] * 10),
        ]
    return rows


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Prepares what the folder `published` holds, for this test."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))
    return lambda name: prepare(published(name), str(tmp_path / "published"), tmp_path / "home") and None


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, tmp_path: Path, ready: Callable[[str], None]) -> ImageQuestions:
    """Each of the tasks, with a prepared set of its own."""
    folder, name = tmp_path / "published", request.param.partition("/")[2]
    train, test = questions(1, 60), questions(70, 8)
    match name:
        case "vqav2" | "okvqa":
            write = files.write_vqav2 if name == "vqav2" else files.write_okvqa
            write(folder, "train2014", train, pictures={n: files.picture(n) for n, _, _ in train})
            write(folder, "val2014", test, pictures={n: files.picture(n) for n, _, _ in test})
        case "textvqa":
            for split, rows in (("train", train), ("val", test)):
                pictures = {f"{n:016x}": files.picture(n) for n, _, _ in rows}
                path = files.write_textvqa(folder, split, [(f"{n:016x}", q, a) for n, q, a in rows], pictures=pictures)
                if split == "train":  # the numbers of train come before those of val
                    path.write_text(path.read_text().replace('"question_id": 34', '"question_id": 1'))
        case "screenqa":
            for split, rows in (("train", train), ("validation", questions(61, 8)), ("test", test)):
                pictures = {n: files.picture(n) for n, _, _ in rows}
                files.write_screenqa(folder, split, [(n, q, sorted(set(a))) for n, q, a in rows], pictures=pictures)
    ready(name)
    found = tasks.make(request.param)
    assert isinstance(found, ImageQuestions)
    return found


def samples_of(task: ImageQuestions, split: str) -> dict[tuple[str, str], Sample]:
    """By image and question."""
    return {(str(s.cluster), s.messages[0].parts[1].text): s for s in task.samples(split)}


def asked(item: Preference | Rated) -> tuple[str, str]:
    return str(item.cluster), item.messages[0].parts[1].text


def test_they_pass_the_conformance_checks(task: ImageQuestions) -> None:
    assert check_task(task) == []


def test_every_question_is_there_with_its_picture(task: ImageQuestions) -> None:
    found = {split: list(task.samples(split)) for split in SPLITS}
    assert len(found["train"]) + len(found["validation"]) == (204 if task.data == "screenqa" else 180)
    assert len(found["test"]) == 24
    assert len({sample.messages[0].parts[0].source for sample in found["test"]}) == 8  # a path each, for 24 questions
    sample = found["test"][0]
    picture, text = sample.messages[0].parts
    assert text.text == "What color is the round thing?"
    assert open_image(picture).size == (32, 24)
    assert Counter(sample.target)[COLOURS[70 % 4]] in (7, 1)  # ten people; or, of screens, the answers that are right


def test_a_pair_prefers_the_answer_of_most_to_one_that_is_worth_nothing(task: ImageQuestions) -> None:
    for split in SPLITS:
        samples, pairs = samples_of(task, split), list(task.preferences(split, seed=3))
        assert len(pairs) == len(samples)
        for pair in pairs:
            answers = samples[asked(pair)].target
            assert pair.chosen == most_frequent(answers)
            assert task.worth(pair.rejected, answers) == 0
            assert pair.margin == task.worth(pair.chosen, answers) > 0


def test_ratings_are_worth_what_the_published_answers_say(task: ImageQuestions) -> None:
    samples, ratings = samples_of(task, "train"), list(task.ratings("train", seed=3))
    assert len(ratings) == 2 * len(samples)
    for said, wrong in zip(ratings[::2], ratings[1::2], strict=True):
        answers = samples[asked(said)].target
        assert asked(said) == asked(wrong)
        assert said.reply in answers
        assert said.label == task.worth(said.reply, answers) > 0
        assert wrong.label == task.worth(wrong.reply, answers) == 0
    assert any(said.reply != task.best(samples[asked(said)].target) for said in ratings[::2])  # not what most said only


def test_most_wrong_answers_are_of_the_right_ones_type(task: ImageQuestions) -> None:
    """.6 of the same type, and some of the .2 of any; three types are asked for equally often here."""
    found = [
        p for seed in range(3) for p in task.preferences("train", seed=seed) if asked(p)[1] == "How many are there?"
    ]
    share = sum(pair.rejected in ("1", "2", "3") for pair in found) / len(found)
    assert 0.5 < share < 0.8


def test_the_seed_decides_the_wrong_answers(task: ImageQuestions) -> None:
    def wrong(seed: int) -> list[str]:
        return [str(pair.rejected) for pair in task.preferences("train", seed=seed)]

    assert wrong(1) == wrong(1)
    assert wrong(1) != wrong(2)


def test_docstrings_name_the_command_that_prepares_the_data(task: ImageQuestions) -> None:
    module = __import__(type(task).__module__, fromlist=["*"])
    assert f"pe-rlhf data prepare {task.data} --from FOLDER" in module.__doc__


# --- soft labels and disagreement ---------------------------------------------------------------------------------


def vqav2(tmp_path: Path, ready: Callable[[str], None], *rows: tuple[int, str, list[str]]) -> ImageQuestions:
    files.write_vqav2(tmp_path / "published", "val2014", rows)
    ready("vqav2")
    found = tasks.make("vqa/vqav2")
    assert isinstance(found, ImageQuestions)
    return found


def test_labels_are_soft(tmp_path: Path, ready: Callable[[str], None]) -> None:
    """Of ten: 5 red (1), 3 maroon (.9), 2 wine (.6); drawn as often as they were said."""
    answers = ["red"] * 5 + ["maroon"] * 3 + ["wine"] * 2
    rows = [(n, "What color?", answers) for n in range(1, 61)] + [(99, "What else?", ["door"] * 10)]
    task = vqav2(tmp_path, ready, *rows)
    found = {(r.reply, r.label) for r in task.ratings("test") if asked(r)[1] == "What color?" and r.label > 0}
    assert found == {("red", 1.0), ("maroon", 0.9), ("wine", 0.6)}


def test_where_people_disagree_nobody_knows(tmp_path: Path, ready: Callable[[str], None]) -> None:
    few, enough = ["a1", "b1", "c1", "d1"] * 2 + ["e1"] * 2, ["red"] * 4 + ["blue", "green", "teal"] * 2
    task = vqav2(tmp_path, ready, (1, "What is it?", few), (2, "What color?", enough))
    samples = samples_of(task, "test")
    assert task.solve(samples["1", "What is it?"]) is None  # 2 of 10: worth .6 at most
    assert task.solve(samples["2", "What color?"]) == ["red"]
    pairs = {asked(pair)[0]: pair for pair in task.preferences("test")}
    assert (pairs["1"].margin, pairs["2"].margin) == (0.6, 1.0)


def test_an_answer_of_which_nothing_is_left_is_no_example(tmp_path: Path, ready: Callable[[str], None]) -> None:
    task = vqav2(tmp_path, ready, (1, "Which letter?", ["a"] * 10), (2, "What color?", ["red"] * 10))
    assert {pair.chosen for seed in range(5) for pair in task.preferences("test", seed=seed)} == {"red"}
    assert {rating.label for rating in task.ratings("test") if rating.reply == "a"} <= {0.0}


def test_a_question_without_a_wrong_answer_makes_no_pair(tmp_path: Path, ready: Callable[[str], None]) -> None:
    """Every answer known and every word of the question is right here, so only broken-off answers are left."""
    task = vqav2(tmp_path, ready, (1, "no", ["no"] * 5 + ["n"] * 5))
    assert list(task.preferences("test")) == list(task.ratings("test")) == []


# --- screens ------------------------------------------------------------------------------------------------------


def test_no_answer_is_right_where_it_was_given(tmp_path: Path, ready: Callable[[str], None]) -> None:
    rows = [
        (5, "Which tab is selected?", ["<no answer>", '"Learn" tab', "Learn"]),
        (21, "How many questions are there?", ["<no answer>"]),
        (22, "What is the price?", ["$5"]),
    ]
    files.write_screenqa(tmp_path / "published", "test", rows)
    ready("screenqa")
    task = tasks.make("vqa/screenqa")
    assert isinstance(task, ImageQuestions)
    samples = samples_of(task, "test")
    assert [task.solve(sample) for sample in samples.values()] == [['"Learn" tab'], ["<no answer>"], ["$5"]]
    worth = {asked_of: task.worth("<no answer>", sample.target) for asked_of, sample in samples.items()}
    assert list(worth.values()) == [1, 1, 0]
    assert task.worth("the tab", samples["5", "Which tab is selected?"].target) == pytest.approx(2 / 3)  # "learn tab"
    rejected = {str(p.rejected) for seed in range(40) for p in task.preferences("test", seed=seed) if p.cluster == "22"}
    assert "<no answer>" in rejected


def test_screens_that_are_missing_are_asked_for(tmp_path: Path, ready: Callable[[str], None]) -> None:
    files.write_screenqa(tmp_path / "published", "test", [(5, "How many?", ["12"])], pictures={})
    ready("screenqa")
    with pytest.raises(UserError, match=r"test-0 has no image.*without RICO's screens.*data prepare screenqa"):
        next(iter(tasks.make("vqa/screenqa").samples("test")))


# --- wrong answers ------------------------------------------------------------------------------------------------

KNOWN = Known.of(["yes", "no", "red", "red", "teal", "2"])


def worth_of(right: str) -> Callable[[str], float]:
    return lambda reply: float(reply.strip() == right)


def test_wrong_answers_come_in_the_stated_shares() -> None:
    """Same type .6: red or teal, two to one; any type .2: two reds and a teal of six known; no answer .2."""
    rng, draws = random.Random(0), 20_000
    found = Counter(wrong_answer("why is it so?", "other", KNOWN, worth_of("nothing"), rng) for _ in range(draws))
    no_answer = draws - sum(found[answer] for answer in ("yes", "no", "red", "teal", "2"))
    # A broken-off "2" is "2" again: a third of the no-answers are broken off, a sixth of those are "2".
    broken_two = 0.2 / 3 / 6
    expected = {"red": 0.6 * 2 / 3 + 0.2 / 3, "teal": 0.6 / 3 + 0.2 / 6, "yes": 0.2 / 6, "2": 0.2 / 6 + broken_two}
    for answer, share in expected.items():
        assert abs(found[answer] / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5, answer
    share = 0.2 - broken_two
    assert abs(no_answer / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5


def test_what_is_no_answer_is_made_of_the_question_or_broken_off() -> None:
    rng, question = random.Random(0), "why is it so?"
    found = {wrong_answer(question, "other", KNOWN, worth_of("nothing"), rng) for _ in range(3000)}
    odd = {reply for reply in found if reply is not None} - set(KNOWN.every)
    assert {"is", " is", "why is it", "r", "te", "y"} <= odd
    assert all(reply.strip() in question or any(answer.startswith(reply) for answer in KNOWN.every) for reply in odd)


def test_a_right_answer_is_never_drawn() -> None:
    rng = random.Random(0)
    found = {wrong_answer("is it so?", "yes/no", KNOWN, worth_of("yes"), rng) for _ in range(3000)}
    assert "no" in found
    assert not found & {"yes", " yes", None}


def test_where_everything_is_right_there_is_none() -> None:
    assert wrong_answer("is it so?", "yes/no", KNOWN, lambda reply: 1.0, random.Random(0)) is None


@pytest.mark.parametrize(
    ("answer", "kind"), [("Yes", "yes/no"), ("no", "yes/no"), ("12", "number"), ("no one", "other"), ("1.5", "other")]
)
def test_answers_have_types(answer: str, kind: str) -> None:
    assert answer_type(answer) == kind


@pytest.mark.parametrize(("count", "places"), [(0, 0), (1, 1), (2048, 2048), (2049, 1025), (443_757, 2045)])
def test_answers_are_lent_from_all_over_a_split(count: int, places: int) -> None:
    found = spread(count)
    assert len(found) == places
    assert not found or (found[0] == 0 and found[-1] >= count - found.step)
