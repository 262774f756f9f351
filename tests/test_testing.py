"""The checks of tasks: the toy passes, and whatever is broken in one way is reported in that way and no other."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.envs.actions import UIAction
from pe_rlhf_mm.registry import BrokenEntry, UnknownId
from pe_rlhf_mm.testing import ToyEnvironment, ToyTask, check_task
from pe_rlhf_mm.testing.contents import content_of
from pe_rlhf_mm.types import Image, Message, Preference, Rated, Sample, Step, Text

RED = Pillow.new("RGB", (9, 9), "red")
ASK = Message("user", "Which color is it?")


# --- what conforms ----------------------------------------------------------------------------------------------


def test_the_toy_task_conforms() -> None:
    assert check_task(ToyTask()) == []


def test_the_task_of_the_package_conforms() -> None:
    assert check_task("pe/easy-vqa") == []


def test_what_a_task_may_leave_out_is_not_missed() -> None:
    class NothingMore:
        evaluators = ["pe/exact-match"]  # noqa: RUF012

        def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
            return ToyTask().samples(split)

        def environment(self) -> None: ...

        def solve(self, sample: Sample) -> None: ...

    assert check_task(NothingMore()) == []


class Rating(ToyTask):
    """Ratings beside the pairs, and replies with pictures in both."""

    def preferences(self, split: str, *, seed: int = 0) -> Iterator[Preference]:
        drawn = [Image(Pillow.new("RGB", (9, 9), color)) for color in ("red", "blue")]
        return (Preference(s.messages, (Text("so:"), drawn[0]), drawn[1:], 0.5, 0.3) for s in self.samples(split))

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        return (Rated(sample.messages, sample.target, 0.3) for sample in self.samples(split))


def test_ratings_and_replies_with_pictures_conform() -> None:
    assert check_task(Rating()) == []


def test_one_question_about_many_pictures_is_no_leak_and_one_picture_with_many_questions_is_none() -> None:
    """The toy asks one question about many pictures; here a picture is asked about twice."""

    def samples(split: str, *, seed: int = 0) -> Iterator[Sample]:
        same = Image(Pillow.new("RGB", (9, 9), "red"))
        for number in range(ToyTask.SIZES[split]):
            yield Sample(f"{split}-{number}", [Message("user", (same, Text(f"{split} {number}")))], target="red")

    def refusing(split: str, *, seed: int = 0) -> Iterator[Sample]:
        return samples(split) if split in ToyTask.SIZES else unchanged(split)

    assert check_task(Toy(samples=refusing)) == []


def test_one_picture_in_memory_in_bytes_and_in_a_file_is_seen_through_in_each(tmp_path: Path) -> None:
    """What is the same is told by contents, not by names: two files of one picture are one."""
    picture = Pillow.new("RGB", (9, 9), "red")
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    pairs = [
        (tmp_path / "a.png", str(tmp_path / "b.png")),
        (content, bytes(bytearray(content))),
        (picture, picture.copy()),
    ]
    for one, other in pairs:
        assert content_of((Image(one), Text("x"))) == content_of((Image(other), Text("x")))
    blue = Pillow.new("RGB", (9, 9), "blue")
    assert content_of((Image(picture),)) != content_of((Image(blue),))
    assert content_of((Image(picture),)) != content_of((Image(picture.resize((3, 27))),))


def test_a_few_samples_that_repeat_are_let_pass_and_many_are_not() -> None:
    """Of 32 training samples 1 (3 %) may, 2 (6 %) may not; with another target none of them repeats."""
    for repeats, target, found in ((1, "red", 0), (2, "red", 1), (2, None, 0)):
        problems = check_task(Toy(samples=repeating(repeats, target), solve=first_target))
        assert len(problems) == found, problems
        assert all("2 of 32 samples of 'train' repeat another one, target and all; 5% may" in p for p in problems)


def first_target(sample: Sample) -> list[str]:
    return [sample.target if isinstance(sample.target, str) else sample.target[0]]


def repeating(count: int, target: str | None) -> Any:
    def samples(split: str, *, seed: int = 0) -> Iterator[Sample]:
        kept = list(unchanged(split))
        for i, sample in enumerate(kept):
            again = split == "train" and 0 < i <= count
            said = kept[0].target if target else ["red", f"number {i}"]
            yield replace(sample, messages=kept[0].messages, target=said) if again else sample

    return samples


def test_episodes_that_begin_alike_are_no_leak() -> None:
    """They show what they are made of when they are played."""

    class Counting(Toy):
        def environment(self) -> ToyEnvironment:
            return ToyEnvironment()

        def solve(self, sample: Sample) -> list[str]:
            return ["up"] * sample.target + ["done"]

        def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
            ids = [sample.id for sample in unchanged(split)]
            return (Sample(id, [Message("user", "Count.")], target=1 + i % 3) for i, id in enumerate(ids))

    assert check_task(Counting()) == []


def test_a_reference_that_leads_nowhere_is_no_problem_of_the_task() -> None:
    with pytest.raises(UnknownId):
        check_task("pe/nothing")
    with pytest.raises(BrokenEntry):
        check_task("nothing.py:Nothing")


def test_an_error_while_importing_a_task_comes_through(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        check_task(f"{tmp_path}/broken.py:Task")


def test_the_checks_are_imported_without_jax() -> None:
    code = "import sys, pe_rlhf_mm.testing; print({'jax', 'transformers', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- tasks ------------------------------------------------------------------------------------------------------


class Toy(ToyTask):
    """A toy task with some of its members replaced; its pairs stay whole whatever its samples are."""

    def __init__(self, **members: Any):
        self.__dict__.update({"preferences": ToyTask().preferences} | members)


class WithoutDisplay(Toy):
    @property
    def evaluators(self) -> Any:
        raise RuntimeError("no display")


def odd(**fields: Any) -> dict[str, Any]:
    """The samples of the toy task, the first one of training with other fields."""

    def samples(split: str, *, seed: int = 0) -> Iterator[Sample]:
        for sample in ToyTask().samples(split):
            yield replace(sample, **fields) if sample.id == "train-0" else sample

    return {"samples": samples}


def odd_pairs(**fields: Any) -> dict[str, Any]:
    def preferences(split: str, *, seed: int = 0) -> Iterator[Preference]:
        return (replace(pair, **fields) for pair in ToyTask().preferences(split))

    return {"preferences": preferences}


def unchanged(split: str, *, seed: int = 0) -> Iterator[Sample]:
    return ToyTask().samples(split)


def without(missing: str) -> Any:
    return lambda split, *, seed=0: iter(()) if split == missing else unchanged(split)


def never_the_same(what: str) -> Any:
    def samples(split: str, *, seed: int = 0) -> Iterator[Sample]:
        for sample in unchanged(split):
            chance = f"{split} {random.random()}"
            yield replace(sample, **{what: [Message("user", chance)] if what == "messages" else chance})

    return samples


def any_split(split: str, *, seed: int = 0) -> Iterator[Sample]:
    return unchanged(split if split in ToyTask.SIZES else "test")


def one_split(split: str, *, seed: int = 0) -> Iterator[Sample]:
    return (replace(sample, id=sample.id.partition("-")[2]) for sample in unchanged(split))


def any_error(split: str, *, seed: int = 0) -> Iterator[Sample]:
    return unchanged(split) if split in ToyTask.SIZES else iter({}[split])


def always_one_id(split: str, *, seed: int = 0) -> Iterator[Sample]:
    return (replace(sample, id=split) for sample in unchanged(split))


def strings(split: str, *, seed: int = 0) -> Iterator[Any]:
    return (sample.target for sample in unchanged(split))


def leaking(split: str, *, seed: int = 0) -> Iterator[Sample]:
    """Two of the training prompts stand in test again, under other ids and in other files."""
    shared = [sample.messages for sample in unchanged("train")][:2] if split == "test" else []
    for i, sample in enumerate(unchanged(split)):
        yield replace(sample, messages=shared[i]) if i < len(shared) else sample


def blind(split: str, *, seed: int = 0) -> Iterator[Sample]:
    """The pictures were forgotten."""
    return (replace(s, messages=[Message("user", f"Which color is it in {split}?")]) for s in unchanged(split))


def odd_ratings(**fields: Any) -> dict[str, Any]:
    def ratings(split: str, *, seed: int = 0) -> Iterator[Rated]:
        return (replace(Rated(sample.messages, "red", 1.0), **fields) for sample in unchanged(split))

    return {"ratings": ratings}


def other_ratings(split: str, *, seed: int = 0) -> Iterator[Rated]:
    return (Rated([ASK], "red", random.random()) for _ in range(3))


def no_pairs(split: str, *, seed: int = 0) -> Iterator[Preference]:
    return iter(())


def other_pairs(split: str, *, seed: int = 0) -> Iterator[Preference]:
    return (Preference([ASK], f"{random.random()}", "red") for _ in range(3))


def fails(*arguments: Any, **options: Any) -> Any:
    raise RuntimeError("no display")


TASKS = {
    "samples missing": (object(), "object has no evaluators and no samples and no environment and no solve"),
    "evaluators none": (Toy(evaluators=()), r"evaluators is \(\); expected a tuple of ids"),
    "evaluators no tuple": (Toy(evaluators="pe/exact-match"), "evaluators is 'pe/exact-match'; expected a tuple"),
    "evaluators not even a sequence": (Toy(evaluators=7), "evaluators is 7; expected a tuple of ids"),
    "evaluators raise": (WithoutDisplay(), "evaluators raised RuntimeError: no display"),
    "evaluator unknown": (Toy(evaluators=("pe/exact-mach",)), "raised UnknownId: .*Did you mean pe/exact-match"),
    "evaluator cannot score": (Toy(evaluators=("fractions:Fraction",)), "Fraction is no evaluator: it has no score"),
    "samples raise": (Toy(samples=fails), r"samples\('.*'\).* raised RuntimeError: no display"),
    "no sample": (Toy(samples=strings), r"samples\('\w+'\) yields a str; expected pe_rlhf_mm.Sample"),
    "no validation": (Toy(samples=without("validation")), r"samples\('validation'\) yields nothing"),
    "no test": (Toy(samples=without("test")), r"samples\('test'\) yields nothing"),
    "no training": (Toy(samples=without("train")), r"samples\('train'\) yields nothing"),
    "splits overlap": (Toy(samples=one_split), "'.*' and '.*' share .* ids, such as .*; splits must not overlap"),
    "ids twice": (Toy(samples=always_one_id), "has 1 ids more than once, such as .*; make them unique"),
    "ids change": (Toy(samples=never_the_same("id")), r"samples\('\w+'\) gives other samples, or another order"),
    "texts change": (Toy(samples=never_the_same("messages")), "gives other samples, or another order"),
    "targets change": (Toy(samples=never_the_same("target")), "gives other samples, or another order"),
    "any split": (Toy(samples=any_split), r"samples\('no such split'\) does not complain"),
    "split refused otherwise": (Toy(samples=any_error), "should raise UserError .* raised KeyError"),
    "prompts leak": (
        Toy(samples=leaking),
        r"2 prompts of 'test' stand in 'train' too, such as those of \[\('test-0', 'train-0'\)\]: what is tested",
    ),
    "pictures forgotten": (
        Toy(samples=blind),
        r"\d+ of \d+ samples of '\w+' repeat another one, target and all; 5% may\. Does every prompt",
    ),
    "id empty": (Toy(**odd(id="")), "sample '' of 'train': an id must be a string, not empty"),
    "id no string": (Toy(**odd(id=7)), "sample 7 of 'train': an id must be a string, not empty"),
    "id cannot be hashed": (Toy(**odd(id=[7])), "an id must be a string, not empty"),
    "cluster no string": (Toy(**odd(cluster=7)), "sample 'train-0' of 'train': cluster must be a string or None"),
    "messages none": (Toy(**odd(messages=None)), "messages is None; expected a list of Message, with one at least"),
    "messages empty": (Toy(**odd(messages=[])), r"messages is \[\]; expected a list of Message, with one at least"),
    "messages a string": (Toy(**odd(messages="which?")), "messages is 'which.'; expected a list of Message"),
    "message no message": (Toy(**odd(messages=["which?"])), "has a str among its messages; expected Message"),
    "role unknown": (
        Toy(**odd(messages=[Message("human", "?")])),
        "role 'human' is none of system, user",
    ),
    "assistant last": (Toy(**odd(messages=[ASK, Message("assistant", "red")])), "ends with the assistant"),
    "content none": (
        Toy(**odd(messages=[Message("user", None)])),
        "the content of a message is None; expected",
    ),
    "part no part": (Toy(**odd(messages=[Message("user", ["which?"])])), "has the part 'which.'; expected Text"),
    "text no text": (Toy(**odd(messages=[Message("user", [Text(7)])])), r"has the part Text\(text=7"),
    "no such picture": (
        Toy(**odd(messages=[Message("user", [Image("no.png")])])),
        "opening a picture .* raised ImageError",
    ),
    "pairs none": (Toy(preferences=no_pairs), r"preferences\('\w+'\) yields nothing"),
    "pairs raise": (Toy(preferences=fails), r"preferences\('\w+'\) raised RuntimeError: no display"),
    "pairs change": (Toy(preferences=other_pairs), "gives other pairs when it is called again"),
    "pairs are no pairs": (Toy(preferences=strings), r"pair \d of '\w+' is a str; expected pe_rlhf_mm.Preference"),
    "replies alike": (Toy(**odd_pairs(chosen="red", rejected="red")), r"pair \d of '\w+': both replies are 'red'"),
    "reply no string": (Toy(**odd_pairs(rejected=7)), r"pair \d of '\w+' has the reply 7; expected a string"),
    "reply a picture that is not there": (
        Toy(**odd_pairs(rejected=[Image("no.png")])),
        r"opening a picture of pair \d of '\w+' raised ImageError",
    ),
    "reply of parts that are none": (
        Toy(**odd_pairs(rejected=["red"])),
        r"pair \d of '\w+' has the part 'red'; expected Text of a string, or Image",
    ),
    "replies the same picture": (
        Toy(**odd_pairs(chosen=[Image(RED)], rejected=[Image(RED.copy())])),
        r"pair \d of '\w+': both replies are",
    ),
    "margin negative": (Toy(**odd_pairs(margin=-1)), r"pair \d of '\w+': margin is -1; expected a number of 0 or more"),
    "ratings none": (Toy(ratings=no_pairs), r"ratings\('\w+'\) yields nothing"),
    "ratings raise": (Toy(ratings=fails), r"ratings\('\w+'\) raised RuntimeError: no display"),
    "ratings change": (Toy(ratings=other_ratings), "gives other ratings when it is called again"),
    "ratings are pairs": (
        Toy(ratings=ToyTask().preferences),
        r"rating \d of '\w+' is a Preference; expected pe_rlhf_mm.Rated",
    ),
    "label above 1": (
        Toy(**odd_ratings(label=1.5)),
        r"rating \d of '\w+': label is 1.5; expected a number from 0 to 1",
    ),
    "rated reply no string": (Toy(**odd_ratings(reply=None)), r"rating \d of '\w+' has the reply None; expected a"),
    "rating without prompt": (Toy(**odd_ratings(messages=())), r"rating \d of '\w+': messages is \(\)"),
    "probability above 1": (Toy(**odd_pairs(probability=1.5)), "probability is 1.5; expected a number from 0 to 1"),
    "probability no number": (Toy(**odd_pairs(probability="high")), "probability is 'high'; expected a number"),
    "probability nan": (
        Toy(**odd_pairs(probability=float("nan"))),
        "probability is nan; expected a number",
    ),
    "pair without prompt": (Toy(**odd_pairs(messages=())), r"pair \d of '\w+': messages is \(\)"),
    "solve raises": (Toy(solve=fails), "solve.. of sample 'train-\\d' raised RuntimeError: no display"),
    "solution a string": (
        Toy(solve=lambda sample: "red"),
        "solve.. of sample .* gave 'red'; expected a list",
    ),
    "solution of numbers": (Toy(solve=lambda sample: [7]), r"gave \[7\]; expected a list of replies"),
    "solution wrong": (
        Toy(solve=lambda sample: ["pink"]),
        r"the solution \['pink'\] of .* scores 0.0 with pe/",
    ),
    "solution unscored": (
        Toy(**odd(target=None), solve=lambda s: [s.target or "red"]),
        "scores None .* has no target",
    ),
    "environment raises": (Toy(environment=fails), r"environment\(\) raised RuntimeError: no display"),
    "environment no environment": (
        Toy(environment=lambda: 7),
        "the environment is a int; expected an object",
    ),
}


@pytest.mark.parametrize(("task", "said"), TASKS.values(), ids=TASKS)
def test_what_is_wrong_with_a_task_is_reported_and_nothing_else(task: Any, said: str) -> None:
    problems = check_task(task)
    assert problems
    for problem in problems:
        assert re.search(said, problem), problem


# --- screens to act on ------------------------------------------------------------------------------------------


class Screen:
    """Touch the side of the screen that is green; the samples' prompts are one and the same system message."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        self.side = sample.target
        return Step([Message("user", [self.picture(), Text("Touch what is green.")])])

    def step(self, reply: str) -> Step:
        if reply not in ("left", "right"):
            return Step([Message("user", [self.picture(), Text("left or right?")])], info={"action_error": "no side"})
        done = UIAction("click", (0.25 if reply == "left" else 0.75, 0.5))
        return self.last(Step([], float(reply == self.side), terminated=True, info={"action": done, "replays": 0}))

    def close(self) -> None: ...

    def drawn(self) -> Pillow.Image:
        picture = Pillow.new("RGB", (10, 4), "black")
        picture.paste("green", (0, 0, 5, 4) if self.side == "left" else (5, 0, 10, 4))
        return picture

    def picture(self) -> Image:
        return Image(self.drawn())

    def last(self, step: Step) -> Step:
        return step


