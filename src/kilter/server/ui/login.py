"""The way in: with a token, or through an identity provider; and what somebody sees of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import jinja2
import msgspec
from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from kilter.core.errors import InvalidInput, KilterError, NotFound, Unauthorized
from kilter.governance.oidc import LOGIN_SECONDS
from kilter.governance.records import PersonToken
from kilter.governance.rules import role_of_groups
from kilter.operations.identity import Identity, asked_by
from kilter.server.door import Door
from kilter.server.edge import IDENTITY, session_cookie
from kilter.server.ui import words
from kilter.server.ui.answers import data, html
from kilter.server.ui.assets import Assets

Asked = Request[Any, Any, Any]
Handler = Callable[[Asked], Response[Any]]
_HOME = "/"


class LoginPages:
    """The pages and calls of the way in.

    Args:
        door: What they are made of.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("kilter.server.ui"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            auto_reload=False,
        )
        self._templates.filters.update(words.FILTERS)
        self._templates.globals["asset"] = Assets().url

    def routes(self) -> Sequence[HTTPRouteHandler]:
        """Return the routes."""
        reading: dict[str, Handler] = {
            "/login": self.page,
            "/login/provider": self.leave,
            "/login/back": self.back,
            "/account": self.account,
        }
        return [
            *(
                HTTPRouteHandler(path, http_method="GET", status_code=200, sync_to_thread=True)(
                    self._answering(handler)
                )
                for path, handler in reading.items()
            ),
            HTTPRouteHandler("/login/token", http_method="POST", status_code=200)(self._with_token()),
            HTTPRouteHandler("/login/out", http_method="POST", status_code=200)(self._out()),
        ]

    def page(self, request: Asked) -> Response[Any]:
        """Show the ways in."""
        return html(self._render("login.html", wanted=_within(request.query_params.get("next", "")), problem=""))

    def leave(self, request: Asked) -> Response[Any]:
        """Send somebody to the identity provider."""
        provider = self._door.provider
        if provider is None:
            raise NotFound("this server has no identity provider", where="login", fix="set KILTER_OIDC_ISSUER")
        where, state = provider.start(f"{self._address(request)}/login/back")
        wanted = _within(request.query_params.get("next", ""))
        headers = {"location": where, "cache-control": "no-store"}
        answer: Response[Any] = Response(b"", status_code=303, headers=headers)
        # The provider sends the browser back from another site: a strict cookie would stay behind then.
        answer.set_cookie(
            self._cookie, f"{state}.{wanted}", max_age=int(LOGIN_SECONDS), path="/login", httponly=True,
            samesite="lax", secure=self._door.access.tls,
        )  # fmt: skip
        return answer

    def back(self, request: Asked) -> Response[Any]:
        """Take somebody back from the identity provider."""
        door, asked = self._door, request.query_params
        if door.provider is None or door.people is None:
            raise NotFound("this server has no identity provider", where="login")
        if said := asked.get("error"):
            why = asked.get("error_description", "")
            raise Unauthorized(f"the identity provider says no: {said[:80]} {why[:200]}".strip(), where="login")
        bound, _, wanted = request.cookies.get(self._cookie, "").partition(".")
        vouched = door.provider.finish(asked.get("state", ""), bound, asked.get("code", ""))
        settings = door.provider.settings
        role = role_of_groups(vouched.groups, settings.groups)
        person = door.people.signed_in(vouched.subject, vouched.names, vouched.email, role, settings.first)
        # A page, not a redirect: only a step that begins on this site carries the strict cookie along.
        answer = html(self._render("signed.html", wanted=_within(wanted), name=person.name))
        answer.headers["set-cookie"] = session_cookie(door.access, door.sessions.session(person.name))
        return answer

    def account(self, request: Asked) -> Response[Any]:
        """Show somebody their rights and their tokens."""
        identity = _identity(request)
        tokens: tuple[PersonToken, ...] = ()
        if self._door.people is not None and identity.name:
            with asked_by(identity):
                tokens = tuple(one for one in self._door.people.tokens() if one.revoked_at is None)
        return html(self._render("account.html", who=identity, tokens=tokens))

    def _with_token(self) -> Callable[[Asked], Any]:
        async def answer(request: Asked) -> Response[Any]:
            try:
                given = msgspec.json.decode(await request.body(), type=_Token)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise InvalidInput("there is no token", where="body", allowed='{"token": "..."}') from None
            await self._door.identities.look_again()
            identity = self._door.identities.of_token(given.token.strip())
            if identity is None:
                raise Unauthorized("the token is wrong, revoked or too old", where="token")
            made = data({"name": identity.name, "role": identity.role})
            value = self._door.sessions.session(identity.name)
            if not identity.name and identity.role != "admin":
                raise Unauthorized(
                    "this token is for programs", where="token", allowed="a person's token, or the store's own"
                )
            made.headers["set-cookie"] = session_cookie(self._door.access, value)
            return made

        return answer

    def _out(self) -> Callable[[Asked], Any]:
        async def answer(request: Asked) -> Response[Any]:  # noqa: ARG001 - the framework hands it in by this name
            made = data({})
            made.headers["set-cookie"] = session_cookie(self._door.access, "")
            return made

        return answer

    # ------------------------------------------------------------ within

    @property
    def _cookie(self) -> str:
        return f"kilter_login_{self._door.access.port}"

    def _address(self, request: Asked) -> str:
        """Return this server's address as the browser knows it; a proxy may speak TLS before it."""
        scheme = urlsplit(self._door.access.url).scheme
        if request.headers.get("x-forwarded-proto", "").lower() == "https":
            scheme = "https"
        return f"{scheme}://{request.headers.get('host', '')}"

    def _answering(self, handler: Handler) -> Handler:
        def answer(request: Asked) -> Response[Any]:
            try:
                return handler(request)
            except KilterError as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                return html(self._render("login.html", wanted=_HOME, problem=str(error)), error.status)

        return answer

    def _render(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(provider=self._provider(), **values)

    def _provider(self) -> str:
        provider = self._door.provider
        return "" if provider is None else urlsplit(provider.settings.issuer).netloc


class _Token(msgspec.Struct):
    """What somebody who signs in with a token sends."""

    token: str


def _identity(request: Asked) -> Identity:
    found = request.scope.get(IDENTITY)
    return found if isinstance(found, Identity) else Identity()


def _within(wanted: str) -> str:
    """Return an address on this site: a way in must not lead elsewhere."""
    plain = wanted.isascii() and wanted.isprintable() and "\\" not in wanted and len(wanted) <= 2000
    return wanted if plain and wanted.startswith("/") and not wanted.startswith(("//", "/login")) else _HOME
