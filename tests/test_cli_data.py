"""`pe-rlhf data` as its user meets it: what it prints, where it stops, and what it never prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from published_files import (
    hh_pair,
    tldr_row,
    write_hh,
    write_screenqa,
    write_tldr,
    write_tldr_posts,
    write_vqav2,
    write_zip,
)

from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.data.published.catalogue import PLACES


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "from"


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """What a command prints, to standard output or as its error."""
    assert run(["data", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_counts_are_printed(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = ["train"] * 4 + ["valid1", "valid2"]
    path = write_tldr(folder, [tldr_row(i, split=s) for i, s in enumerate(splits)] + [tldr_row(0), {}])
    assert said(capsys, "prepare", "tldr", "--from", folder, "--skip-bad").splitlines() == [
        "read                 8 rows",
        "kept                 6",
        "  train                4",
        "  validation           1",
        "  test                 1",
        "set aside            1 duplicate",
        f"    {path}, line 7",
        f"bad                  1 skipped; all are listed in {home / 'tldr' / '1.0.0' / 'preparation.json'}",
        f"    {path}, line 8: there is no field 'info'; expected one (dict).",
        str(home / "tldr" / "1.0.0"),
    ]


def test_json_is_one_document(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tldr(folder)
    printed = json.loads(said(capsys, "prepare", "tldr", "--from", folder, "--out", tmp_path / "other", "--json"))
    assert printed["folder"] == str(tmp_path / "other" / "tldr" / "1.0.0")
    assert (printed["name"], printed["read"], printed["kept"]) == ("tldr", 1, {"train": 1})
    assert (printed["set_aside"], printed["skipped"]) == ({}, [])
    assert (tmp_path / "other" / "tldr" / "1.0.0" / "dataset_info.json").is_file()


def test_a_bad_row_ends_the_command(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tldr(folder, [tldr_row(), tldr_row(1, choice=3)])
    message = said(capsys, "prepare", "tldr", "--from", folder, code=2)
    assert f"error: {path}, line 2: the field 'choice' is 3; expected 0 or 1." in message
    assert "--skip-bad" in message
    assert not (home / "tldr").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "tdlr", "--from", "x"), "Did you mean tldr?"),
        (("prepare", "tldr", "--from", "nowhere"), "nowhere does not exist"),
        (("show", "tldr"), "Then: pe-rlhf data prepare tldr --from FOLDER"),
        (("show", "nothing"), "there is no data set 'nothing'"),
        (("stand-in", "nothing", "--out", "x"), "there is no stand-in 'nothing'. There are: "),
    ],
)
def test_mistakes_are_one_paragraph(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said(capsys, *arguments, code=2)


def test_show(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tldr_posts(folder)
    write_tldr_posts(
        folder, "test", [{"id": "t", "subreddit": "s", "title": "x" * 400, "post": "a\n\nb", "summary": ""}]
    )
    said(capsys, "prepare", "tldr-posts", "--from", folder)
    assert said(capsys, "show", "tldr-posts", "--split", "test").splitlines() == [
        "name       tldr-posts",
        "title      Reddit TL;DR: posts with their authors' summaries",
        "licence    none stated by the publisher; the posts are Reddit users'. Not to be passed on",
        f"folder     {home / 'tldr_posts' / '1.0.0'}",
        "splits     train 1, test 1",
        "fields     id (text), subreddit (text), title (text), post (text), summary (text)",
        "split      test",
        "",
        "  id             t",
        "  subreddit      s",
        f"  title          {'x' * 297}...",
        "  post           a b",
        "  summary        ",
    ]
    values = json.loads(said(capsys, "show", "tldr-posts", "--n", "0", "--json"))
    assert values["splits"] == {"train": 1, "test": 1}
    assert values["records"] == []
    assert "has no split 'validation'" in said(capsys, "show", "tldr-posts", "--split", "validation", code=2)


def test_the_texts_of_hh_are_shown_only_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hh(folder, split="test", pairs=[hh_pair(3)])
    texts = ("boil", "boiling", "Hello", "No idea")
    said(capsys, "prepare", "hh", "--from", folder)
    for more in ((), ("--json",)):
        printed = said(capsys, "show", "hh", *more)
        assert not any(text in printed for text in texts)
        assert "<8 characters>" in printed  # No idea.
        assert "harmless-base" in printed
        revealed = said(capsys, "show", "hh", "--reveal", *more)
        assert all(text in revealed for text in texts)
    last = "The texts are upsetting by design. Their lengths are shown; --reveal prints them."
    assert said(capsys, "show", "hh").splitlines()[-1] == last


def test_hh_rows_are_not_printed_in_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_hh(folder, split="test", pairs=[hh_pair(3)])
    import gzip

    path.write_bytes(gzip.compress(b'{"chosen": "secret", "rejected": 3}\n{"chosen": "secret'))
    message = said(capsys, "prepare", "hh", "--from", folder, code=2)
    assert "line 1" in message
    assert "secret" not in message
    printed = said(capsys, "prepare", "hh", "--from", folder, "--skip-bad", code=2)
    assert "not one of 2 rows of hh can be kept: 2 bad" in printed
    assert "secret" not in printed


def test_images_are_shown_by_their_path(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_screenqa(folder)
    said(capsys, "prepare", "screenqa", "--from", folder)
    path = Path(json.loads(said(capsys, "show", "screenqa", "--json"))["records"][0]["image"])
    assert path.is_relative_to(home / "screenqa" / "1.0.0" / "images")
    assert path.read_bytes() == (folder / "combined" / "5.jpg").read_bytes()
    assert f"  image          {path}" in said(capsys, "show", "screenqa").splitlines()


def test_archives_are_named_before_they_are_unpacked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only those that are: the other one has been unpacked by somebody already."""
    asked, _ = write_vqav2(folder)
    write_zip(folder / "v2_Questions_Train_mscoco.zip", {asked.name: asked.read_bytes()})
    images = {path.name: path.read_bytes() for path in (folder / "train2014").iterdir()}
    path = write_zip(folder / "train2014.zip", images)
    shutil.rmtree(folder / "train2014")
    assert run(["data", "prepare", "vqav2", "--from", str(folder)]) == 0
    size = path.stat().st_size / 1e6
    assert [line for line in capsys.readouterr().err.splitlines() if "unpacking" in line] == [
        f"vqav2 unpacking {path} ({size:,.1f} MB)"
    ]


def test_screens_that_are_not_there_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_screenqa(folder, pictures={})
    assert "no image: the files have none" in said(capsys, "prepare", "screenqa", "--from", folder)
    values = json.loads(said(capsys, "show", "screenqa", "--json"))
    assert values["records"][0]["image"] is None


def test_list(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tldr(folder, [tldr_row(i) for i in range(3)])
    said(capsys, "prepare", "tldr", "--from", folder)
    lines = said(capsys, "list").splitlines()
    assert lines[0] == f"prepared in {home}:"
    assert [line.split()[0] for line in lines[2:]] == list(PLACES)
    assert "3 rows" in lines[2]
    assert "not prepared" in lines[3]
    rows = json.loads(said(capsys, "list", "--json"))["sets"]
    assert [row["rows"] for row in rows] == [3] + [None] * (len(PLACES) - 1)
