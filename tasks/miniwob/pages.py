"""The pages of miniwob that are tasks: the 125 that the package itself registers, without the three of airlines.

Those need a server and show the airlines' marks. What the package does not register moves by the clock: chase-circle,
moving-items and a few more.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.registry import UnknownId

PAGES: tuple[str, ...] = tuple((Path(__file__).parent / "pages.txt").read_text().split())
"""Their names, one a line in the file that the registry reads too."""

WITH_MODES = frozenset(
    """
    click-checkboxes-transfer click-test-transfer email-inbox-forward-nl email-inbox-forward-nl-turk email-inbox-nl-turk
    """.split()
)
"""Pages that pose other problems for testing: other labels, or other wordings."""

RELOADED = frozenset(
    """
    book-flight book-flight-nodelay choose-date choose-date-easy choose-date-medium click-pie copy-paste-2 hot-cold
    scroll-text scroll-text-2 use-colorwheel use-colorwheel-2 use-slider use-slider-2
    """.split()
)
"""Pages that keep something of the last problem, however it was left, when they are not loaded again for the next."""

MOST_STEPS = {
    "choose-date": 16,
    "choose-date-nodelay": 16,
    "click-checkboxes-large": 16,
    "number-checkboxes": 20,
    "use-spinner": 16,
}
"""Replies that an episode may take, where that is more than 10."""

CLICK_MIX = """
    click-test click-test-2 click-dialog click-color click-tab click-collapsible grid-coordinate focus-text focus-text-2
    identify-shape
""".split()
TYPE_MIX = "enter-text enter-text-dynamic enter-password login-user".split()
MIX = """
    click-test click-dialog click-tab click-collapsible focus-text focus-text-2 enter-text enter-text-dynamic
""".split()


class Mixture(NamedTuple):
    """Pages that are one task, and the replies that an episode on any of them may take."""

    pages: list[str]
    steps: int


MIXTURES: dict[str, Mixture] = {
    "click-mix": Mixture(CLICK_MIX, 3),
    "type-mix": Mixture(TYPE_MIX, 6),
    "mix": Mixture(MIX, 3),
}
"""For small models: what is to be clicked can be seen in 64 x 64 pixels, and what is to be typed stands in the goal.
Three replies are enough for every page of `mix`, and on most of them leave another try to a click that hit nothing. It
has pages of both sorts that are learnt soon; of the pages for typing, the two that take the fewest replies."""


def file_of(page: str) -> str:
    """Where a page lies below the package's html folder. Raises UnknownId for what is no page."""
    if page not in PAGES:
        close = difflib.get_close_matches(page, PAGES, n=3)
        raise UnknownId(
            f"miniwob has no page {page!r}. "
            + (f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(PAGES)}.")
        )
    return f"miniwob/{page}.html"
