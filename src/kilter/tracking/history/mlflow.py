"""What MLflow's three forms of a history have in common: a server, a folder and a database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from kilter.core.errors import Damaged
from kilter.tracking.history.records import Ended, LeftOut
from kilter.tracking.records import MetricPoint, Number, Status, spelled

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATUSES: Final[dict[str, Status]] = {
    "1": "RUNNING",
    "2": "SCHEDULED",
    "3": "FINISHED",
    "4": "FAILED",
    "5": "INTERRUPTED",
    "RUNNING": "RUNNING",
    "SCHEDULED": "SCHEDULED",
    "FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "KILLED": "INTERRUPTED",
}
NAMES: Final = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
PARENT: Final = "mlflow.parentRunId"
CONTEXT: Final = "mlflow.data.context"
OWN: Final = frozenset({PARENT, "mlflow.runName"})
"""Tags that become something else here."""


def moment(milliseconds: Any) -> datetime:
    """Return a time that MLflow counts in milliseconds since 1970.

    Raises:
        Damaged: When it is none.
    """
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds or 0))
    except (ValueError, OverflowError, TypeError):
        raise Damaged(f"{str(milliseconds)[:40]!r} is no time", where="mlflow") from None


def ended(status: Any, end_time: Any, *, deleted: bool) -> Ended:
    """Return how a run stands."""
    known = _STATUSES.get(str(status), "FINISHED")
    at = moment(end_time) if end_time not in {None, "", 0, "0"} else None
    return Ended(known, None if known in {"RUNNING", "SCHEDULED"} else at, deleted)


def number(value: Any) -> Number:
    """Return a metric's value, as any of the three spells it.

    Raises:
        Damaged: When it is none.
    """
    try:
        return spelled(float(value))
    except (ValueError, TypeError):
        raise Damaged(f"{str(value)[:40]!r} is no number", where="mlflow") from None


def stood_in(points: list[MetricPoint]) -> Iterator[LeftOut]:
    """Yield how many infinities MLflow's database had to keep as the greatest number; they are brought as it says them."""
    count = sum(1 for point in points if isinstance(point.value, float) and abs(point.value) == sys.float_info.max)
    if count:
        yield LeftOut("infinity that MLflow's database keeps as the greatest number, 1.8e308", count)
