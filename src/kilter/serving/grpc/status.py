"""The status codes of gRPC, and which of them an error is.

Source: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final
from urllib.parse import quote

from kilter.core.errors import (
    ApprovalNeeded,
    Conflict,
    Damaged,
    Forbidden,
    GateRefused,
    InvalidInput,
    KilterError,
    NotFound,
    Unauthorized,
    Unavailable,
)
from kilter.serving.front.http import HttpError


class Code(IntEnum):
    """The codes that are used here."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_CLASSES: Final[tuple[tuple[type[KilterError], Code], ...]] = (
    (InvalidInput, Code.INVALID_ARGUMENT),
    (NotFound, Code.NOT_FOUND),
    (Unauthorized, Code.UNAUTHENTICATED),
    (Forbidden, Code.PERMISSION_DENIED),
    (Conflict, Code.FAILED_PRECONDITION),
    (GateRefused, Code.FAILED_PRECONDITION),
    (ApprovalNeeded, Code.FAILED_PRECONDITION),
    (Damaged, Code.DATA_LOSS),
    (Unavailable, Code.UNAVAILABLE),
)
_STATUSES: Final[dict[int, Code]] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class CallError(KilterError):
    """A call that gRPC itself refuses.

    Args:
        grpc: The code.
        message: What is wrong, without what was sent.
    """

    code = "grpc"

    def __init__(self, grpc: Code, message: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        super().__init__(message, where=where, allowed=allowed, fix=fix)
        self.grpc = grpc


def code_of(error: KilterError) -> Code:
    """Return the code that an error is answered with."""
    if isinstance(error, CallError):
        return error.grpc
    if isinstance(error, HttpError):
        return _STATUSES.get(error.http_status, Code.INTERNAL)
    return next((code for kind, code in _CLASSES if isinstance(error, kind)), Code.INTERNAL)


def percent_encoded(text: str) -> bytes:
    """Return a message as ``grpc-message`` carries it: bytes outside of printable ASCII, and ``%``, are encoded."""
    return quote(text, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~").encode("ascii")
