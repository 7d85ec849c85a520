"""Who may speak to a port: pure rules about addresses, the Host and Origin headers, and bearer tokens.

A server that anyone else can reach needs a token. A server on loopback needs none, but it answers only to its own names:
a page on another site whose name resolves to 127.0.0.1 (DNS rebinding) sends its own name as Host, and is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from functools import lru_cache
from urllib.parse import urlsplit

from kilter.core.errors import Forbidden, Unauthorized

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address; a name other than ``localhost`` counts as reachable."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def check_bind(host: str, token: str | None) -> None:
    """Refuse to listen beyond loopback without a token.

    Args:
        host: The address to bind.
        token: The bearer token that clients will have to send, or None.

    Raises:
        Forbidden: When others could reach the port and no token protects it.
    """
    if not token and not is_loopback(host):
        raise Forbidden(
            "listening beyond this machine needs a token",
            where=f"--host {host}",
            allowed="127.0.0.1, ::1 or localhost without a token; any address with one",
            fix="set KILTER_TOKEN, or bind to 127.0.0.1",
        )


@lru_cache(maxsize=256)
def allowed_host(header: str | None, bound: str) -> bool:
    """Say whether a request's Host header names this server.

    Args:
        header: The Host header, with or without a port.
        bound: The address the server listens on. On loopback only this machine's own names are allowed; beyond it any
            host is, because the token decides there.
    """
    if not is_loopback(bound):
        return True
    return header is not None and _name(header) in _LOCAL_NAMES | {bound.strip("[]").lower()}


def allowed_origin(origin: str | None, host: str | None) -> bool:
    """Say whether a request may come from the page that sent it.

    Args:
        origin: The Origin header; None when no browser page sent the request.
        host: The Host header. An origin is allowed only when it is exactly this server's own name and port.
    """
    if origin is None:
        return True
    parts = urlsplit(origin)
    return parts.scheme in {"http", "https"} and host is not None and parts.netloc.lower() == host.strip().lower()


def token_matches(header: str | None, token: str) -> bool:
    """Compare an Authorization header with the token, in a time that doesn't depend on where they differ."""
    kind, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return same and kind.lower() == "bearer"


def new_secret(prefix: str) -> tuple[str, str]:
    """Return a new token and its digest: the token is shown to its owner once, the digest goes to the store.

    A token is 256 random bits, made where it is asked for: only its SHA-256 digest travels and is kept, so neither the store,
    a log nor an answer that is remembered for a retry can give it away. Guessing is out of reach, so a fast digest is enough.
    Source: NIST SP 800-63B 5.1.2 (look-up secrets).

    Args:
        prefix: What tells its kind, for people and for those who look for lost tokens.
    """
    token = prefix + secrets.token_urlsafe(32)
    return token, secret_digest(token)


def secret_digest(token: str) -> str:
    """Return the digest under which a token is known."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def check_token(header: str | None, token: str | None) -> None:
    """Check an Authorization header.

    Args:
        header: ``Bearer <token>``, or None.
        token: The token to expect; None or empty lets everyone in.

    Raises:
        Unauthorized: When a token is expected and the header doesn't carry it.
    """
    if token and not token_matches(header, token):
        raise Unauthorized("the token is missing or wrong", where="Authorization", allowed="Bearer <token>")


def _name(header: str) -> str:
    """Return the host of ``host[:port]``, lower-case, without brackets."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]
