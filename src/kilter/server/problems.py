"""Errors on the wire: RFC 9457 problem documents with a request id, and nothing of what was sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from kilter.core.errors import InvalidInput, KilterError

_LOG = logging.getLogger("kilter.server")
_LONGEST = 2000

MEDIA_TYPE = "application/problem+json"


class TooLarge(InvalidInput):
    """The request's body is larger than the server takes."""

    code = "too-large"
    status = 413


class WrongMethod(InvalidInput):
    """The path doesn't know this method."""

    code = "wrong-method"
    status = 405


class WrongMedia(InvalidInput):
    """The body isn't plain JSON."""

    code = "wrong-media"
    status = 415


class Malformed(InvalidInput):
    """The request isn't one that can be read."""

    code = "malformed"
    status = 400


def known(error: BaseException, request: str) -> KilterError:
    """Return the error as one of the tree; one that nobody meant is logged with the request's id and said to be unexpected."""
    if isinstance(error, KilterError):
        return error
    _LOG.error("request %s failed", request, exc_info=error)
    return KilterError("the server failed unexpectedly", fix=f"look for {request} in the server's log")


def problem(error: KilterError, request: str) -> tuple[int, bytes, Mapping[str, str]]:
    """Return status, body and headers of an error's answer.

    Args:
        error: The error.
        request: The request's id.
    """
    document = {
        name: value[:_LONGEST] if isinstance(value, str) else value
        for name, value in {**error.problem(), "request": request}.items()
    }
    headers = {"content-type": MEDIA_TYPE}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="kilter"'
    if error.retryable:
        headers["retry-after"] = "1"
    return error.status, msgspec.json.encode(document), headers
