"""What the other trials of a study have reached, for a worker process that asks whether its own is worth going on."""

from __future__ import annotations

import time
from typing import Final

from kilter.loop.tuning.records import StudySpec
from kilter.loop.tuning.search import Search
from kilter.loop.tuning.study import below, trial_of
from kilter.loop.tuning.trial import Trial
from kilter.tracking.records import Run
from kilter.tracking.service import RunService

_EVERY: Final = 0.3
_PAGE: Final = 200


class Rivals:
    """The trials of a study as their runs say, read a little at a time.

    Args:
        runs: Where they are.
        spec: The study.
        parent: Its run.
    """

    def __init__(self, runs: RunService, spec: StudySpec, parent: Run) -> None:
        self._runs, self._spec, self._parent = runs, spec, parent
        self._search = Search(spec, sampling=False)
        self._steps: dict[str, int] = {}
        self._over: set[str] = set()
        self._running: set[str] = set()
        self._read = 0.0

    def prune(self, trial: Trial) -> bool:
        """Return whether a trial of this process is worth stopping."""
        trial.flush()
        self._refresh(trial.run)
        for step, value in trial.reports.items():
            self._search.report(trial.number, step, value)
        return self._search.should_prune(trial.number)

    def _refresh(self, own: str) -> None:
        if time.monotonic() - self._read < _EVERY:
            return
        first = not self._read
        cursor = None
        met: set[str] = set()
        while True:
            page = self._runs.list(
                self._parent.experiment, below(self._parent.id), "-started", _PAGE if first else 20, cursor
            )
            old = False
            for run in page.runs:
                old = old or run.id in self._over
                met.add(run.id)
                self._note(run, own)
            cursor = page.cursor
            if cursor is None or (old and not first):
                break
        for identity in self._running - met:
            self._note(self._runs.get(identity), own)
        self._read = time.monotonic()

    def _note(self, run: Run, own: str) -> None:
        one = trial_of(run, self._spec.goals)
        if one is None or run.id in self._over or run.id == own:
            return
        name = self._spec.goals[0].metric
        for point in self._runs.metrics(run.id, name, after=self._steps.get(run.id)):
            self._steps[run.id] = max(point.step, self._steps.get(run.id, point.step))
            self._search.report(one.number, point.step, point.number)
            self._search.should_prune(one.number)  # a rung keeps the value with which a trial came to it
        if one.state == "running":
            self._running.add(run.id)
            return
        self._running.discard(run.id)
        self._over.add(run.id)
        if one.state != "interrupted":
            values = None if one.values is None else [float(value) for value in one.values]
            self._search.tell(one.number, one.state, values)
