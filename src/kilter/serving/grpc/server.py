"""The port of gRPC: who may call, what there is to call, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from kilter.core.access import allowed_host
from kilter.core.errors import Forbidden
from kilter.serving.access.reception import Reception
from kilter.serving.front.http import Limits
from kilter.serving.front.intake import Intake
from kilter.serving.grpc import health, inference, tensorflow
from kilter.serving.grpc.calls import Guest, Method
from kilter.serving.grpc.connection import Connection

_OPEN: Final = frozenset(
    {
        b"/grpc.health.v1.Health/Check",
        b"/inference.GRPCInferenceService/ServerLive",
        b"/inference.GRPCInferenceService/ServerReady",
    }
)
"""What needs no token: a balancer has none, and learns nothing but whether to send."""

_HEARING_SECONDS: Final = 1.0
"""How long a drain waits for clients to hear of it."""


def all_methods(intake: Intake, ready: Callable[[], bool]) -> dict[str, Method]:
    """Return the methods of all services.

    Args:
        intake: Where requests go.
        ready: Whether the whole front is ready.
    """
    services = (inference.SERVICE, tensorflow.PREDICTION, tensorflow.MODEL)
    return {
        **inference.Inference(intake, ready).methods(),
        **tensorflow.TensorFlow(intake).methods(),
        **health.Health(intake.endpoints, services, ready).methods(),
    }


class GrpcServer:
    """Listens for gRPC beside a front's HTTP.

    Args:
        methods: What answers to which path.
        limits: What one client may ask.
        host: The address to listen on.
        reception: Who comes, and whether they may.
    """

    def __init__(self, methods: Mapping[str, Method], limits: Limits, *, host: str, reception: Reception) -> None:
        self.limits = limits
        self.draining = False
        self.connections: set[Connection] = set()
        self.port = 0
        self._methods = methods
        self._host = host
        self._reception = reception
        self._drain_end = 0.0
        self._server: asyncio.Server | None = None

    def method(self, path: str) -> Method | None:
        """Return what answers to a path."""
        return self._methods.get(path)

    def admit(self, metadata: dict[bytes, bytes]) -> Guest:
        """Return who calls, by the call's metadata.

        Raises:
            Forbidden: When the authority isn't this server.
            Unauthorized: When the caller's token or key is missing or wrong.
        """
        authority = metadata.get(b":authority", metadata.get(b"host"))
        if not allowed_host(_text(authority), self._host):
            raise Forbidden(
                "the authority is not this server", where=":authority", allowed="localhost, 127.0.0.1, [::1]"
            )
        reception = self._reception
        client, closed = "", metadata.get(b":path") not in _OPEN
        if reception.keys.locked and closed:
            sent = _text(metadata.get(b"authorization")), _text(metadata.get(b"x-api-key"))
            client = reception.keys.caller(*sent).name
        context = reception.trace(metadata.get(b"traceparent"), metadata.get(b"tracestate"))
        return Guest(client, context if closed else None)

    async def start(self, port: int) -> None:
        """Listen.

        Args:
            port: The port, or 0 for any free one.

        Raises:
            OSError: When the address can't be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            partial(Connection, self, time.monotonic), self._host, port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def busy(self) -> bool:
        """Whether calls wait for their answer, or may still come from clients that have not heard of the drain."""
        if any(one.waiting for one in self.connections):
            return True
        return asyncio.get_running_loop().time() < self._drain_end and any(one.leaving for one in self.connections)

    def sweep(self, now: float) -> None:
        """End what has lasted too long."""
        for connection in tuple(self.connections):
            connection.sweep(now)

    def drain(self) -> None:
        """Take no more connections, and tell the clients to go elsewhere with what they have not begun."""
        self.draining = True
        self._drain_end = asyncio.get_running_loop().time() + _HEARING_SECONDS
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.drain()

    def close(self) -> None:
        """Hang up."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.hang_up()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
