"""The long jobs of the loop, run in a worker process: training a challenger, judging its gates.

A job is told where the store is and what to do, and answers with bytes. It can be killed at any moment and run again: what
it registers carries the action's id as idempotency key.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from time import process_time

import msgspec
import numpy as np
import polars as pl

from kilter.core.digests import canonical_json, digest_json
from kilter.core.errors import KilterError
from kilter.core.evidence import Finding, Verdict
from kilter.data.dataset import Dataset
from kilter.data.declare import Columns
from kilter.data.leakage import refuse_leaks
from kilter.data.windows import cut
from kilter.evaluation.declare import auc, brier, log_loss
from kilter.evaluation.metrics import row_losses
from kilter.evaluation.metrics import value as metric_value
from kilter.features.leakage import refuse_leaky_views
from kilter.features.spec import view_digest
from kilter.loop.building import (
    Fitted,
    Predicts,
    encode,
    fit,
    judge_gates,
    prepare,
    profile,
    reach,
    require_rows,
    table_of,
    views_of,
)
from kilter.loop.declaration.sources import declaration
from kilter.loop.declare import AnyLoop
from kilter.loop.store import Store
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import load, package
from kilter.registry.records import Lineage
from kilter.tracking.environment import environment_lock
from kilter.tracking.records import MetricPoint


class TrainJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to train.

    Args:
        store: Where everything is.
        loop: The loop's name.
        spec: Digest of the declaration.
        at: Only rows and labels that were known by then are seen.
        trigger: Why.
        action: The action's id.
    """

    store: Store
    loop: str
    spec: str
    at: datetime
    trigger: str
    action: str


