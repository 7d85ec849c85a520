"""Tracking in two lines: ``with kilter.run("experiment") as r: r.metric("loss", 0.3)``.

Logging never breaks a training: when the store can't be opened or written, the run says so once in the log and goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput, KilterError
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.operations.client import Remote
from kilter.tracking.environment import code_digest, environment_lock, main_source
from kilter.tracking.liveness import LEASE_SECONDS
from kilter.tracking.records import MetricPoint, Run, Status, spelled
from kilter.tracking.service import RunService

_LOG = logging.getLogger("kilter.tracking")
_BATCH = 500
_PATIENCE = 1.0

DEFAULT_STORE = ".kilter"


def run(
    experiment: str = "default",
    *,
    name: str = "",
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    seed: int | None = None,
    store: str | Path | None = None,
) -> ActiveRun:
    """Track a piece of work.

    Args:
        experiment: What it belongs to.
        name: What to call it.
        params: What it is given; more can be added with :meth:`ActiveRun.params`.
        tags: Words about it.
        seed: Its seed.
        store: A folder, or the address of a server; the environment variable ``KILTER_STORE`` or ``.kilter`` if not said.

    Returns:
        A context manager: the run ends with the block, as ``FAILED`` when the block raises.
    """
    return ActiveRun(experiment, name, params or {}, tags or {}, seed, store)


class ActiveRun:
    """A run that is going on; made by :func:`run`.

    Metric points are gathered and written in batches, at the latest a second after the last batch when another point
    comes, and at the end.
    """

    def __init__(
        self,
        experiment: str,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
        seed: int | None,
        store: str | Path | None,
    ) -> None:
        self.experiment = experiment
        self.id = ""
        self._start = (name, params, tags, seed)
        self._store = store
        self._service: RunService | None = None
        self._close: Callable[[], None] = _nothing
        self._points: list[MetricPoint] = []
        self._steps: dict[str, int] = {}
        self._written = time.monotonic()
        self._batches = 0
        self._over = threading.Event()
        self._lock = threading.RLock()
        self._complained = False

    def __enter__(self) -> Self:
        self._attempt(self._open)
        if self._service is not None:
            threading.Thread(target=self._beat, name="kilter-heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.flush()
        status: Status = "FINISHED"
        if kind is not None:
            status = "INTERRUPTED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        reason = "" if kind is None else f"{kind.__name__}: {error}"
        self._write(lambda service: service.finish(self.id, status, reason))
        self._attempt(self._close)
        self._service = None

    def param(self, name: str, value: Any) -> None:
        """Note one parameter."""
        self.params(**{name: value})

    def params(self, **values: Any) -> None:
        """Note parameters."""
        self._write(lambda service: service.log_params(self.id, values))

    def tag(self, name: str, value: str) -> None:
        """Say something about the run."""
        self._write(lambda service: service.log_tags(self.id, {name: value}))

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Add a point to a metric.

        Args:
            name: The metric.
            value: The value; NaN and infinities are kept.
            step: The step; one more than the last one of this metric, if not said.
        """
        try:
            with self._lock:
                at = self._steps.get(name, -1) + 1 if step is None else int(step)
                self._steps[name] = at
                self._points.append(MetricPoint(name=name, value=spelled(float(value)), step=at, at=datetime.now(UTC)))
                due = len(self._points) >= _BATCH or time.monotonic() - self._written >= _PATIENCE
        except (TypeError, ValueError) as problem:
            self._complain(problem)
            return
        if due:
            self.flush()

    def metrics(self, step: int | None = None, **values: float) -> None:
        """Add a point to each of several metrics."""
        for name, value in values.items():
            self.metric(name, value, step)

    def artifact(self, path: str | Path, name: str | None = None) -> None:
        """Keep a file, or every file of a folder.

        Args:
            path: The file or folder.
            name: What to call it in the run; the path's last part, if not said.
        """

        def keep(service: RunService) -> None:
            source = Path(path)
            target = name or source.name
            if not source.exists():
                raise InvalidInput(f"there is no file {str(source)!r}", where="artifact")
            if source.is_file():
                service.log_artifact(self.id, target, source.read_bytes())
                return
            for file in sorted(found for found in source.rglob("*") if found.is_file()):
                service.log_artifact(self.id, f"{target}/{file.relative_to(source).as_posix()}", file.read_bytes())

        self._write(keep)

    def data(self, name: str, data: bytes) -> None:
        """Keep bytes as a file of the run."""
        self._write(lambda service: service.log_artifact(self.id, name, data))

    def flush(self) -> None:
        """Write the gathered points now."""
        with self._lock:
            points, self._points = self._points, []
            self._written = time.monotonic()
            self._batches += 1
            key = str(self._batches)
        if points:
            self._write(lambda service: service.log_metrics(self.id, points, key))

    def get(self) -> Run | None:
        """Return the run as the store knows it, or None when there is no store."""
        self.flush()
        return None if self._service is None else self._service.get(self.id)

    def _repr_html_(self) -> str:
        return f"<b>{self.experiment}</b> <code>{self.id or 'not stored'}</code>"

    # ------------------------------------------------------------ within

    def _open(self) -> None:
        service, self._close = _connect(self._store)
        name, params, tags, seed = self._start
        source = main_source()
        started = service.start(
            self.experiment,
            name,
            params,
            tags,
            code_digest="" if source is None else code_digest(source),
            seed=seed,
        )
        self.id, self._service = started.id, service
        service.log_artifact(self.id, "environment.lock", environment_lock())
        if source is not None:
            service.log_artifact(self.id, "source.py", source.encode())

    def _write(self, act: Callable[[RunService], object]) -> None:
        service = self._service
        if service is not None:
            self._attempt(lambda: act(service))

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (KilterError, OSError, TypeError, ValueError) as problem:
            self._complain(problem)

    def _complain(self, problem: Exception) -> None:
        if self._complained:
            _LOG.debug("run %s: %s", self.id or self.experiment, problem)
            return
        self._complained = True
        _LOG.warning("run %s: something was not logged, and the work goes on: %s", self.id or self.experiment, problem)

    def _beat(self) -> None:
        while not self._over.wait(LEASE_SECONDS / 4):
            self._write(lambda service: service.heartbeat(self.id))


def _nothing() -> None:
    """Close nothing, because nothing was opened."""


def _connect(store: str | Path | None) -> tuple[RunService, Callable[[], None]]:
    """Return the runs of a store, and what closes it."""
    place = str(store or os.environ.get("KILTER_STORE") or DEFAULT_STORE)
    if place.startswith(("http://", "https://")):
        remote = Remote(place)
        return remote.service("runs", RunService), remote.close
    if "://" in place:
        raise InvalidInput(
            f"{place!r} can't be tracked to directly",
            where="store",
            allowed="a folder, or the address of a server (http://HOST:PORT)",
        )
    folder = Path(place).absolute()
    database = Database.open(f"sqlite:///{folder / 'kilter.db'}")
    database.migrate()
    return RunService(database, ObjectStore.open(str(folder / "objects")), SystemClock()), database.close
