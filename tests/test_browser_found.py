"""Where a browser is looked for, and what is said where there is none. No browser is started here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pe_rlhf_mm.envs.web import chromium
from pe_rlhf_mm.envs.web.browser import Browser
from pe_rlhf_mm.envs.web.chromium import find_browser, miniwob_folder
from pe_rlhf_mm.errors import UserError


def executable(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no browser: nothing is asked for, downloaded, on the path, or in the usual places."""
    monkeypatch.delenv("PE_RLHF_BROWSER", raising=False)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "downloads"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(chromium, "PLACES", (str(tmp_path / "usr" / "chromium"),))
    return tmp_path


def test_no_browser_at_all(machine: Path) -> None:
    with pytest.raises(UserError) as told:
        find_browser()
    for command in ("make browser", "apt-get install chromium", "playwright install chromium", "$PE_RLHF_BROWSER"):
        assert command in str(told.value)


def test_each_place_goes_before_those_after_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = executable(machine / "bin" / "google-chrome")
    assert find_browser() == on_path
    usual = executable(machine / "usr" / "chromium")
    assert find_browser() == usual
    for revision in ("chromium-999", "chromium-1255", "chromium_headless_shell-2000"):
        executable(machine / "downloads" / revision / "chrome-linux" / "chrome")
    own = str(machine / "downloads" / "chromium-1255" / "chrome-linux" / "chrome")
    assert find_browser() == own
    variable = executable(machine / "mine" / "browser")
    monkeypatch.setenv("PE_RLHF_BROWSER", variable)
    assert find_browser() == variable
    argument = executable(machine / "given" / "browser")
    assert find_browser(argument) == argument
    assert find_browser("google-chrome") == on_path, "a name is looked for on the path"


def test_playwrights_own_on_a_mac(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLAYWRIGHT_BROWSERS_PATH")
    monkeypatch.setenv("HOME", str(machine))
    monkeypatch.setattr(sys, "platform", "darwin")
    inside = "chromium-1255/chrome-mac/Chromium.app/Contents/MacOS/Chromium"
    own = executable(machine / "Library" / "Caches" / "ms-playwright" / inside)
    assert find_browser() == own


def test_what_is_asked_for_must_be_there(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another browser draws other pictures: none is taken in place of the one that is asked for."""
    executable(machine / "usr" / "chromium")
    with pytest.raises(UserError, match="no browser at 'nowhere', as asked; expected the path"):
        find_browser("nowhere")
    (machine / "text").write_text("not a program")
    monkeypatch.setenv("PE_RLHF_BROWSER", str(machine / "text"))
    with pytest.raises(UserError, match=r"no browser at '.*text', as \$PE_RLHF_BROWSER says"):
        find_browser()


def test_the_pages_are_found_without_their_package_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (miniwob_folder() / "miniwob" / "click-test.html").is_file()
    assert "miniwob" not in sys.modules
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pe-rlhf-mm\[web\]'"):
        miniwob_folder()


def test_without_playwright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need Playwright; run `pip install 'pe-rlhf-mm\[web\]'`"):
        Browser()


def test_the_environment_is_imported_without_playwright() -> None:
    program = (
        "import sys, pe_rlhf_mm.envs.web.environment; sys.exit('playwright' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
