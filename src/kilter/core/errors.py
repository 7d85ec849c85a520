"""The one tree of errors.

::

    KilterError
    ├── InvalidInput            the caller sent something that can't be used (retry won't help)
    │   ├── DeclarationError    the user's file; names file, field, given, allowed, fix
    │   └── InsufficientData    an empty window, one class only, too few rows
    ├── NotFound                no such thing
    │   └── Expired             there was such a thing; it was removed by the rule of its retention
    ├── Conflict                the thing exists, changed meanwhile, or is held by someone else
    ├── Unauthorized            no token, or a wrong one
    ├── Forbidden               the token's role, the Host or the Origin doesn't allow it
    ├── GateRefused             a gate said no
    ├── ApprovalNeeded          an owner has to approve first
    ├── Damaged                 stored bytes don't match their digest or their chain
    └── Unavailable             a service is down or busy; a retry can help

A message says what was given, what is allowed, where, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class KilterError(Exception):
    """Base of every error that Kilter raises on purpose.

    Args:
        message: What went wrong, in one sentence, with what was given.
        where: The file, field, table or route concerned.
        allowed: What would have been accepted.
        fix: What to do about it.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.allowed = allowed
        self.fix = fix

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.message}" if self.where else self.message]
        if self.allowed:
            parts.append(f"Allowed: {self.allowed}.")
        if self.fix:
            parts.append(f"Fix: {self.fix}.")
        return " ".join(parts)

    def problem(self) -> dict[str, object]:
        """Return the error as an RFC 9457 problem document."""
        return {
            "type": f"kilter:{self.code}",
            "title": type(self).__name__,
            "status": self.status,
            "detail": self.message,
            "where": self.where,
            "allowed": self.allowed,
            "fix": self.fix,
            "retryable": self.retryable,
        }


class InvalidInput(KilterError):
    """The caller sent something that can't be used; sending it again won't help."""

    code = "invalid-input"
    status = 422
    exit_code = 2


class DeclarationError(InvalidInput):
    """The user's declaration says something that can't work."""

    code = "declaration"


class InsufficientData(InvalidInput):
    """There are too few rows, or only one class, to do what was asked."""

    code = "insufficient-data"
    exit_code = 1


class NotFound(KilterError):
    """There is no such thing."""

    code = "not-found"
    status = 404


class Expired(NotFound):
    """There was such a thing; it was removed by the rule of its retention."""

    code = "expired"
    status = 410


class Conflict(KilterError):
    """The thing exists already, has changed meanwhile, or is held by someone else."""

    code = "conflict"
    status = 409
    exit_code = 5


class Unauthorized(KilterError):
    """No token was sent, or a wrong one."""

    code = "unauthorized"
    status = 401


class Forbidden(KilterError):
    """The token's role, the Host or the Origin does not allow this."""

    code = "forbidden"
    status = 403


class GateRefused(KilterError):
    """A gate said no."""

    code = "gate-refused"
    status = 409
    exit_code = 3


class ApprovalNeeded(KilterError):
    """An owner has to approve this first."""

    code = "approval-needed"
    status = 409
    exit_code = 4


class Damaged(KilterError):
    """Stored bytes do not match their digest, their checksum or their chain."""

    code = "damaged"


class Unavailable(KilterError):
    """A service is down, busy or read-only; a retry can help."""

    code = "unavailable"
    status = 503
    retryable = True


def tree() -> dict[str, type[KilterError]]:
    """Return every error class by its code, so that a client can raise again what a server raised."""
    found: dict[str, type[KilterError]] = {}
    todo: list[type[KilterError]] = [KilterError]
    while todo:
        kind = todo.pop()
        found[kind.code] = kind
        todo.extend(kind.__subclasses__())
    return found
