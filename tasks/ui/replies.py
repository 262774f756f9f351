"""Actions as replies: told of and written in a dialect, and judged as they will be when they come from a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from pe_rlhf_mm.envs.actions import ActionError, Codec, Dialect, Kind, UIAction, codec
from pe_rlhf_mm.types import Evaluator, Outcome, Sample


def codec_of(dialect: Dialect, kinds: Sequence[Kind]) -> Codec:
    """The codec of a dialect; it understands all kinds, and describes these. Raises UserError for an unknown name."""
    whole: Any = codec(dialect)
    return cast(Codec, replace(whole, kinds=kinds))


def written(action: UIAction, dialect: Codec, size: tuple[int, int]) -> str | None:
    """The reply that means an action; None where the dialect cannot say it."""
    try:
        return dialect.render(action, size)
    except ActionError:
        return None


def is_right(reply: str, target: object, evaluator: Evaluator) -> bool:
    """Whether a reply would earn the full score, so that labels and scores cannot disagree."""
    return evaluator.score([Outcome(Sample("", (), target), [reply])])[0].value == 1
