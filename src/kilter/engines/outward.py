"""One POST to somebody else's server: never into this network, never followed elsewhere, never waited for long."""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from kilter.core.errors import Forbidden, InvalidInput, Unavailable

LOCAL = "KILTER_WEBHOOKS_LOCAL"
"""Set to 1 where the receivers are in this network: http and private addresses are allowed then."""

_SECONDS = 10.0
_READ = 64 * 1024
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Answer(msgspec.Struct, frozen=True):
    """What came back.

    Args:
        status: The HTTP status.
        body: The first 64 KiB of the body.
    """

    status: int
    body: str


def check_url(url: str) -> str:
    """Return a URL that may be called.

    Raises:
        InvalidInput: When it isn't one, or its host can't be found or isn't public.
    """
    parts = _parts(url)
    if not _local():
        assert parts.hostname is not None  # noqa: S101 - _parts refuses a URL without one
        for address in _addresses(parts.hostname):
            if not public(address):
                raise InvalidInput(
                    f"{parts.hostname!r} resolves to {address}, which is not a public address",
                    where="url",
                    fix=f"set {LOCAL}=1 on the server if its receivers are in its own network",
                )
    return url


def post(
    url: str, body: bytes, headers: Mapping[str, str], seconds: float = _SECONDS, *, trusted: bool = False
) -> Answer:
    """Send a body and return the answer, whatever its status.

    The address is looked at when the connection is there, so that a name that means another address by now leads nowhere.

    Args:
        url: Where to.
        body: What.
        headers: With which headers.
        seconds: How long one step may take.
        trusted: The server's own operator named the URL: it may lead into this network, and need not be encrypted.

    Raises:
        InvalidInput: When the URL can't be used.
        Forbidden: When it leads to an address that isn't public.
        Unavailable: When nobody answers.
    """
    parts = _split(url, ("https", "http")) if trusted else _parts(url)
    host, port = parts.hostname or "", parts.port
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    if not trusted:
        vars(connection)["_create_connection"] = (
            _connected  # where the standard library's connection takes its socket from
        )
    try:
        connection.request("POST", path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(_READ).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Unavailable(f"{host} doesn't answer: {error or type(error).__name__}", where="url") from error
    finally:
        connection.close()


def public(address: str) -> bool:
    """Say whether an address is one of the public net; those that carry an IPv4 address inside are looked into."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global
    return found.is_global and not found.is_multicast


def _connected(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
    connection = socket.create_connection(address, *rest, **more)
    try:
        peer = str(connection.getpeername()[0])
    except OSError:
        connection.close()
        raise
    if _local() or public(peer):
        return connection
    connection.close()
    raise Forbidden(f"{address[0]!r} leads to {peer}, which is not a public address", where="url")


def _local() -> bool:
    return os.environ.get(LOCAL) == "1"


def _parts(url: str) -> SplitResult:
    return _split(url, ("https", "http") if _local() else ("https",))


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"{url[:200]!r} is not a URL", where="url") from error
    if parts.scheme not in schemes:
        raise InvalidInput(
            f"{url[:200]!r} can't be called", where="url", allowed=" or ".join(f"{s}://" for s in schemes)
        )
    if not parts.hostname:
        raise InvalidInput(f"{url[:200]!r} names no host", where="url")
    if parts.username or parts.password or any(ord(letter) < 33 or ord(letter) == 127 for letter in url):
        raise InvalidInput("the URL has a name, a password or a character that no URL has", where="url")
    return parts


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"no address is known for {host!r}", where="url") from error
