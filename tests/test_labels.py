"""Labels as a file: what is written comes back as it was, and a line that is not as described is named and refused."""

from __future__ import annotations

import base64
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.data.images import open_image
from pe_rlhf_mm.data.labels import fault, read_labels, write_labels

ASK = (pe.Message("user", "Which is it?"),)
PAIR = pe.Preference(ASK, "red", "blue", probability=0.8)
LINE = {
    "version": 1,
    "type": "preference",
    "messages": [{"role": "user", "content": "Which is it?"}],
    "chosen": "red",
    "rejected": "blue",
}
RATING = {"version": 1, "type": "rating", "messages": LINE["messages"], "reply": "red", "label": 1}
ODD = 'quo"te \\ new\nline \u2028 \N{SNOWMAN} \U0001f600 \x00 {"a": 1} <image>'


def png(color: str = "red") -> bytes:
    encoded = io.BytesIO()
    Pillow.new("RGB", (3, 2), color).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a red one.png").write_bytes(png())
    return folder


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


# --- what is written comes back ---------------------------------------------------------------------------------


def labels(pictures: Path) -> list[pe.Preference | pe.Rated]:
    image = pe.Image(pictures / "a red one.png")
    talk = (
        pe.Message("system", "Be brief."),
        pe.Message("user", (image, pe.Text(ODD))),
        pe.Message("assistant", "What?"),
        pe.Message("tool", ""),
    )
    metadata = {"confidence": 3, "judge": ODD, "votes": [1, 0.5, None, True], "of": {"which": "x"}}
    return [
        pe.Preference(talk, "red", ODD, 1 / 3, margin=0.1 + 0.2, cluster="c", metadata=metadata),
        pe.Preference(talk, (pe.Text("a"), image), (pe.Image(png("blue")),), probability=0.5),
        pe.Preference(ASK, "", (pe.Text(""),), probability=0.0, margin=1e-300),
        pe.Rated(talk, (image, pe.Text("b")), 0.3, cluster="d", metadata={"domain": "cats"}),
        pe.Rated(ASK, "red", 1.0),
    ]


def test_what_is_written_comes_back_to_the_last_bit(tmp_path: Path, pictures: Path) -> None:
    path = tmp_path / "labels.jsonl"
    write_labels(path, labels(pictures))
    assert read_labels(path) == labels(pictures)
    first = path.read_bytes()
    write_labels(path, read_labels(path))
    assert path.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.jsonl", "pictures"]


def test_paths_are_told_from_the_folder_of_the_file_wherever_both_are_moved(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "judge").mkdir()
    write_labels(tmp_path / "judge/labels.jsonl", labels(pictures))
    told = json.loads((tmp_path / "judge/labels.jsonl").read_text().splitlines()[1])
    assert told["chosen"][1] == {"type": "image", "path": "../pictures/a red one.png"}
    (tmp_path / "moved").mkdir()
    for name in ("judge", "pictures"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    (found,) = [p for p in read_labels(tmp_path / "moved/judge/labels.jsonl")[1].chosen if isinstance(p, pe.Image)]
    assert found.source == tmp_path / "moved/pictures/a red one.png"


def test_a_file_behind_a_link_finds_its_pictures(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "short").symlink_to(tmp_path / "deep/er")
    write_labels(tmp_path / "short/labels.jsonl", labels(pictures)[1:2])
    (found,) = read_labels(tmp_path / "deep/er/labels.jsonl")
    assert found.chosen[1].source.samefile(pictures / "a red one.png")
    assert read_labels(tmp_path / "short/labels.jsonl") == [found]


def test_pixels_in_memory_come_back_as_a_png_of_them(tmp_path: Path) -> None:
    picture = Pillow.new("RGB", (5, 4), (1, 2, 3))
    write_labels(tmp_path / "labels.jsonl", [replace(PAIR, chosen=(pe.Image(picture),))])
    (found,) = read_labels(tmp_path / "labels.jsonl")
    assert open_image(found.chosen[0]).tobytes() == picture.tobytes()


def test_what_may_be_left_out_has_the_defaults_of_the_types(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.jsonl", LINE, RATING)
    assert read_labels(path) == [pe.Preference(ASK, "red", "blue"), pe.Rated(ASK, "red", 1.0)]
    packed = tmp_path / "labels.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_labels(packed) == read_labels(path)


# --- what cannot be written -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (replace(PAIR, probability=1.5), "probability is 1.5; expected a number from 0 to 1"),
        (replace(PAIR, probability=float("nan")), "probability is nan"),
        (replace(PAIR, margin=-0.1), "margin is -0.1; expected a number of 0 or more"),
        (replace(PAIR, margin=float("inf")), "margin is inf"),
        (pe.Rated(ASK, "red", -1.0), "label is -1.0; expected a number from 0 to 1"),
        (replace(PAIR, metadata={"pair": (1, 2)}), "metadata has a value, a tuple perhaps"),
        (replace(PAIR, metadata={3: "x"}), "metadata has a value"),
        (replace(PAIR, metadata={"x": float("nan")}), "not JSON compliant"),
        (replace(PAIR, metadata={"x": Path("x")}), "not JSON serializable"),
        (replace(PAIR, cluster=7), '"cluster" is a number; expected a string or null'),
        (replace(PAIR, messages=()), '"messages" is empty'),
        (replace(PAIR, messages=(pe.Message("human", "?"),)), "a message of role 'human'"),
        (replace(PAIR, chosen="half \ud83d here"), "a text holds half a surrogate pair"),
        (replace(PAIR, chosen=("red",)), "it has a str among its parts"),
        (replace(PAIR, chosen=(pe.Image("nowhere.png"),)), "a picture that is not there"),
        ("red", "it is a str; expected a Preference or a Rated"),
    ],
)
def test_a_label_that_would_not_come_back_is_refused_and_the_old_file_stays(
    label: Any, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "labels.jsonl", LINE)
    with pytest.raises(pe.UserError, match=f"label 1 cannot be written to .*{said}"):
        write_labels(path, [PAIR, label])
    assert read_labels(path) == [pe.Preference(ASK, "red", "blue")]
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file/labels.jsonl", tmp_path / "nowhere/labels.jsonl", tmp_path):
        with pytest.raises(pe.UserError, match=r"cannot be written: .* Give another place"):
            write_labels(path, [PAIR])
    assert (tmp_path / "file").read_text() == "mine"


