"""TorchServe's inference API and the reading half of its management API; models are not registered over the wire here.

A JSON object is one row, or holds rows as ``instances`` or ``data``; a list holds rows, or is one. One row is answered with its
prediction, rows with a list. Source: https://pytorch.org/serve/inference_api.html, management_api.html.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from kilter.core.errors import InvalidInput
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake, version_of
from kilter.serving.protocols.answers import listed, respond
from kilter.serving.protocols.bodies import Check, instances
from kilter.serving.protocols.calls import said, send
from kilter.serving.protocols.models import Models
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tables import ask

_KINDS: Final = {404: "ModelNotFoundException", 405: "MethodNotAllowedException", 503: "ServiceUnavailableException"}


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as TorchServe does."""
    status = 400 if status == 422 else status
    return status, {
        **problem,
        "code": status,
        "type": _KINDS.get(status, "BadRequestException"),
        "message": said(problem),
    }


class TorchServe:
    """The protocol.

    Args:
        intake: Where requests go.
        models: What is said about models.
    """

    def __init__(self, intake: Intake, models: Models) -> None:
        self._intake = intake
        self._models = models

    def routes(self) -> list[Route]:
        """Return its routes."""
        asked = [
            Route(method, path, self.predict, shape)
            for method in (b"POST", b"PUT")
            for path in ("/predictions/{model}", "/predictions/{model}/{version}")
        ]
        return [
            *asked,
            Route(b"GET", "/models/{model}", self._describe, shape),
            Route(b"GET", "/models/{model}/{version}", self._describe, shape),
        ]

    def predict(self, request: Request, name: str, version: str = "") -> None:
        """Answer a body."""
        endpoint = self._intake.endpoint(name)
        pinned = version_of(version) if version else None
        single = wrapped = False

        def form(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
            nonlocal single, wrapped
            rows, single, wrapped = _rows(body)
            return instances(rows, "body", reader, now, check)

        def answer(found: Answer) -> None:
            if single:
                send(request, found, listed(found)[1:-1].encode())
            else:
                respond(request, found, '{{"predictions":{0}}}' if wrapped else "{0}")

        ask(self._intake, endpoint, request, form, answer, version=pinned)

    def _describe(self, request: Request, name: str, version: str = "") -> None:
        number = version_of(version) if version and version != "all" else None
        endpoint, asked = self._models.find(name, number)
        models = endpoint.active.models.values() if endpoint.active is not None else ()
        found = [
            {
                "modelName": name,
                "modelVersion": str(model.version),
                "modelUrl": model.digest,
                "runtime": model.manifest.framework,
                "minWorkers": model.pool.workers,
                "maxWorkers": model.pool.workers,
                "batchSize": self._intake.limits.rows,
                "maxBatchDelay": 0,
                "loadedAtStartup": True,
                "workers": [{"id": str(pid), "pid": pid, "status": "READY", "gpu": False} for pid in model.pool.pids],
            }
            for model in models
            if version == "all" or model is asked
        ]
        request.reply.send(200, msgspec.json.encode(found))


def _rows(body: Any) -> tuple[list[Any], bool, bool]:
    """Return rows, whether they are one, and whether they stood in an object."""
    if type(body) is dict:
        for member in ("instances", "data"):
            if type(body.get(member)) is list:
                return body[member], False, True
        return [body], True, False
    if type(body) is list:
        nested = not body or type(body[0]) in {list, dict}
        return (body, False, False) if nested else ([body], True, False)
    raise InvalidInput("the body is no row", where="body", allowed="an object, or a list")
