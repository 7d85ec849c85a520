"""The standard health check, for balancers and orchestrators.

The empty service, or a service's name, asks for the front; an endpoint's name asks for that endpoint. ``Watch`` is not
there, which the protocol allows: a client then takes the server for healthy while it is connected.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kilter.core.errors import NotFound
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.grpc.calls import Method, Turn
from kilter.serving.grpc.messages import parsed
from kilter.serving.grpc.schema import HEALTH, classes

SERVICE: Final = "grpc.health.v1.Health"
_CLASSES: Final = classes("grpc.health.v1", HEALTH)
_REQUEST, _RESPONSE = _CLASSES["HealthCheckRequest"], _CLASSES["HealthCheckResponse"]
_SERVING, _NOT_SERVING = 1, 2


class Health:
    """Answers health checks.

    Args:
        endpoints: The front's endpoints.
        services: The names of the services that the front has.
        ready: Whether the front is ready for traffic.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], services: Iterable[str], ready: Callable[[], bool]) -> None:
        self._endpoints = endpoints
        self._services = frozenset((*services, SERVICE, ""))
        self._ready = ready

    def methods(self) -> dict[str, Method]:
        """Return what answers to which path."""
        return {f"/{SERVICE}/Check": Method(self._check)}

    def _check(self, turn: Turn, message: bytes) -> None:
        service = parsed(_REQUEST, message).service
        if service in self._services:
            ready = self._ready()
        elif service in self._endpoints:
            ready = self._endpoints[service].ready
        else:
            raise NotFound("there is no such service or endpoint", where="service")
        turn.answer(_RESPONSE(status=_SERVING if ready else _NOT_SERVING).SerializeToString())
