"""The published data sets by name, and where each is described; nothing is imported until one is asked for."""

from __future__ import annotations

import difflib
import importlib

from pe_rlhf_mm.data.published.description import Published
from pe_rlhf_mm.errors import UserError

PLACES = {
    "tldr": ("tldr", "COMPARISONS"),
    "tldr-posts": ("tldr", "POSTS"),
    "shp": ("shp", "SHP"),
    "hh": ("hh", "HH"),
    "bolt": ("bolt", "BOLT"),
    "vqav2": ("vqa", "VQAV2"),
    "okvqa": ("vqa", "OKVQA"),
    "textvqa": ("textvqa", "TEXTVQA"),
    "screenqa": ("screenqa", "SCREENQA"),
    "easy-vqa": ("easy_vqa", "EASY_VQA"),
    "android-control": ("android_control", "ANDROID_CONTROL"),
    "aitw": ("aitw", "AITW"),
    "screenspot": ("screenspot", "SCREENSPOT"),
    "uibert": ("uibert", "UIBERT"),
}
"""A file of this folder, and the name in it."""


def published(name: str) -> Published:
    """The description of a data set. Raises UserError for an unknown name: says which there are."""
    if name not in PLACES:
        close = difflib.get_close_matches(name, PLACES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"there is no data set {name!r}.{hint} There are: {', '.join(PLACES)}.")
    file, constant = PLACES[name]
    found: Published = getattr(importlib.import_module(f"pe_rlhf_mm.data.published.{file}"), constant)
    return found
