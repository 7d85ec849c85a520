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
from typing import Self

from kilter.core.clock import Clock, SystemClock
from kilter.core.errors import NotFound, Unavailable
from kilter.data.service import DataService
from kilter.engines.objects.store import ObjectStore
from kilter.engines.online.store import OnlineStore
from kilter.engines.sql import tables as _leases  # noqa: F401 - who opens a workspace knows all tables, and makes a new store at once
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore
from kilter.features.answers import Answers, AnswerService
from kilter.features.online import OnlineFeatures
from kilter.features.service import FeatureService
from kilter.governance.service import PeopleService
from kilter.journal.service import Journal
from kilter.llm.datasets import EvaluationDatasetService
from kilter.llm.scorers import ScorerService
from kilter.llm.service import TraceService
from kilter.loop.events import JournalService
from kilter.loop.experiments import ExperimentService
from kilter.loop.openlineage.context import Context
from kilter.loop.openlineage.service import LineageService
from kilter.loop.promotion.service import PromotionService
from kilter.loop.recorded import watched_inputs
from kilter.loop.remote import SERVICES, Kilter, RemoteKilter
from kilter.loop.service import LoopService
from kilter.loop.store import DEFAULT_STORE, Store
from kilter.loop.tuning.service import StudyService
from kilter.loop.versions.deployments import DeploymentService
from kilter.monitoring.service import MonitorService
from kilter.operations import tables as _remembered  # noqa: F401 - as the leases
from kilter.operations.table import Registry, collect
from kilter.registry.service import ModelService
from kilter.release.service import ReleaseService
from kilter.serving.access.consumers import ConsumerService
from kilter.serving.access.keys import KeyService
from kilter.serving.edge.service import DeviceService
from kilter.serving.recording.logs import LogService
from kilter.serving.recording.redaction import RecordingService
from kilter.serving.service import EndpointService
from kilter.tracking.service import RunService


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
        service = DataService(self.database, self.tables, log, self.clock, journal=self.journal_log)
        # The features rest on the data in their turn: they are opened when the first rows come.
        service.on_append.append(lambda batch: self.features.observe(batch))  # noqa: PLW0108
        return service

    @cached_property
    def features(self) -> FeatureService:
        """Windowed features."""
        return FeatureService(self.database, OnlineFeatures(self.online), self.data, self.clock)

    @cached_property
    def answers(self) -> AnswerService:
        """Answers that batches left in the online store."""
        return AnswerService(Answers(self.online))

    @cached_property
    def runs(self) -> RunService:
        """Experiments and runs."""
        return RunService(self.database, self.objects, self.clock)

    @cached_property
    def studies(self) -> StudyService:
        """Searches for parameters."""
        return StudyService(self.runs)

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
    def lineage(self) -> LineageService:
        """The journal in OpenLineage's words."""
        context = Context(self.journal_log, self.loops, self.models, self.runs, lambda: self.data, self.store.tables)
        return LineageService(self.database, self.journal_log, context)

    @cached_property
    def deployments(self) -> DeploymentService:
        """Models without a loop."""
        return DeploymentService(
            self.database, self.objects, self.journal_log, self.models, self.endpoints, self.clock, self.store.run
        )

    @cached_property
    def promotions(self) -> PromotionService:
        """Versions on their way to another environment, and from one."""
        return PromotionService(self.database, self.objects, self.journal_log, self.models, self.loops, self.clock)

    @cached_property
    def devices(self) -> DeviceService:
        """Releases for devices, and what they answered."""
        return DeviceService(
            self.endpoints,
            self.objects,
            self.store.folder / "edge",
            self.prediction_logs(),
            self.recording.redactors,
            self.clock,
        )

    @cached_property
    def people(self) -> PeopleService:
        """Who works with the store."""
        return PeopleService(self.database, self.journal_log, SystemClock())

    @cached_property
    def traces(self) -> TraceService:
        """Traces of applications on language models."""
        return TraceService(self.database, self.objects, self.clock)

    @cached_property
    def datasets(self) -> EvaluationDatasetService:
        """Datasets that they are judged by."""
        return EvaluationDatasetService(self.database, self.clock)

    @cached_property
    def scorers(self) -> ScorerService:
        """Scorers that clients keep with their experiments."""
        return ScorerService(self.database, self.clock)

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
