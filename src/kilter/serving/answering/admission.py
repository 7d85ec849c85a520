"""Who may wait, for how long, and who goes first: a request's terms, and the door of an endpoint.

What can't be answered in time is refused at once, with the time after which to try again: a queue that is longer than its rows can
wait helps nobody, and costs those behind it their answers too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kilter.core.errors import InvalidInput
from kilter.serving.answering.batching import NORMAL, URGENCIES
from kilter.serving.front.http import HttpError
from kilter.serving.settings import Settings
from kilter.serving.workers.pool import Pool

_LONGEST_RETRY = 60


class Terms(NamedTuple):
    """What a request asks for beside its answer.

    Args:
        urgency: 0, first, to 7; what is less urgent waits, and is given up first.
        seconds: After how long the answer is of no use; None for as long as the endpoint allows.
    """

    urgency: int = NORMAL
    seconds: float | None = None


PLAIN = Terms()


def terms_of(headers: Mapping[bytes, bytes]) -> Terms:
    """Return the terms that a request's headers ask for.

    ``Priority: u=1`` is that of RFC 9218 (0 to 7; 3 when nothing is said), and as there what can't be understood is passed over.
    ``X-Request-Timeout`` holds milliseconds.

    Args:
        headers: By lower-case name.

    Raises:
        InvalidInput: When the timeout is no positive number.
    """
    given, wanted = headers.get(b"x-request-timeout"), headers.get(b"priority")
    if given is None and wanted is None:
        return PLAIN
    return Terms(_urgency(wanted or b""), _seconds(given, 1e-3, "X-Request-Timeout") if given is not None else None)


def with_parameters(terms: Terms, parameters: Mapping[str, object]) -> Terms:
    """Return terms with what a request's parameters say, as Triton names them.

    ``timeout`` is in microseconds, 0 for none; ``priority`` counts from 1, the first, to 8, and 0 leaves it.

    Args:
        terms: What the headers said; the shorter time holds.
        parameters: The parameters of an inference request of the Open Inference Protocol.

    Raises:
        InvalidInput: When one is no whole number, or is negative.
    """
    if "priority" not in parameters and "timeout" not in parameters:
        return terms
    urgency, seconds = terms
    for name in ("priority", "timeout"):
        value = parameters.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidInput("the parameter is of the wrong type", where=f"parameters.{name}",
                               allowed="a whole number, 0 or more")  # fmt: skip
        if value and name == "priority":
            urgency = min(value, URGENCIES) - 1
        elif value:
            seconds = min(value / 1e6, math.inf if seconds is None else seconds)
    return Terms(urgency, seconds)


def _urgency(value: bytes) -> int:
    for member in value.split(b","):
        name, _, number = member.partition(b";")[0].strip().partition(b"=")
        if name == b"u" and len(number) == 1 and b"0" <= number < b"%d" % URGENCIES:
            return int(number)
    return NORMAL


def _seconds(value: bytes, unit: float, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidInput("that is no time", where=where, allowed="milliseconds, more than 0")
    return number * unit


class Budget:
    """How many rows wait in the whole front, for all endpoints together.

    Args:
        most: The bound.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows = 0


class Door:
    """The door of one endpoint: it counts who is inside and says who may come in.

    Args:
        settings: The endpoint's bounds.
        budget: The front's; a single endpoint may take half of it.
    """

    def __init__(self, settings: Settings, budget: Budget) -> None:
        self.rows = 0
        self.requests = 0
        self._settings = settings
        self._budget = budget
        self._most = min(settings.queue_rows, budget.most // 2)

    def check(self, rows: int, terms: Terms, pools: Sequence[Pool]) -> None:
        """Refuse rows for which there is no room, or no time.

        Args:
            rows: How many.
            terms: On what terms.
            pools: Those that will answer; what is less urgent there gives way.

        Raises:
            HttpError: 429 when the endpoint is full, 503 when the front is or the answer would come too late.
        """
        settings, budget = self._settings, self._budget
        wait = 0.0
        for pool in pools:
            wait = max(wait, pool.seconds(rows, terms.urgency))
        if settings.concurrency and self.requests >= settings.concurrency:
            raise _refused(429, "too many requests are under way at this endpoint", wait)
        most = self._most
        if self.rows + rows > most or budget.rows + rows > budget.most:
            excess = max(self.rows + rows - most, budget.rows + rows - budget.most)
            for pool in pools:
                pool.shed(excess, terms.urgency)
            if budget.rows + rows > budget.most:
                raise _refused(503, "too many rows are waiting for an answer", wait)
            if self.rows + rows > most:
                raise _refused(429, "too many rows are waiting at this endpoint", wait)
        if wait:
            bound = min(settings.queue_seconds or math.inf, terms.seconds or math.inf)
            if wait > bound:
                raise _refused(503, "the answer would come too late: too many rows are waiting before it", wait - bound)

    def enter(self, rows: int) -> None:
        """Count a request's rows in."""
        self.rows += rows
        self.requests += 1
        self._budget.rows += rows

    def leave(self, rows: int, requests: int) -> None:
        """Count rows out."""
        self.rows -= rows
        self.requests -= requests
        self._budget.rows -= rows

    def due(self, arrived: float, terms: Terms) -> float:
        """Return when a request's answer is of no more use, on the clock that ``arrived`` is of."""
        return arrived + min(self._settings.timeout, terms.seconds or math.inf)


def _refused(status: int, message: str, wait: float) -> HttpError:
    after = min(max(math.ceil(wait), 1), _LONGEST_RETRY)
    return HttpError(status, message, headers=b"retry-after: %d\r\n" % after, fix=f"try again in {after} s")


def late() -> HttpError:
    """Return the error of rows whose time was up before a model could take them."""
    return HttpError(504, "the time for the answer was up before a model could take the rows",
                     fix="allow more time, or send fewer requests at once")  # fmt: skip


def shed() -> HttpError:
    """Return the error of rows that gave way to more urgent ones."""
    return HttpError(503, "the rows gave way to more urgent ones", headers=b"retry-after: 1\r\n")
