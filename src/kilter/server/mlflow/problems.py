"""MLflow's errors: a code by name, a message, and the status that goes with the code (mlflow/exceptions.py of 3.18)."""

from __future__ import annotations

import msgspec

from kilter.core.errors import Conflict, Forbidden, InvalidInput, KilterError, NotFound, Unauthorized, Unavailable
from kilter.server.problems import TooLarge, WrongMedia, WrongMethod

MISSING = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"
INVALID = "INVALID_PARAMETER_VALUE"
_STATUS = {
    MISSING: 404,
    EXISTS: 400,
    INVALID: 400,
    "BAD_REQUEST": 400,
    "ENDPOINT_NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "TEMPORARILY_UNAVAILABLE": 503,
    "INTERNAL_ERROR": 500,
}
_CLASSES = {
    MISSING: ("KAM00", "RESOURCE_NOT_FOUND"),
    EXISTS: ("KAM00", EXISTS),
    INVALID: ("KAM00", INVALID),
    "BAD_REQUEST": ("KAM00", INVALID),
    "ENDPOINT_NOT_FOUND": ("KAM00", "RESOURCE_NOT_FOUND"),
    "PERMISSION_DENIED": ("KAM00", "PERMISSION_DENIED"),
    "TEMPORARILY_UNAVAILABLE": ("XXM00", "CLIENT_INTERNAL_ERROR"),
    "INTERNAL_ERROR": ("XXM00", "CLIENT_INTERNAL_ERROR"),
}
"""The two further names that newer clients show of an error."""

_CODES: tuple[tuple[type[KilterError], str], ...] = (
    (WrongMethod, "BAD_REQUEST"),
    (WrongMedia, "BAD_REQUEST"),
    (TooLarge, "BAD_REQUEST"),
    (NotFound, MISSING),
    (InvalidInput, INVALID),
    (Conflict, INVALID),
    (Forbidden, "PERMISSION_DENIED"),
    (Unauthorized, "UNAUTHENTICATED"),
    (Unavailable, "TEMPORARILY_UNAVAILABLE"),
)


class Refused(KilterError):
    """A refusal in MLflow's own words.

    Args:
        code: MLflow's name of the error.
        message: What its clients show, and some compare.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.mlflow_code = code
        self.message = message


def answer_of(error: KilterError) -> tuple[int, bytes]:
    """Return the status and the body of an error."""
    if isinstance(error, Refused):
        code, message = error.mlflow_code, error.message
    else:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL_ERROR")
        message = str(error)
    status = error.status if isinstance(error, WrongMethod | WrongMedia | TooLarge) else _STATUS[code]
    document = {"error_code": code, "message": message}
    if code in _CLASSES:
        document["sqlstate"], document["error_class"] = _CLASSES[code]
    return status, msgspec.json.encode(document)
