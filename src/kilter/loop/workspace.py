"""A store opened: every engine and every room's service, wired once.

``Workspace.open("./.kilter")`` is the embedded house; ``connect`` gives the same calls whether the target is a folder, a
database or a running server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit

import msgspec

from kilter.core.clock import Clock, SystemClock
from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput, NotFound, Unavailable
from kilter.data.service import DataService
from kilter.engines.clock import SharedClock
from kilter.engines.location import locate
from kilter.engines.objects.store import ObjectStore
from kilter.engines.online.store import OnlineStore
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore
from kilter.features.online import OnlineFeatures
from kilter.features.service import FeatureService
from kilter.journal.service import Journal
from kilter.loop.deployments import DeploymentService
from kilter.loop.experiments import ExperimentService
from kilter.loop.recorded import watched_inputs
from kilter.loop.service import JournalService, LoopService
from kilter.monitoring.service import MonitorService
from kilter.operations.client import Remote
from kilter.operations.running import RunFolder
from kilter.operations.table import Registry, collect
from kilter.registry.service import ModelService
from kilter.release.service import ReleaseService
from kilter.serving.access.consumers import ConsumerService
from kilter.serving.access.keys import KeyService
from kilter.serving.recording.logs import LogService
from kilter.serving.recording.redaction import RecordingService
from kilter.serving.service import EndpointService
from kilter.tracking.service import RunService

S = TypeVar("S")

DEFAULT_STORE = ".kilter"

_BUCKET_OPTIONS = frozenset({"endpoint", "region"})


class Store(msgspec.Struct, frozen=True):
    """Where a workspace keeps what.

    Args:
        database: SQLAlchemy URL of the metadata.
        objects: URL of the content-addressed bytes.
        tables: URL of the versioned tables.
        home: Local folder of the logs, the online features and the run files.
        name: What the user called it.
    """

    database: str
    objects: str
    tables: str
    home: str
    name: str

    @classmethod
    def parse(cls, target: str | os.PathLike[str], home: str | None = None) -> Store:
        """Return the places that a ``--store`` names.

        Args:
            target: A folder, or ``postgresql://user@host/database?objects=s3://bucket/prefix``. Options of the object store (such as
                ``endpoint``, ``region``) are given in the URL of ``objects``, or by the usual environment variables.
            home: The local folder of a remote store; ``KILTER_HOME``, else one below ``~/.kilter`` that is this store's own.

        Raises:
            InvalidInput: When the target is neither.
        """
        text = os.fspath(target)
        if "://" not in text:
            folder = Path(text).expanduser().resolve()
            return cls(
                f"sqlite:///{folder / 'kilter.db'}", str(folder / "objects"), str(folder / "tables"), str(folder), text
            )
        parts = urlsplit(text)
        if not parts.scheme.startswith("postgresql"):
            raise InvalidInput(
                f"{parts.scheme}:// is no store",
                where="--store",
                allowed="a folder, or postgresql://user@host/database?objects=s3://bucket/prefix",
            )
        query = parse_qs(parts.query, keep_blank_values=True)
        objects = query.pop("objects", [""])[0]
        if not objects:
            raise InvalidInput(
                "the URL names a database and no place for bytes",
                where="--store",
                allowed="postgresql://user@host/database?objects=s3://bucket/prefix",
                fix="add ?objects= with a folder or an s3:// URL",
            )
        # Written without quoting, the second option of the bucket looks like one of the database, which has none such.
        for name in _BUCKET_OPTIONS & query.keys():
            objects += f"{'&' if '?' in objects else '?'}{urlencode({name: query.pop(name)[0]})}"
        tables = query.pop("tables", [_below(objects, "tables")])[0]
        for place in (objects, tables):
            locate(place)  # a place that can't be is refused here, before anything is reached
        database = urlunsplit(("postgresql+psycopg", parts.netloc, parts.path, urlencode(query, doseq=True), ""))
        place = home or os.environ.get("KILTER_HOME") or str(_own_home(parts, query))
        return cls(database, _below(objects, "objects"), tables, str(Path(place).expanduser().resolve()), text)

    @property
    def archive(self) -> str:
        """URL of the archive of predictions, beside the tables."""
        head, mark, options = self.tables.partition("?")
        return f"{head.rstrip('/').rpartition('/')[0]}/archive{mark}{options}"

    @property
    def folder(self) -> Path:
        """The local folder."""
        return Path(self.home)

    @property
    def run(self) -> RunFolder:
        """What runs on this store, on this machine."""
        return RunFolder(self.folder / "run")


def _own_home(parts: SplitResult, query: dict[str, list[str]]) -> Path:
    """Return a folder for a database alone: two servers may both have one of the same name."""
    own = digest_json([parts.hostname, parts.port, parts.path, sorted(query.items())])
    return Path.home() / ".kilter" / f"{parts.path.strip('/') or 'default'}-{own[:8]}"


def _below(url: str, name: str) -> str:
    head, mark, options = url.partition("?")
    return f"{head.rstrip('/')}/{name}{mark}{options}"


def clock_from(text: str) -> Clock:
    """Return the clock that ``--clock`` names: ``system``, or ``file:PATH`` for a simulated one shared by processes."""
    if text == "system":
        return SystemClock()
    kind, _, path = text.partition(":")
    if kind != "file" or not path:
        raise InvalidInput(f"{text!r} is no clock", where="--clock", allowed='"system" or "file:PATH"')
    return SharedClock(Path(path))


class Kilter(Protocol):
    """The rooms' operations, local or remote: the same calls, the same records, the same errors."""

    @property
    def data(self) -> DataService:
        """Tables and their rows."""
        ...

    @property
    def features(self) -> FeatureService:
        """Windowed features."""
        ...

    @property
    def runs(self) -> RunService:
        """Experiments and runs."""
        ...

    @property
    def models(self) -> ModelService:
        """Models and versions."""
        ...

    @property
    def endpoints(self) -> EndpointService:
        """Endpoints and their answers."""
        ...

    @property
    def keys(self) -> KeyService:
        """Who may call endpoints."""
        ...

    @property
    def consumers(self) -> ConsumerService:
        """Who calls endpoints."""
        ...

    @property
    def recording(self) -> RecordingService:
        """What is recorded of the endpoints' inputs."""
        ...

    @property
    def logs(self) -> LogService:
        """The logs on disk."""
        ...

    @property
    def monitors(self) -> MonitorService:
        """Monitors, profiles and alerts."""
        ...

    @property
    def releases(self) -> ReleaseService:
        """The evidence of releases."""
        ...

    @property
    def experiments(self) -> ExperimentService:
        """Experiments on endpoints."""
        ...

    @property
    def loops(self) -> LoopService:
        """Loops."""
        ...

    @property
    def journal(self) -> JournalService:
        """What happened."""
        ...

    @property
    def deployments(self) -> DeploymentService:
        """Models without a loop."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


SERVICES: dict[str, type] = {
    "data": DataService,
    "features": FeatureService,
    "runs": RunService,
    "models": ModelService,
    "endpoints": EndpointService,
    "keys": KeyService,
    "consumers": ConsumerService,
    "recording": RecordingService,
    "logs": LogService,
    "monitors": MonitorService,
    "releases": ReleaseService,
    "experiments": ExperimentService,
    "loops": LoopService,
    "journal": JournalService,
    "deployments": DeploymentService,
}
"""Noun to service class: the table from which HTTP, the client, the command line and MCP are derived."""


class Workspace:
    """A store with its services, each built when first used.

    Args:
        store: The places.
        clock: The time.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self._closers: list[Callable[[], None]] = []

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str] | Store = DEFAULT_STORE,
        clock: Clock | None = None,
        home: str | None = None,
    ) -> Workspace:
        """Open a store, making it when it is not there, and bring its schema up to date.

        Args:
            target: The store, as ``Store.parse`` reads it.
            clock: The time; the machine's, if not given.
            home: The local folder of a remote store.

        Raises:
            Unavailable: When the folder is read-only or the database can't be reached.
            Damaged: When what is there is no store.
        """
        store = target if isinstance(target, Store) else Store.parse(target, home)
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the folder can't be made: {error.strerror}",
                where=str(store.folder),
                fix="choose a folder that you can write to with --store",
            ) from error
        workspace = cls(store, clock)
        workspace.database.migrate()
        return workspace

    # ---------------------------------------------------------------- engines

    @cached_property
    def database(self) -> Database:
        """The metadata."""
        database = Database.open(self.store.database)
        self._closers.append(database.close)
        return database

    @cached_property
    def objects(self) -> ObjectStore:
        """Bytes by digest."""
        return ObjectStore.open(self.store.objects)

    @cached_property
    def tables(self) -> TableStore:
        """Versioned tables."""
        return TableStore.open(self.store.tables)

    @cached_property
    def online(self) -> OnlineStore:
        """Online features."""
        store = OnlineStore.open(self.store.folder / "online")
        self._closers.append(store.close)
        return store

    @cached_property
    def journal_log(self) -> Journal:
        """The journal, to write to."""
        return Journal(self.database, self.clock)

    def prediction_logs(self) -> Path:
        """Return the folder of the prediction logs, one folder per front."""
        return self.store.folder / "log" / "predictions"

    # ---------------------------------------------------------------- services

    @cached_property
    def data(self) -> DataService:
        """Tables and their rows."""
        log = Log.open(self.store.folder / "log" / "rows", readonly=True)  # the first append claims it
        self._closers.append(log.close)
        service = DataService(self.database, self.tables, log, self.clock)
        # features are built from this very service, so they are looked up when the first batch comes
        # The features rest on the data in their turn: they are opened when the first rows come.
        service.on_append.append(lambda batch: self.features.observe(batch))  # noqa: PLW0108  # noqa: PLW0108
        return service

    @cached_property
    def features(self) -> FeatureService:
        """Windowed features."""
        return FeatureService(self.database, OnlineFeatures(self.online), self.data, self.clock)

    @cached_property
    def runs(self) -> RunService:
        """Experiments and runs."""
        return RunService(self.database, self.objects, self.clock)

    @cached_property
    def models(self) -> ModelService:
        """Models and versions."""
        return ModelService(self.database, self.clock)

    @cached_property
    def endpoints(self) -> EndpointService:
        """Endpoints and their answers."""
        return EndpointService(self.database, self.clock, self.prediction_logs())

    @cached_property
    def keys(self) -> KeyService:
        """Who may call endpoints."""
        return KeyService(self.database, self.clock)

    @cached_property
    def consumers(self) -> ConsumerService:
        """Who calls endpoints."""
        return ConsumerService(self.database, self.clock)

    @cached_property
    def recording(self) -> RecordingService:
        """What is recorded of the endpoints' inputs."""
        return RecordingService(self.database, self.clock, self._watched)

    def _watched(self, loop: str) -> Mapping[str, Sequence[str]]:
        """Return which inputs the monitors of a loop look at; none for an endpoint that has no loop."""
        try:
            return watched_inputs(self.loops.spec(loop))
        except NotFound:
            return {}

    @cached_property
    def logs(self) -> LogService:
        """The logs on disk."""
        folder = self.store.folder / "log"
        return LogService(self.database, self.clock, folder, lambda: self.data, self.store.archive)

    @cached_property
    def monitors(self) -> MonitorService:
        """Monitors, profiles and alerts."""
        return MonitorService(self.database, self.clock)

    @cached_property
    def releases(self) -> ReleaseService:
        """The evidence of releases."""
        return ReleaseService(self.database, self.clock)

    @cached_property
    def experiments(self) -> ExperimentService:
        """Experiments on endpoints."""
        return ExperimentService(
            self.database,
            self.objects,
            self.journal_log,
            self.loops.ledger,
            self.models,
            self.data,
            self.endpoints,
            self.releases,
            self.clock,
            self.prediction_logs(),
        )

    @cached_property
    def loops(self) -> LoopService:
        """Loops."""
        return LoopService(
            self.database,
            self.objects,
            self.journal_log,
            self.models,
            self.data,
            self.features,
            self.endpoints,
            self.clock,
        )

    @cached_property
    def journal(self) -> JournalService:
        """What happened."""
        return JournalService(self.journal_log)

    @cached_property
    def deployments(self) -> DeploymentService:
        """Models without a loop."""
        return DeploymentService(
            self.database, self.objects, self.journal_log, self.models, self.endpoints, self.clock, self.store.run
        )

    def registry(self) -> Registry:
        """Return the table of operations over these services."""
        return collect({noun: getattr(self, noun) for noun in SERVICES})

    def close(self) -> None:
        """Close every engine that was opened."""
        while self._closers:
            self._closers.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteKilter:
    """A running server, with the calls of a workspace.

    Args:
        url: The server's address.
        token: Its token.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._remote = Remote(url, token)

    def _service(self, noun: str, kind: type[S]) -> S:
        return self._remote.service(noun, kind)

    @cached_property
    def data(self) -> DataService:
        """Tables and their rows."""
        return self._service("data", DataService)

    @cached_property
    def features(self) -> FeatureService:
        """Windowed features."""
        return self._service("features", FeatureService)

    @cached_property
    def runs(self) -> RunService:
        """Experiments and runs."""
        return self._service("runs", RunService)

    @cached_property
    def models(self) -> ModelService:
        """Models and versions."""
        return self._service("models", ModelService)

    @cached_property
    def endpoints(self) -> EndpointService:
        """Endpoints and their answers."""
        return self._service("endpoints", EndpointService)

    @cached_property
    def keys(self) -> KeyService:
        """Who may call endpoints."""
        return self._service("keys", KeyService)

    @cached_property
    def consumers(self) -> ConsumerService:
        """Who calls endpoints."""
        return self._service("consumers", ConsumerService)

    @cached_property
    def recording(self) -> RecordingService:
        """What is recorded of the endpoints' inputs."""
        return self._service("recording", RecordingService)

    @cached_property
    def logs(self) -> LogService:
        """The logs on disk."""
        return self._service("logs", LogService)

    @cached_property
    def monitors(self) -> MonitorService:
        """Monitors, profiles and alerts."""
        return self._service("monitors", MonitorService)

    @cached_property
    def releases(self) -> ReleaseService:
        """The evidence of releases."""
        return self._service("releases", ReleaseService)

    @cached_property
    def experiments(self) -> ExperimentService:
        """Experiments on endpoints."""
        return self._service("experiments", ExperimentService)

    @cached_property
    def loops(self) -> LoopService:
        """Loops."""
        return self._service("loops", LoopService)

    @cached_property
    def journal(self) -> JournalService:
        """What happened."""
        return self._service("journal", JournalService)

    @cached_property
    def deployments(self) -> DeploymentService:
        """Models without a loop."""
        return self._service("deployments", DeploymentService)

    def close(self) -> None:
        """Close the connection."""
        self._remote.close()


def connect(
    target: str | os.PathLike[str] = DEFAULT_STORE, token: str | None = None, home: str | None = None
) -> Kilter:
    """Return the operations of a server or of a store.

    Args:
        target: ``http(s)://`` of a server, or a store as ``Store.parse`` reads it.
        token: The server's token; ``KILTER_TOKEN`` if not given.
        home: The local folder of a remote store.
    """
    text = os.fspath(target)
    if text.startswith(("http://", "https://")):
        return RemoteKilter(text, token or os.environ.get("KILTER_TOKEN"))
    return Workspace.open(text, home=home)
