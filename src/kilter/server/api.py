"""Operations over HTTP: one route for each, made from the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput
from kilter.operations.idempotency import Idempotency
from kilter.operations.identity import Identity, asked_by
from kilter.operations.table import ROLES, Operation, Registry
from kilter.server.edge import IDENTITY
from kilter.server.pool import Pool
from kilter.server.problems import Malformed, WrongMethod
from kilter.server.targets import Targets

MAX_DEPTH = 64
_CONTAINERS = frozenset({dict, list})
_ANYBODY = Identity()
_BY = "by"
"""The argument of operations that says who asks."""


def routes(registry: Registry, pool: Pool, idempotency: Idempotency, targets: Targets) -> list[ASGIRouteHandler]:
    """Return a route for every operation: ``POST`` with JSON arguments, and ``GET`` with a query for plain reads.

    They answer in ASGI's own words: what a framework would add to each request costs more than most operations do.

    Args:
        registry: The operations.
        pool: Where they run.
        idempotency: Remembers the results of writes.
        targets: Finds what a call is about.
    """
    return [_route(found, pool, idempotency, targets) for found in registry]


def methods_of(operation: Operation) -> tuple[str, ...]:
    """Return the methods that an operation's route takes."""
    return ("GET", "HEAD", "POST") if operation.plain else ("POST",)


def _route(operation: Operation, pool: Pool, idempotency: Idempotency, targets: Targets) -> ASGIRouteHandler:
    methods = methods_of(operation)
    # Read in one pass where the operation remembers its keys itself: nothing else needs the arguments as plain values.
    decoder = msgspec.json.Decoder(operation.request) if operation.key else None

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]  # type: ignore[typeddict-item]  # an HTTP scope: the edge refuses all others
        if method not in methods:
            raise WrongMethod("the path doesn't know this method", where="method", allowed=", ".join(methods))
        identity = cast("Identity", scope.get(IDENTITY, _ANYBODY))
        # What it may at most be allowed is known before anything is read; what it is about only afterwards.
        if ROLES.index(identity.best()) < ROLES.index(operation.role):
            identity.check(operation.role, (), operation.name)
        key = _header(scope["headers"], b"idempotency-key") if operation.writes else None
        asked = Asked(operation, identity, targets)
        if method == "POST":
            work = _work(asked, await body_of(receive), key, idempotency, decoder)
        else:
            work = _call(asked, _query(scope["query_string"]), text=True)
        body = await pool.run(work)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body, "more_body": False})

    return ASGIRouteHandler(operation.path, name=operation.name, copy_scope=False)(handle)


class Asked:
    """An operation, and who asks for it.

    Args:
        operation: The operation.
        identity: Who asks.
        targets: Finds what it is about.
    """

    __slots__ = ("_allowed", "_targets", "identity", "operation")

    def __init__(self, operation: Operation, identity: Identity, targets: Targets) -> None:
        self.operation = operation
        self.identity = identity
        self._targets = targets
        self._allowed = ROLES.index(identity.role) >= ROLES.index(operation.role)

    @property
    def plain(self) -> bool:
        """Whether the arguments needn't be looked at: neither for the role nor for who asks."""
        return self._allowed and not self.identity.name

    def arguments(self, given: dict[str, object]) -> dict[str, object]:
        """Return the arguments after a look at them.

        Raises:
            Forbidden: When the role doesn't allow it on what it is about.
        """
        if not self._allowed:
            self.identity.check(self.operation.role, self._targets.of(given), self.operation.name)
        # Who asks is whose token it is, whatever else is said.
        if self.identity.name and _BY in self.operation.request.__struct_fields__:
            return {**given, _BY: self.identity.name}
        return given

    def call(self, arguments: dict[str, object], *, text: bool) -> bytes:
        """Check the arguments, call the operation, and return its result as JSON."""
        with asked_by(self.identity):
            return msgspec.json.encode(self.operation.call(self.arguments(arguments), text=text))


def _work(
    asked: Asked,
    body: bytes,
    key: str | None,
    idempotency: Idempotency,
    decoder: msgspec.json.Decoder[msgspec.Struct] | None,
) -> Callable[[], bytes]:
    """Return what a POST asks for, its arguments read and its key seen to."""
    operation = asked.operation
    if decoder is not None and asked.plain:
        # What can't be read so is read again below, for the words of the refusal.
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            request = decoder.decode(body)
            if key is not None and getattr(request, operation.key) is None:
                request = msgspec.structs.replace(request, **{operation.key: key})
            return lambda: msgspec.json.encode(operation.invoke(request))
    arguments = read_object(body)
    if key is None or operation.key:
        if key is not None:
            arguments.setdefault(operation.key, key)
        return _call(asked, arguments, text=False)
    return _once(idempotency, key, asked, arguments)


def _call(asked: Asked, arguments: dict[str, object], *, text: bool) -> Callable[[], bytes]:
    return lambda: asked.call(arguments, text=text)


async def body_of(receive: Receive) -> bytes:
    """Return the body, which the edge has read whole and within its limit."""
    message = await receive()
    return bytes(message.get("body", b"")) if message["type"] == "http.request" else b""


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for found, value in headers if found.lower() == name), None)


def _once(idempotency: Idempotency, key: str, asked: Asked, arguments: dict[str, object]) -> Callable[[], bytes]:
    operation = asked.operation
    # One person's key says nothing about another's.
    digest = digest_json({**arguments, "": asked.identity.name} if asked.identity.name else arguments)
    work = _call(asked, arguments, text=False)
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
        deeper: list[Any] = []
        for parent in level:
            children = parent.values() if isinstance(parent, dict) else parent
            # Most parents are flat rows; looking at their types at once is several times cheaper than child by child.
            if not _CONTAINERS.isdisjoint(map(type, children)):
                deeper.extend(child for child in children if type(child) in _CONTAINERS)
        if not deeper:
            return False
        level = deeper
    return True


def _query(text: bytes) -> dict[str, object]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
        found[name].append(value)
    return dict(found)
