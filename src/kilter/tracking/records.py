"""What tracking says about runs."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

Status = Literal["RUNNING", "FINISHED", "FAILED", "INTERRUPTED"]
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


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a run, kept in the object store."""

    name: str
    digest: str
    size: int
    at: datetime


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

    def metric(self, name: str) -> float | None:
        """Return the newest value of a metric, or None."""
        return next((float(found.last) for found in self.metrics if found.name == name), None)


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the runs; ``cursor`` asks for the next ones, and is None at the end."""

    runs: tuple[Run, ...]
    cursor: str | None


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment in a list."""

    name: str
    runs: int
    newest: datetime
