"""Reading runs back from their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilter.core.errors import NotFound
from kilter.tracking.records import Artifact, MetricSummary, Run, spelled
from kilter.tracking.tables import artifacts, params, runs, summaries, tags


def stored(value: float) -> float | None:
    """Return what a column is given: NaN is kept as NULL."""
    return None if math.isnan(value) else value


def restored(value: float | None) -> float:
    """Return what a column held."""
    return math.nan if value is None else value


def one_run(connection: sa.Connection, run: str) -> Run:
    """Return a run with all its parts.

    Raises:
        NotFound: When there is no such run.
    """
    rows = connection.execute(sa.select(runs).where(runs.c.id == run)).all()
    if not rows:
        raise NotFound(f"there is no run {run!r}", where="runs")
    return filled(connection, rows)[0]


def filled(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[Run, ...]:
    """Return runs with their parts: one query for each kind of part, not for each run."""
    identities = [row.id for row in rows]

    def parts(table: sa.Table) -> dict[str, list[sa.Row[Any]]]:
        found: dict[str, list[sa.Row[Any]]] = {}
        chosen = sa.select(table).where(table.c.run.in_(identities)).order_by(table.c.run, table.c.name)
        for part in connection.execute(chosen):
            found.setdefault(part.run, []).append(part)
        return found

    given, said, measured, kept = parts(params), parts(tags), parts(summaries), parts(artifacts)
    return tuple(
        Run(
            id=row.id,
            experiment=row.experiment,
            name=row.name,
            status=row.status,
            started_at=row.started_at,
            ended_at=row.ended_at,
            params={part.name: part.value for part in given.get(row.id, ())},
            tags={part.name: part.value for part in said.get(row.id, ())},
            metrics=tuple(
                MetricSummary(
                    name=part.name,
                    count=part.points,
                    last=spelled(restored(part.last)),
                    last_step=part.last_step,
                    least=part.least,
                    greatest=part.greatest,
                )
                for part in measured.get(row.id, ())
            ),
            artifacts=tuple(
                Artifact(name=part.name, digest=part.digest, size=part.size, at=part.at)
                for part in kept.get(row.id, ())
            ),
            data_digest=row.data_digest,
            feature_digest=row.feature_digest,
            code_digest=row.code_digest,
            environment=row.environment,
            seed=row.seed,
            spec=row.spec,
            reason=row.reason,
        )
        for row in rows
    )
