"""A Chromium for the pages, unless there is one: `make browser`, or python -m pe_rlhf_mm.envs.web.install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from pe_rlhf_mm.envs.web.chromium import find_browser
from pe_rlhf_mm.errors import UserError


def install() -> str:
    """The path of the browser. As root it is the system's package, by apt-get; otherwise Playwright downloads its own.

    Raises UserError if there is none afterwards.
    """
    try:
        return find_browser()
    except UserError:
        for command in _commands():
            subprocess.run(command, check=False)  # what it could not do is said by the next line
    return find_browser()


def _commands() -> list[list[str]]:
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        package = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium", "fonts-liberation"]
        return [["apt-get", "update"], package]
    return [[sys.executable, "-m", "playwright", "install", "chromium"]]


if __name__ == "__main__":
    try:
        print(install())
    except UserError as error:
        sys.exit(f"error: {error}")
