"""One run of a source on its way into the store."""

from __future__ import annotations

import http.client
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from kilter.core.digests import digest
from kilter.core.errors import KilterError, Unavailable
from kilter.tracking.history.batches import Batches
from kilter.tracking.history.disk import on_disk
from kilter.tracking.history.names import Names, file_name, origin, param, text
from kilter.tracking.history.records import (
    DataSeen,
    Ended,
    FileSeen,
    LeftOut,
    Measured,
    ModelRead,
    ModelSeen,
    Piece,
    RunSeen,
    Said,
    Source,
)
from kilter.tracking.records import LoggedModel, MetricPoint, ModelUse, Run
from kilter.tracking.service import RunService
from kilter.tracking.transfer import send_file

ORIGIN = "kilter.import.origin"
VERSION = "kilter.import.version"
SOURCE = "kilter.import.source"
STATUS = "kilter.import.status"
LEFT_OUT = "kilter.import.left_out"
NAMES = "kilter.import.names"
PARENT = "mlflow.parentRunId"

_CHANGED = "param that changed after it was imported"
_LONGEST_NAMES = 5000
_OPEN = "open"

BROKEN = (
    KilterError,
    OSError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    zlib.error,
    zipfile.BadZipFile,
    http.client.HTTPException,
    SQLAlchemyError,
)
"""What a source that is not what it says can raise: it stops that run, and no other."""


class Later(msgspec.Struct, frozen=True):
    """What is said of a run when all runs are here; only then it is marked as whole.

    Args:
        run: The run.
        parent: The origin of the run that it belongs to, or empty.
        models: The origins of the models that it read.
        version: Its version.
    """

    run: str
    parent: str
    models: tuple[str, ...]
    version: str


class Shared:
    """What the runs of one import have in common.

    Args:
        runs: The room's operations, here or on a server.
        dry_run: Read everything and write nothing.
    """

    def __init__(self, runs: RunService, *, dry_run: bool) -> None:
        self.runs = runs
        self.dry_run = dry_run
        self.count: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self.known: dict[str, str] = {}
        """The runs that are here, by origin."""
        self.later: list[Later] = []
        """What can only be said when all runs are here."""

    def add(self, what: str, count: int = 1) -> None:
        """Count something that was brought."""
        self.count[what] = self.count.get(what, 0) + count

    def leave_out(self, kind: str, count: int = 1) -> None:
        """Count something without an equivalent."""
        self.left_out[kind] = self.left_out.get(kind, 0) + count

    def find_model(self, experiments: Sequence[int], known: str) -> LoggedModel | None:
        """Return the logged model of an origin."""
        page = self.runs.logged_models(experiments, f"tags.`{ORIGIN}` = '{known}'", limit=1)
        return page.models[0] if page.models else None


