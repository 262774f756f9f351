"""Which Chromium is used, where MiniWoB's pages lie, and how the browser is started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pe_rlhf_mm.errors import UserError

VARIABLE = "PE_RLHF_BROWSER"

FLAGS = (
    "--disable-gpu",
    "--force-color-profile=srgb",
    "--disable-partial-raster",  # where a part is drawn again, edges come out otherwise than when all is drawn at once
    "--disable-smooth-scrolling",  # on some systems a wheel's scroll goes on for a while
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # No name and no address leads anywhere, so that nothing gets out even where a request is not intercepted.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/snap/bin/chromium",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


def find_browser(executable: str | None = None) -> str:
    """The path of a Chromium: the one given, that of $PE_RLHF_BROWSER, Playwright's own, or one of the system.

    Raises UserError where there is none, or where the one that is asked for is not there.
    """
    for asked, by in ((executable, "as asked"), (os.environ.get(VARIABLE), f"as ${VARIABLE} says")):
        if asked:
            found = shutil.which(asked)
            if found is None:
                raise UserError(f"there is no browser at {asked!r}, {by}; expected the path of Chromium or Chrome")
            return found
    found = next(_installed(), None)
    if found is None:
        raise UserError(
            "no Chromium is installed; expected Playwright's own, or one at /usr/bin/chromium or the like. "
            f"Run `make browser`, `apt-get install chromium` or `playwright install chromium`, or set ${VARIABLE}"
        )
    return found


def _installed() -> Iterator[str]:
    """Browsers of this machine, Playwright's own first and its newest before its older ones."""
    revisions = sorted(_downloads().glob("chromium-*"), key=lambda folder: (len(folder.name), folder.name))
    for revision in reversed(revisions):
        for name in ("chrome", "Chromium", "Google Chrome for Testing", "chrome.exe"):
            yield from (str(path) for path in revision.rglob(name) if path.is_file() and os.access(path, os.X_OK))
    yield from filter(None, map(shutil.which, (*PLACES, *NAMES)))


def _downloads() -> Path:
    """Where `playwright install` puts its browsers."""
    if asked := os.environ.get("PLAYWRIGHT_BROWSERS_PATH"):
        return Path(asked)
    caches = {"darwin": "Library/Caches", "win32": "AppData/Local"}
    return Path.home() / caches.get(sys.platform, ".cache") / "ms-playwright"


def miniwob_folder() -> Path:
    """The folder of MiniWoB's pages: `miniwob/click-test.html` lies below it. Raises UserError without the package."""
    spec = importlib.util.find_spec("miniwob")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("MiniWoB's pages are not installed; run `pip install 'pe-rlhf-mm[web]'`")
    return Path(spec.submodule_search_locations[0]).resolve() / "html"
