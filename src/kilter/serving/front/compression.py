"""Bodies that come compressed, and answers that a client would rather have so. Source: RFC 9110 section 8.4, RFC 1950, 1952."""

from __future__ import annotations

import zlib

from kilter.core.errors import KilterError
from kilter.serving.front.http import HttpError

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Window bits of zlib: with the header of gzip, or with zlib's own."""
_LEVEL = 1
_WORTH = 16 << 10
"""Bytes from which an answer is compressed for a client that merely could read it so."""


def inflate(body: bytes, coding: bytes, most: int) -> bytes:
    """Return a body as it was before it was compressed.

    Args:
        body: What was sent.
        coding: The Content-Encoding.
        most: How many bytes may come out; no more than these are ever made.

    Raises:
        HttpError: 415 for another coding, 400 for a broken stream, 413 when more would come out.
    """
    name = coding.strip().lower()
    if name in {b"", b"identity"}:
        return body
    window = _WINDOWS.get(name)
    if window is None:
        raise HttpError(415, "the body is encoded in a way that is not known here", allowed="gzip, deflate, identity")
    machine = zlib.decompressobj(window)
    try:
        found = machine.decompress(body, most + 1)
    except zlib.error as error:
        raise _broken() from error
    if len(found) > most:
        raise HttpError(413, "the body is too large once it is inflated", allowed=f"{most} bytes")
    if not machine.eof or machine.unused_data:
        raise _broken()
    return found


def wish(accepts: bytes, size: int) -> bytes:
    """Return the coding that an answer is to be sent in, or empty.

    A client that names one coding alone has asked for it. One that lists what it can read, as most libraries do by themselves,
    is only given it where that is worth the time.

    Args:
        accepts: The Accept-Encoding.
        size: Bytes of the answer.
    """
    name = accepts.strip().lower()
    if name in {b"gzip", b"deflate"}:
        return name
    if size < _WORTH:
        return b""
    listed = [part.partition(b";") for part in name.split(b",")]
    able = {part.strip() for part, _, quality in listed if quality.replace(b" ", b"") not in {b"q=0", b"q=0.0"}}
    return next((one for one in (b"gzip", b"deflate") if one in able), b"")


def deflate(body: bytes, coding: bytes) -> bytes:
    """Return an answer compressed."""
    machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[coding])
    return machine.compress(body) + machine.flush()


def _broken() -> KilterError:
    return HttpError(400, "the compressed body can't be read", allowed="one whole gzip or zlib stream")
