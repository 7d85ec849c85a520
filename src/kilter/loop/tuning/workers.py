"""What runs in a worker process: one trial of a Python objective or of a command."""

from __future__ import annotations

import importlib
import os
import runpy
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from kilter.loop.tuning.command import run_command
from kilter.loop.tuning.opening import opened_runs
from kilter.loop.tuning.output import KEPT, captured, tail
from kilter.loop.tuning.rivals import Rivals
from kilter.loop.tuning.trial import Trial
from kilter.loop.tuning.work import TrialJob, attempt
from kilter.tracking.service import RunService

_RIVALS: dict[str, Rivals] = {}
_OPEN = ExitStack()


def objective(payload: bytes) -> bytes:
    """Run one trial of a Python function that the detail names."""
    job = msgspec.json.decode(payload, type=TrialJob)
    function = _function(str(job.detail["module"]), str(job.detail["file"]), str(job.detail["name"]))
    return attempted(job, _runs(job.store, job.home), function)


def command(payload: bytes) -> bytes:
    """Run one trial of a command."""
    job = msgspec.json.decode(payload, type=TrialJob)
    runs = _runs(job.store, job.home)
    store = job.store if "://" in job.store else str(Path(job.store).absolute())
    return msgspec.json.encode(run_command(trial_in(job, runs), job.spec, job.detail, runs, store))


def attempted(job: TrialJob, runs: RunService, function: Callable[[Trial], object]) -> bytes:
    """Run a trial's function, keep what it prints with its run, and return how it ended."""
    with captured() as output:
        ended = attempt(trial_in(job, runs), function)
        said = tail(output)
    if said:
        runs.log_artifact(job.claim.run, KEPT, said)
    return msgspec.json.encode(ended)


def trial_in(job: TrialJob, runs: RunService) -> Trial:
    """Return a job's trial, as its function sees it."""
    if job.parent.id not in _RIVALS and job.spec.pruner.kind != "none":
        _RIVALS[job.parent.id] = Rivals(runs, job.spec, job.parent)

    def prune(trial: Trial) -> bool:
        return _RIVALS[job.parent.id].prune(trial)

    return Trial(job.claim, job.spec, lambda points: runs.log_metrics(job.claim.run, points), prune)


@lru_cache(maxsize=1)
def _runs(store: str, home: str | None) -> RunService:
    """Return the runs of the store, opened once per worker process."""
    return _OPEN.enter_context(opened_runs(store, home))


@lru_cache(maxsize=8)
def _function(module: str, file: str, name: str) -> Callable[[Trial], object]:
    """Return an objective by its name; a script is run without its ``if __name__ == "__main__":`` part."""
    if module != "__main__":
        found: Any = importlib.import_module(module)
        return getattr(found, name)  # type: ignore[no-any-return]
    os.environ["KILTER_TUNE_WORKER"] = "1"  # a script without that part would begin its search again
    namespace = runpy.run_path(file, run_name="__kilter_tune__")
    return namespace[name]  # type: ignore[no-any-return]
