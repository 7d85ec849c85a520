"""Errors in Google's words: ``google.rpc.Status`` as JSON, with the HTTP status that goes with its code."""

from __future__ import annotations

import msgspec

from kilter.core.errors import Conflict, Forbidden, InvalidInput, KilterError, NotFound, Unauthorized, Unavailable
from kilter.registry.together import Stale, Taken
from kilter.server.problems import TooLarge

_LONGEST = 2000


class Unimplemented(KilterError):
    """Google's API has this call, and it isn't answered here."""

    code = "unimplemented"
    status = 501


_CODES: tuple[tuple[type[KilterError], int, str], ...] = (
    (TooLarge, 413, "INVALID_ARGUMENT"),
    (NotFound, 404, "NOT_FOUND"),
    (Taken, 409, "ALREADY_EXISTS"),
    (Stale, 409, "ABORTED"),
    (Conflict, 400, "FAILED_PRECONDITION"),
    (InvalidInput, 400, "INVALID_ARGUMENT"),
    (Unauthorized, 401, "UNAUTHENTICATED"),
    (Forbidden, 403, "PERMISSION_DENIED"),
    (Unimplemented, 501, "UNIMPLEMENTED"),
    (Unavailable, 503, "UNAVAILABLE"),
)


def refusal(error: KilterError) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return status, body and headers of an error's answer."""
    status, code = next(((status, code) for kind, status, code in _CODES if isinstance(error, kind)), (500, "INTERNAL"))
    said = {"code": status, "message": str(error)[:_LONGEST], "status": code}
    headers = [(b"content-type", b"application/json; charset=UTF-8")]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="kilter"'))
    if error.retryable:
        headers.append((b"retry-after", b"1"))
    return status, msgspec.json.encode({"error": said}), headers
