"""Verdicts kept on disk by content: of the same judge, the same question is asked once.

A file a judge, of lines {"key", "probabilities"}. The key is a hash of the judge's id, the messages with the bytes of
their pictures, and the choices. A line is added by one write, which begins with the line break: several processes may
add to a file, and what a killed one left of a line spoils no other. Only verdicts that have probabilities are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pe_rlhf_mm.data.cache import cache_folder, digest
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.judging.endpoint import Endpoint
from pe_rlhf_mm.judging.verdicts import verdicts_of
from pe_rlhf_mm.types import Judge, Message, Verdict

VERSION = 1
"""Of how verdicts are made: raise it when the same question is to be asked anew."""
BLOCK = 256
"""Questions asked at once; what is answered is on disk before the next ones are, and what a server says as it comes."""


class CachedJudge:
    """A judge that remembers."""

    def __init__(self, judge: Judge, folder: Path | None = None):
        """`folder` None: `judged` in the cache folder of the project, which PE_RLHF_CACHE sets."""
        self._judge, self.id = judge, judge.id
        name = hashlib.sha256(self.id.encode()).hexdigest()[:32]
        self._path = (folder or cache_folder("judged")) / f"{name}.jsonl"
        self._known: dict[str, dict[str, float]] | None = None

    def __repr__(self) -> str:
        return f"CachedJudge({self._judge!r})"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """Verdicts out of the cache, and the judge's own on what is not there; what comes twice is asked once."""
        if self._known is None:
            self._known = _read(self._path)
        keys = [digest(f"{VERSION} {self.id}", [list(c), list(choices)]) for c in conversations]
        verdicts = {key: Verdict(self._known[key]) for key in keys if key in self._known}
        new = [(key, c) for key, c in dict(zip(keys, conversations, strict=True)).items() if key not in verdicts]
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            for given in self._asked([c for _, c in block], choices):
                answered = {block[number][0]: verdict for number, verdict in given.items()}
                verdicts |= answered
                self._keep(answered)
        return [verdicts[key] for key in keys]

    def _asked(
        self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]
    ) -> Iterator[dict[int, Verdict]]:
        """Verdicts by the number of their conversation: one at a time of a judge that gives them so, or else all."""
        if isinstance(self._judge, Endpoint):
            yield from ({number: verdict} for number, verdict in self._judge.verdicts(conversations, choices))
        else:
            yield dict(enumerate(verdicts_of(self._judge, conversations, choices)))

    def _keep(self, verdicts: Mapping[str, Verdict]) -> None:
        assert self._known is not None  # read before anything is asked
        good = {key: dict(v.probabilities) for key, v in verdicts.items() if v.probabilities is not None}
        self._known |= good
        lines = "".join("\n" + to_json({"key": k, "probabilities": p}, indent=None) for k, p in good.items())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(lines.encode())
        except OSError as error:
            warnings.warn(
                f"{self._path.parent} cannot be written ({error.strerror or error}): verdicts are not kept for the "
                "next run. Make room, or set PE_RLHF_CACHE to another folder.",
                stacklevel=2,
            )


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What can be read of a file; nothing of one that is not there."""
    known: dict[str, dict[str, float]] = {}
    for line in path.read_bytes().split(b"\n") if os.access(path, os.R_OK) else ():
        try:
            told = json.loads(line)
            probabilities = {str(choice): float(p) for choice, p in told["probabilities"].items()}
            if math.isclose(sum(probabilities.values()), 1, abs_tol=1e-6):
                known[str(told["key"])] = probabilities
        except (ValueError, TypeError, KeyError, AttributeError):  # a line that a killed process left
            continue
    return known
