"""A database of MLflow: an ``mlflow.db``, or whatever SQLAlchemy reaches.

Only what is asked for is selected, by the columns that are there: databases of older versions lack some tables and columns.
Source: mlflow/store/tracking/dbmodels/models.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from kilter.core.errors import Damaged, InvalidInput, Unavailable
from kilter.tracking.history.mlflow import OWN, PARENT, ended, moment, number, stood_in
from kilter.tracking.history.places import Places, existing, local_path
from kilter.tracking.history.records import (
    Broken,
    DataSeen,
    FileSeen,
    LeftOut,
    Measured,
    ModelRead,
    ModelSeen,
    Piece,
    RunSeen,
    Said,
)
from kilter.tracking.records import DatasetInput, LoggedStatus, MetricPoint, ModelMetric

_CHUNK = 5000
_PROXY = "mlflow-artifacts:/"
_MODELS: dict[str, LoggedStatus] = {"1": "PENDING", "2": "READY", "3": "FAILED"}


class DatabaseSource:
    """Runs in a database, which is only read.

    Args:
        url: The database.
        files: A further folder that artifacts may come from.
        folder: Where the database's file lies.
    """

    kind = "mlflow"

    def __init__(self, url: str, files: Path | None = None, folder: Path | None = None) -> None:
        try:
            parsed = sa.make_url(url)
            self._where = parsed.render_as_string(hide_password=True)
            if parsed.get_backend_name() == "sqlite" and folder is not None:
                parsed = sa.make_url(f"sqlite:///file:{parsed.database}?mode=ro&uri=true")
            self._engine = sa.create_engine(parsed)
            names = set(sa.inspect(self._engine).get_table_names())
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InvalidInput(
                f"the address can't be used: {error}", where="import mlflow", allowed="a database URL"
            ) from None
        except SQLAlchemyError as error:
            raise Unavailable(f"the database can't be read: {_first_line(error)}", where=self._where) from None
        if not {"experiments", "runs", "metrics"} <= names:
            raise InvalidInput("the database is none of MLflow's", where=self._where)
        self._names = names
        metadata = sa.MetaData()
        wanted = names & _TABLES
        metadata.reflect(self._engine, only=sorted(wanted), resolve_fks=False)
        self._tables = metadata.tables
        self._served = None if folder is None else existing([folder / "mlartifacts", folder / "mlruns"])
        self._files = files
        self._places = Places.of(folder, files)

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the experiments with their tags."""
        names = {row["experiment_id"]: str(row["name"]) for row in self._rows("experiments")}
        tags: dict[Any, dict[str, str]] = {}
        for row in self._rows("experiment_tags"):
            tags.setdefault(row["experiment_id"], {})[row["key"]] = str(row["value"] or "")
        for number_, name in names.items():
            yield name, tags.get(number_, {})

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield the runs, the oldest first: parents begin before their children.

        Raises:
            Damaged: When the database can't be read to its end.
        """
        try:
            yield from self._listed()
        except SQLAlchemyError as error:
            raise Damaged(f"the database can't be read: {_first_line(error)}", where=self._where) from None

    def _listed(self) -> Iterator[RunSeen | Broken | LeftOut]:
        names = {row["experiment_id"]: str(row["name"]) for row in self._rows("experiments")}
        metrics = self._tables["metrics"]
        with self._engine.connect() as connection:
            counted = sa.select(metrics.c.run_uuid, sa.func.count(), sa.func.max(metrics.c.timestamp))
            points = {row[0]: (row[1], row[2]) for row in connection.execute(counted.group_by(metrics.c.run_uuid))}
            said: dict[str, int] = {}
            for table in ("params", "tags", "inputs"):
                if (found := self._tables.get(table)) is not None:
                    column = found.c.destination_id if table == "inputs" else found.c.run_uuid
                    for run, count in connection.execute(sa.select(column, sa.func.count()).group_by(column)):
                        said[run] = said.get(run, 0) + count
        runs = self._tables["runs"]
        for row in self._rows("runs", order=(runs.c.start_time, runs.c.run_uuid)):
            count, newest = points.get(row["run_uuid"], (0, 0))
            spelled = f"{count}-{newest}-{said.get(row['run_uuid'], 0)}-{row['status']}-{row.get('end_time')}"
            try:
                yield RunSeen(
                    origin=row["run_uuid"],
                    experiment=names.get(row["experiment_id"], str(row["experiment_id"])),
                    name=str(row.get("name") or row["run_uuid"]),
                    started_at=moment(row["start_time"]),
                    version=f"{spelled}-{row.get('lifecycle_stage')}",
                    work=count + 1,
                    status=str(row["status"] or ""),
                    at=row,
                )
            except Damaged as error:
                yield Broken(str(row["run_uuid"]), str(error))
        with self._reading() as connection:
            for beside, what in _BESIDE.items():
                counted = sa.select(sa.func.count()).select_from(sa.table(beside))
                if beside in self._names and (count := connection.execute(counted).scalar()):
                    yield LeftOut(what, count)

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces: words, metrics by name and time, data, models, files."""
        row: dict[str, Any] = run.at
        tags = {one["key"]: str(one["value"] or "") for one in self._rows("tags", run_uuid=run.origin)}
        user = {"mlflow.user": str(row["user_id"])} if row.get("user_id") else {}
        yield Said(
            params={one["key"]: str(one["value"] or "") for one in self._rows("params", run_uuid=run.origin)},
            tags=user | {name: value for name, value in tags.items() if name not in OWN},
            name=tags.get("mlflow.runName", ""),
            parent=tags.get(PARENT, ""),
        )
        yield from self._points(run.origin)
        yield from self._inputs(run.origin)
        for model in self._rows("logged_models", source_run_id=run.origin):
            yield from self._model(model)
        yield from self._artifacts(str(row.get("artifact_uri") or ""))
        yield ended(row["status"], row.get("end_time"), deleted=row.get("lifecycle_stage") == "deleted")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # ------------------------------------------------------------ parts

    def _points(self, run: str) -> Iterator[Piece]:
        metrics = self._tables["metrics"]
        has_nan = "is_nan" in metrics.c
        columns = [metrics.c.key, metrics.c.value, metrics.c.timestamp, metrics.c.step]
        # The order of MLflow's own history: what is logged later comes later.
        order = (metrics.c.key, metrics.c.timestamp, metrics.c.step, metrics.c.value)
        query = sa.select(*columns, *([metrics.c.is_nan] if has_nan else [])).where(metrics.c.run_uuid == run)
        with self._reading() as connection:
            rows = connection.execution_options(yield_per=_CHUNK).execute(query.order_by(*order))
            for part in rows.partitions(_CHUNK):
                points = [_point(*found) for found in part]
                yield Measured(points, len(part))
                yield from stood_in(points)

    def _inputs(self, run: str) -> Iterator[Piece]:
        found: list[DatasetInput] = []
        for one in self._rows("inputs", destination_id=run):
            if one["source_type"] != "DATASET":
                continue
            tags = {tag["name"]: str(tag["value"]) for tag in self._rows("input_tags", input_uuid=one["input_uuid"])}
            found.extend(
                DatasetInput(
                    name=str(data["name"]),
                    digest=str(data["digest"]),
                    source_type=str(data["dataset_source_type"] or ""),
                    source=str(data["dataset_source"] or ""),
                    schema=str(data["dataset_schema"] or ""),
                    profile=str(data["dataset_profile"] or ""),
                    tags=tags,
                )
                for data in self._rows("datasets", dataset_uuid=one["source_id"])
            )
        if found:
            yield DataSeen(found)
        for one in self._rows("inputs", source_id=run):
            if one["source_type"] == "RUN_INPUT" and one["destination_type"] == "MODEL_INPUT":
                yield ModelRead(str(one["destination_id"]))

    def _model(self, row: dict[str, Any]) -> Iterator[Piece]:
        model = row["model_id"]
        files: list[FileSeen] = []
        for found in self._artifacts(str(row.get("artifact_location") or "")):
            if isinstance(found, FileSeen):
                files.append(found)
            else:
                yield found
        metrics = [
            ModelMetric(
                point=MetricPoint(
                    name=one["metric_name"],
                    value=number(one["metric_value"]),
                    step=one["metric_step"],
                    at=moment(one["metric_timestamp_ms"]),
                ),
                run=str(one["run_id"] or ""),
                dataset=str(one["dataset_name"] or ""),
                dataset_digest=str(one["dataset_digest"] or ""),
            )
            for one in self._rows("logged_model_metrics", model_id=model)
        ]
        yield ModelSeen(
            origin=model,
            name=str(row["name"]),
            type=str(row.get("model_type") or ""),
            status=_MODELS.get(str(row["status"]), "READY"),
            params={
                one["param_key"]: str(one["param_value"]) for one in self._rows("logged_model_params", model_id=model)
            },
            tags={one["tag_key"]: str(one["tag_value"]) for one in self._rows("logged_model_tags", model_id=model)},
            metrics=metrics,
            files=files,
        )

    def _artifacts(self, uri: str) -> Iterator[Piece]:
        if uri.startswith(_PROXY):  # kept by the server, below the folder that it was started with
            roots = [root for root in (self._files, self._served) if root is not None]
            named = next(
                (found for root in roots if (found := root / uri.removeprefix(_PROXY).lstrip("/")).is_dir()), None
            )
            if named is None and not roots:
                yield LeftOut(
                    "artifacts that a server keeps (import from the running server, or give the folder with --files)"
                )
                return
        else:
            named = local_path(uri)
            if named is None and uri:
                yield LeftOut("artifacts in a cloud store (import from the running server)")
                return
        if named is None or not named.is_dir():
            return
        folder = self._places.folder(named)
        if folder is None:
            yield LeftOut("folder of artifacts outside of the database's folder (give it with --files)")
        else:
            yield from self._places.files(folder)

    # ------------------------------------------------------------ within

    def _rows(self, name: str, *, order: tuple[Any, ...] = (), **where: Any) -> Iterator[dict[str, Any]]:
        table = self._tables.get(name)
        if table is None or any(column not in table.c for column in where):
            return
        query = sa.select(table).where(*(table.c[column] == value for column, value in where.items()))
        with self._reading() as connection:
            found = connection.execute(query.order_by(*(order or tuple(table.primary_key)))).mappings().all()
        for row in found:
            yield dict(row)

    def _reading(self) -> sa.Connection:
        try:
            return self._engine.connect()
        except SQLAlchemyError as error:
            raise Unavailable(f"the database can't be read: {_first_line(error)}", where=self._where) from None


_TABLES = {
    "experiments",
    "experiment_tags",
    "runs",
    "params",
    "tags",
    "metrics",
    "datasets",
    "inputs",
    "input_tags",
    "logged_models",
    "logged_model_params",
    "logged_model_tags",
    "logged_model_metrics",
}


_BESIDE = {
    "registered_models": "registered model (its logged model and its run are here)",
    "model_versions": "registered model's version (its logged model and its run are here)",
    "trace_info": "trace",
    "evaluation_datasets": "evaluation dataset",
    "webhooks": "webhook",
}


def _point(key: str, value: Any, timestamp: Any, step: Any, is_nan: Any = False) -> MetricPoint:
    return MetricPoint(name=key, value="NaN" if is_nan else number(value), step=int(step or 0), at=moment(timestamp))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
