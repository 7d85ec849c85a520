"""``kilter.tune``: a search over any Python function."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kilter.core.clock import SystemClock
from kilter.core.digests import digest_json, short
from kilter.core.errors import Conflict, InvalidInput
from kilter.core.ids import new_id
from kilter.loop.tuning.conduct import Budget, Work, conduct
from kilter.loop.tuning.declare import Direction, Pruner, PrunerName, Sampler, Values
from kilter.loop.tuning.opening import opened_runs
from kilter.loop.tuning.records import Goal, PrunerSpec, StudyReport, StudySpec, TrialRecord
from kilter.loop.tuning.report import report
from kilter.loop.tuning.space import point_of, space_of
from kilter.loop.tuning.study import Study
from kilter.loop.tuning.trial import Trial
from kilter.loop.tuning.work import Inline, Pool
from kilter.tracking.service import RunService


def tune(
    objective: Callable[[Trial], object],
    space: Mapping[str, Values],
    *,
    trials: int = 50,
    metric: str | Sequence[str] = "value",
    direction: Direction | Sequence[Direction] = "minimize",
    sampler: Sampler = "tpe",
    pruner: PrunerName | Pruner = "none",
    study: str = "",
    experiment: str = "",
    seed: int = 0,
    first: Sequence[Mapping[str, Any]] = (),
    seconds: float | None = None,
    cpu: float | None = None,
    workers: int = 1,
    store: str | Path | None = None,
    told: Callable[[TrialRecord], None] = lambda _trial: None,
) -> StudyReport:
    """Search for the parameters with which a function returns the least (or the greatest) number.

    Each trial is a run below the study's run. A study with a name goes on where it was left, however it ended, and several
    processes may work on it at once: each calls this with the same arguments.

    Args:
        objective: Is given a trial: ``trial.params`` to use, ``trial.report(step, value)`` and ``trial.should_prune()`` to be stopped
            early, and returns the metric; one number per metric if there are several.
        space: What each parameter may be: ``{"depth": Range(2, 9), "kind": Choice("a", "b")}``.
        trials: How many the study has in all.
        metric: The name of what is returned; several names for several goals.
        direction: Which way is better, for all metrics or for each.
        sampler: ``tpe``, ``cma-es``, ``random`` or ``grid``.
        pruner: ``none``, ``asha``, ``hyperband``, ``median``, or a ``Pruner``.
        study: The study's name; a new study, if not said.
        experiment: Where its runs are; the study's name, if not said.
        seed: Of the search: the same seed tries the same parameters, as long as one process works on it.
        first: Parameters to try first.
        seconds: Begin no trial after so many seconds of this call.
        cpu: Begin no trial after the study's trials have used so many CPU seconds.
        workers: With more than one, trials run in processes of their own; the objective must be a function of a module or a script.
        store: A folder, or the address of a server; ``KILTER_STORE`` or ``.kilter``, if not said.
        told: Called with each trial that ended.

    Returns:
        What the study found.

    Raises:
        InvalidInput: When the space or the objective can't be used, or the first trials all fail.
        Conflict: When the study of this name searches something else.
        KeyboardInterrupt: After Ctrl-C, when everything is written down.
    """
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    ways = (direction,) * len(metrics) if isinstance(direction, str) else tuple(direction)
    if len(ways) != len(metrics):
        raise InvalidInput(f"{len(ways)} directions for {len(metrics)} metrics", where="direction")
    dimensions = space_of(space)
    for values in first:
        point_of(dimensions, values)
    called = getattr(objective, "__qualname__", type(objective).__name__)
    spec = StudySpec(
        name=study or new_id("study", SystemClock().now()),
        kind="python",
        space=dimensions,
        goals=tuple(Goal(metric=name, direction=way) for name, way in zip(metrics, ways, strict=True)),
        sampler=sampler,
        pruner=pruner_spec(pruner),
        seed=seed,
        first=tuple(dict(values) for values in first),
        detail={"objective": called},
    )
    if workers > 1 and "KILTER_TUNE_WORKER" in os.environ:
        raise Conflict(
            "the search was begun by one of its own workers",
            where="tune",
            fix='put the call below `if __name__ == "__main__":`',
        )
    budget = Budget(trials=trials, seconds=seconds, cpu=cpu)
    place = str(store or os.environ.get("KILTER_STORE") or ".kilter")

    def works(opened: Study) -> Work:
        if workers <= 1:
            return Inline(opened, objective)
        return Pool(
            opened,
            "kilter.loop.tuning.workers:objective",
            _reference(objective),
            store=place,
            home=None,
            workers=workers,
        )

    with opened_runs(place) as runs:
        return search(runs, spec, experiment or spec.name, budget, works, told)


def search(
    runs: RunService,
    spec: StudySpec,
    experiment: str,
    budget: Budget,
    works: Callable[[Study], Work],
    told: Callable[[TrialRecord], None] = lambda _trial: None,
    opened: Callable[[Study], None] = lambda _study: None,
) -> StudyReport:
    """Work on a study until its budget is spent, and return what it found.

    Args:
        runs: Where its runs are.
        spec: The study.
        experiment: What they belong to.
        budget: When it has had enough.
        works: Makes who runs the trials.
        told: Called with each trial that ended.
        opened: Called when the study was opened.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when everything is written down.
    """
    study = Study.open(runs, spec, experiment)
    opened(study)
    if conduct(study, works(study), budget, told):
        raise KeyboardInterrupt
    return report(runs, runs.get(study.parent.id))


def pruner_spec(pruner: PrunerName | Pruner) -> PrunerSpec:
    """Return a pruner as data.

    Raises:
        InvalidInput: When there is no such pruner.
    """
    given = Pruner(pruner) if isinstance(pruner, str) else pruner
    try:
        return msgspec.convert(
            {"kind": given.kind, "first": given.first, "last": given.last, "factor": given.factor}, PrunerSpec
        )
    except (msgspec.ValidationError, AttributeError) as error:
        raise InvalidInput(
            f"{pruner!r} is no pruner", where="pruner", allowed="none, asha, hyperband, median, or Pruner(...)"
        ) from error


def study_name(stem: str, parts: object) -> str:
    """Return the name of a study that nobody has named: another search has another name."""
    return f"{stem}-{short(digest_json(parts))}"


def _reference(objective: Callable[[Trial], object]) -> dict[str, object]:
    """Return by what name a worker process finds an objective.

    Raises:
        InvalidInput: When it has none: a lambda, a closure, a notebook's cell.
    """
    name = getattr(objective, "__qualname__", "")
    module = getattr(objective, "__module__", "")
    file = getattr(sys.modules.get("__main__"), "__file__", None) if module == "__main__" else ""
    if not name or "<" in name or "." in name or inspect.ismethod(objective) or file is None:
        raise InvalidInput(
            f"{name or objective!r} can't be found by name in another process",
            where="objective",
            allowed="a function written with def at the top level of a module or a script",
            fix="leave workers out, or write such a function",
        )
    return {"module": module, "file": "" if not file else str(Path(file).absolute()), "name": name}
