"""The cards of the gallery: test samples before and after the tuning, a few of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.reports.methods import RLHF, Method
from pe_rlhf_mm.reports.pictures import Album, inline_picture
from pe_rlhf_mm.reports.records import Record, at, number, text
from pe_rlhf_mm.reports.strips import Strip, strip, was_played
from pe_rlhf_mm.reports.wording import decimal

LIMIT = 48
LIMIT_OF_EPISODES = 24
"""Fewer, since each has many pictures."""
RIGHT_FROM = 0.5
"""The score from which a reply counts as right; most evaluators give 0 or 1."""
LABELS = {
    "fixed": "Fixed by {}",
    "broken": "Broken by {}",
    "both-right": "Both right",
    "both-wrong": "Both wrong",
    "unscored": "Not scored",
}
_GROUPS = {(False, True): "fixed", (True, False): "broken", (True, True): "both-right", (False, False): "both-wrong"}


class Reply(NamedTuple):
    """What one policy answered; `right` is None where no evaluator could tell."""

    policy: str
    text: str
    right: bool | None
    reward: str


class Card(NamedTuple):
    """One sample of the gallery: a picture with two replies, or two episodes."""

    id: str
    group: str
    label: str
    question: str
    target: str
    picture: str | None
    replies: Sequence[Reply]
    strips: Sequence[Strip]


class Group(NamedTuple):
    """One kind of sample: how many there are, and how many of them the page shows."""

    id: str
    label: str
    total: int
    shown: int


class Gallery(NamedTuple):
    """A choice of cards out of `total` samples. `style`: the style sheet that holds the screens of episodes."""

    total: int
    played: bool
    groups: list[Group]
    cards: list[Card]
    style: str


def choose_samples(folder: Path, samples: Sequence[Record], method: Method = RLHF) -> Gallery:
    """A choice of at most LIMIT samples, or LIMIT_OF_EPISODES, with all groups in it; the same at every call."""
    members: dict[str, list[Record]] = {group: [] for group in LABELS}
    for sample in samples:
        members[_group_of(sample, method)].append(sample)
    if not members["unscored"]:
        del members["unscored"]
    elif len(members["unscored"]) == len(samples):  # no evaluator could score any: the other kinds say nothing
        members = {"unscored": members["unscored"]}
    album, played = Album(folder), was_played(samples)
    limit = LIMIT_OF_EPISODES if played else LIMIT
    shares = _fair_shares({group: len(found) for group, found in members.items()}, limit)
    chosen = [(group, sample) for group, found in members.items() for sample in _spread(found, shares[group])]
    labels = {group: label.format(method.name) for group, label in LABELS.items()}
    groups = [Group(group, labels[group], len(found), shares[group]) for group, found in members.items()]
    policies = {"sft": "SFT", method.stage: method.name}
    cards = [_card(folder, album, group, labels[group], sample, policies) for group, sample in chosen]
    return Gallery(len(samples), played, groups, cards, album.rules)


def _group_of(sample: Record, method: Method) -> str:
    before, after = _right(sample, "sft"), _right(sample, method.stage)
    return "unscored" if before is None or after is None else _GROUPS[before, after]


def _right(sample: Record, policy: str) -> bool | None:
    score = number(sample, policy, "score")
    return None if score is None else score >= RIGHT_FROM


def _fair_shares(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Equal shares of the limit; what a small group leaves over goes to the others."""
    shares = dict.fromkeys(sizes, 0)
    for _ in range(min(limit, sum(sizes.values()))):
        shares[min((group for group in sizes if shares[group] < sizes[group]), key=shares.__getitem__)] += 1
    return shares


def _spread(samples: Sequence[Record], share: int) -> list[Record]:
    """So many samples at even distances, since neighbours often ask about one picture."""
    return [samples[i * len(samples) // share] for i in range(share)]


def _card(folder: Path, album: Album, group: str, label: str, sample: Record, policies: Mapping[str, str]) -> Card:
    id, question, target = (text(sample, key) for key in ("id", "question", "target"))
    card = Card(id, group, label, question, target, None, (), ())
    if at(sample, "episodes") is not None:
        episodes = [strip(album, sample, policy, name, _right(sample, policy)) for policy, name in policies.items()]
        return card._replace(strips=episodes)
    name = at(sample, "image")
    picture = inline_picture(folder, name) if isinstance(name, str) else None
    return card._replace(picture=picture, replies=[_reply(sample, *policy) for policy in policies.items()])


def _reply(sample: Record, policy: str, label: str) -> Reply:
    reward = decimal(number(sample, policy, "reward"))
    return Reply(label, text(sample, policy, "reply"), _right(sample, policy), reward)
