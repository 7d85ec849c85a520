"""What an experiment rests on: its rows in the prediction log, their outcomes, and what their keys did before.

Nothing of it is stored; it is read again whenever somebody looks, so that everybody at any time sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from kilter.core.durations import parse_duration
from kilter.core.errors import Expired, NotFound
from kilter.core.statistics import Floats
from kilter.data.service import DataService
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.building import table_of
from kilter.loop.declaration.sources import declaration
from kilter.loop.ledger import Ledger
from kilter.loop.rules.steps import primary_metric
from kilter.monitoring.labels import LabelJoin
from kilter.release.evidence import outcome
from kilter.release.experiment import Places, Units, goodness
from kilter.release.guards import valued
from kilter.release.records import ExperimentPlan
from kilter.release.service import ReleaseService
from kilter.serving.answering.router import Split
from kilter.serving.recording.predictions import PredictionLog, fronts, parse_id, prediction_id
from kilter.serving.records import PredictionBatch, Record

_TIME = pl.Datetime("us", "UTC")
_DEALT: dict[str, pl.DataType] = {
    "id": pl.String(),
    "key": pl.String(),
    "at": _TIME,
    "version": pl.Int64(),
    "value": pl.Float64(),
    "failed": pl.Boolean(),
    "drawn": pl.Int64(),
}


class Happened(NamedTuple):
    """What happened in an experiment.

    Args:
        arms: Per key that was dealt the place of its arm.
        shares: Per key that was dealt the shares of all arms then, shape (keys, arms).
        units: The keys whose outcomes count.
    """

    arms: Places
    shares: Floats
    units: Units


class ExperimentRows:
    """Reads what happened in experiments.

    Args:
        database: The store's metadata.
        objects: Where the text of declarations is.
        ledger: Loops.
        data: Rows with labels.
        releases: The values of business metrics.
        logs: The folder of the prediction logs.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        ledger: Ledger,
        data: DataService,
        releases: ReleaseService,
        logs: Path,
    ) -> None:
        self._database = database
        self._objects = objects
        self._ledger = ledger
        self._data = data
        self._releases = releases
        self._logs = logs

    def ends(self) -> dict[str, int]:
        """Return where the prediction log of each front stands now."""
        return {front: self._end(front) for front in fronts(self._logs)}

    def _end(self, front: str) -> int:
        log = PredictionLog.open(self._logs, front)
        try:
            return log.end()
        finally:
            log.close()

    def read(self, plan: ExperimentPlan, starts: dict[str, int], since: datetime, at: datetime) -> Happened:
        """Return what happened in an experiment up to now.

        Args:
            plan: The experiment.
            starts: Where the prediction logs stood when it began.
            since: When it began.
            at: Now.
        """
        dealt, shares = self._dealt(plan, starts)
        counted = self._counted(plan, dealt, since, at)
        units = self._units(plan, counted, shares, since)
        return Happened(_places(plan, dealt["version"]), shares[dealt["drawn"].to_numpy()], units)

    def _dealt(self, plan: ExperimentPlan, starts: dict[str, int]) -> tuple[pl.DataFrame, Floats]:
        """Return the keys that were dealt, the first row of each, and the shares of each draw of shares.

        Returns:
            ``id, key, at, version`` (the one it was dealt to), ``value, failed, drawn``; and shape (draws, arms).
        """
        versions = [arm.version for arm in plan.arms]
        draws: dict[tuple[float, ...], int] = {}
        columns: dict[str, list[object]] = {name: [] for name in _DEALT}
        for front, position, batch in self._batches(starts, plan):
            split = tuple(batch.split.get(version, 0.0) for version in versions)
            number = draws.setdefault(split, len(draws))
            routes = [item.route for item in batch.requests for _ in range(item.rows)]
            for place, key in enumerate(batch.keys):
                if batch.arms[place] == "direct":
                    continue
                unit = (routes[place] if place < len(routes) else "") or key
                failed = batch.arms[place] == "fallback"
                meant = Split(plan.loop, plan.name, batch.split).version(unit) if failed else batch.versions[place]
                value = batch.values[place * batch.width]
                answers = (prediction_id(front, position, place), unit, batch.at, meant, value, failed, number)
                for name, answer in zip(_DEALT, answers, strict=True):
                    columns[name].append(answer)
        frame = pl.DataFrame(columns, schema=_DEALT)
        shares = np.array(list(draws), dtype=np.float64).reshape(-1, len(versions))
        return frame.sort("at", maintain_order=True).unique("key", keep="first", maintain_order=True), shares

    def _batches(self, starts: dict[str, int], plan: ExperimentPlan) -> Iterator[tuple[str, int, PredictionBatch]]:
        for front in fronts(self._logs):
            log = PredictionLog.open(self._logs, front)
            try:
                for position, record in _since(log, starts.get(front, -1)):
                    mine = isinstance(record, PredictionBatch) and record.loop == plan.loop
                    if mine and isinstance(record, PredictionBatch) and record.experiment == plan.name:
                        yield front, position, record
            finally:
                log.close()

    def _counted(self, plan: ExperimentPlan, dealt: pl.DataFrame, since: datetime, at: datetime) -> pl.DataFrame:
        """Return the keys whose outcome counts, with the metric as ``metric``, in the order in which they count."""
        if plan.metric == "errors":
            return dealt.with_columns(pl.col("failed").cast(pl.Float64).alias("metric"))
        if plan.metric == "loss":
            return self._lost(plan, dealt, since, at)
        observed = self._releases.observed(plan.loop, since, [plan.metric])
        return valued(dealt, observed, at, plan.within, plan.missing)

    def _lost(self, plan: ExperimentPlan, dealt: pl.DataFrame, since: datetime, at: datetime) -> pl.DataFrame:
        declared = declaration(self._database, self._objects, self._ledger.row(plan.loop).spec)[0]
        join = LabelJoin(self._logs, self._data)
        try:
            join.watch(plan.loop, table_of(declared), declared.label)
            join.catch_up(at)
            labelled = join.joined(plan.loop, since=since).select("id", "label")
        finally:
            join.close()
        held = labelled.join(dealt, on="id", how="inner", maintain_order="left")
        bad = outcome(
            primary_metric(declared), held["label"].to_numpy(), held["value"].to_numpy(), held["failed"].to_numpy()
        )
        return held.with_columns(pl.Series("metric", bad))

    def _units(self, plan: ExperimentPlan, counted: pl.DataFrame, shares: Floats, started: datetime) -> Units:
        past = self._past(plan, started) if plan.pre else None
        before = np.full(counted.height, np.nan)
        if past is not None and past.height:
            known = counted.join(past, on="key", how="left", maintain_order="left")["past"]
            before = goodness(plan, known.cast(pl.Float64).fill_null(float("nan")).to_numpy())
        return Units(
            arms=_places(plan, counted["version"]),
            shares=shares[counted["drawn"].to_numpy()],
            good=goodness(plan, counted["metric"].to_numpy()),
            before=before,
        )

    def _past(self, plan: ExperimentPlan, started: datetime) -> pl.DataFrame:
        """Return each key's mean of the metric in the pre-period: ``key, past``."""
        since = started - parse_duration(plan.pre, where="pre")
        held = self._releases.observed(plan.loop, since, [plan.metric], started)
        named = held.filter(pl.col("prediction") != "")["prediction"].unique().to_list()
        known = self._keys(named)
        keys = [key or known.get(found, "") for key, found in held.select("key", "prediction").iter_rows()]
        return (
            held.with_columns(pl.Series("key", keys, dtype=pl.String))
            .filter(pl.col("key") != "")
            .group_by("key", maintain_order=True)
            .agg(pl.col("value").mean().alias("past"))
        )

    def _keys(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the keys of predictions; those that are not there are left out."""
        found: dict[str, str] = {}
        logs: dict[str, PredictionLog] = {}
        try:
            for one in ids:
                front, position, row = parse_id(one)
                if front not in logs:
                    if front not in fronts(self._logs):
                        continue
                    logs[front] = PredictionLog.open(self._logs, front)
                try:
                    record = logs[front].get(position)
                except (Expired, NotFound):
                    continue
                if isinstance(record, PredictionBatch) and row < len(record.keys):
                    found[one] = record.keys[row]
        finally:
            for log in logs.values():
                log.close()
        return found


def _since(log: PredictionLog, after: int) -> Iterator[tuple[int, Record]]:
    """Yield the records after a position; where retention has removed some of them, those that are left."""
    try:
        yield from log.read(after)
    except Expired:
        yield from log.read()


def _places(plan: ExperimentPlan, versions: pl.Series) -> Places:
    order = {arm.version: place for place, arm in enumerate(plan.arms)}
    return np.array([order[version] for version in versions.to_list()], dtype=np.int64)
