"""What waits for a version's workers, and how it becomes batches: pure, without processes or timers.

Nothing waits for a batch to fill: a batch is whatever has come while the workers were busy, by urgency, then in order, up to a
bound in rows. A question with more rows than the bound is cut, so that nobody waits behind the whole of it. Batches that hold
several questions are cut apart again by row, and one that fails says nothing about its neighbours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from kilter.packaging.native import Buffer
from kilter.serving.workers.frames import wide

Outcome = Literal["answered", "refused", "died", "gone", "late", "shed"]
"""What became of a question: ``refused`` by the model; the worker ``died`` with it in hand; the last worker was ``gone`` before
it was sent; ``late``: its time was up before it was sent; ``shed`` to make room for something more urgent."""

Done = Callable[[bytes | None, Outcome], None]
"""Takes the answers (float64, row-major) and how it ended; without answers unless it is ``answered``."""

URGENCIES = 8
NORMAL = 3
"""Urgency runs from 0, first, to 7, as in RFC 9218."""

_FORGET = 0.1
_LEAST_ROWS = 8
_UNKNOWN_ROWS = 1024
"""The bound of a batch while nothing is known of what a row costs."""


class Question:
    """Rows that somebody wants to be answered.

    Args:
        payload: The matrix, row-major float64 or float32.
        rows: How many rows.
        done: Told once, whatever happens.
        urgency: 0, first, to 7.
        due: When it is no longer worth sending, on the loop's clock.
        alone: It shares no batch: a worker has died with it in hand, and if it was the cause it shall take nobody along.
    """

    __slots__ = ("_answers", "_left", "alone", "done", "due", "open", "payload", "rows", "sent", "urgency")

    def __init__(
        self,
        payload: bytes,
        rows: int,
        done: Done,
        urgency: int = NORMAL,
        due: float = math.inf,
        *,
        alone: bool = False,
    ) -> None:
        self.payload = payload
        self.rows = rows
        self.done = done
        self.urgency = urgency
        self.due = due
        self.alone = alone
        self.sent = 0
        self.open = True
        self._left = rows
        self._answers: dict[int, bytes] = {}

    def answer(self, start: int, rows: int, values: bytes) -> None:
        """Take the answers to a slice; the last one completes the question."""
        if not self.open:
            return
        self._left -= rows
        if self._left:
            self._answers[start] = values
            return
        if self._answers:
            self._answers[start] = values
            values = b"".join(self._answers[place] for place in sorted(self._answers))
        self.close(values, "answered")

    def close(self, values: bytes | None, outcome: Outcome) -> None:
        """End it; what still comes for it is passed over."""
        if self.open:
            self.open = False
            self.payload = b""
            self.done(values, outcome)


class Slice(NamedTuple):
    """A question's rows in a batch."""

    question: Question
    start: int
    rows: int

    def matrix(self) -> Buffer:
        """Return its part of the question's matrix."""
        question = self.question
        if self.rows == question.rows:
            return question.payload
        width = len(question.payload) // question.rows
        return memoryview(question.payload)[self.start * width : (self.start + self.rows) * width]