class Touching(ToyTask):
    """A task on such a screen, which counts how often its oracle is asked."""

    preferences = None  # type: ignore[assignment]

    def __init__(self, environment: Any):
        self.environment, self.asked = lambda: environment, Counter[str]()

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        prompt = (Message("system", "You see a screen. Say left or right."),)
        names = [sample.id for sample in unchanged(split)]
        return (Sample(id, prompt, ("left", "right")[place % 2]) for place, id in enumerate(names))

    def solve(self, sample: Sample) -> list[str]:
        self.asked[sample.id] += 1
        return [sample.target]


def test_a_task_on_a_screen_conforms_and_its_oracle_is_asked_once_a_sample() -> None:
    task = Touching(Screen())
    assert check_task(task, n=4) == []
    assert task.asked == dict.fromkeys(["train-0", "train-1", "train-2", "train-3"], 1)


def test_pictures_are_the_same_if_their_pixels_are() -> None:
    class OtherFiles(Screen):
        """The same pixels as a picture, as one that was opened, and as files of two kinds of compression."""

        calls = 0

        def picture(self) -> Image:
            self.calls += 1
            files = []
            for level in (1, 9):
                file = io.BytesIO()
                self.drawn().save(file, "PNG", compress_level=level, dpi=(level, level))
                files.append(file.getvalue())
            assert files[0] != files[1]
            return Image([self.drawn(), Pillow.open(io.BytesIO(files[0])), *files][self.calls % 4])

    class OtherPixels(OtherFiles):
        def drawn(self) -> Pillow.Image:
            picture = super().drawn()
            picture.putpixel((9, 3), (0, 0, self.calls % 250))
            return picture

    assert check_task(Touching(OtherFiles())) == []
    problems = check_task(Touching(OtherPixels()), n=1)
    assert problems
    assert all("goes another way when it is reset with the same seed" in problem for problem in problems)


