"""Operations over HTTP: one route for each, made from the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from kilter.core.digests import digest_json
from kilter.core.errors import Forbidden, InvalidInput
from kilter.operations.idempotency import Idempotency
from kilter.operations.table import ROLES, Operation, Registry
from kilter.server.edge import ROLE
from kilter.server.pool import Pool
from kilter.server.problems import Malformed

MAX_DEPTH = 64
_ANY_ROLE = "viewer"


def routes(registry: Registry, pool: Pool, idempotency: Idempotency) -> list[HTTPRouteHandler]:
    """Return a route for every operation: ``POST`` with JSON arguments, and ``GET`` with a query for plain reads.

    Args:
        registry: The operations.
        pool: Where they run.
        idempotency: Remembers the results of writes.
    """
    return [_route(found, pool, idempotency) for found in registry]


def _route(operation: Operation, pool: Pool, idempotency: Idempotency) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
        role = request.scope.get(ROLE, _ANY_ROLE)
        if ROLES.index(role) < ROLES.index(operation.role):
            raise Forbidden(
                "the token's role doesn't allow this operation", where=operation.name, allowed=operation.role
            )
        if request.method == "POST":
            arguments, text = read_object(await request.body()), False
        else:
            arguments, text = _query(request), True
        key = request.headers.get("idempotency-key") if operation.writes else None
        if key is not None and operation.key:
            # The operation remembers its keys itself, in the write that it makes anyway.
            arguments.setdefault(operation.key, key)
            key = None

        def work() -> bytes:
            return msgspec.json.encode(operation.call(arguments, text=text))

        body = await pool.run(work if key is None else _once(idempotency, key, operation, arguments, work))
        return Response(body, media_type="application/json", status_code=200)

    methods: list[Literal["GET", "POST"]] = ["GET", "POST"] if operation.plain else ["POST"]
    return HTTPRouteHandler(operation.path, http_method=methods, name=operation.name, status_code=200)(handle)


def _once(
    idempotency: Idempotency, key: str, operation: Operation, arguments: dict[str, object], work: Callable[[], bytes]
) -> Callable[[], bytes]:
    digest = digest_json(arguments)
    return lambda: idempotency.once(key, operation.name, digest, work, repeatable=operation.repeatable)


def read_object(body: bytes) -> dict[str, object]:
    """Return a body's JSON object; an empty body is an empty object.

    Raises:
        Malformed: When it isn't JSON.
        InvalidInput: When it isn't an object, or is nested deeper than anything that an operation takes.
    """
    if not body:
        return {}
    too_deep = InvalidInput("the body is nested too deep", where="body", allowed=f"{MAX_DEPTH} levels")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise too_deep from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed("the body isn't JSON", where="body", allowed="one JSON object") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body isn't an object", where="$", allowed="an object of arguments by name")
    if _deeper_than(value, MAX_DEPTH):
        raise too_deep
    return value


def _deeper_than(value: object, limit: int) -> bool:
    """Say whether a value is nested deeper than ``limit``, level by level, so that depth costs no stack."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _query(request: Request[Any, Any, Any]) -> dict[str, object]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in request.query_params.multi_items():
        found[name].append(value)
    return dict(found)
