"""Amazon SageMaker's runtime: ``InvokeEndpoint``, plain and as a stream; its container asks ``/ping`` and ``/invocations``.

The target variant names who answers: ``champion``, ``challenger``, or a version. The inference id becomes the key of rows that
have none, so that labels can be joined by it; the session id is the routing key. Signatures of requests are not checked here.
Source: the service model ``sagemaker-runtime`` 2017-05-13; event streams as in Smithy's ``vnd.amazon.eventstream``.
"""

from __future__ import annotations

import secrets
import zlib
from datetime import datetime
from functools import partial
from typing import Any, Final

from kilter.core.errors import InvalidInput
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import HttpError, Request
from kilter.serving.front.intake import Intake, labelled, version_of
from kilter.serving.protocols.answers import listed, respond
from kilter.serving.protocols.bodies import Check, instances
from kilter.serving.protocols.calls import said, send
from kilter.serving.protocols.invocations import rows as mlflow_rows
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tables import ask

_PREFIX: Final = b"x-amzn-sagemaker-"
_LONGEST: Final = {b"inference-id": 64, b"session-id": 256, b"target-variant": 63, b"custom-attributes": 1024}
_REFUSED: Final = (b"target-model", b"target-container-hostname", b"inference-component", b"enable-explanations")
_NEW: Final = "NEW_SESSION"
_STREAM: Final = b"application/vnd.amazon.eventstream"
_TYPES: Final = {404: "ValidationError", 424: "ModelError", 500: "InternalFailure", 503: "ServiceUnavailable", 429: "ThrottlingException"}  # fmt: skip


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as the service does."""
    kind = _TYPES.get(status, "ValidationError")
    return 400 if status in {404, 422} else status, {"__type": kind, "message": said(problem), **problem}


class SageMaker:
    """The protocol.

    Args:
        intake: Where requests go.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> list[Route]:
        """Return its routes."""
        base = "/endpoints/{name}/"
        return [
            Route(b"POST", base + "invocations", partial(self.invoke, False), shape),
            Route(b"POST", base + "invocations-response-stream", partial(self.invoke, True), shape),
            Route(b"POST", base + "async-invocations", _not_async, shape),
        ]

    def invoke(self, streamed: bool, request: Request, name: str) -> None:
        """Answer a table."""
        endpoint = self._intake.endpoint(name)
        for header in _REFUSED:
            if _PREFIX + header in request.headers:
                raise InvalidInput("this is not offered", where=(_PREFIX + header).decode(), allowed="no such header")
        version = _variant(endpoint, _said(request, b"target-variant"))
        session, fresh = _said(request, b"session-id"), ""
        if session == _NEW:
            session = fresh = secrets.token_hex(16)
        attributes = _said(request, b"custom-attributes")

        def answer(found: Answer) -> None:
            headers = b"x-amzn-invoked-production-variant: %b\r\n" % _variant_of(found).encode()
            if attributes:
                headers += b"x-amzn-sagemaker-custom-attributes: %b\r\n" % attributes.encode("latin-1")
            if fresh:
                headers += b"x-amzn-sagemaker-new-session-id: %b\r\n" % fresh.encode()
            if not streamed:
                respond(request, found, headers=headers)
                return
            headers += b"x-amzn-sagemaker-content-type: application/json\r\n"
            send(request, found, event(f'{{"predictions":{listed(found)}}}'.encode()), _STREAM, headers)

        keys = _said(request, b"inference-id")
        ask(self._intake, endpoint, request, _rows, answer, version=version, route=session, keys=keys)


def _said(request: Request, name: bytes) -> str:
    value = request.headers.get(_PREFIX + name, b"").decode("latin-1")
    if len(value) > _LONGEST[name]:
        raise InvalidInput(
            "the header is too long", where=(_PREFIX + name).decode(), allowed=f"{_LONGEST[name]} characters"
        )
    return value


def _variant(endpoint: Endpoint, name: str) -> int | None:
    """Return the version that a variant names; AllTraffic, as the service calls the only one, leaves it to the router."""
    if name in {"", "AllTraffic"}:
        return None
    number = name.removeprefix("v")
    return version_of(number) if number.isdigit() else labelled(endpoint, name)


def _variant_of(answer: Answer) -> str:
    version = answer.version
    return f"v{version}" if version else "AllTraffic"


def _rows(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
    """Return the rows of a JSON body: MLflow's forms, or a bare list of rows, or of one row."""
    if type(body) is not list:
        return mlflow_rows(body, reader, now, check)
    nested = bool(body) and type(body[0]) in {list, dict}
    return instances(body if nested else [body], "body", reader, now, check)


def _not_async(request: Request, name: str) -> None:
    del request, name
    raise HttpError(
        400, "requests whose rows lie in a bucket are not answered here", fix="use InvokeEndpoint, or kilter batch"
    )


def event(payload: bytes) -> bytes:
    """Return a body as the one event of a stream: prelude, headers and payload, each under its checksum."""
    pairs = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
        for name, value in pairs.items()
    )
    prelude = (len(headers) + len(payload) + 16).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    head = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + payload
    return head + zlib.crc32(head).to_bytes(4, "big")
