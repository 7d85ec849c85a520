"""Reading runs back from their rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from kilter.core.errors import NotFound
from kilter.engines.sql.prepared import Prepared
from kilter.tracking.records import Artifact, DatasetInput, MetricSummary, ModelUse, Run, RunInputs, spelled
from kilter.tracking.tables import artifacts, datasets, experiments, params, run_models, runs, summaries, tags

# One run is asked for all the time, and a list of runs seldom: what is asked for one is put together once.
_RUN = Prepared(sa.select(runs).where(runs.c.id == sa.bindparam("run")), ["run"])
_NUMBER = Prepared(
    sa.select(experiments.c.name, experiments.c.id).where(experiments.c.name == sa.bindparam("experiment")),
    ["experiment"],
)
_PARTS = {
    table: Prepared(sa.select(table).where(table.c.run == sa.bindparam("of")).order_by(table.c.name), ["of"])
    for table in (params, tags, summaries, artifacts)
}
_DATASETS = Prepared(sa.select(datasets).where(datasets.c.run == sa.bindparam("of")).order_by(datasets.c.name), ["of"])
_USES = Prepared(
    sa.select(run_models).where(run_models.c.run == sa.bindparam("of")).order_by(run_models.c.step, run_models.c.model),
    ["of"],
)


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
    rows = _RUN.rows(connection, run)
    if not rows:
        raise NotFound(f"there is no run {run!r}", where="runs")
    return filled(connection, rows)[0]


def filled(connection: sa.Connection, rows: Sequence[Any]) -> tuple[Run, ...]:
    """Return runs with their parts: one query for each kind of part, not for each run."""
    identities = [row.id for row in rows]

    def parts(table: sa.Table) -> dict[str, Sequence[Any]]:
        if len(identities) == 1:
            return {identities[0]: _PARTS[table].rows(connection, identities[0])}
        found: dict[str, list[Any]] = {}
        chosen = sa.select(table).where(table.c.run.in_(identities)).order_by(table.c.run, table.c.name)
        for part in connection.execute(chosen):
            found.setdefault(part.run, []).append(part)
        return dict(found)

    names = {row.experiment for row in rows}
    if len(names) == 1:
        numbered: Iterable[Any] = _NUMBER.rows(connection, *names)
    else:
        chosen = sa.select(experiments.c.name, experiments.c.id).where(experiments.c.name.in_(names))
        numbered = connection.execute(chosen)
    numbers = {found.name: found.id for found in numbered}
    inputs = inputs_of(connection, identities)
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
                    last_at=part.last_at,
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
            deleted_at=row.deleted_at,
            inputs=inputs.get(row.id, RunInputs()),
            experiment_number=numbers.get(row.experiment, 0),
        )
        for row in rows
    )


def inputs_of(connection: sa.Connection, runs: Sequence[str]) -> dict[str, RunInputs]:
    """Return what runs read and made, by run; those that did neither are not in it."""
    read: defaultdict[str, list[DatasetInput]] = defaultdict(list)
    used: defaultdict[str, list[ModelUse]] = defaultdict(list)
    described: Iterable[Any]
    uses: Iterable[Any]
    if len(runs) == 1:
        described, uses = _DATASETS.rows(connection, *runs), _USES.rows(connection, *runs)
    else:
        described = connection.execute(
            sa.select(datasets).where(datasets.c.run.in_(runs)).order_by(datasets.c.run, datasets.c.name)
        )
        uses = connection.execute(
            sa.select(run_models).where(run_models.c.run.in_(runs)).order_by(run_models.c.step, run_models.c.model)
        )
    for row in described:
        read[row.run].append(
            DatasetInput(
                name=row.name,
                digest=row.digest,
                source_type=row.source_type,
                source=row.source,
                schema=row.schema,
                profile=row.profile,
                tags=row.tags,
            )
        )
    for row in uses:
        used[row.run].append(ModelUse(model=row.model, role=row.role, step=row.step))
    return {run: RunInputs(datasets=tuple(read[run]), models=tuple(used[run])) for run in {*read, *used}}