class RunImport:
    """One run on its way."""

    def __init__(
        self, shared: Shared, run: Run, seen: RunSeen, advance: Callable[[int], None], *, compare: bool = False
    ) -> None:
        self._shared = shared
        self.run = run
        self.seen = seen
        self.changed = False
        self._advance = advance
        self._dry = shared.dry_run
        self._service = shared.runs
        self._metrics, self._params, self._tags = Names(), Names(), Names()
        self._given: dict[str, Any] = {}
        self._said: dict[str, str] = {}
        self._left_out: dict[str, int] = {}
        self._name = ""
        self._ended: Ended | None = None
        self._batches = Batches(run, None if self._dry else self._service, compare=compare)
        self._files = {kept.name: kept.digest for kept in run.artifacts}
        self._kind = ""
        self._orphan_of = ""
        self._reads: list[str] = []

    def read(self, source: Source) -> None:
        """Read the run from its source, and write what is new."""
        self._kind = source.kind
        try:
            for piece in source.read(self.seen):
                self._take(piece)
        except Unavailable:
            raise
        except BROKEN:
            self._stop()
            raise
        renamed = self._metrics.changed() | self._params.changed() | self._tags.changed()
        self._count("renamed", len(renamed), change=False)
        for kind, count in self._left_out.items():
            self._shared.leave_out(kind, count)
        self._finish(renamed)

    def _stop(self) -> None:
        """Keep what came before something that is broken; without a version, the next import reads the run again."""
        new = {name: value for name, value in self._said.items() if self.run.tags.get(name) != value}
        self._count("params", len(self._given))
        self._count("tags", len(new))
        for kind, count in self._left_out.items():
            self._shared.leave_out(kind, count)
        self._count("points", self._batches.close(self._given, new))
        if not self._dry and self.run.status == "RUNNING":
            self._service.change(self.run.id, status="INTERRUPTED")

    def _count(self, what: str, count: int = 1, *, change: bool = True) -> None:
        if count:
            self._shared.add(what, count)
            self.changed |= change

    def _take(self, piece: Piece) -> None:
        match piece:
            case Measured():
                self._batches.add([self._point(point) for point in piece.points])
                if piece.work:
                    self._advance(piece.work)
            case Said():
                self._say(piece)
            case FileSeen():
                self._file(piece)
            case DataSeen():
                self._data(piece)
            case ModelSeen():
                self._model(piece)
            case ModelRead():
                self._reads.append(piece.origin)
            case Ended():
                self._ended = piece
            case LeftOut():
                self._left_out[piece.kind] = self._left_out.get(piece.kind, 0) + piece.count

    def _point(self, point: MetricPoint) -> MetricPoint:
        name = self._metrics(point.name)
        return point if name == point.name else msgspec.structs.replace(point, name=name)

    def _say(self, said: Said) -> None:
        new: dict[str, Any] = {}
        for name, value in said.params.items():
            kept, given = self._params(name), param(value)
            if kept not in self.run.params:
                new[kept] = given
            elif self.run.params[kept] != given:
                self._left_out[_CHANGED] = self._left_out.get(_CHANGED, 0) + 1
        self._given |= new
        self._said |= {self._tags(name): text(value) for name, value in said.tags.items()}
        self._name = said.name or self._name
        if said.parent:
            known = self._shared.known.get(said.parent)
            if known is None:
                self._orphan_of = said.parent
            else:
                self._said[PARENT] = known

    def _file(self, seen: FileSeen) -> None:
        name = file_name(seen.name)
        with seen.open() as file, on_disk(file) as (path, found, size):
            if self._files.get(name) == found:
                return
            if not self._dry:
                send_file(self._service, path, self.run.id, name)
            self._files[name] = found
        self._count("files")
        self._count("bytes", size)

    def _data(self, seen: DataSeen) -> None:
        known = {(one.name, one.digest): one for one in self.run.inputs.datasets}
        new = [one for one in seen.inputs if known.get((one.name, one.digest)) != one]
        if new and not self._dry:
            self._service.log_inputs(self.run.id, datasets=new)
        self._count("datasets", len(new))

    # ------------------------------------------------------------ models

    def _model(self, seen: ModelSeen) -> None:
        known = origin(self._kind, seen.origin)
        if self._dry:
            self._count("models")
            return
        experiment = self._service.experiment(self.run.experiment).number
        found = self._shared.find_model([experiment], known)
        if found is None:
            names = Names()
            tags = {ORIGIN: known} | {names(name): text(value) for name, value in seen.tags.items()}
            params = {names(name): text(value) for name, value in seen.params.items()}
            found = self._service.log_model(experiment, text(seen.name)[:500], self.run.id, seen.type, params, tags)
            self._count("models")
        for file in seen.files:
            with file.open() as opened, on_disk(opened) as (path, *_):
                send_file(self._service, path, name=file_name(file.name), model=found.id)
        there = {(one.point.name, one.point.step, one.point.at, str(one.point.value)) for one in found.metrics}
        new = [
            msgspec.structs.replace(one, run=self._shared.known.get(one.run, self.run.id))
            for one in seen.metrics
            if (one.point.name, one.point.step, one.point.at, str(one.point.value)) not in there
        ]
        if new:
            key = digest(msgspec.json.encode(new))[:40]
            self._service.log_batch(self.run.id, of_models={found.id: new}, key=f"import/{key}")
        self._service.log_inputs(self.run.id, models=[ModelUse(model=found.id, role="output", step=seen.step)])
        if found.status != seen.status:
            self._service.change_logged_model(found.id, seen.status)

    # ------------------------------------------------------------ the end

    def _finish(self, renamed: Mapping[str, str]) -> None:
        said = dict(self._said)
        if self.seen.status:
            said[STATUS] = text(self.seen.status)
        if self._left_out:
            said[LEFT_OUT] = msgspec.json.encode(dict(sorted(self._left_out.items()))).decode()
        if renamed:
            spelled = msgspec.json.encode(renamed).decode()
            said[NAMES] = spelled if len(spelled) <= _LONGEST_NAMES else f"{len(renamed)} names"
        new = {name: value for name, value in said.items() if self.run.tags.get(name) != value}
        self._count("params", len(self._given))
        self._count("tags", len([name for name in new if not name.startswith("kilter.import.")]))
        ended = self._ended or Ended("RUNNING")
        later = bool(self._orphan_of or self._reads)
        whole = self.seen.version or _OPEN
        whole = whole if self.run.tags.get(VERSION) != whole else ""
        if whole and not later and not ended.deleted:
            new[VERSION] = whole
        named = text(self._name)[:1000]
        changed = (ended.status, ended.ended_at) != (self.run.status, self.run.ended_at)
        if not self._dry and (changed or (named and named != self.run.name)):
            self._service.change(self.run.id, named or None, ended.status, ended.ended_at)
        self._count("points", self._batches.close(self._given, new))
        if later:
            self._shared.later.append(Later(self.run.id, self._orphan_of, tuple(self._reads), whole))
        if ended.deleted and not self._dry:
            self._service.delete(self.run.id)
            if whole and not later:  # a run that is put away says last that it is whole
                self._service.log_tags(self.run.id, {VERSION: whole})
