"""The server's application: operations, stream, health, metrics and pages, behind one edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any, TypeVar, cast

import msgspec
from litestar import Litestar, Request, Response, Router
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.plugins import PluginProtocol

from kilter.core.clock import Clock, SystemClock
from kilter.core.errors import KilterError, NotFound, Unavailable
from kilter.engines.sql.database import Database
from kilter.governance.oidc import Provider
from kilter.governance.service import PeopleService
from kilter.llm.datasets import EvaluationDatasetService
from kilter.llm.scorers import ScorerService
from kilter.llm.service import TraceService
from kilter.loop.openlineage.service import LineageService
from kilter.loop.openlineage.shipping import Shipper, destination
from kilter.loop.service import LoopService
from kilter.loop.versions.deployments import DeploymentService
from kilter.operations.idempotency import Idempotency
from kilter.operations.openapi import openapi
from kilter.operations.table import Registry, collect
from kilter.registry.delivery import Courier
from kilter.registry.service import ModelService
from kilter.server import api, stream
from kilter.server.access import Access, Sessions
from kilter.server.aws.face import Face
from kilter.server.aws.packages import Packages
from kilter.server.door import Door
from kilter.server.edge import AREA, REQUEST, App, Edge, Receive, Scope, Send, area_of
from kilter.server.google.face import Face as GoogleFace
from kilter.server.google.models import Models as GoogleModels
from kilter.server.identity import Identities
from kilter.server.metrics import Metrics
from kilter.server.mlflow.exported import Exported
from kilter.server.mlflow.face import Rooms, Wire
from kilter.server.otlp import SPANS, Spans
from kilter.server.pool import Pool
from kilter.server.problems import Malformed, WrongMethod, known, problem
from kilter.server.targets import Targets
from kilter.tracking.service import RunService

S = TypeVar("S")
Page = HTTPRouteHandler | ASGIRouteHandler | Router

STREAM = "/api/v1/journal/stream"
PAGE_STREAM = "/events"


@dataclass
class Parts:
    """What an application is built of.

    Args:
        services: The services by noun.
        journal: What the stream reads.
        database: Where results of writes are remembered; it also answers for the store's health.
        access: The server's rules.
        pages: Routes of the pages.
        clock: The machine's clock, for sessions and idempotency keys.
        entrance: Makes the pages of the way in, or None.
        provider: Where people sign in, or None.
    """

    services: Mapping[str, object]
    journal: stream.EventSource
    database: Database
    access: Access
    pages: Sequence[Page] = ()
    clock: Clock = field(default_factory=SystemClock)
    entrance: Callable[[Door], Sequence[Page]] | None = None
    provider: Provider | None = None


@dataclass
class Application:
    """A built application.

    Args:
        asgi: What a server runs.
        registry: The operations behind it.
        sessions: Makes links for browsers.
        router: The routes, as the edge's test walks them.
        closing: Set it to end the streams and to be no longer ready.
    """

    asgi: App
    registry: Registry
    sessions: Sessions
    router: Litestar
    closing: asyncio.Event


class _PlainLitestar(Litestar):
    """Litestar without its plugins for pydantic and attrs, which it loads wherever these are installed: 9 MB and a tenth of a second.

    No route here takes or gives either. Where Litestar asks for its plugins in another way, they are only loaded again.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return plugins


def build(parts: Parts) -> Application:
    """Return the application; nothing runs until it is served."""
    registry = collect(parts.services)
    pool, metrics, closing = Pool(), Metrics(), asyncio.Event()
    sessions = Sessions(parts.access.tokens["admin"], parts.clock)
    idempotency = Idempotency(parts.database, parts.clock)
    tail = stream.Tail(parts.journal, pool, metrics, closing)
    people = parts.services.get("people")
    known = people if isinstance(people, PeopleService) else None
    identities = Identities(parts.access, sessions, known.everybody if known else None, pool, parts.clock)
    door = Door(parts.access, sessions, identities, known, parts.provider)
    targets = Targets(parts.services)

    wire = _wire(parts, pool, targets)

    courier = Courier(parts.database, parts.clock)
    shipper = _shipper(_of(LineageService, parts.services.get("lineage")))

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await pool.run(idempotency.prune)
        courier.start()
        if shipper is not None:
            shipper.start()
        try:
            yield
        finally:
            closing.set()
            await pool.run(courier.stop)
            if shipper is not None:
                await pool.run(shipper.stop)
            if wire is not None:
                await pool.run(wire.close)
            pool.close()

    router = _PlainLitestar(
        route_handlers=[
            *api.routes(registry, pool, idempotency, targets),
            stream.route(STREAM, tail, metrics),
            stream.route(PAGE_STREAM, tail, metrics),
            *_own_routes(registry, parts, pool, metrics, closing),
            *(parts.entrance(door) if parts.entrance is not None else ()),
            *parts.pages,
        ],
        openapi_config=None,
        logging_config=None,
        lifespan=[lifespan],
        exception_handlers={Exception: _answer_error},
    )
    # Litestar hands the edge's messages through; its own types name the same protocol in other words.
    asgi = Edge(_beside(cast("App", router), wire, parts, pool, targets), parts.access, sessions, identities, metrics)
    return Application(asgi=asgi, registry=registry, sessions=sessions, router=router, closing=closing)


