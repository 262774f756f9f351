"""The stand-ins there are: by the name of the data set they stand in for, as `pe-rlhf data prepare` knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pe_rlhf_mm.checkpoints.folders import written_whole
from pe_rlhf_mm.data.standins import bolt, hh, shp, tldr, vqav2
from pe_rlhf_mm.data.standins.packages import package_folder
from pe_rlhf_mm.errors import UserError

Fill = Callable[[Path, Path], dict[str, int]]
"""Reads one folder and fills another, which is empty: returns how many of what it wrote."""


@dataclass(frozen=True)
class StandIn:
    """Files in a published format, made of other data by a stated rule; the same bytes each time."""

    title: str
    package: str | None
    """What is to be installed with pip; None where the data must be given as a folder."""
    fill: Fill

    def write(self, out: Path, source: Path | None = None) -> dict[str, int]:
        """Writes the files into the new folder `out`; returns how many of what. `source`: where the data are instead.

        Raises UserError if the data are not there or others are, or if `out` holds something already.
        """
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists and is not an empty folder. Give the name of a new one.")
        if source is None and self.package is None:
            raise UserError(f"{self.title}: made of files that you have. Say in which folder they are: --from FOLDER.")
        place = source or package_folder(str(self.package))
        with written_whole(out) as folder:
            try:
                return self.fill(place, folder)
            except (KeyError, TypeError) as error:
                raise UserError(f"{place} does not hold the data of {self.package or 'HH'}: {error!r}.") from error


STAND_INS = {
    "tldr": StandIn("summaries of papers, as Reddit TL;DR posts and comparisons", "aclsum", tldr.fill),
    "bolt": StandIn("chats of two people, as BOLT conversations", "chitchat-dataset", bolt.fill),
    "shp": StandIn("replies in chats, as Stanford Human Preferences", "chitchat-dataset", shp.fill),
    "vqav2": StandIn("easy-VQA, as VQAv2 questions and COCO images", "easy-vqa", vqav2.fill),
    "hh": StandIn("the published test file of Anthropic HH harmless-base, split into train and test", None, hh.fill),
}
