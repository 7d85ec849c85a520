"""Google Vertex AI: the contract of a custom container, and the routes of its prediction service.

In a container the platform names the routes itself, in ``AIP_PREDICT_ROUTE`` and ``AIP_HEALTH_ROUTE``.
Sources: https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements, the REST reference of
``projects.locations.endpoints.predict``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from kilter.core.errors import InvalidInput
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake
from kilter.serving.protocols.answers import listed, respond
from kilter.serving.protocols.bodies import Check, instances
from kilter.serving.protocols.calls import said, send
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tables import ask

_STATUS: Final = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
                  429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}  # fmt: skip


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as Google's APIs do."""
    status = 400 if status == 422 else status
    code = _STATUS.get(status, "INVALID_ARGUMENT")
    return status, {"error": {"code": status, "message": said(problem), "status": code}, **problem}


class Vertex:
    """The protocol.

    Args:
        intake: Where requests go.
        ready: Whether the whole front is ready.
        environment: Where the platform names its routes.
    """

    def __init__(self, intake: Intake, ready: Callable[[], bool], environment: Mapping[str, str]) -> None:
        self._intake = intake
        self._ready = ready
        self._predict = environment.get("AIP_PREDICT_ROUTE", "")
        self._health = environment.get("AIP_HEALTH_ROUTE", "")

    def routes(self) -> list[Route]:
        """Return its routes."""
        base = "/v1/projects/{project}/locations/{location}/endpoints/{endpoint}"
        found = [
            Route(b"POST", base + ":predict", partial(self.predict, False), shape),
            Route(b"POST", base + ":rawPredict", partial(self.predict, True), shape),
        ]
        if self._predict.startswith("/") and "{" not in self._predict:
            found.append(Route(b"POST", self._predict, self._contained, shape))
        if self._health.startswith("/") and "{" not in self._health:
            found.append(Route(b"GET", self._health, self._healthy, shape, open=True))
        return found

    def predict(self, raw: bool, request: Request, project: str, location: str, name: str) -> None:
        """Answer instances; raw, as the container would."""
        endpoint = self._intake.endpoint(name)
        if raw:
            self._ask(endpoint, request, lambda found: respond(request, found))
            return

        def answer(found: Answer) -> None:
            version = found.version or "0"
            where = f"projects/{project}/locations/{location}"
            body = (
                f'{{"predictions":{listed(found)},"deployedModelId":"{version}","model":"{where}/models/{name}",'
                f'"modelDisplayName":"{name}","modelVersionId":"{version}"}}'
            )
            send(request, found, body.encode())

        _check_names(project, location)
        self._ask(endpoint, request, answer)

    def _contained(self, request: Request) -> None:
        self._ask(self._intake.only(), request, lambda found: respond(request, found))

    def _ask(self, endpoint: Endpoint, request: Request, answer: Callable[[Answer], None]) -> None:
        ask(self._intake, endpoint, request, _rows, answer)

    def _healthy(self, request: Request) -> None:
        ready = self._ready()
        request.reply.send(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')


def _check_names(*names: str) -> None:
    if any(not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() for name in names):
        raise InvalidInput("that is no name of a project or location", where="path", allowed="letters, digits, - and _")


def _rows(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
    if type(body) is not dict or "instances" not in body:
        raise InvalidInput("there are no instances", where="instances", allowed='{"instances": [...]}')
    return instances(body["instances"], "instances", reader, now, check)
