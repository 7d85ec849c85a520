"""What tracking says about runs."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "INTERRUPTED"]
LoggedStatus = Literal["PENDING", "READY", "FAILED"]
Number: TypeAlias = float | Literal["NaN", "Infinity", "-Infinity"]
"""A number; the three that JSON cannot say are spelled out, so that they survive every face."""


class MetricPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a metric.

    Args:
        name: The metric's name: ``valid/log_loss``.
        value: The value; use :attr:`number` to compute with it.
        step: The step that it belongs to.
        at: When, UTC; the time of writing, if not said.
    """

    name: str
    value: Number
    step: int = 0
    at: datetime | None = None

    @property
    def number(self) -> float:
        """The value as a float."""
        return float(self.value)


def spelled(value: float) -> Number:
    """Return a float in the form that every face can carry."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


class MetricSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of a run in one line: its newest value, and the least and greatest finite ones."""

    name: str
    count: int
    last: Number
    last_step: int
    least: float | None
    greatest: float | None
    last_at: datetime | None = None


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a run, kept in the object store."""

    name: str
    digest: str
    size: int
    at: datetime


class DatasetInput(msgspec.Struct, frozen=True, kw_only=True):
    """Data that a run read, as its client describes it.

    Args:
        name: What it is called.
        digest: Names its content.
        source_type: What kind of source it has: ``local``, ``delta_table``.
        source: Where it came from.
        schema: Its columns, as text.
        profile: What it looks like, as text.
        tags: What people say about it: ``mlflow.data.context`` is ``training`` or ``eval``.
    """

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str = ""
    profile: str = ""
    tags: dict[str, str] = {}


class ModelUse(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a run read or made, and at which step."""

    model: str
    role: Literal["input", "output"]
    step: int = 0


class RunInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a run read and made."""

    datasets: tuple[DatasetInput, ...] = ()
    models: tuple[ModelUse, ...] = ()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training, or any other piece of work worth keeping.

    Args:
        id: Sortable by time.
        experiment: What it belongs to.
        name: What people call it.
        status: ``INTERRUPTED`` when its process went away without a word.
        started_at: When it began, UTC.
        ended_at: When it ended, or None.
        params: What it was given.
        tags: What people say about it.
        metrics: Each metric in one line.
        artifacts: Its files.
        data_digest: Digest of the rows that it saw.
        feature_digest: Digest of the feature definitions.
        code_digest: Digest of its source.
        environment: Digest of the lock of installed distributions, kept in the object store.
        seed: Its seed.
        spec: Digest of the declaration that asked for it.
        reason: Why it failed or was interrupted.
        deleted_at: When it was put away, or None.
        experiment_number: The number of its experiment, which stays when the name changes.
        inputs: What it read and made.
    """

    id: str
    experiment: str
    name: str
    status: Status
    started_at: datetime
    ended_at: datetime | None
    params: dict[str, Any]
    tags: dict[str, str]
    metrics: tuple[MetricSummary, ...]
    artifacts: tuple[Artifact, ...]
    data_digest: str = ""
    feature_digest: str = ""
    code_digest: str = ""
    environment: str = ""
    seed: int | None = None
    spec: str = ""
    reason: str = ""
    deleted_at: datetime | None = None
    experiment_number: int = 0
    inputs: RunInputs = RunInputs()

    def metric(self, name: str) -> float | None:
        """Return the newest value of a metric, or None."""
        return next((float(found.last) for found in self.metrics if found.name == name), None)


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the runs; ``cursor`` asks for the next ones, and is None at the end."""

    runs: tuple[Run, ...]
    cursor: str | None


class ModelMetric(msgspec.Struct, frozen=True, kw_only=True):
    """What a run measured of a model.

    Args:
        point: The value.
        run: Who measured.
        dataset: On which data.
        dataset_digest: Names that data's content.
    """

    point: MetricPoint
    run: str = ""
    dataset: str = ""
    dataset_digest: str = ""


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a training left it, before anybody registered one.

    Args:
        id: Its id.
        experiment_number: The experiment that it belongs to.
        run: The run that made it, or empty.
        name: What people call it.
        type: What kind of model it is, in the client's words.
        status: ``READY`` once all of its files are there.
        message: Why it failed.
        created_at: When it was made.
        changed_at: When it was changed last.
        deleted_at: When it was put away, or None.
        params: What it was made with.
        tags: What people say about it.
        metrics: What runs measured of it.
    """

    id: str
    experiment_number: int
    run: str
    name: str
    type: str
    status: LoggedStatus
    message: str
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: tuple[ModelMetric, ...]


class LoggedModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the logged models; ``cursor`` asks for the next ones, and is None at the end."""

    models: tuple[LoggedModel, ...]
    cursor: str | None


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """What runs belong to.

    Args:
        number: Its number, which never changes.
        name: Its name.
        created_at: When it was made.
        changed_at: When its name or its tags changed last.
        deleted_at: When it was put away, or None.
        tags: What people say about it.
    """

    number: int
    name: str
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None
    tags: dict[str, str]


class ExperimentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the experiments; ``cursor`` asks for the next ones, and is None at the end."""

    experiments: tuple[Experiment, ...]
    cursor: str | None


class ExperimentRuns(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment in a list: how many runs it has, and when the newest began."""

    name: str
    runs: int
    newest: datetime


class NamedColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A param, metric or tag that runs have.

    Args:
        name: Its name.
        runs: How many runs have it.
        values: How many different values it has.
    """

    name: str
    runs: int
    values: int


class ColumnNames(msgspec.Struct, frozen=True, kw_only=True):
    """What a table of runs can show."""

    params: tuple[NamedColumn, ...]
    metrics: tuple[NamedColumn, ...]
    tags: tuple[NamedColumn, ...]


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run as a line of a table.

    Args:
        id: Its id.
        name: What people call it.
        status: How it stands.
        started_at: When it began.
        ended_at: When it ended, or None.
        deleted: It was put away.
        parent: The run that it belongs under, or empty.
        children: How many runs that fit belong under it.
        cells: A value for each column that was asked for, or None.
    """

    id: str
    name: str
    status: Status
    started_at: datetime
    ended_at: datetime | None
    deleted: bool = False
    parent: str = ""
    children: int = 0
    cells: tuple[Any, ...] = ()


class RunRows(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a table of runs; ``total`` is the length of the whole."""

    total: int
    rows: tuple[RunRow, ...]


class RunGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Runs with the same value of a field.

    Args:
        value: The value as it is stored, which is JSON for a param; None for runs without one.
        runs: How many there are.
        cells: For each column mean, least and greatest, or None where it is not a metric.
    """

    value: str | None
    runs: int
    cells: tuple[tuple[float | None, float | None, float | None] | None, ...] = ()