def test_what_stops_the_labels_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.jsonl", LINE)

    def judged() -> Any:
        yield PAIR
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_labels(path, judged())
    assert len(read_labels(path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


# --- what cannot be read ----------------------------------------------------------------------------------------

IMAGE = {"type": "image", "data": base64.b64encode(png()).decode()}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"version": 1, "type": "prefer', "broken JSON at column 24"),
        ("[1]", "it is a list; expected a JSON object"),
        (LINE | {"version": 2}, '"version" is 2; this release reads version 1'),
        ({k: v for k, v in LINE.items() if k != "version"}, '"version" is None'),
        (LINE | {"type": "pair"}, "\"type\" is 'pair'; expected preference or rating"),
        (LINE | {"type": ["preference"]}, '"type" is '),
        (LINE | {"label": 1}, "it has 'label'; its fields are messages, chosen, rejected, probability"),
        (RATING | {"chosen": "x"}, "it has 'chosen'; its fields are messages, reply, label"),
        ({k: v for k, v in LINE.items() if k not in ("chosen", "messages")}, "it has no messages and no chosen"),
        ({k: v for k, v in RATING.items() if k != "label"}, "it has no label"),
        (LINE | {"probability": 1.5}, "probability is 1.5; expected a number from 0 to 1"),
        (LINE | {"probability": True}, '"probability" is true or false; expected a number'),
        (LINE | {"probability": "0.5"}, '"probability" is a string; expected a number'),
        (LINE | {"margin": -1}, "margin is -1.0; expected a number of 0 or more"),
        (json.dumps(LINE)[:-1] + ', "margin": 1' + "0" * 400 + "}", "margin is inf"),
        (json.dumps(LINE)[:-1] + ', "margin": NaN}', "margin is nan"),
        (RATING | {"label": None}, '"label" is null; expected a number'),
        (LINE | {"cluster": 7}, '"cluster" is a number; expected a string or null'),
        (LINE | {"metadata": []}, '"metadata" is a list; expected an object'),
        (LINE | {"messages": "hi"}, '"messages" is a string; expected a list of messages'),
        (LINE | {"messages": []}, '"messages" is empty'),
        (LINE | {"messages": ["hi"]}, '"messages" has something else than messages'),
        (LINE | {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "has something else than messages"),
        (LINE | {"messages": [{"role": "human", "content": "x"}]}, "a message of role 'human'; there are system, user"),
        (LINE | {"messages": [{"role": "user", "content": None}]}, '"messages" is null; expected a string or a list'),
        (LINE | {"chosen": 7}, '"chosen" is a number; expected a string or a list of parts'),
        (LINE | {"chosen": ["red"]}, '"chosen" has a part that is neither'),
        (LINE | {"chosen": [{"type": "text"}]}, '"chosen" has a part that is neither'),
        (LINE | {"chosen": [{"type": "text", "text": 7}]}, '"chosen" has a part that is neither'),
        (LINE | {"chosen": [IMAGE | {"path": "x.png"}]}, '"chosen" has a part that is neither'),
        (LINE | {"rejected": [{"type": "image", "path": "x.png"}]}, '"rejected" names a picture that is not there: /'),
        (LINE | {"rejected": [IMAGE | {"data": "%%%"}]}, '"rejected" has a picture whose data is no base64'),
    ],
)
def test_a_line_that_is_not_as_described_is_named(line: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "labels.jsonl", LINE, "", line)
    with pytest.raises(pe.UserError) as found:
        read_labels(path)
    assert str(found.value).startswith(f"{path}, line 3: ")
    assert said in str(found.value)


def test_a_text_is_never_quoted(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.jsonl", LINE | {"chosen": {"secret": "words"}, "metadata": {}})
    with pytest.raises(pe.UserError) as found:
        read_labels(path)
    assert "secret" not in str(found.value)
    assert "words" not in str(found.value)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_file_without_labels_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(pe.UserError, match=r"does not exist|is empty|nothing but empty lines"):
        read_labels(path)


def test_numbers_in_range_have_no_fault() -> None:
    assert [fault(label) for label in (PAIR, replace(PAIR, margin=3), pe.Rated(ASK, "x", 0))] == [None] * 3
