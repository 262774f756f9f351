"""Labels by a judge: which of two replies it finds better, as a file that a reward model or DPO is trained on.

    P(y_1 is better) = ½ (P(1 | y_1, y_2) + P(2 | y_2, y_1))

Each pair is put to the judge in both orders, since judges prefer places, and the mean is a soft label. Source: Lee et
al., 2023 (arXiv 2309.00267), section 2.1 and the appendix on position bias.

labels.jsonl        the labels, in the order of the pairs and in the format of `data/labels.py`, whole or not at all
labels.jsonl.json   whose labels they are: task, split, seed, replies, judge, evaluator; and the report

Verdicts are kept by `cache.py` as they come, so the same command goes on after a kill and asks nothing twice. The file
is made of them at the end, and comes out the same as if it had never been interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.data.labels import write_labels
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import SHARE, Interval, clustered_mean
from pe_rlhf_mm.evaluation.win_rate import doubt_of_judge
from pe_rlhf_mm.json_files import read_json, write_json
from pe_rlhf_mm.judging.agreement import SHOWN, Agreement, agreed, reasons
from pe_rlhf_mm.judging.asking import refuse_unfit, scores_of
from pe_rlhf_mm.judging.endpoint import CALLS, TOKENS
from pe_rlhf_mm.judging.load import load_judge
from pe_rlhf_mm.judging.pairs import Pairs, logged_pairs, task_pairs
from pe_rlhf_mm.locks import locked
from pe_rlhf_mm.types import Judge, Preference, Score

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

SCHEMA = 1
BLOCK = 32
"""Pairs put to the judge at once."""
PARTS = ("preference", "flipped", "first_place")
"""What the scores of an evaluator must have."""
WHYS = 3
"""Reasons why there is no label that are shown."""
Tick = Callable[[int, int], None]
"""(how many pairs were put to the judge, of how many)."""


@dataclass(frozen=True)
class LabelReport:
    """What the labels of a judge are worth.

    `unlabelled`: pairs that the judge did not answer in both orders, and `whys` how often each reason was given.
    `first_place`: how often the verdict went to the reply that stood first, 1/2 without position bias; `flipped`: the
    share of pairs whose two orders disagree. `confidence`: the mean probability of the chosen reply. `people`: how
    often the labels are those of the task; None where it has none. `alike`: samples of a log that make no pair, since
    all tries say the same.
    """

    labelled: int
    ties: int
    unlabelled: int
    whys: Mapping[str, int]
    first_place: float
    first_place_interval: Interval
    flipped: float
    confidence: float
    people: Agreement | None
    alike: int

    def text(self) -> str:
        """A few lines for people."""
        place = f"{self.first_place:.3f} {self.first_place_interval.text('.3f')}"
        lines = [
            f"{self.labelled + self.unlabelled} pairs: {self.labelled} labelled, {self.ties} of them ties, "
            f"{self.unlabelled} unlabelled" + f"; {self.alike} samples whose tries are all alike" * bool(self.alike),
            *(f"{n} unlabelled because {why:.{SHOWN}}" for why, n in list(self.whys.items())[:WHYS]),
        ]
        if self.labelled:
            lines.append(
                f"the first place won {place}; {self.flipped:.3f} flipped with the order; mean probability of the "
                f"chosen reply {self.confidence:.3f}"
            )
        lines += [f"the judge {self.people.text()}"] if self.people is not None and self.people.n else []
        doubt = doubt_of_judge(self.flipped, self.labelled)
        return "\n".join([*lines, doubt] if doubt else lines)


def label(
    task: str,
    judge: Judge | Policy | str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    replies: str | Path | None = None,
    evaluator: str = "pe/judge-win-rate",
    judge_calls: int = CALLS,
    judge_tokens: int = TOKENS,
    rationale: bool = False,
    tick: Tick | None = None,
) -> LabelReport:
    """Writes what a judge says of a task's pairs to the file `out`, for `--reward.labels` or `--preferences.labels`.

    `judge`: a Judge, or what `load_judge` takes, whose verdicts are then kept; a server is asked at most `judge_calls`
    questions, for answers of at most `judge_tokens`. `rationale`: it writes down its reasons before it chooses.
    `split`: train, unless told otherwise. `limit`: the first so many pairs only. `replies`: the folder of a log, of
    whose tries at each sample two are the pair; the split is then that of the log. `evaluator`: what puts pairs to the
    judge. One without a verdict is not in the file, and the same call asks about it again; where there is no label at
    all, no file is written.

    Raises UserError for a task or a log without pairs, an evaluator that is not fit, replies with pictures, a file that
    holds other labels or more of them, and while another process writes it.
    """
    refuse_unfit(evaluator, pairs=True)
    if rationale and isinstance(judge, Judge):
        raise UserError(f"{judge!r:.80} is a judge already; one that reasons is pe.load_judge(.., rationale=True).")
    if replies is None:
        source = task_pairs(task, split or "train", limit=limit, seed=seed)
    else:
        source = logged_pairs(Path(replies), task, split, limit=limit)
    pairs = source.pairs
    if not isinstance(judge, Judge):
        judge = load_judge(judge, calls=judge_calls, max_tokens=judge_tokens, rationale=rationale)
    facts = {"schema": SCHEMA, **source.facts, "judge": judge.id, "evaluator": registry.evaluators.resolve(evaluator)}
    with _claimed(Path(out), facts):
        scores: list[Score] = []
        for start in range(0, len(pairs), BLOCK):
            scores += _scored(pairs[start : start + BLOCK], evaluator, judge, seed=seed)
            if tick is not None:
                tick(len(scores), len(pairs))
        report = _report(source, scores, evaluator, seed=seed)
        labels = [_label(*told, judge.id) for told in zip(pairs, scores, strict=True) if told[1].value is not None]
        _write(Path(out), labels, facts, report)
    return report


def _scored(pairs: Sequence[Preference], evaluator: str, judge: Judge, *, seed: int) -> list[Score]:
    """Raises UserError for an evaluator that does not tell what is needed."""
    scores = scores_of(pairs, evaluator, judge, seed=seed)
    for score in scores:
        missing = [part for part in PARTS if score.value is not None and part not in score.parts]
        if missing:
            raise UserError(
                f"{evaluator} tells no {' and no '.join(missing)}; expected the parts {', '.join(PARTS)}, which "
                "pe/judge-win-rate and classes made of it have."
            )
    return scores


def _label(pair: Preference, score: Score, judge: str) -> Preference:
    """The reply that the judge prefers is the chosen one. In a tie they stay as they are; people's margin does not."""
    likely = score.parts["preference"]
    better, worse = (pair.chosen, pair.rejected) if likely >= 0.5 else (pair.rejected, pair.chosen)
    metadata = {**pair.metadata, "judge": judge, "flipped": bool(score.parts["flipped"])}
    return Preference(pair.messages, better, worse, max(likely, 1 - likely), cluster=pair.cluster, metadata=metadata)


