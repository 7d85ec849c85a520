"""How a call of Vertex AI's REST is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from kilter.operations.identity import Identity, asked_by
from kilter.operations.table import ROLES, Role
from kilter.server.api import body_of, read_object
from kilter.server.edge import IDENTITY, REQUEST, Receive, Scope, Send
from kilter.server.google.models import Caller, Models
from kilter.server.google.names import query_of, route_of
from kilter.server.google.status import Unimplemented, refusal
from kilter.server.pool import Pool
from kilter.server.problems import Malformed, known

_JSON = (b"content-type", b"application/json; charset=UTF-8")
_ANYBODY = Identity()

Call = Callable[..., dict[str, Any]]


class Face:
    """The ASGI application that speaks as Vertex AI's model registry.

    Args:
        models: The calls.
        pool: Where they run.
    """

    def __init__(self, models: Models, pool: Pool) -> None:
        self._pool = pool
        self._calls: dict[tuple[str, str, str], Call] = {
            ("GET", "models", ""): models.every,
            ("POST", "models", "upload"): models.upload,
            ("GET", "model", ""): models.get,
            ("GET", "model", "listVersions"): models.versions,
            ("PATCH", "model", ""): models.update,
            ("DELETE", "model", ""): models.delete,
            ("DELETE", "model", "deleteVersion"): models.delete_version,
            ("POST", "model", "mergeVersionAliases"): models.merge,
            ("GET", "operation", ""): models.operation,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call; its errors are Google's."""
        try:
            status, headers = 200, [_JSON]
            body = await self._answer(scope, receive)
        except Exception as error:  # noqa: BLE001 - whatever happens is answered in this face's own words
            status, body, headers = refusal(known(error, str(scope.get(REQUEST, ""))))
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sent = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": sent, "more_body": False})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        path, method = scope["path"], scope["method"]
        identity: Identity = scope.get(IDENTITY, _ANYBODY)
        needed: Role = "viewer" if method == "GET" else "editor"
        if ROLES.index(identity.best()) < ROLES.index(needed):
            identity.check(needed, (), path)
        route = route_of(path)
        call = self._calls.get((method, route.kind, route.verb))
        if call is None:
            known_calls = ", ".join(f"{verb} {kind}{':' if name else ''}{name}" for verb, kind, name in self._calls)
            raise Unimplemented(f"{method} {path[:200]} is not answered here", where="path", allowed=known_calls)
        try:
            pairs = parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise Malformed("what stands behind the question mark can't be read", where="query") from None
        query = query_of(pairs)
        content = b"" if method == "GET" else await body_of(cast("Any", receive))
        caller = Caller(
            by=identity.name or f"{identity.role} (Vertex AI client)",
            host=_host(scope),
            check=lambda name: identity.check(needed, (name,), path),
        )

        def answer() -> bytes:
            with asked_by(identity):
                return msgspec.json.encode(call(route, query, read_object(content), caller))

        return await self._pool.run(answer)


def _host(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "")
