"""Rows that stand twice in a split, and prompts that stand in two: found by digests of their content.

Only digests are kept in memory, 16 bytes for a row's content and 16 for its prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Shaped

from pe_rlhf_mm.data.published.description import Record

DIGESTS = np.dtype([("row", "<u8"), ("content", "V16"), ("prompt", "V16")])
"""Of a row: its number among all rows, and the digests of its content and of its prompt."""
DUPLICATE, IN_TEST, IN_VALIDATION = "duplicate", "prompt is in test", "prompt is in validation"


def digest(record: Record, fields: Sequence[str]) -> bytes:
    """16 bytes of BLAKE2b over the values of the fields; the name of an image is a digest of its content."""
    return hashlib.blake2b(repr([record[name] for name in fields]).encode(), digest_size=16).digest()


def surplus(splits: Mapping[str, Shaped[np.ndarray, "N"]]) -> dict[str, dict[str, Bool[np.ndarray, "N"]]]:
    """For each split, which of its rows (DIGESTS, in order) are set aside, by reason; a row has one reason at most.

    Of equal rows the first one stays. A prompt of the test split is in no other, and one of the validation split is
    not in train: the rows of the larger split go.
    """
    found: dict[str, dict[str, Bool[np.ndarray, "N"]]] = {}
    taken: dict[str, Shaped[np.ndarray, "M"]] = {}
    for split in ("test", "validation", "train"):
        if split not in splits:
            continue
        rows = splits[split]
        reasons = {DUPLICATE: _repeated(rows["content"])}
        stays = ~reasons[DUPLICATE]
        for reason, prompts in taken.items():
            reasons[reason] = stays & np.isin(rows["prompt"], prompts)
            stays &= ~reasons[reason]
        found[split] = reasons
        taken[{"test": IN_TEST, "validation": IN_VALIDATION, "train": ""}[split]] = rows["prompt"][stays]
    return found


def _repeated(values: Shaped[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """Whether the same value stood further up."""
    repeated = np.ones(len(values), bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated
