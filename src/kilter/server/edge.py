"""The edge: one door in front of every route, that refuses whatever isn't allowed by name.

Guards that hang on routes or on frameworks get forgotten when a route or a verb is added, so this one stands before the
router and doesn't know it. In this order: method, Host, Origin, credentials, media type, size. Then the route is called.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from kilter.core.access import allowed_host, allowed_origin
from kilter.core.errors import Forbidden, KilterError, Unauthorized
from kilter.operations.identity import Identity
from kilter.server.access import SESSION_SECONDS, Access, Sessions
from kilter.server.aws.signature import role_of
from kilter.server.google.names import PREFIXES as GOOGLE
from kilter.server.google.status import refusal
from kilter.server.identity import Identities
from kilter.server.metrics import Metrics
from kilter.server.problems import Malformed, TooLarge, WrongMedia, WrongMethod, known, problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROLE = "kilter.role"
IDENTITY = "kilter.identity"
AREA = "kilter.area"
REQUEST = "kilter.request"
BODY_LIMIT = 16 * 1024 * 1024

OPEN = ("/login", "/static/")
"""Pages that anybody may see: the way in, and what it is drawn with."""

_READING = frozenset({"GET", "HEAD"})
_METHODS = _READING | {"POST"}
_WIRE_METHODS = _METHODS | {"PUT", "PATCH", "DELETE"}
_HEALTH = frozenset({"/livez", "/readyz"})
_SPANS = "/v1/traces"
_GIVEN = "/get-artifact"
_WIRE = frozenset({"/version", "/health", _SPANS, _GIVEN, f"/model-versions{_GIVEN}"})
_FILES = ("/api/2.0/mlflow-artifacts/artifacts/", "/api/2.0/mlflow-artifacts/mpu/part/")
_AMAZON = "SageMaker."
_WIRES = frozenset({"mlflow", "google"})
"""Areas that speak as others do, to these others' clients."""
_PAGES_API = ("/ajax-api/2.0/mlflow", "/ajax-api/3.0/mlflow")
"""Where the pages of MLflow look for the calls of its wire."""

_ONCE = (b"host", b"authorization", b"content-length", b"content-type", b"origin", b"cookie", b"transfer-encoding")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        (
            b"default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
            b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
        ),
    ),
)


def plain_path(path: str) -> str:
    """Return the one path of what has two on MLflow's wire: its pages say ``/ajax-api`` for ``/api``."""
    return f"/{path.removeprefix('/ajax-')}" if path.startswith(_PAGES_API) else path


def area_of(path: str) -> str:
    """Return which part of the server a path belongs to: ``health``, ``api``, ``mlflow``, ``google`` or ``page``."""
    if path in _HEALTH:
        return "health"
    if path.startswith(GOOGLE):
        return "google"
    if path in _WIRE or path.startswith(("/api/2.0/mlflow", "/api/3.0/mlflow")):
        return "mlflow"
    machine = path in {"/openapi.json", "/mcp"} or path == "/api" or path.startswith(("/api/", "/mcp/"))
    return "api" if machine else "page"


