"""What runs read and made: data, as their clients describe it, and logged models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.tracking.liveness import require
from kilter.tracking.logged_models import one_model
from kilter.tracking.records import DatasetInput, ModelUse, RunInputs
from kilter.tracking.rows import inputs_of
from kilter.tracking.tables import datasets, experiments, run_models, runs
from kilter.tracking.writing import upsert

_datasets = datasets  # an argument of an operation has the table's name


class InputOperations:
    """The operations on what runs read and made."""

    _database: Database

    @operation(writes=True)
    def log_inputs(self, run: str, datasets: Sequence[DatasetInput] = (), models: Sequence[ModelUse] = ()) -> None:
        """Note what a run read, and which models it read and made; what was said of the same before stays.

        Raises:
            NotFound: When there is no such run, or no such model.
        """
        with self._database.transaction() as connection:
            require(connection, run)
            for use in models:
                one_model(connection, use.model, deleted=True)
            known = {
                (one.name, one.digest): one.tags for one in inputs_of(connection, [run]).get(run, RunInputs()).datasets
            }
            rows = [{"run": run, **_plain(one, known.get((one.name, one.digest), {}))} for one in datasets]
            upsert(connection, _datasets, rows)
            uses = [{"run": run, "model": use.model, "role": use.role, "step": use.step} for use in models]
            upsert(connection, run_models, uses)

    @operation
    def inputs(self, run: str) -> RunInputs:
        """Return what a run read and made.

        Raises:
            NotFound: When there is no such run.
        """
        with self._database.reading() as connection:
            require(connection, run)
            return inputs_of(connection, [run]).get(run, RunInputs())

    def datasets_read(self, among: Sequence[int], tag: str, limit: int) -> tuple[tuple[int, str, str, str | None], ...]:
        """Return the data that runs of experiments read: experiment, name, digest and one tag, each once.

        Args:
            among: The numbers of the experiments.
            tag: The tag that says what it was read for.
            limit: At most so many.
        """
        read = _datasets.c
        chosen = (
            sa.select(experiments.c.id, read.name, read.digest, read.tags)
            .join(runs, runs.c.id == read.run)
            .join(experiments, experiments.c.name == runs.c.experiment)
            .where(experiments.c.id.in_(list(among)))
            .order_by(experiments.c.id, read.name, read.digest, runs.c.started_at)
        )
        found: dict[tuple[int, str, str, str | None], None] = {}
        with self._database.reading() as connection:
            for row in connection.execution_options(stream_results=True).execute(chosen):
                found[row.id, row.name, row.digest, row.tags.get(tag)] = None
                if len(found) == limit:
                    break
        return tuple(found)


def _plain(one: DatasetInput, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": one.name,
        "digest": one.digest,
        "source_type": one.source_type,
        "source": one.source,
        "schema": one.schema,
        "profile": one.profile,
        "tags": {**tags, **one.tags},
    }