def _report(source: Pairs, scores: Sequence[Score], evaluator: str, *, seed: int) -> LabelReport:
    pairs = source.pairs
    known = [
        (score.parts, pair.cluster or str(i))
        for i, (pair, score) in enumerate(zip(pairs, scores, strict=True))
        if score.value is not None
    ]
    told = [parts for parts, _ in known]
    place = clustered_mean([p["first_place"] for p in told], [c for _, c in known], bounds=SHARE, seed=seed)
    said = [both for both in zip(pairs, scores, strict=True) if both[0].probability != 0.5]
    people = None
    if said:
        ties = len(pairs) - len(said)
        people = agreed([pair for pair, _ in said], [score for _, score in said], evaluator, ties=ties, seed=seed)
    return LabelReport(
        labelled=len(told),
        ties=sum(parts["preference"] == 0.5 for parts in told),
        unlabelled=len(pairs) - len(told),
        whys=reasons(scores),
        first_place=place[0],
        first_place_interval=place[1],
        flipped=_mean([parts["flipped"] for parts in told]),
        confidence=_mean([max(parts["preference"], 1 - parts["preference"]) for parts in told]),
        people=people,
        alike=source.alike,
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


# --- the file -----------------------------------------------------------------------------------------------------


def _record(out: Path) -> Path:
    return out.with_name(out.name + ".json")


@contextmanager
def _claimed(out: Path, facts: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts no other process writes these labels. Raises UserError where other labels are there."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; labels need a file. Give another --out.")
    said = f"another process is writing {out}. Wait until it has ended, or give another --out."
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(out.with_name(f".{out.name}.lock"), said)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}. Give another --out.") from error
    with lock:
        if out.exists():
            _refuse_others(out, facts)
        yield


def _refuse_others(out: Path, facts: Mapping[str, Any]) -> None:
    if not _record(out).exists():
        raise UserError(f"{out} is there already, and `pe-rlhf label` did not write it. Give another --out.")
    there = read_json(_record(out))
    for name, ours in facts.items():
        if there.get(name) != ours:
            raise UserError(
                f"{out} holds other labels: their {name} is {there.get(name)!r}, and that of these is {ours!r}. Give "
                "another --out."
            )


def _write(out: Path, labels: Sequence[Preference], facts: Mapping[str, Any], report: LabelReport) -> None:
    """Raises UserError where the file has more labels: what is paid for is not lost by a mistake, or a dead server."""
    there = read_json(_record(out))["report"]["labelled"] if out.exists() else 0
    if there > len(labels):
        why = "".join(f" ({n} unlabelled because {why:.{SHOWN}})" for why, n in list(report.whys.items())[:1])
        raise UserError(
            f"{out} has {there} labels, and now there are {len(labels)}{why}: it stays as it is. Ask for as many as "
            "before, or give another --out."
        )
    if labels:  # the record first: labels without one would be a stranger's
        write_json(_record(out), {**facts, "report": report})
        write_labels(out, labels)
