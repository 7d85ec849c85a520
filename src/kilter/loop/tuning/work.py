"""Who runs trials: this very process, one after the other, or worker processes beside it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import msgspec

from kilter.core.errors import KilterError
from kilter.engines.compute.processes import Compute, Job
from kilter.loop.tuning.records import StudySpec
from kilter.loop.tuning.study import Claim, Study
from kilter.loop.tuning.trial import Ended, Trial
from kilter.tracking.records import Run

_GLANCE = 0.005


class TrialJob(msgspec.Struct, frozen=True, kw_only=True):
    """A trial for a worker process.

    Args:
        store: Where the runs are.
        home: The local folder of a store that is a database.
        spec: The study.
        parent: Its run.
        claim: The trial.
        detail: What the worker needs to know beside it.
    """

    store: str
    home: str | None
    spec: StudySpec
    parent: Run
    claim: Claim
    detail: dict[str, object]


class Inline:
    """Runs trials here, one after the other.

    Args:
        study: The study.
        objective: What is called with each trial.
    """

    slots = 1

    def __init__(self, study: Study, objective: Callable[[Trial], object]) -> None:
        self._study, self._objective = study, objective
        self._ended: list[tuple[Claim, Ended | None]] = []

    def submit(self, claim: Claim, cpu_limit: float | None) -> None:  # noqa: ARG002 - nobody stops a trial of this very process
        """Run a trial to its end."""
        study = self._study

        def prune(trial: Trial) -> bool:
            for step, value in trial.reports.items():
                study.search.report(trial.number, step, value)
            return study.search.should_prune(trial.number)

        trial = Trial(claim, study.spec, lambda points: study.report(claim, points), prune)
        self._ended.append((claim, attempt(trial, self._objective)))

    def wait(self, seconds: float) -> list[tuple[Claim, Ended | None]]:  # noqa: ARG002 - it has ended already
        """Return the trial that has ended."""
        found, self._ended = self._ended, []
        return found

    def close(self) -> None:
        """Nothing runs beside this process."""


class Pool:
    """Runs trials in worker processes that never outlive this one.

    Args:
        study: The study.
        target: ``"module:function"`` that is given a ``TrialJob`` as JSON and answers with an ``Ended``.
        detail: What it needs to know beside the trial.
        store: Where the runs are.
        home: The local folder of a store that is a database.
        workers: How many trials run at once.
    """

    def __init__(
        self, study: Study, target: str, detail: dict[str, object], *, store: str, home: str | None, workers: int
    ) -> None:
        self._study, self._target, self._detail = study, target, detail
        self._store, self._home = store, home
        self._compute = Compute(workers)
        self._jobs: dict[str, tuple[Claim, Job]] = {}
        self.slots = workers

    def submit(self, claim: Claim, cpu_limit: float | None) -> None:
        """Hand a trial to a worker."""
        job = TrialJob(
            store=self._store,
            home=self._home,
            spec=self._study.spec,
            parent=self._study.parent,
            claim=claim,
            detail=self._detail,
        )
        self._jobs[claim.run] = (claim, self._compute.submit(self._target, msgspec.json.encode(job), cpu_limit))

    def wait(self, seconds: float) -> list[tuple[Claim, Ended | None]]:
        """Return the trials that have ended."""
        until = time.monotonic() + seconds
        while self._jobs:
            over = [(claim, job) for claim, job in self._jobs.values() if job.done()]
            for claim, _ in over:
                del self._jobs[claim.run]
            if over or time.monotonic() >= until:
                return [(claim, _ended(job)) for claim, job in over]
            time.sleep(_GLANCE)
        return []

    def close(self) -> None:
        """End the workers."""
        self._compute.close()


def attempt(trial: Trial, objective: Callable[[Trial], object]) -> Ended:
    """Run an objective; whatever it raises is how the trial ended, but for Ctrl-C."""
    began = time.process_time()
    try:
        ended = trial.ended(objective(trial))
    except KilterError as error:
        trial.flush()
        ended = Ended(state="failed", reason=str(error), reports=trial.reports)
    except Exception as error:  # noqa: BLE001 - the user's own function: the study goes on without this trial
        trial.flush()
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        ended = Ended(state="failed", reason=reason, reports=trial.reports)
    return msgspec.structs.replace(ended, cpu_seconds=time.process_time() - began)


def _ended(job: Job) -> Ended | None:
    """Return how a trial ended, or None when its process went away for no reason of its own."""
    outcome = job.result()
    if outcome.lost:
        return None
    if outcome.payload is None:
        reason = (outcome.error or "the worker failed").strip().splitlines()[-1]
        return Ended(state="failed", reason=reason, cpu_seconds=outcome.cpu_seconds)
    found = msgspec.json.decode(outcome.payload, type=Ended)
    return msgspec.structs.replace(found, cpu_seconds=outcome.cpu_seconds)
