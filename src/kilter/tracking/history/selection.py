"""Which runs of a source to bring: comparisons in the language of ``kilter runs list``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kilter.core.errors import InvalidInput
from kilter.tracking.filters import COMPARE, clauses
from kilter.tracking.history.records import RunSeen

ALLOWED = "experiment, name, id, status, started (milliseconds since 1970), tags.NAME"

_FIELDS: dict[str, Callable[[RunSeen], Any]] = {
    "experiment": lambda run: run.experiment,
    "name": lambda run: run.name,
    "run_name": lambda run: run.name,
    "id": lambda run: run.origin,
    "run_id": lambda run: run.origin,
    "status": lambda run: run.status,
    "started": lambda run: run.started_at.timestamp() * 1000,
    "start_time": lambda run: run.started_at.timestamp() * 1000,
}


class Selection:
    """A filter on runs that are not imported yet.

    Args:
        text: Comparisons joined by ``and``; empty takes all.

    Raises:
        InvalidInput: When it can't be read.
    """

    def __init__(self, text: str) -> None:
        self._tests = [_test(*clause) for clause in clauses(text)] if text.strip() else []

    def takes(self, run: RunSeen) -> bool:
        """Say whether a run is to be brought."""
        return all(test(run) for test in self._tests)


def _test(field: str, operator: str, value: Any) -> Callable[[RunSeen], bool]:
    read = _reader(field)
    wanted = value[0] if isinstance(value, tuple) else value
    match operator:
        case "IS NULL" | "IS NOT NULL":
            return lambda run: (read(run) is None) == (operator == "IS NULL")
        case "IN" | "NOT IN":
            return lambda run: (read(run) in wanted) == (operator == "IN")
        case "LIKE" | "ILIKE":
            pattern = _pattern(str(wanted), ignore_case=operator == "ILIKE")
            return lambda run: pattern.fullmatch(str(read(run) or "")) is not None
    return lambda run: _compared(read(run), operator, wanted, field)


def _reader(field: str) -> Callable[[RunSeen], Any]:
    kind, dot, rest = field.partition(".")
    if dot and kind in {"tags", "tag"}:
        tag = rest.strip('`"')
        return lambda run: run.tags.get(tag)
    if field not in _FIELDS:
        raise InvalidInput(f"runs of other trackers can't be chosen by {field!r}", where="--filter", allowed=ALLOWED)
    return _FIELDS[field]


def _pattern(text: str, *, ignore_case: bool) -> re.Pattern[str]:
    letters = "".join({"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in text)
    return re.compile(letters, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _compared(found: Any, operator: str, wanted: Any, field: str) -> bool:
    if found is None:
        return False
    if isinstance(found, float):
        if not isinstance(wanted, float):
            raise InvalidInput(f"{field} {operator} {wanted}", where="--filter", allowed="a number of milliseconds")
        return bool(COMPARE[operator](found, wanted))
    return bool(COMPARE[operator](str(found), f"{wanted:g}" if isinstance(wanted, float) else str(wanted)))
