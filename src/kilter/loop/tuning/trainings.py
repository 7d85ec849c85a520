"""What runs in a worker process that tunes a loop: one training, judged on rows before the gates' holdout."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from kilter.loop.tuning.rehearsal import Rehearsal
from kilter.loop.tuning.trial import Trial
from kilter.loop.tuning.work import TrialJob
from kilter.loop.tuning.workers import attempted
from kilter.loop.workspace import Workspace

_REHEARSALS: dict[str, Rehearsal] = {}


def training(payload: bytes) -> bytes:
    """Run one trial of a loop's training."""
    job = msgspec.json.decode(payload, type=TrialJob)
    workspace = _opened(job.store, job.home)

    def rehearse(trial: Trial) -> object:
        if job.parent.id not in _REHEARSALS:  # the rows are made ready once per worker process
            _REHEARSALS.clear()
            _REHEARSALS[job.parent.id] = Rehearsal.prepare(workspace, job.spec, str(job.detail["text"]))
        return _REHEARSALS[job.parent.id].score(trial, workspace.runs)

    return attempted(job, workspace.runs, rehearse)


@lru_cache(maxsize=1)
def _opened(store: str, home: str | None) -> Workspace:
    """Return the store, opened once per worker process."""
    return Workspace.open(store, home=home)
