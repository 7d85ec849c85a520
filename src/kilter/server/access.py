"""Who may do what at this server: its address, its tokens with their roles, and the sessions of browsers."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kilter.core.access import check_bind, is_loopback, token_matches
from kilter.core.clock import Clock
from kilter.core.errors import Forbidden
from kilter.operations.running import RunFolder, check_secret
from kilter.operations.table import ROLES, Role

LINK_SECONDS = 8 * 3600
SESSION_SECONDS = 12 * 3600

# A person's name may have a dot, which parts the fields of a session, and a letter that a cookie would need quotes for.
_TO_COOKIE, _FROM_COOKIE = str.maketrans(".@", "~|"), str.maketrans("~|", ".@")
_VARIABLES: dict[Role, str] = {
    "approver": "KILTER_APPROVER_TOKEN",
    "editor": "KILTER_EDITOR_TOKEN",
    "viewer": "KILTER_VIEWER_TOKEN",
}


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Args:
        host: The address it listens on.
        port: Its port.
        tokens: Token of each role that has one; the admin's is always there.
        tls: It speaks TLS itself.
        open_pages: Pages may be read without a token; only ever so on loopback.
        open_wire: MLflow's clients may track without a token; only ever so on loopback, and not where ``KILTER_TOKEN`` is set.
    """

    host: str
    port: int
    tokens: dict[Role, str] = field(repr=False)
    tls: bool = False
    open_pages: bool = True
    open_wire: bool = False

    @property
    def url(self) -> str:
        """How a browser on this machine reaches the server."""
        name = "127.0.0.1" if self.host in {"0.0.0.0", "::", ""} else self.host  # noqa: S104 - compared, not bound
        name = f"[{name}]" if ":" in name and not name.startswith("[") else name
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"

    def role_of(self, header: str | None) -> Role | None:
        """Return the role of an Authorization header's token; every token is compared, in constant time."""
        matching = [role for role, token in self.tokens.items() if token_matches(header, token)]
        return max(matching, key=ROLES.index, default=None)


def make_access(run: RunFolder, host: str, port: int, *, tls: bool = False, insecure: bool = False) -> Access:
    """Return the rules for an address, making the store's token if there is none.

    Args:
        run: Where the token is kept.
        host: The address to bind.
        port: The port to bind.
        tls: The server has a certificate.
        insecure: The user has said that TLS ends before this server.

    Raises:
        Forbidden: Beyond loopback, without ``KILTER_TOKEN``, or with neither TLS nor ``insecure``.
    """
    check_bind(host, os.environ.get("KILTER_TOKEN"))
    local = is_loopback(host)
    if not (local or tls or insecure):
        raise Forbidden(
            "listening beyond this machine without TLS sends the token in the clear",
            where=f"--host {host}",
            allowed="127.0.0.1; or --tls-cert and --tls-key; or --insecure behind a proxy that speaks TLS",
        )
    tokens: dict[Role, str] = {"admin": run.make_token()}
    for role, variable in _VARIABLES.items():
        if given := os.environ.get(variable):
            tokens[role] = check_secret(given, variable)
    return Access(
        host=host,
        port=port,
        tokens=tokens,
        tls=tls,
        open_pages=local,
        open_wire=local and not os.environ.get("KILTER_TOKEN"),
    )


class Sessions:
    """One-time links and browser sessions, signed with the owner's token; none of them outlives a change of the token.

    Args:
        secret: The owner's token.
        clock: The machine's clock.
    """

    def __init__(self, secret: str, clock: Clock) -> None:
        self._key = hashlib.sha256(b"kilter-session\0" + secret.encode()).digest()
        self._clock = clock
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def link(self) -> str:
        """Return a key for a link that may be used once."""
        return self._sign("link", LINK_SECONDS)

    def session(self, person: str = "") -> str:
        """Return the value of a session's cookie: of a person, or without a name of the holder of the store's own token."""
        return self._sign("session", SESSION_SECONDS, person)

    def exchange(self, key: str) -> str | None:
        """Return a session for a link's key, or None when it is wrong, too old, or was used before."""
        expires = self._verify("link", key)
        if expires is None:
            return None
        now = self._clock.now().timestamp()
        with self._lock:
            self._used = {used: until for used, until in self._used.items() if until > now}
            if key in self._used:
                return None
            self._used[key] = expires
        return self.session()

    def valid(self, value: str) -> bool:
        """Say whether a cookie's value is a session of this server."""
        return bool(value) and self._verify("session", value) is not None

    def person(self, value: str) -> str | None:
        """Return whose session a cookie's value is: a person's name, empty for the store's own token; None when it is none."""
        return value.split(".", 3)[2].translate(_FROM_COOKIE) if self.valid(value) else None

    def _sign(self, purpose: str, seconds: int, person: str = "") -> str:
        body = (
            f"{int(self._clock.now().timestamp()) + seconds}.{secrets.token_urlsafe(12)}.{person.translate(_TO_COOKIE)}"
        )
        return f"{body}.{self._mac(purpose, body)}"

    def _verify(self, purpose: str, value: str) -> float | None:
        body, _, mac = value.rpartition(".")
        if not hmac.compare_digest(mac.encode("utf-8", "replace"), self._mac(purpose, body).encode()):
            return None
        expires = float(body.partition(".")[0])
        return expires if expires > self._clock.now().timestamp() else None

    def _mac(self, purpose: str, body: str) -> str:
        return hmac.new(self._key, f"{purpose}.{body}".encode("utf-8", "replace"), "sha256").hexdigest()


def link_of(url: str, key: str) -> str:
    """Return the address to click: it opens a session once and then forgets the key."""
    return f"{url}{'' if urlsplit(url).path else '/'}?key={key}"