class Batch:
    """What one call of the model answers.

    Args:
        slices: Its parts, in order; those of questions that have ended meanwhile are left out.
        at: When it was sent.
        explains: What is asked for is what each column adds to the answers.
    """

    __slots__ = ("at", "explains", "failed", "rows", "slices")

    def __init__(self, slices: list[Slice], at: float, *, explains: bool = False) -> None:
        self.explains = explains
        self.failed = False
        self.slices = [one for one in slices if one.question.open]
        self.rows = sum(one.rows for one in self.slices)
        self.at = at

    @property
    def alone(self) -> bool:
        """Whether its rows must share a worker with no others."""
        return len(self.slices) == 1 and self.slices[0].question.alone

    def parts(self) -> list[Buffer]:
        """Return the matrix, in parts: in float64 unless all of it came in float32."""
        parts = [one.matrix() for one in self.slices]
        if len(parts) > 1:
            widths = [len(part) // one.rows for part, one in zip(parts, self.slices, strict=True)]
            if min(widths) != max(widths):
                columns = max(widths) // 8
                return [wide(part, one.rows * columns) for part, one in zip(parts, self.slices, strict=True)]
        return parts

    def answer(self, values: bytes) -> None:
        """Give every question the answers to its own rows."""
        if len(self.slices) == 1:
            question, start, rows = self.slices[0]
            question.answer(start, rows, values)
            return
        width = len(values) // self.rows
        place = 0
        for question, start, rows in self.slices:
            question.answer(start, rows, values[place : place + rows * width])
            place += rows * width

    def fail(self, outcome: Outcome) -> None:
        """End every question in it."""
        for question, _, _ in self.slices:
            question.close(None, outcome)


class Backlog:
    """Questions that wait for a worker."""

    def __init__(self) -> None:
        self._rows = [0] * URGENCIES
        self._waiting: tuple[deque[Question], ...] = tuple(deque() for _ in range(URGENCIES))
        self._soonest = math.inf

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(self._rows)

    def ahead(self, urgency: int) -> int:
        """Return how many rows wait that are no less urgent."""
        return sum(self._rows[: urgency + 1])

    def __iter__(self) -> Iterator[Question]:
        """Yield what waits, the most urgent first."""
        for line in self._waiting:
            yield from line

    def add(self, question: Question) -> None:
        """Let a question wait."""
        self._waiting[question.urgency].append(question)
        self._rows[question.urgency] += question.rows - question.sent
        self._soonest = min(self._soonest, question.due)

    def take(self, most: int, now: float) -> Batch:
        """Return the next batch; empty when nothing waits.

        Args:
            most: Its bound in rows.
            now: The time.
        """
        slices: list[Slice] = []
        room = most
        for line in self._waiting:
            while line and room:
                question = line[0]
                if not question.open:  # another slice of it has failed: the rest need not be asked
                    self._rows[question.urgency] -= question.rows - question.sent
                    line.popleft()
                    continue
                if question.alone and slices:
                    return Batch(slices, now)
                rows = min(room, question.rows - question.sent)
                slices.append(Slice(question, question.sent, rows))
                question.sent += rows
                self._rows[question.urgency] -= rows
                room -= rows
                if question.sent == question.rows:
                    line.popleft()
                if question.alone:
                    return Batch(slices, now)
        return Batch(slices, now)

    def late(self, now: float) -> list[Question]:
        """Take out what is no longer worth sending; what a worker has a part of already is finished."""
        if now < self._soonest:
            return []
        found = [one for one in self if one.due <= now and one.open and not one.sent]
        self._remove(found)
        self._soonest = min((one.due for one in self if not one.sent), default=math.inf)
        return found

    def shed(self, rows: int, urgency: int) -> list[Question]:
        """Take out what is less urgent than ``urgency``, the least urgent and newest first, until ``rows`` are gone."""
        found: list[Question] = []
        for line in reversed(self._waiting[urgency + 1 :]):
            for question in reversed(line):
                if rows <= 0:
                    break
                if question.open and not question.sent:
                    found.append(question)
                    rows -= question.rows
        self._remove(found)
        return found

    def clear(self) -> list[Question]:
        """Take everything out."""
        found = [one for one in self if one.open]
        for line in self._waiting:
            line.clear()
        self._rows = [0] * URGENCIES
        self._soonest = math.inf
        return found

    def _remove(self, questions: list[Question]) -> None:
        gone = set(map(id, questions))
        for urgency in {one.urgency for one in questions}:
            line = self._waiting[urgency]
            kept = [one for one in line if id(one) not in gone]
            line.clear()
            line.extend(kept)
        for question in questions:
            self._rows[question.urgency] -= question.rows


class Pace:
    """How long a version's batches take: ``fixed`` seconds each and ``each`` more per row.

    A line through the recent batches, by least squares under exponential forgetting. It says how many rows may share a batch
    before they hold each other up, and how long what waits will take.

    Args:
        most: The bound of a batch in rows.
        stretch: By how many seconds the rows of a batch may lengthen it.
    """

    def __init__(self, most: int, stretch: float) -> None:
        self._bound = most
        self._stretch = stretch
        self._rows = self._seconds = self._square = self._product = 0.0
        self._seen = 0
        self.fixed = 0.0
        self.each = 0.0
        self.most = min(most, _UNKNOWN_ROWS)

    def observe(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self._seen += 1
        keep = 1.0 - max(_FORGET, 1.0 / self._seen)
        new = 1.0 - keep
        self._rows = keep * self._rows + new * rows
        self._seconds = keep * self._seconds + new * seconds
        self._square = keep * self._square + new * rows * rows
        self._product = keep * self._product + new * rows * seconds
        spread = self._square - self._rows * self._rows
        if spread > 0.01 * self._square:
            slope = (self._product - self._rows * self._seconds) / spread
            self.each = min(max(slope, 0.0), self._seconds / self._rows)
        else:  # all batches are alike: the mean is all that is known
            self.each = min(self.each, self._seconds / self._rows)
        self.fixed = self._seconds - self.each * self._rows
        # The slope of few rows is mostly noise; it can't lower the bound so far that no larger batch would correct it.
        if self.each:
            fit = self._stretch / self.each if self.each * self._bound > self._stretch else self._bound
        else:
            fit = _UNKNOWN_ROWS
        self.most = min(max(int(fit), _LEAST_ROWS), self._bound)

    def seconds(self, rows: int) -> float:
        """Return how long ``rows`` that wait will take one worker; 0 while nothing is known."""
        return -(-rows // self.most) * self.fixed + rows * self.each
