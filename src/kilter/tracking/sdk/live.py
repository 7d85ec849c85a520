"""A run that goes on in this process: its life from start to end, and the few calls that everything else is made of."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput, KilterError, NotFound
from kilter.core.ids import new_id
from kilter.tracking.environment import code_digest, environment_lock, in_notebook, main_source
from kilter.tracking.records import Run, Status
from kilter.tracking.sdk.buffer import Buffer, remove
from kilter.tracking.sdk.notebook import tell
from kilter.tracking.sdk.places import buffers_of, connect, is_server, page_of, store_place
from kilter.tracking.sdk.records import File, Finish, Params, Record, Start, Tags
from kilter.tracking.sdk.sender import Sender
from kilter.tracking.sdk.settings import Settings, plain, reproduces
from kilter.tracking.sdk.system import Watcher, seconds_between
from kilter.tracking.writing import check_name, file_name

_LOG = logging.getLogger("kilter.tracking")
_MANY = 20_000
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_RECORDING = 15.0
_now_ns = time.time_ns

GIVEN_RUN = "KILTER_RUN"
"""The environment variable that names the run that a process was started for."""

PARENT = "mlflow.parentRunId"
"""The tag that names the run around a nested one: the word that clients of MLflow know."""


class Live:
    """The life of a run in this process.

    Args:
        settings: What it is started with.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.id = ""
        self.experiment = settings.experiment
        self.status = "not started"
        self.place = ""
        self._known_params: dict[str, Any] = {}
        self._reset()

    def _reset(self) -> None:
        """Have no threads, no locks and no buffer: as before the start, and in a process that was forked."""
        self._buffer: Buffer | None = None
        self._sender: Sender | None = None
        self._watcher: Watcher | None = None
        self._recorder: threading.Thread | None = None
        self._waiting: deque[Any] = deque(maxlen=0)
        self._steps: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._lock = threading.RLock()
        self._joining = False
        self._joined = False
        self._cells = False
        self._complained = False

    # ------------------------------------------------------------ from start to end

    def start(self) -> None:
        """Begin; a run that goes on already stays as it is."""
        if self._buffer is not None or self._joining:
            return
        self._attempt(self._open)

    def finish(self, status: Status = "FINISHED", reason: str = "") -> None:
        """End the run, and wait until the store has everything, or is away: then the rest stays in the buffer.

        Args:
            status: How it ended.
            reason: Why.
        """
        if self._joined:
            self.leave()
            return
        buffer = self._buffer
        if buffer is None:
            return
        for thread in (self._watcher, self._recorder):
            if isinstance(thread, Watcher):
                thread.close()
            elif thread is not None:
                thread.join(_RECORDING)
        if self._cells and self.settings.record:  # a notebook has grown meanwhile
            self._attempt(lambda: self._keep("source.py", (main_source() or "").encode()))
        self._put(Finish(status=status, reason=reason, at=datetime.now(UTC)))
        self.status = status
        self._end()
        live.discard(self)

    def leave(self) -> None:
        """Send what this process has to say, and leave the run to the process that started it."""
        self._end()
        live.discard(self)

    def flush(self) -> None:
        """Bring everything that was logged so far to the disk."""
        buffer = self._buffer
        if buffer is not None:
            self._attempt(buffer.flush)

    def wait(self, seconds: float = 30.0) -> bool:
        """Wait until the store has everything that was logged so far.

        Args:
            seconds: For how long without any progress.

        Returns:
            Whether it has.
        """
        self.flush()
        return self._sender is not None and self._sender.settle(seconds)

    def get(self) -> Run | None:
        """Return the run as the store knows it, or None when it can't be asked."""
        if self._sender is None or not self.wait(_patience(self.place)):
            return None
        try:
            service, close = connect(self.place)
            try:
                return service.get(self.id)
            finally:
                close()
        except (KilterError, OSError) as problem:
            self._complain(problem)
            return None

    @property
    def url(self) -> str:
        """The address of the run's page; empty when no server is known that has one."""
        return page_of(self.place, self.id) if self.id and self.place else ""

    # ------------------------------------------------------------ the calls of the training

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Add a point to a metric.

        Args:
            name: The metric.
            value: The value; NaN and infinities are kept.
            step: The step; one more than the last one of this metric, if not said.
        """
        try:
            steps = self._steps
            if name not in steps:
                check_name(name, "metric")
            if self._joining:
                self._join()
            if step is None:
                with self._lock:
                    step = steps.get(name, -1) + 1
                    steps[name] = step
            else:
                step = int(step)
                if not _LEAST <= step <= _MOST:
                    raise InvalidInput(f"{step}", where="step", allowed="64-bit integers")
                steps[name] = step
            number = float(value)
            waiting = self._waiting
            waiting.append((name, number, step, _now_ns()))
            self._last[name] = number
            if len(waiting) >= _MANY and self._buffer is not None:
                self._buffer.relieve()
        except (KilterError, TypeError, ValueError, OverflowError, RuntimeError) as problem:
            self._complain(problem)

    def params(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Note parameters; one never changes its value afterwards.

        Args:
            values: Names to values: ``run.params({"learning rate": 0.1})``.
            named: The same as keywords: ``run.params(depth=6)``.
        """
        good = self._good_params({**(values or {}), **named})
        if good:
            self._put(Params(values=good))

    def _good_params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that can be kept, and complain of the others."""
        good: dict[str, Any] = {}
        for name, value in values.items():
            try:
                check_name(name, "param")
                said = plain(value)
                if name in self._known_params and self._known_params[name] != said:
                    raise InvalidInput(
                        f"param {name!r} is {self._known_params[name]!r} and can't become {said!r}",
                        where="params",
                        fix="log what changes as a metric",
                    )
                self._known_params[name] = good[name] = said
            except (KilterError, TypeError, ValueError) as problem:
                self._complain(problem)
        return good

    def tags(self, values: Mapping[str, str] | None = None, /, **named: str) -> None:
        """Say something about the run; the newest word of a name counts.

        Args:
            values: Names to words.
            named: The same as keywords.
        """
        good = self._good_tags({**(values or {}), **named})
        if good:
            self._put(Tags(values=good))

    def _good_tags(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the tags that can be kept, and complain of the others."""
        good: dict[str, str] = {}
        for name, value in values.items():
            try:
                check_name(name, "tag")
                good[name] = str(value)
            except KilterError as problem:
                self._complain(problem)
        return good

    def artifact(self, path: str | Path, name: str | None = None) -> None:
        """Keep a file, or every file of a folder, as it is now.

        Args:
            path: The file or folder.
            name: What to call it in the run; the path's last part, if not said.
        """

        def keep() -> None:
            source = Path(path)
            target = name or source.name or source.resolve().name
            if not source.exists():
                raise InvalidInput(f"there is no file {str(source)!r}", where="artifact")
            if source.is_file():
                self._keep(target, source)
                return
            for file in sorted(found for found in source.rglob("*") if found.is_file()):
                self._keep(f"{target}/{file.relative_to(source).as_posix()}", file)

        self._attempt(keep)

    def data(self, name: str, data: bytes) -> None:
        """Keep bytes as a file of the run."""
        self._attempt(lambda: self._keep(name, bytes(data)))

    # ------------------------------------------------------------ within

    def _open(self) -> None:
        settings = self.settings
        if (begun := os.environ.pop(GIVEN_RUN, "")) and not settings.parent:
            self._open_given(begun)
            return
        meant = reproduces()
        self.place = store_place(meant.store if meant is not None else settings.store)
        self.id = settings.resume or new_id("run", datetime.now(UTC))
        given = self._good_params(settings.params)
        tags = {**self._good_tags(settings.tags), **({PARENT: settings.parent} if settings.parent else {})}
        if meant is not None and not settings.parent:
            tags |= {"reproduces": meant.run, "reproduction": meant.token}
        if settings.resume:
            self._look_back()
        source, lock = main_source(), environment_lock()
        self._cells = source is not None and in_notebook()
        start = Start(
            run=self.id,
            store=self.place,
            at=datetime.now(UTC),
            process=os.getpid(),
            experiment=self.experiment,
            name=settings.name,
            params=given,
            tags=tags,
            seed=settings.seed,
            code_digest="" if source is None else code_digest(source),
            data_digest=settings.data_digest,
            environment=code_digest(lock.decode()),
            resumed=bool(settings.resume),
        )
        self._begin(start)
        self.status = "RUNNING"
        live.add(self)
        if settings.record:
            self._recorder = threading.Thread(
                target=self._record, args=(source, lock), name="kilter-recording", daemon=True
            )
            self._recorder.start()
        every = seconds_between(settings.system_metrics)
        if every:
            self._watcher = Watcher(self._system, every)
        page = self.url
        if page and not settings.parent:
            tell(f"kilter: run {self.id} {page}")

    def _open_given(self, run: str) -> None:
        """Write to the run that this process was started for; what it was given there stays."""
        self.id, self.place = run, store_place(self.settings.store)
        self._look_back()
        self._joining, self.status = True, "RUNNING"
        self._join()
        self.params({name: value for name, value in self.settings.params.items() if name not in self._known_params})
        self.tags(self.settings.tags)

    def _begin(self, start: Start) -> None:
        self._start = start
        ending = f".{os.getpid()}-{time.time_ns():x}" if start.joined or start.resumed else ""
        self._buffer = Buffer(buffers_of(self.place) / f"{self.id}{ending}", start, self._complain)
        self._waiting = self._buffer.waiting
        self._sender = Sender(self._buffer, self._complain)

    def _look_back(self) -> None:
        """Learn what a run is that goes on: its experiment, and where its metrics stopped."""
        try:
            service, close = connect(self.place)
            try:
                known = service.get(self.id)
            finally:
                close()
        except NotFound:
            return
        except (KilterError, OSError) as problem:
            self._complain(problem)
            return
        self.experiment = known.experiment
        self._steps = {metric.name: metric.last_step for metric in known.metrics}
        self._last = {metric.name: float(metric.last) for metric in known.metrics}
        self._known_params = {**known.params, **self._known_params}

    def _record(self, source: str | None, lock: bytes) -> None:
        """Keep what the run was made with; in a thread, because git may take its time."""
        from kilter.tracking.sdk.recording import recorded  # noqa: PLC0415 - a run that records nothing does without

        def record() -> None:
            again = "" if not self.settings.resume else f"resumed/{datetime.now(UTC):%Y%m%dT%H%M%S}/"
            self._keep(f"{again}environment.lock", lock)
            if source is not None:
                self._keep(f"{again}source.py", source.encode())
            found, diff = recorded(self.settings.seed)
            self._keep(f"{again}recorded.json", msgspec.json.format(msgspec.json.encode(found)))
            if diff:
                self._keep(f"{again}code.diff", diff)
            if found.code is not None and not again:
                dirty = {"git.dirty": "true"} if found.code.dirty else {}
                self._put(Tags(values={"git.commit": found.code.commit, "git.branch": found.code.branch, **dirty}))

        self._attempt(record)

    def _system(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.metric(f"system/{name}", value)

    def _keep(self, name: str, source: Path | bytes) -> None:
        clean = file_name(name)
        if self._joining:
            self._join()
        buffer = self._buffer
        if buffer is not None:
            digest, size, copy = buffer.keep(source)
            buffer.put(File(name=clean, digest=digest, size=size, copy=copy))

    def _put(self, record: Record) -> None:
        def put() -> None:
            if self._joining:
                self._join()
            if self._buffer is not None:
                self._buffer.put(record)

        self._attempt(put)

    def _end(self) -> None:
        buffer, sender = self._buffer, self._sender
        if buffer is None or sender is None:
            return
        self._attempt(buffer.close)
        sent = sender.close(
            _patience(self.place),
            lambda count: tell(f"kilter: run {self.id}: sending what is left, {count:,} records so far"),
        )
        buffer.shelf.close()
        if sent:
            remove(buffer.folder)
            if not self._joined:
                self._adopt(buffer.folder)
        self._buffer, self._sender, self._waiting = None, None, deque(maxlen=0)
        page = self.url
        if not sent and self._start.process == os.getpid() and not buffer.shelf.on_disk:
            tell(
                f"kilter: run {self.id}: neither the disk nor the store took everything; {buffer.shelf.held} records are lost"
            )
        elif not sent:
            tell(f"kilter: run {self.id} is kept in {buffer.folder}; `kilter sync {self.id}` sends it")
        elif page and not self.settings.parent and not self._joined:
            tell(f"kilter: run {self.id} {self.status} {page}")

    def _adopt(self, own: Path) -> None:
        """Send what processes of this run left behind that have ended."""
        from kilter.tracking.sdk.sync import sync_buffer  # noqa: PLC0415 - most runs have one process

        with suppress(KilterError, OSError):
            for folder in sorted(own.parent.glob(f"{self.id}.*")):
                sync_buffer(folder, complain=self._complain)

    def _join(self) -> None:
        """In a process that was forked or spawned: say what it has to say through a buffer of its own."""
        with self._lock:
            if not self._joining:
                return
            self._joining, self._joined = False, True
            start = Start(
                run=self.id,
                store=self.place,
                at=datetime.now(UTC),
                process=os.getpid(),
                experiment=self.experiment,
                name=self.settings.name,
                joined=True,
            )
            self._begin(start)
            live.add(self)
            _at_end(self.leave)

    def _forked(self) -> None:
        """Be the run of another process: nothing of the parent's threads, locks and connections may be touched here."""
        _LEFT_ALONE.append((self._buffer, self._sender, self._watcher, self._waiting))
        going_on = self._buffer is not None
        steps = dict(self._steps)
        self._reset()
        self._steps = steps
        self._joining = going_on

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as problem:  # noqa: BLE001 - logging never breaks a training
            self._complain(problem)

    def _complain(self, problem: Exception) -> None:
        if self._complained:
            _LOG.debug("run %s: %s", self.id or self.experiment, problem)
            return
        self._complained = True
        _LOG.warning(
            "run %s: something was not logged yet, and the work goes on: %s", self.id or self.experiment, problem
        )


def _patience(place: str) -> float:
    with suppress(ValueError):
        return float(os.environ.get("KILTER_PATIENCE", ""))
    return 5.0 if is_server(place) else 1.0


# ---------------------------------------------------------------- processes

live: weakref.WeakSet[Live] = weakref.WeakSet()
"""The runs that go on in this process."""

_LEFT_ALONE: list[Any] = []
"""What a parent's runs hold, kept in a forked process so that nothing of it is closed there."""


def _after_fork() -> None:
    for run in list(live):
        run._forked()  # noqa: SLF001 - of this very module


def _at_end(act: Callable[[], None]) -> None:
    """Do something when this process ends: processes of ``multiprocessing`` know no ``atexit``."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, act, exitpriority=10)
    atexit.register(act)


def _finish_all() -> None:
    """End what goes on when the process ends; an error that nobody caught made it end, unless somebody types here."""
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    for run in list(live):
        if error is None:
            run.finish()
        else:
            run.finish("FAILED", f"{type(error).__name__}: {error}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_finish_all)
