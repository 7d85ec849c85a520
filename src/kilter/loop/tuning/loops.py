"""The search for a loop's parameters: what its file declares, on the rows that its store has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kilter.core.errors import DeclarationError, InvalidInput, NotFound
from kilter.evaluation.declare import BeatsChampion, Metric, log_loss
from kilter.loop.declaration.checks import require
from kilter.loop.declaration.spec import BUILD_FIELDS, Declared, spec_of
from kilter.loop.declare import AnyLoop
from kilter.loop.tuning.conduct import Budget, Work
from kilter.loop.tuning.declare import Tune
from kilter.loop.tuning.defaults import with_values
from kilter.loop.tuning.records import Goal, StudyReport, StudySpec, TrialRecord
from kilter.loop.tuning.rehearsal import Rehearsal, metric_named, newest_truth
from kilter.loop.tuning.searching import pruner_spec, search, study_name
from kilter.loop.tuning.space import space_of_params
from kilter.loop.tuning.study import Study, find, spec_in
from kilter.loop.tuning.work import Pool
from kilter.loop.workspace import Workspace


@dataclass(frozen=True)
class Wishes:
    """What the command line says over the declaration; None where it says nothing."""

    metrics: tuple[str, ...] = ()
    sampler: str | None = None
    pruner: str | None = None
    folds: int | None = None
    seed: int | None = None
    study: str = ""
    at: datetime | None = None


def study_of(declared: Declared, workspace: Workspace, wishes: Wishes = Wishes()) -> StudySpec:
    """Return the search that a file declares, as a study; the one that was begun before, if it is the same.

    Raises:
        DeclarationError: When the loop or its space can't be used.
        InsufficientData: When no label is known.
    """
    require(declared)
    loop = declared.loop
    said = loop.tune or Tune()
    try:
        space = space_of_params(loop.params, said.space)
    except InvalidInput as error:
        where = f"{declared.filename}: {error.where}"
        raise DeclarationError(error.message, where=where, allowed=error.allowed, fix=error.fix) from error
    metrics = tuple(metric_named(name) for name in wishes.metrics) or _metrics(loop, said)
    pruner = pruner_spec(said.pruner if wishes.pruner is None else wishes.pruner)  # type: ignore[arg-type]
    goals = tuple(
        Goal(metric=one.name, direction="maximize" if one.greater_is_better else "minimize") for one in metrics
    )
    sampler: Any = wishes.sampler or said.sampler
    if sampler not in {"tpe", "cma-es", "random", "grid"}:
        raise InvalidInput(f"{sampler!r} was given", where="sampler", allowed="tpe, cma-es, random, grid")
    seed = said.seed if wishes.seed is None else wishes.seed
    folds = said.folds if wishes.folds is None else wishes.folds
    built = spec_of(declared)
    base = {field: getattr(built, field) for field in BUILD_FIELDS}
    stem = [base, space, goals, pruner, sampler, folds, seed, wishes.at]
    name = wishes.study or study_name(loop.name, stem)
    known = _known(workspace, name)
    at = wishes.at or (None if known is None else known[0]) or newest_truth(loop, workspace)
    known_by = workspace.clock.now() if known is None else known[1]
    values = {} if built.params is None else built.params.values
    return StudySpec(
        name=name,
        kind="loop",
        space=space,
        goals=goals,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        first=({one.name: values[one.name] for one in space},),
        detail={
            "loop": loop.name,
            "filename": declared.filename,
            "params": "" if built.params is None else built.params.kind,
            "built": built.data_digest,
            "at": at.isoformat(),
            "known_by": known_by.isoformat(),
            "folds": folds,
        },
    )


def tune_loop(
    declared: Declared,
    workspace: Workspace,
    spec: StudySpec,
    budget: Budget,
    *,
    workers: int = 1,
    told: Callable[[TrialRecord], None] = lambda _trial: None,
    opened: Callable[[Study], None] = lambda _study: None,
) -> StudyReport:
    """Search for a loop's parameters until the budget is spent.

    Args:
        declared: The loop.
        workspace: Where its rows and runs are.
        spec: From :func:`study_of`.
        budget: When it has had enough.
        workers: How many trainings run at once, each in a process of its own.
        told: Called with each trial that ended.
        opened: Called when the study was opened.

    Raises:
        InsufficientData: When there are too few rows.
        KeyboardInterrupt: After Ctrl-C, when everything is written down.
    """
    if _known(workspace, spec.name) is None:  # what is wrong with the rows is said before anything begins
        Rehearsal.prepare(workspace, spec, declared.text)

    def works(study: Study) -> Work:
        target = "kilter.loop.tuning.trainings:training"
        store = workspace.store
        return Pool(study, target, {"text": declared.text}, store=store.name, home=str(store.folder), workers=workers)

    return search(workspace.runs, spec, f"{declared.name}-tuning", budget, works, told, opened)


def tuned_text(text: str, found: StudyReport, *, where: str) -> str:
    """Return a declaration's text with the best values that a study found.

    Raises:
        NotFound: When the study has no best trial.
        InvalidInput: When the values can't be written.
    """
    if found.spec.kind != "loop":
        raise InvalidInput(f"{found.name!r} searched no loop's parameters", where="study")
    if not found.best_values:
        raise NotFound(f"{found.name!r} has no best trial yet", where="study", fix="run more trials")
    detail = found.spec.detail
    return with_values(text, str(detail["params"]), str(detail["loop"]), found.best_values, where=where)


def _metrics(loop: AnyLoop, said: Tune) -> tuple[Metric, ...]:
    """Return what is improved: what is declared, else what a challenger has to be better in than the champion."""
    if isinstance(said.metric, Metric):
        return (said.metric,)
    if said.metric:
        return tuple(said.metric)
    gate = next((gate for gate in loop.gates if isinstance(gate, BeatsChampion)), None)
    return (log_loss if gate is None else gate.metric,)


def _known(workspace: Workspace, name: str) -> tuple[datetime, datetime] | None:
    """Return the moments of a study that was begun before."""
    try:
        detail: Mapping[str, Any] = spec_in(workspace.runs, find(workspace.runs, name)).detail
    except NotFound:
        return None
    if "at" not in detail:
        return None
    return datetime.fromisoformat(detail["at"]), datetime.fromisoformat(detail["known_by"])
