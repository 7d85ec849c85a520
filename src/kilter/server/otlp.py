"""Spans over HTTP, as every OpenTelemetry exporter sends them: Protocol Buffers or JSON, packed or not.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp. A batch is kept wholly before it is answered, or refused wholly; an exporter
that got no answer sends it again, and nothing is there twice. What can't be used, however often it is sent, is told 400 ("Bad Data");
a request without spans is answered as a success, if its experiment is there.
"""

from __future__ import annotations

import zlib
from typing import Any, cast

from kilter.core.errors import InvalidInput
from kilter.llm.otlp import read_protobuf
from kilter.llm.otlp_json import read_json
from kilter.llm.service import TraceService
from kilter.operations.identity import Identity
from kilter.server.api import body_of
from kilter.server.edge import IDENTITY, REQUEST, Receive, Scope, Send
from kilter.server.mlflow.problems import answer_of
from kilter.server.pool import Pool
from kilter.server.problems import TooLarge, WrongMethod, known
from kilter.server.targets import Targets

SPANS = "/v1/traces"
LARGEST = 64 << 20
"""What a packed body may become."""

_ANYBODY = Identity()
_EXPERIMENT = b"x-mlflow-experiment-id"
_RUN = b"x-mlflow-run-id"
_PROTOBUF = b"application/x-protobuf"
_JSON = b"application/json"
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Spans:
    """The ASGI application that takes spans.

    Args:
        traces: The operations on traces.
        pool: Where they run.
        targets: Finds what a call is about.
    """

    def __init__(self, traces: TraceService, pool: Pool, targets: Targets) -> None:
        self._traces = traces
        self._pool = pool
        self._targets = targets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a batch."""
        try:
            _check_method(scope["method"])
            identity: Identity = scope.get(IDENTITY, _ANYBODY)
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            body = await body_of(cast("Any", receive))
            await self._pool.run(lambda: self._keep(body, kind, headers, identity))
        except Exception as error:  # noqa: BLE001 - whatever happens is answered in words that exporters print
            status, answer = answer_of(known(error, str(scope.get(REQUEST, ""))))
            await _reply(send, status, answer, _JSON)
        else:
            await _reply(send, 200, *((b"{}", _JSON) if kind == "application/json" else (b"", _PROTOBUF)))

    def _keep(self, body: bytes, kind: str, headers: dict[bytes, str], identity: Identity) -> None:
        identity.check("editor", self._targets.experiment(headers.get(_EXPERIMENT, "0")), SPANS)
        data = unpacked(body, headers.get(b"content-encoding", "identity").strip().lower())
        batch = read_json(data) if kind == "application/json" else read_protobuf(data)
        said = headers.get(_EXPERIMENT, "0")
        if batch:
            self._traces.ingest(batch, _number(said), headers.get(_RUN, ""))
        elif not self._targets.experiment(said):
            raise InvalidInput(f"no spans found, and no experiment {said[:40]!r}", where=_EXPERIMENT.decode())


def unpacked(body: bytes, encoding: str) -> bytes:
    """Return a body as it was before it was packed.

    Raises:
        InvalidInput: When it is packed in a way that is not known, or is not packed so.
        TooLarge: When it would become too large; no more than the limit is ever unpacked.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding not in _WINDOWS:
        raise InvalidInput("the body is packed in another way", where="Content-Encoding", allowed="gzip or deflate")
    unpacking = zlib.decompressobj(_WINDOWS[encoding])
    try:
        data = unpacking.decompress(body, LARGEST)
    except zlib.error:
        raise InvalidInput("the body is not packed so", where="Content-Encoding") from None
    if unpacking.unconsumed_tail:
        raise TooLarge("the body is too large once unpacked", where="body", allowed=f"{LARGEST:,} bytes")
    if not unpacking.eof:
        raise InvalidInput("the packed body is cut off", where="body")
    return data


def _check_method(method: str) -> None:
    if method != "POST":
        raise WrongMethod("the path doesn't know this method", where="method", allowed="POST")


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise InvalidInput(
            f"Invalid experiment ID {text[:40]!r}", where=_EXPERIMENT.decode(), allowed="an experiment's number"
        )
    return int(text)


async def _reply(send: Send, status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
