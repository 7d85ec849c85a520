"""What every HTTP protocol does with a request and with an answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import InvalidInput
from kilter.serving.answering.admission import terms_of
from kilter.serving.front.exchange import Answer, Call
from kilter.serving.front.http import JSON, HttpError, Request

T = TypeVar("T")

_LONGEST_ROUTE = 200
_LONGEST_PROTOCOL = 32


def call_of(request: Request, answer: Callable[[Answer], None], *, version: int | None = None, route: str = "") -> Call:
    """Return a request's call.

    Args:
        request: The request.
        answer: Takes the answer.
        version: The version that the path names, or None.
        route: The routing key that the protocol carries in its own way; ``X-Kilter-Key`` goes before it.

    Raises:
        InvalidInput: When the routing key is too long, or the timeout none.
    """
    headers = request.headers
    call = Call(request.arrived, answer, request.reply.fail, version=version, route=route)
    call.client, call.context = request.client, request.context
    call.agent = headers.get(b"user-agent", b"")
    call.protocol = protocol_of(request.path)
    if b"idempotency-key" in headers:
        call.key = headers[b"idempotency-key"].decode("latin-1")
        call.body = bytes.fromhex(digest(request.body)[:16]) if call.key else b""
    call.terms = terms_of(headers)
    if b"x-kilter-key" in headers:
        call.route = headers[b"x-kilter-key"].decode("latin-1")
    if len(call.route) > _LONGEST_ROUTE:
        raise InvalidInput("the routing key is too long", where="X-Kilter-Key", allowed=f"{_LONGEST_ROUTE} characters")
    return call


@lru_cache(maxsize=1024)
def protocol_of(path: bytes) -> str:
    """Return the protocol that a path belongs to: its first part."""
    return path.partition(b"?")[0].lstrip(b"/").partition(b"/")[0].decode("latin-1")[:_LONGEST_PROTOCOL]


def send(request: Request, answer: Answer, body: bytes, kind: bytes = JSON, headers: bytes = b"") -> None:
    """Answer with a body; the header says the id of the first row's prediction, those of the others count on from it.

    Args:
        request: What is answered.
        answer: The answer.
        body: It, in the protocol's format.
        kind: The content type.
        headers: More header lines, each ending in CRLF.
    """
    name = b"x-kilter-prediction: %b-%x-%x\r\n" % (answer.front.encode(), answer.position, answer.start)
    request.reply.send(200, body, kind, name + headers)


def media_type(request: Request) -> bytes:
    """Return the request's content type, in lower case and without parameters."""
    return request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def decode(decoder: msgspec.json.Decoder[T], body: bytes | memoryview, allowed: str) -> T:
    """Return a JSON body, typed.

    Args:
        decoder: The decoder of its type.
        body: The bytes.
        allowed: What its form should be, for the error.

    Raises:
        HttpError: 400 when it is not JSON.
        InvalidInput: When it has another form; it says where, and never what was sent.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        # The path holds indexes and "[...]" only, never a name that was sent.
        where = str(error).rpartition(" - at `")[2].rstrip("`") if " - at `" in str(error) else "body"
        raise InvalidInput("the body has another form", where=where, allowed=allowed) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, "the body is not JSON", allowed=allowed) from error


def quoted(text: str) -> str:
    """Return a text as JSON."""
    return msgspec.json.encode(text).decode()


def said(problem: dict[str, object]) -> str:
    """Return a problem document as one sentence: where, what, and what would have been right."""
    text = f"{problem['where']}: {problem['detail']}" if problem.get("where") else str(problem["detail"])
    if problem.get("allowed"):
        text += f". Allowed: {problem['allowed']}"
    if problem.get("fix"):
        text += f". Fix: {problem['fix']}"
    return text
