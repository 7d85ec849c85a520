"""How a call of AWS JSON 1.1 is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from kilter.core.errors import Conflict, Forbidden, InvalidInput, KilterError, NotFound, Unavailable
from kilter.operations.table import ROLES, Role
from kilter.server.api import body_of, read_object
from kilter.server.aws.packages import Packages
from kilter.server.edge import REQUEST, ROLE, Receive, Scope, Send
from kilter.server.pool import Pool
from kilter.server.problems import known

_KIND = (b"content-type", b"application/x-amz-json-1.1")
_CODES: tuple[tuple[type[KilterError], int, str], ...] = (
    (NotFound, 400, "ResourceNotFound"),
    (Conflict, 400, "ConflictException"),
    (InvalidInput, 400, "ValidationException"),
    (Forbidden, 403, "AccessDeniedException"),
    (Unavailable, 503, "ServiceUnavailable"),
)
_READS = ("Describe", "List")


class Face:
    """The ASGI application that speaks as SageMaker's model registry.

    Args:
        packages: The calls.
        pool: Where they run.
    """

    def __init__(self, packages: Packages, pool: Pool) -> None:
        self._calls: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = packages.calls()
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call; its errors are Amazon's."""
        request = str(scope.get(REQUEST, ""))
        try:
            role: Role = scope.get(ROLE, "viewer")
            call = self._call(scope, role)
            said = read_object(await body_of(cast("Any", receive)))
            status, body = 200, await self._pool.run(lambda: msgspec.json.encode(call(said, role)))
        except Exception as error:  # noqa: BLE001 - whatever happens is answered in this face's own words
            status, body = _refusal(known(error, request))
        headers = [_KIND, (b"content-length", str(len(body)).encode()), (b"x-amzn-requestid", request.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _call(self, scope: Scope, role: Role) -> Callable[[dict[str, Any], str], dict[str, Any]]:
        """Return the call that a request names.

        Raises:
            InvalidInput: When there is none of that name.
            Forbidden: When the role doesn't allow it.
        """
        target = next((value for name, value in scope["headers"] if name.lower() == b"x-amz-target"), b"")
        name = target.decode("latin-1").partition(".")[2]
        call = self._calls.get(name)
        if call is None:
            raise InvalidInput(
                f"{name[:60]!r} is not answered here", where="X-Amz-Target", allowed=", ".join(self._calls)
            )
        needed: Role = "viewer" if name.startswith(_READS) else "editor"
        if ROLES.index(role) < ROLES.index(needed):
            raise Forbidden("the key's role doesn't allow this call", where=name, allowed=needed)
        return call


def _refusal(error: KilterError) -> tuple[int, bytes]:
    status, code = next(
        ((status, code) for kind, status, code in _CODES if isinstance(error, kind)), (500, "InternalFailure")
    )
    return status, msgspec.json.encode({"__type": code, "message": str(error)})
