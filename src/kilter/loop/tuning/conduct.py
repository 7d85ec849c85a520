"""Conducting a study: trials are taken, handed to whoever works on them, and their ends are written down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.loop.tuning.records import TrialRecord
from kilter.loop.tuning.study import KILLED, PATIENCE, STOPPED, Claim, Study
from kilter.loop.tuning.trial import Ended

_FAILURES: Final = 3
_LOOK: Final = 1.0
_WAIT: Final = 0.5


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """When a study has had enough: after it, no trial begins, and those that run are finished.

    Args:
        trials: Trials of the study in all, those of earlier calls included.
        seconds: Of this call.
        cpu: CPU seconds of all trials of the study. A trial of another process never uses more than what is left.
    """

    trials: int = 50
    seconds: float | None = None
    cpu: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InvalidInput(f"{self.trials}", where="trials", allowed="1 or more")
        for name, given in (("seconds", self.seconds), ("cpu", self.cpu)):
            if given is not None and not given > 0:
                raise InvalidInput(f"{given}", where=name, allowed="more than 0 seconds")


class Work(Protocol):
    """Who runs trials."""

    @property
    def slots(self) -> int:
        """How many run at once."""
        ...

    def submit(self, claim: Claim, cpu_limit: float | None) -> None:
        """Begin a trial."""
        ...

    def wait(self, seconds: float) -> list[tuple[Claim, Ended | None]]:
        """Return the trials that have ended, waiting for one a little; None for how, when its process was killed."""
        ...

    def close(self) -> None:
        """End everything that runs."""
        ...


class _Pulse:
    """Says that the study and its trials are alive, in a thread, while trials take their time."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="kilter-tune-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(PATIENCE / 4):
            try:
                self._study.heartbeat()
            except KilterError:  # a store that is away for a moment; what is written next says so, too
                continue


def conduct(
    study: Study, work: Work, budget: Budget, told: Callable[[TrialRecord], None] = lambda _trial: None
) -> bool:
    """Run a study until its budget is spent, alone or beside other processes that do the same.

    Args:
        study: The study.
        work: Who runs its trials.
        budget: When it has had enough.
        told: Called with each trial that this process has ended.

    Returns:
        Whether it was stopped from outside (Ctrl-C); what ran then is marked, and will be begun again by whoever goes on.

    Raises:
        InvalidInput: When the first trials all fail: then the objective is wrong, not the parameters.
    """
    conductor = _Conductor(study, work, budget, told)
    stopped, failed = False, ""
    try:
        study.refresh()
        study.bury()
        with _Pulse(study):
            while conductor.turn():
                pass
    except KeyboardInterrupt:
        stopped = True
    except KilterError as error:
        failed = str(error)
        raise
    finally:
        work.close()
        for claim in conductor.under_way.values():
            study.end(claim, "interrupted", reason=STOPPED)
        study.close(stopped=stopped, failed=failed)
    return stopped


class _Conductor:
    """One process's part in a study."""

    def __init__(self, study: Study, work: Work, budget: Budget, told: Callable[[TrialRecord], None]) -> None:
        self._study, self._work, self._budget, self._told = study, work, budget, told
        self._began = self._looked = time.monotonic()
        self.under_way: dict[str, Claim] = {}

    def turn(self) -> bool:
        """Begin what can be begun, and write down what has ended; return whether there is more to do."""
        study = self._study
        if time.monotonic() - self._looked >= _LOOK:
            study.refresh()
            if study.unfinished():
                study.bury()
            self._looked = time.monotonic()
        self._begin()
        for claim, ended in self._work.wait(_WAIT):
            del self.under_way[claim.run]
            self._told(_end(study, claim, ended))
            _refuse_failures(study)
        return bool(self.under_way) or not self._over()

    def _begin(self) -> None:
        while len(self.under_way) < self._work.slots and not self._enough():
            claim = self._study.claim(self._budget.trials)
            if claim is None:
                return
            self.under_way[claim.run] = claim
            cpu = self._budget.cpu
            self._work.submit(claim, None if cpu is None else max(cpu - self._study.cpu_seconds(), 0.01))

    def _over(self) -> bool:
        """Return whether nothing is left to do here; waits a moment where others still run theirs, and may be killed meanwhile."""
        if self._enough():
            return True
        if self._study.open_numbers(self._budget.trials):
            return False
        self._study.refresh()
        if self._study.unfinished() or self._study.open_numbers(self._budget.trials):
            time.sleep(_WAIT)
            return False
        return True

    def _enough(self) -> bool:
        return _enough(self._study, self._budget, self._began)


def _end(study: Study, claim: Claim, ended: Ended | None) -> TrialRecord:
    if ended is None:
        return study.end(claim, "interrupted", reason=KILLED)
    return study.end(
        claim,
        ended.state,
        ended.values,
        reason=ended.reason,
        cpu_seconds=ended.cpu_seconds,
        reports=ended.reports,
        logged=ended.logged,
    )


def _enough(study: Study, budget: Budget, began: float) -> bool:
    if budget.seconds is not None and time.monotonic() - began >= budget.seconds:
        return True
    if budget.cpu is not None and study.cpu_seconds() >= budget.cpu:
        return True
    goal = study.spec.goals[0]
    return goal.target is not None and any(
        one.values is not None and goal.sign * float(one.values[0]) <= goal.sign * goal.target
        for one in study.trials.values()
    )


def _refuse_failures(study: Study) -> None:
    """Refuse to go on when nothing has worked yet.

    Raises:
        InvalidInput: With the reason of the last failure.
    """
    states = [one.state for one in study.trials.values()]
    if states.count("failed") >= _FAILURES and not {"complete", "pruned"} & set(states):
        last = max((one for one in study.trials.values() if one.state == "failed"), key=lambda one: one.number)
        raise InvalidInput(
            f"the first {states.count('failed')} trials failed: {last.reason}",
            where=f"study {study.spec.name}",
            fix="correct the objective; it is not a matter of the parameters",
        )
