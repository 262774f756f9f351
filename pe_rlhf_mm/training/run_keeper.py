"""What a run folder keeps of a training that is under way, so that the run goes on after a crash as if there was none.

A save (`checkpoints/training.py`) holds the state of the stage that is under way, if one is, and these facts:

finished    by stage, the SHA-256 of the files of the roles that it made: they lie in adapters/, and a later stage rests
            on them
stage, best_score, coefficient   of the state; null where the save was made as a stage was finished
metrics     bytes of metrics.jsonl;  seconds, stages  how long the run took so far, and each of its stages

What is not in it is made again, and comes out the same: encoded data, demonstrations, the batches of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.roles import Learned, Roles
from pe_rlhf_mm.checkpoints.sums import first_wrong, sums
from pe_rlhf_mm.checkpoints.training import Saves
from pe_rlhf_mm.errors import Terminated, UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.training.config import SAVE_EVERY
from pe_rlhf_mm.training.keeper import Reached
from pe_rlhf_mm.training.run import STATE, Run
from pe_rlhf_mm.training.stopwatch import Stopwatch
from pe_rlhf_mm.training.termination import held

NOTHING: dict[str, Any] = {
    "finished": {}, "stage": None, "step": 0, "best_score": None, "coefficient": None, "metrics": 0, "seconds": 0.0,
    "stages": {},
}  # fmt: skip


class RunKeeper:
    """A keeper that saves to the `state/` of a run every so many seconds, and as a stage is finished.

    A save that fails is warned of once, and training goes on: the saves that are whole stay.
    """

    def __init__(self, run: Run, watch: Stopwatch, *warn: Callable[[str], None], every: float = SAVE_EVERY):
        self._run, self._watch, self._every, self._tell = run, watch, every, warn
        self._saves = Saves(run.folder / STATE)
        self._found, damaged = self._saves.newest()
        self._facts = NOTHING if self._found is None else self._found.facts
        then = f"save {self._found.number}" if self._found is not None else "the beginning"
        for path in damaged:
            self._warn(f"{path} is damaged or gone, so the run goes on from {then}, which is older.")
        self.kept = run.rewind(self._facts["metrics"], self._facts["seconds"])
        self._written = run.written  # up to what has been reached: what is measured after that is measured again
        watch.seconds = dict(self._facts["stages"])
        self._finished: dict[str, dict[str, str]] = dict(self._facts["finished"])
        self._reached: tuple[str, Reached] | None = None
        self._saved, self._failed = time.monotonic(), False

    @property
    def place(self) -> str | None:
        """Where the run goes on, in words; None if it begins."""
        stage, step = self._facts["stage"], self._facts["step"]
        if stage is not None:
            return f"{stage}, after step {step}"
        return f"after {', '.join(self._finished)}" if self._finished else None

    def begin(self, stage: str, fresh: Reached[Learned]) -> Reached[Learned]:
        """Where a stage goes on. Raises UserError if what was saved is not of such a stage."""
        self._reached = None
        if self._found is None or self._facts["stage"] != stage:
            return fresh
        score = self._facts["best_score"]
        like = (fresh.state, None if score is None else fresh.state.trainable)
        state, best = self._saves.restore(self._found, like)
        reached = fresh._replace(state=state, coefficient=self._facts["coefficient"])
        reached = reached if score is None else reached._replace(best=best, best_score=score)
        self._reached = (stage, reached)
        return reached

    def step(self, stage: str, reached: Reached[Learned]) -> None:
        """Saves, if the last save is long enough ago and is written."""
        self._reached, self._written = (stage, reached), self._run.written
        due = time.monotonic() - self._saved >= self._every and not self._saves.busy
        if hosts.anyone(due and hosts.first()):
            self.save()

    def finish(self, stage: str, roles: Sequence[str]) -> None:
        """Says that a stage is finished, and that the roles it made lie in the run folder."""
        made = hosts.led(lambda: {f"{r}/{name}": s for r in roles for name, s in sums(self._adapters / r).items()})
        with held():
            self._finished[stage], self._reached, self._written = made, None, self._run.written
            self.save()

    def finished(self, stage: str) -> bool:
        return stage in self._finished

    def read(self, stage: str, names: Sequence[str], roles: Roles, config: VLMConfig) -> Roles:
        """The roles with those that a finished stage made. Raises UserError if they are others now."""
        wrong = hosts.led(lambda: first_wrong(self._adapters, self._finished[stage]))
        if wrong is not None:
            raise UserError(
                f"{wrong} is not what the stage {stage} of this run made, and what follows rests on it. Bring it back, "
                "or give --overwrite to start the run anew."
            )
        for name in names:
            roles = load_role(self._adapters / name, roles, name, config)
        return roles

    def save(self) -> None:
        """Begins to save what has been reached, when what is being saved is saved."""
        self.wait()
        self._saved = time.monotonic()
        facts = {
            **NOTHING,
            "finished": self._finished,
            "metrics": self._written,
            "seconds": round(self._run.seconds, 3),
            "stages": self._watch.so_far(),
        }
        arrays = None
        if self._reached is not None:
            stage, (state, best, score, coefficient) = self._reached
            facts |= {"stage": stage, "step": int(state.step), "best_score": None if best is None else score}
            facts["coefficient"] = coefficient
            arrays = (state, best)
        self._settled(lambda: self._saves.begin(facts, arrays))

    def wait(self) -> None:
        """Waits until what is being saved is saved."""
        self._settled(self._saves.wait)

    def close(self) -> None:
        """Ends the writing of saves, when they are written."""
        self.wait()
        self._saves.close()

    def __enter__(self) -> RunKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A run that is asked to end saves first: it may have seconds left. By Ctrl-C it ends at once."""
        if isinstance(error, Terminated):
            self.save()
        self.close()

    def _warn(self, text: str) -> None:
        for tell in self._tell:
            tell(text)

    def _settled(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # Orbax has many names for a full disk
            if not self._failed:
                said = str(error).strip().partition("\n")[0][:300]
                self._failed = True
                self._warn(f"{self._run.folder / STATE} cannot be written ({said}): a crash would cost more steps.")

    @property
    def _adapters(self) -> Path:
        return self._run.folder / "adapters"