class Trained(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What came of it."""

    version: int
    run: str


class JudgeJob(msgspec.Struct, frozen=True, kw_only=True):
    """Which candidate to judge, against which champion."""

    store: Store
    loop: str
    spec: str
    version: int
    champion: int | None


class Judgement(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The verdict over all gates, and each finding."""

    verdict: Verdict
    findings: tuple[Finding, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Why a job could not do what it was asked; an expected refusal, not a crash."""

    reason: str
    retryable: bool


def train(payload: bytes) -> bytes:
    """Train one challenger and register it; see `TrainJob`."""
    job = msgspec.json.decode(payload, type=TrainJob)
    try:
        return msgspec.json.encode(_train(_opened(job.store), job))
    except KilterError as error:
        return msgspec.json.encode(Failure(reason=str(error), retryable=error.retryable))


def judge(payload: bytes) -> bytes:
    """Judge one candidate's gates; see `JudgeJob`."""
    job = msgspec.json.decode(payload, type=JudgeJob)
    try:
        return msgspec.json.encode(_judge(_opened(job.store), job))
    except KilterError as error:
        return msgspec.json.encode(Failure(reason=str(error), retryable=error.retryable))


_KEPT: dict[tuple[str, datetime], pl.DataFrame] = {}
_MOST_KEPT = 2


@lru_cache(maxsize=1)
def _opened(store: Store) -> Workspace:
    """Return the store, opened once per worker process: the merged rows of its tables stay warm between jobs."""
    return Workspace(store)


def _train(workspace: Workspace, job: TrainJob) -> Trained:
    done = workspace.models.by_key(job.loop, job.action)
    if done is not None:  # an attempt before this one was killed when it had all but answered
        workspace.runs.finish(done.lineage.run)
        return Trained(version=done.version, run=done.lineage.run)
    loop, spec = declaration(workspace.database, workspace.objects, job.spec, running=True)
    began = process_time()
    prepared = _prepared(workspace, loop, job.spec, job.at)
    fitted = fit(loop, prepared, job.at)
    lock = workspace.objects.put(environment_lock())
    lineage = Lineage(
        run="",
        spec=job.spec,
        data_digest=fitted.training.digest,
        feature_digest=digest_json([view_digest(view) for view in views_of(loop)]),
        code_digest=digest_json([spec.train.source, spec.label.expression.source]),
        environment=lock,
        params={} if spec.params is None else spec.params.values,
        seed=loop.seed,
    )
    run = workspace.runs.start(
        job.loop,
        name=f"{job.trigger} {job.at:%Y-%m-%d}",
        params={
            **lineage.params,
            "window": f"{fitted.window.mode} {fitted.window.train}",
            "holdout": fitted.window.holdout,
        },
        tags={"trigger": job.trigger, "action": job.action},
        data_digest=lineage.data_digest,
        feature_digest=lineage.feature_digest,
        code_digest=lineage.code_digest,
        environment=lock,
        seed=loop.seed,
        spec=job.spec,
        key=job.action,
    )
    table = table_of(loop)
    bundle = package(
        fitted.model,
        fitted.training.encoding,
        fitted.training.X,
        views_of(loop),
        workspace.objects,
        table=table,
        reference={"base_rate": fitted.base_rate},
    )
    runtime = load(bundle.digest, workspace.objects)
    watched = profile(fitted, runtime)
    profile_digest = workspace.objects.put(canonical_json(watched))
    workspace.runs.log_metrics(run.id, _metrics(fitted, runtime, job.at, process_time() - began), key="training")
    workspace.runs.log_artifact(run.id, "profile.json", canonical_json(watched))
    with workspace.database.transaction() as connection:
        version = workspace.models.register_in(
            connection,
            job.loop,
            bundle.digest,
            msgspec.structs.replace(lineage, run=run.id, profile=profile_digest),
            job.trigger,
            at=job.at,
            key=job.action,
        )
    workspace.runs.finish(run.id)
    return Trained(version=version.version, run=run.id)


def _prepared(workspace: Workspace, loop: AnyLoop, spec: str, at: datetime) -> pl.DataFrame:
    """Return the rows of a declaration as known at a moment; what was known then does not change, so the last ones are kept."""
    if (spec, at) in _KEPT:
        return _KEPT[spec, at]
    table = table_of(loop)
    workspace.data.flush(table.name)
    rows = workspace.data.frame(table.name, known_by=at)
    require_rows(rows, loop)
    refuse_leaks([item for item in loop.inputs if isinstance(item, Columns)], loop.label, rows, at)
    refuse_leaky_views(views_of(loop), loop.label, rows)
    while len(_KEPT) >= _MOST_KEPT:
        del _KEPT[next(iter(_KEPT))]
    _KEPT[spec, at] = prepare(loop, rows, reach(loop, at))
    return _KEPT[spec, at]


def _metrics(fitted: Fitted, runtime: Predicts, at: datetime, cpu_seconds: float) -> list[MetricPoint]:
    points = [
        MetricPoint(name="training_rows", step=0, value=float(len(fitted.training)), at=at),
        MetricPoint(name="training_rate", step=0, value=fitted.base_rate, at=at),
        MetricPoint(name="censored_rows", step=0, value=float(fitted.censored), at=at),
        MetricPoint(name="cpu_seconds", step=0, value=cpu_seconds, at=at),
    ]
    points += [
        MetricPoint(name=f"nested_log_loss/{window}", step=0, value=loss, at=at)
        for window, loss in fitted.choice.items()
    ]
    kept = fitted.holdout
    if kept is None or not len(kept):
        return points
    values = runtime.predict(kept.X)
    points += [
        MetricPoint(name=f"holdout_{metric.name}", step=0, value=float(metric_value(metric, kept.y, values)), at=at)
        for metric in (log_loss, brier, auc)
    ]
    losses = row_losses(log_loss, kept.y, values)
    if losses is not None:
        days = kept.times.astype("datetime64[D]")
        points += [
            MetricPoint(name="holdout_log_loss_by_day", step=step, value=float(losses[days == day].mean()), at=at)
            for step, day in enumerate(np.unique(days))
        ]
    return points


def _judge(workspace: Workspace, job: JudgeJob) -> Judgement:
    loop, _ = declaration(workspace.database, workspace.objects, job.spec, running=True)
    version = workspace.models.get(job.loop, job.version)
    challenger = load(version.bundle, workspace.objects)
    # The holdout that the training kept, as it was known then, however much later the gates are judged.
    prepared = _prepared(workspace, loop, job.spec, version.at)
    held = cut(prepared, table_of(loop), loop.label, loop.windows[0], version.at).holdout
    kept = encode(loop, held, challenger.encoding)
    champion = None if job.champion is None else _champion(workspace, job, version.at, kept)
    verdict, findings = judge_gates(
        loop, kept, challenger, champion, base_rate=challenger.manifest.reference.get("base_rate", float("nan"))
    )
    return Judgement(verdict=verdict, findings=findings)


def _champion(workspace: Workspace, job: JudgeJob, at: datetime, kept: Dataset) -> np.ndarray:
    """Return the champion's predictions on the challenger's holdout, through the champion's own inputs."""
    version = workspace.models.get(job.loop, job.champion or 0)
    runtime = load(version.bundle, workspace.objects)
    loop, _ = declaration(workspace.database, workspace.objects, version.lineage.spec, running=True)
    table = table_of(loop)
    rows = _prepared(workspace, loop, version.lineage.spec, at)
    order = pl.DataFrame({table.key: kept.keys})
    same = order.join(rows, on=table.key, how="left", maintain_order="left")
    return runtime.predict(runtime.encoding.matrix(same))


TrainAnswer = Trained | Failure
JudgeAnswer = Judgement | Failure