class LastInfo(Screen):
    """Ends an episode with another info."""

    def __init__(self, info: Any):
        self.info = info

    def last(self, step: Step) -> Step:
        return replace(step, info=self.info)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (None, "info is None; expected a mapping"),
        ({"action": "click 1 2"}, "info has 'action': 'click 1 2'; expected the UIAction that was carried out"),
        ({"action_error": True}, "info has 'action_error': True; expected what is wrong with the action, in words"),
        ({"action_error": ""}, "info has 'action_error': ''; expected what is wrong"),
        ({"replays": -1}, "info has 'replays': -1; expected how often the episode was replayed"),
        ({"replays": True}, "info has 'replays': True; expected how often"),
    ],
)
def test_what_others_read_of_an_info_is_checked(info: Any, said: str) -> None:
    problems = check_task(Touching(LastInfo(info)), n=2)
    assert problems
    assert all(said in problem for problem in problems), problems
    assert check_task(Touching(LastInfo({"replays": 2, "anything": object()}))) == []


class Lost(Screen):
    """Breaks at the reset of that number."""

    def __init__(self, number: int, **fields: Any):
        lost = {"observation": [], "truncated": True, "info": {"lost": "the browser was killed"}}
        self.number, self.step_fields = number, lost | fields

    def reset(self, sample: Sample, *, seed: int) -> Step:
        self.number -= 1
        return Step(**self.step_fields) if self.number == 0 else super().reset(sample, seed=seed)


