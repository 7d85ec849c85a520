"""What every service does with a message and with a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from kilter.core.digests import digest
from kilter.core.errors import InvalidInput
from kilter.serving.answering.admission import terms_of
from kilter.serving.front.exchange import Answer, Call
from kilter.serving.grpc.calls import Turn, seconds_of
from kilter.serving.grpc.status import CallError, Code

_LONGEST_ROUTE: Final = 200


def parsed(kind: Any, message: bytes) -> Any:
    """Return a message.

    Raises:
        CallError: When the bytes are no such message.
    """
    try:
        return kind.FromString(message)
    except DecodeError:
        raise CallError(Code.INVALID_ARGUMENT, f"the message is no {kind.DESCRIPTOR.name}") from None


def call_of(
    turn: Turn,
    message: bytes,
    answer: Callable[[Answer], None],
    *,
    version: int | None = None,
    route: str = "",
    protocol: str = "grpc",
) -> Call:
    """Return a request's call; metadata says what headers say over HTTP: ``x-kilter-key``, ``idempotency-key``.

    Args:
        turn: The request.
        message: Its bytes.
        answer: Takes the answer.
        version: The version that the message names, or None.
        route: The routing key that the message carries; ``x-kilter-key`` goes before it.
        protocol: The protocol that it speaks, for the register of consumers.

    Raises:
        InvalidInput: When the routing key is too long.
    """
    metadata, (client, context) = turn.metadata, turn.guest
    call = Call(turn.arrived, answer, turn.fail, version=version, route=route)
    call.client, call.context, call.protocol = client, context, protocol
    call.agent = metadata.get(b"user-agent", b"")
    if b"idempotency-key" in metadata:
        call.key = metadata[b"idempotency-key"].decode("latin-1")
        call.body = bytes.fromhex(digest(message)[:16]) if call.key else b""
    call.terms = terms_of(metadata)
    if b"grpc-timeout" in metadata:
        seconds = seconds_of(metadata[b"grpc-timeout"])
        call.terms = call.terms._replace(seconds=min(seconds, call.terms.seconds or seconds))
    if b"x-kilter-key" in metadata:
        call.route = metadata[b"x-kilter-key"].decode("latin-1")
    if len(call.route) > _LONGEST_ROUTE:
        raise InvalidInput("the routing key is too long", where="x-kilter-key", allowed=f"{_LONGEST_ROUTE} characters")
    return call
