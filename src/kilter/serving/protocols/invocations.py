"""MLflow's scoring server, and Databricks' serving endpoints, which speak the same.

Sources: https://mlflow.org/docs/latest/deployment/deploy-model-locally, and Databricks' "Query serving endpoints for custom models".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from kilter.core.errors import InvalidInput
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake, version_of
from kilter.serving.protocols.answers import respond
from kilter.serving.protocols.bodies import Check, columns, instances, split
from kilter.serving.protocols.calls import said
from kilter.serving.protocols.models import kilter_version
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tables import ask

_FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
_CODES: Final = {404: "RESOURCE_DOES_NOT_EXIST", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "REQUEST_LIMIT_EXCEEDED",
                 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}  # fmt: skip


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as MLflow and Databricks do."""
    status = 400 if status == 422 else status
    return status, {"error_code": _CODES.get(status, "BAD_REQUEST"), "message": said(problem), **problem}


class Invocations:
    """The protocol.

    Args:
        intake: Where requests go.
        ready: Whether the whole front is ready.
    """

    def __init__(self, intake: Intake, ready: Callable[[], bool]) -> None:
        self._intake = intake
        self._ready = ready

    def routes(self) -> list[Route]:
        """Return its routes."""
        return [
            Route(b"POST", "/invocations", self.invoke, shape),
            Route(b"POST", "/serving-endpoints/{name}/invocations", self.invoke, shape),
            Route(b"POST", "/serving-endpoints/{name}/served-models/{version}/invocations", self.invoke, shape),
            Route(b"GET", "/ping", self._ping, shape, open=True),
            Route(b"GET", "/health", self._ping, shape, open=True),
            Route(b"GET", "/version", _version, shape),
        ]

    def invoke(self, request: Request, name: str = "", version: str = "") -> None:
        """Answer a table."""
        intake = self._intake
        endpoint = intake.endpoint(name) if name else intake.only()
        pinned = version_of(version) if version else None
        ask(intake, endpoint, request, rows, lambda found: respond(request, found), version=pinned)

    def _ping(self, request: Request) -> None:
        ready = self._ready()
        request.reply.send(200 if ready else 503, b'{"status":"Healthy"}' if ready else b'{"status":"Unhealthy"}')


def rows(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
    """Return the rows of a body in one of MLflow's four forms.

    Raises:
        InvalidInput: When it has none of them, or several.
    """
    named = [form for form in _FORMS if form in body] if type(body) is dict else []
    if len(named) != 1 or set(body) - {*_FORMS, "params", "client_request_id", "databricks_options"}:
        raise InvalidInput(
            f"the body has {len(named)} of the four forms of rows, or members beside them",
            where="body",
            allowed=f"one of {', '.join(_FORMS)}",
        )
    form, value = named[0], body[named[0]]
    if form == "dataframe_split":
        return split(value, form, reader, now, check)
    if form == "inputs" and type(value) is dict:
        return columns(value, form, reader, now, check)
    return instances(value, form, reader, now, check)


def _version(request: Request) -> None:
    request.reply.send(200, kilter_version().encode(), b"text/plain; charset=utf-8")