@pytest.mark.parametrize(
    ("number", "how"),  # each sample is played twice with nonsense, and twice with its solution
    [(1, "replies that are no actions"), (2, "replies that are no actions"), (3, "its solution"), (4, "its solution")],
)
def test_a_lost_episode_is_reported_and_is_no_other_problem(number: int, how: str) -> None:
    assert check_task(Touching(Lost(number))) == [
        f"sample 'train-0', played with {how}, was lost in step 0, and is not known to be right: the browser was killed"
    ]


@pytest.mark.parametrize(
    "fields", [{"reward": 1.0}, {"truncated": False}, {"terminated": True}, {"observation": [ASK]}], ids=str
)
def test_what_is_lost_must_be_masked(fields: dict[str, Any]) -> None:
    problems = check_task(Touching(Lost(1, **fields)))
    assert any("is lost, and must be truncated, not terminated, and have no observation" in p for p in problems)


def test_a_reply_of_a_hundred_kilobytes_is_tried() -> None:
    class Short(Screen):
        def step(self, reply: str) -> Step:
            if len(reply) > 10_000:
                raise MemoryError("what a reply")
            return super().step(reply)

    (problem, *_) = check_task(Touching(Short()), n=1)
    assert problem == "sample 'train-0', played with replies that are no actions, raised MemoryError: what a reply"


def test_a_system_message_alone_asks_nothing_where_no_screen_follows() -> None:
    class Silent(Touching):
        evaluators = ("pe/exact-match",)

    problems = check_task(Silent(None), n=1)
    assert problems[0] == "sample 'train-0' of 'train' has nothing but a system message, and nothing to answer"
