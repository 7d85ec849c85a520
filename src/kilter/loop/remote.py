"""The calls of a store, and a running server that answers them."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Protocol, Self, TypeVar

from kilter.data.service import DataService
from kilter.features.answers import AnswerService
from kilter.features.service import FeatureService
from kilter.governance.service import PeopleService
from kilter.llm.datasets import EvaluationDatasetService
from kilter.llm.scorers import ScorerService
from kilter.llm.service import TraceService
from kilter.loop.events import JournalService
from kilter.loop.experiments import ExperimentService
from kilter.loop.openlineage.service import LineageService
from kilter.loop.promotion.service import PromotionService
from kilter.loop.service import LoopService
from kilter.loop.tuning.service import StudyService
from kilter.loop.versions.deployments import DeploymentService
from kilter.monitoring.service import MonitorService
from kilter.operations.client import Remote
from kilter.registry.service import ModelService
from kilter.release.service import ReleaseService
from kilter.serving.access.consumers import ConsumerService
from kilter.serving.access.keys import KeyService
from kilter.serving.edge.service import DeviceService
from kilter.serving.recording.logs import LogService
from kilter.serving.recording.redaction import RecordingService
from kilter.serving.service import EndpointService
from kilter.tracking.service import RunService

S = TypeVar("S")


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
    def answers(self) -> AnswerService:
        """Answers that batches left in the online store."""
        ...

    @property
    def runs(self) -> RunService:
        """Experiments and runs."""
        ...

    @property
    def studies(self) -> StudyService:
        """Searches for parameters."""
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
    def lineage(self) -> LineageService:
        """The journal in OpenLineage's words."""
        ...

    @property
    def deployments(self) -> DeploymentService:
        """Models without a loop."""
        ...

    @property
    def promotions(self) -> PromotionService:
        """Versions on their way to another environment, and from one."""
        ...

    @property
    def devices(self) -> DeviceService:
        """Releases for devices, and what they answered."""
        ...

    @property
    def people(self) -> PeopleService:
        """Who works with the store."""
        ...

    @property
    def traces(self) -> TraceService:
        """Traces of applications on language models."""
        ...

    @property
    def datasets(self) -> EvaluationDatasetService:
        """Datasets that they are judged by."""
        ...

    @property
    def scorers(self) -> ScorerService:
        """Scorers that clients keep with their experiments."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...

    def __enter__(self) -> Self:
        """Return itself, to be closed at the end of a ``with`` block."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything."""
        ...


SERVICES: dict[str, type] = {
    "data": DataService,
    "features": FeatureService,
    "answers": AnswerService,
    "runs": RunService,
    "studies": StudyService,
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
    "lineage": LineageService,
    "deployments": DeploymentService,
    "promotions": PromotionService,
    "devices": DeviceService,
    "people": PeopleService,
    "traces": TraceService,
    "datasets": EvaluationDatasetService,
    "scorers": ScorerService,
}
"""Noun to service class: the table from which HTTP, the client, the command line and MCP are derived."""


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
    def answers(self) -> AnswerService:
        """Answers that batches left in the online store."""
        return self._service("answers", AnswerService)

    @cached_property
    def runs(self) -> RunService:
        """Experiments and runs."""
        return self._service("runs", RunService)

    @cached_property
    def studies(self) -> StudyService:
        """Searches for parameters."""
        return self._service("studies", StudyService)

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
    def lineage(self) -> LineageService:
        """The journal in OpenLineage's words."""
        return self._service("lineage", LineageService)

    @cached_property
    def deployments(self) -> DeploymentService:
        """Models without a loop."""
        return self._service("deployments", DeploymentService)

    @cached_property
    def promotions(self) -> PromotionService:
        """Versions on their way to another environment, and from one."""
        return self._service("promotions", PromotionService)

    @cached_property
    def devices(self) -> DeviceService:
        """Releases for devices, and what they answered."""
        return self._service("devices", DeviceService)

    @cached_property
    def people(self) -> PeopleService:
        """Who works with the store."""
        return self._service("people", PeopleService)

    @cached_property
    def traces(self) -> TraceService:
        """Traces of applications on language models."""
        return self._service("traces", TraceService)

    @cached_property
    def datasets(self) -> EvaluationDatasetService:
        """Datasets that they are judged by."""
        return self._service("datasets", EvaluationDatasetService)

    @cached_property
    def scorers(self) -> ScorerService:
        """Scorers that clients keep with their experiments."""
        return self._service("scorers", ScorerService)

    def close(self) -> None:
        """Close the connection."""
        self._remote.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