class Edge:
    """The ASGI application that stands before the router.

    Args:
        app: The router.
        access: The server's rules.
        sessions: The sessions of browsers.
        identities: Who may come in, and as whom.
        metrics: Where answers are counted.
        body_limit: The largest body, in bytes.
    """

    def __init__(
        self,
        app: App,
        access: Access,
        sessions: Sessions,
        identities: Identities,
        metrics: Metrics,
        *,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        self._app = app
        self._access = access
        self._sessions = sessions
        self._identities = identities
        self._metrics = metrics
        self._limit = body_limit
        self._cookie = cookie_of(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = secrets.token_hex(8)
        scope[REQUEST] = request
        began = time.perf_counter()
        answer = _Answer(send, request)
        self._metrics.running += 1
        area = "refused"
        try:
            area = await self._pass(scope, receive, answer)
        except Exception as error:  # the edge of the process: whatever happens becomes an answer
            if answer.status:  # too late for a problem document: cut the connection, so that nobody takes it as whole
                raise
            await _refuse(answer, known(error, request), request, area_of(scope["path"]))
        finally:
            self._metrics.running -= 1
            self._metrics.count(area, answer.status or 499, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, answer: _Answer) -> str:
        method, path = scope["method"], plain_path(scope["path"])
        scope["path"] = path  # whatever is decided of a request is decided of one and the same path
        headers = _single(scope["headers"])
        area = area_of(path)
        allowed = _WIRE_METHODS if area in _WIRES else _METHODS
        if method not in allowed:
            raise WrongMethod("the method isn't used here", where="method", allowed=", ".join(sorted(allowed)))
        _check_site(headers, method, self._access)
        await self._identities.refresh()
        if method == "POST" and path == "/" and headers.get(b"x-amz-target", "").startswith(_AMAZON):
            return await self._amazon(scope, receive, headers, answer)
        if area == "page" and method == "GET" and (query := _with_key(scope.get("query_string", b""))):
            await self._exchange(answer, path, query)
            return area
        try:
            identity = await self._looked_up(method, path, area, headers)
        except Unauthorized:
            if not (area == "page" and method == "GET" and "text/html" in headers.get(b"accept", "")):
                raise
            await _send_to_login(answer, path, scope.get("query_string", b""))
            return area
        scope[IDENTITY], scope[ROLE] = identity, identity.best()
        if method == "PUT" and path.startswith(_FILES):
            _check_plain(headers)  # a file of any kind and size: its route takes it piece by piece
        elif method not in _READING:
            if path == _SPANS:
                _check_spans(method, headers)
            elif method != "DELETE" or _has_body(headers):
                _check_media(headers)
            receive = await _whole_body(receive, headers, self._limit)
        await self._app(scope, receive, answer.send)
        return area

    async def _looked_up(self, method: str, path: str, area: str, headers: dict[bytes, str]) -> Identity:
        """Return who asks; before somebody is sent away, who there is is looked at once more."""
        try:
            return self._identity(method, path, area, headers)
        except Unauthorized:
            await self._identities.look_again()
            return self._identity(method, path, area, headers)

    async def _amazon(self, scope: Scope, receive: Receive, headers: dict[bytes, str], answer: _Answer) -> str:
        """Let a call of Amazon's clients through: it is signed over its body, so the body is read first."""
        media = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if media != "application/x-amz-json-1.1":
            raise WrongMedia("the body isn't AWS JSON", where="Content-Type", allowed="application/x-amz-json-1.1")
        _check_plain(headers)
        again = await _whole_body(receive, headers, self._limit)
        message = await again()
        signed = (scope["method"], scope["path"], scope.get("query_string", b""), headers, message.get("body", b""))
        role = role_of(self._access.tokens, *signed)
        if role is None and (not self._access.open_wire or self._identities.closed):
            raise Unauthorized(
                "the request isn't signed with a token of this server",
                where="Authorization",
                allowed="Signature Version 4 with a token of the store as the secret access key",
            )
        scope[ROLE] = role or "editor"

        async def handed() -> Message:
            return message

        scope[AREA] = "aws"
        await self._app(scope, handed, answer.send)
        return "aws"

    def _identity(self, method: str, path: str, area: str, headers: dict[bytes, str]) -> Identity:
        given = headers.get(b"authorization")
        if given is not None:
            found = self._identities.of_header(given)
            if found is None:
                raise Unauthorized("the token is wrong", where="Authorization", allowed="Bearer <token>")
            return found
        found = self._identities.of_session(_cookie(headers.get(b"cookie", ""), self._cookie))
        if found is not None:
            if method not in _READING and b"origin" not in headers:
                raise Forbidden("a browser's session writes only from this server's own pages", where="Origin")
            return found
        everybody = not self._identities.closed
        if area in _WIRES and self._access.open_wire and everybody:
            return Identity(role="editor")
        if area == "health" or path.startswith(OPEN):
            return Identity()
        if area == "page" and method in _READING and self._access.open_pages and everybody:
            return Identity()
        raise Unauthorized(
            "a token is needed",
            where="Authorization",
            allowed="Bearer <token>, or a session: /login, or the link that `kilter link` prints",
            fix="an admin gives tokens with `kilter people token`; the store's own is in its file run/token",
        )

    async def _exchange(self, answer: _Answer, path: str, query: list[tuple[str, str]]) -> None:
        """Turn a link's key into a session, and forget the key in the address."""
        keys = [value for name, value in query if name == "key"]
        rest = urlencode([(name, value) for name, value in query if name != "key"])
        session = self._sessions.exchange(keys[0]) if len(keys) == 1 else None
        # A path that begins with two slashes would be taken as another server's name.
        target = f"/{path.lstrip('/')}" if path.isascii() and path.isprintable() and "\\" not in path else "/"
        headers = [
            (b"location", f"{target}{'?' if rest else ''}{rest}".encode("latin-1")),
            (b"cache-control", b"no-store"),
        ]
        if session is not None:
            headers.append((b"set-cookie", session_cookie(self._access, session).encode()))
        await answer.send({"type": "http.response.start", "status": 303, "headers": headers})
        await answer.send({"type": "http.response.body", "body": b""})


class _Answer:
    """An answer on its way out: security headers and the request's id are put on it, its status is remembered."""

    def __init__(self, send: Send, request: str) -> None:
        self._send = send
        self._request = request
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", ())}
            extra = [(name, value) for name, value in _HEADERS if name not in present]
            if b"cache-control" not in present:
                extra.append((b"cache-control", b"no-store"))
            extra.append((b"x-request-id", self._request.encode()))
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await self._send(message)


async def _refuse(answer: _Answer, error: KilterError, request: str, area: str) -> None:
    if area == "google":
        status, body, fields = refusal(error)
    else:
        status, body, headers = problem(error, request)
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    fields.append((b"content-length", str(len(body)).encode()))
    await answer.send({"type": "http.response.start", "status": status, "headers": fields})
    await answer.send({"type": "http.response.body", "body": body})


def _single(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Return the headers by name; two different readings of one request are not allowed to exist."""
    headers: dict[bytes, str] = {}
    for name, value in pairs:
        lower = name.lower()
        if lower in headers and lower in _ONCE:
            raise Malformed("a header is there twice", where=lower.decode("latin-1"))
        headers[lower] = value.decode("latin-1")
    return headers


def _check_site(headers: dict[bytes, str], method: str, access: Access) -> None:
    """Refuse foreign names of this server (DNS rebinding) and foreign pages (CSRF)."""
    host, origin = headers.get(b"host"), headers.get(b"origin")
    if host is None or not allowed_host(host, access.host):
        raise Forbidden(
            "the Host header doesn't name this server", where="Host", allowed="the server's own name and port"
        )
    if not allowed_origin(origin, host):
        raise Forbidden(
            "another site's page may not call this server", where="Origin", allowed="the server's own origin"
        )
    site, mode = headers.get(b"sec-fetch-site"), headers.get(b"sec-fetch-mode")
    if site in {"cross-site", "same-site"} and not (method in _READING and mode == "navigate"):
        raise Forbidden("another site's page may not call this server", where="Sec-Fetch-Site", allowed="same-origin")


def _check_media(headers: dict[bytes, str]) -> None:
    """Refuse what a foreign form could send, and what grows when it is unpacked."""
    media = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise WrongMedia("the body isn't JSON", where="Content-Type", allowed="application/json")
    _check_plain(headers)


def _check_spans(method: str, headers: dict[bytes, str]) -> None:
    """Refuse what is neither form of OpenTelemetry's protocol; their route unpacks them up to its own limit.

    Its specification knows one status for data that can't be used, and MLflow's server says it, too: 400.
    """
    media = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media not in {"application/x-protobuf", "application/json"}:
        raise Malformed(
            f"Invalid Content-Type: {media[:60]!r} is no form of spans",
            where="Content-Type",
            allowed="application/x-protobuf or application/json",
        )


def _check_plain(headers: dict[bytes, str]) -> None:
    """Refuse a body that grows when it is unpacked."""
    if headers.get(b"content-encoding", "identity").strip().lower() != "identity":
        raise WrongMedia("a compressed body isn't taken", where="Content-Encoding", allowed="identity")


def _has_body(headers: dict[bytes, str]) -> bool:
    return headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers


async def _whole_body(receive: Receive, headers: dict[bytes, str], limit: int) -> Receive:
    """Read the body up to the limit and return a ``receive`` that hands it over whole."""
    declared = headers.get(b"content-length", "")
    if declared and (not declared.isdecimal() or len(declared) > 18):
        raise Malformed("the length isn't a number", where="Content-Length")
    if declared and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the body broke off", where="body")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return _handed(bytes(body), receive)


def _handed(body: bytes, receive: Receive) -> Receive:
    handed = False

    async def again() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _too_large(limit: int) -> TooLarge:
    return TooLarge("the body is too large", where="body", allowed=f"{limit:,} bytes")


def _with_key(text: bytes) -> list[tuple[str, str]]:
    """Return a query that has a link's key; nothing where it has none."""
    query = parse_qsl(text.decode("latin-1"), keep_blank_values=True) if text else []
    return query if any(name == "key" for name, _ in query) else []


async def _send_to_login(answer: _Answer, path: str, query: bytes) -> None:
    wanted = f"{path}{'?' if query else ''}{query.decode('latin-1')}"
    headers = [(b"location", f"/login?{urlencode({'next': wanted})}".encode()), (b"cache-control", b"no-store")]
    await answer.send({"type": "http.response.start", "status": 303, "headers": headers})
    await answer.send({"type": "http.response.body", "body": b""})


def cookie_of(access: Access) -> str:
    """Return the name of a session's cookie: cookies don't know ports, and two servers on one machine must not share one."""
    return f"kilter_{access.port}"


def session_cookie(access: Access, value: str, seconds: int = SESSION_SECONDS, *, same_site: str = "Strict") -> str:
    """Return the header that sets a session's cookie; without a value, the one that ends it."""
    secure = "; Secure" if access.tls else ""
    name = cookie_of(access)
    return f"{name}={value}; Path=/; HttpOnly; SameSite={same_site}; Max-Age={seconds if value else 0}{secure}"


def _cookie(header: str, name: str) -> str:
    if not header:
        return ""
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""