def _wire(parts: Parts, pool: Pool, targets: Targets) -> Wire | None:
    """Return what speaks MLflow's wire, where there are runs to track."""
    services = parts.services
    runs, models = _of(RunService, services.get("runs")), _of(ModelService, services.get("models"))
    deployed = _of(DeploymentService, services.get("deployments"))
    if runs is None:
        return None
    rooms = Rooms(
        runs,
        models,
        _of(TraceService, services.get("traces")),
        _of(EvaluationDatasetService, services.get("datasets")),
        None if models is None or deployed is None else Exported(models, deployed.objects),
        _of(ScorerService, services.get("scorers")),
    )
    return Wire(rooms, pool, targets)


def _beside(router: App, wire: Wire | None, parts: Parts, pool: Pool, targets: Targets) -> App:
    """Return the router with the wires of others beside it."""
    if wire is None:
        return router
    services, rooms = parts.services, wire.rooms
    runs, models = rooms.runs, rooms.models
    spans = None if rooms.traces is None else Spans(rooms.traces, pool, targets)
    loops = _of(LoopService, services.get("loops"))
    amazon: App = router if models is None or loops is None else Face(Packages(models, loops), pool)
    google: App = router if models is None else GoogleFace(GoogleModels(models, runs), pool)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(AREA) == "aws":
            await amazon(scope, receive, send)
            return
        area = area_of(scope["path"]) if scope["type"] == "http" else ""
        chosen: App = wire if area == "mlflow" else google if area == "google" else router
        if spans is not None and chosen is wire and scope["path"] == SPANS:
            chosen = spans
        await chosen(scope, receive, send)

    return app


def _shipper(lineage: LineageService | None) -> Shipper | None:
    """Return what tells the journal to whoever collects lineage, where the environment says who that is."""
    to = destination()
    return None if lineage is None or to is None else Shipper(lineage, to)


def _of(kind: type[S], service: object) -> S | None:
    """Return a service, where it is of this kind: an application may be built of a part of the rooms."""
    return service if isinstance(service, kind) else None


def _own_routes(
    registry: Registry, parts: Parts, pool: Pool, metrics: Metrics, closing: asyncio.Event
) -> list[HTTPRouteHandler]:
    @cache
    def document() -> bytes:
        return msgspec.json.encode(openapi(registry, version=_version(), url=parts.access.url))

    async def describe() -> Response[bytes]:
        # Made when somebody asks for it: to describe every type takes a tenth of what the whole start does.
        return Response(await pool.run(document), media_type="application/json")

    async def live() -> Response[bytes]:
        return Response(b"live\n", media_type="text/plain")

    async def ready() -> Response[bytes]:
        if closing.is_set():
            raise Unavailable("the server is ending")
        try:
            async with asyncio.timeout(2.0):
                await pool.run(_check(parts.database))
        except TimeoutError:
            raise Unavailable("the store doesn't answer") from None
        return Response(b"ready\n", media_type="text/plain")

    async def measure() -> Response[bytes]:
        return Response(metrics.text().encode(), media_type="text/plain; version=0.0.4; charset=utf-8")

    handlers: list[tuple[str, Callable[..., Any]]] = [
        ("/openapi.json", describe),
        ("/livez", live),
        ("/readyz", ready),
        ("/metrics", measure),
    ]
    return [HTTPRouteHandler(path, http_method="GET", status_code=200)(handler) for path, handler in handlers]


def _check(database: Database) -> Callable[[], None]:
    def check() -> None:
        with database.reading() as connection:
            connection.exec_driver_sql("SELECT 1")

    return check


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    identity = str(request.scope.get(REQUEST, ""))
    status, body, headers = problem(_meant(error, identity), identity)
    return Response(body, status_code=status, headers=dict(headers), media_type=headers["content-type"])


def _meant(error: Exception, identity: str) -> KilterError:
    if isinstance(error, HTTPException) and error.status_code < 500:
        if error.status_code == 404:
            return NotFound("there is nothing at this path", where="path", fix="see /openapi.json for all operations")
        if error.status_code == 405:
            return WrongMethod("the path doesn't know this method", where="method")
        return Malformed("the request can't be read")
    return known(error, identity)


def _version() -> str:
    try:
        return installed("kilter")
    except PackageNotFoundError:
        return "0"
