"""The rows of one turn of the event loop: who was asked for them, what came back, and what of it goes on record."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kilter.core.errors import KilterError
from kilter.serving.answering.admission import PLAIN, Terms
from kilter.serving.answering.rows import Given, Row, RowReader, entities
from kilter.serving.front.active import Active
from kilter.serving.records import CONSTANT, Arm, Item, Keys, PredictionBatch, Run, Runs, Scalar, alike
from kilter.serving.telemetry.tracing import Context
from kilter.serving.workers.frames import wide

Lookup = Callable[[Any, Sequence[str | None], Sequence[datetime]], "np.ndarray[Any, np.dtype[np.float64]]"]


class Ask(msgspec.Struct, eq=False):
    """One request's rows, read and checked.

    Args:
        given: The rows.
        item: How the request is recorded.
        arrived: When it arrived, on the loop's clock.
        answer: Takes the log position, the request's first row in the record, and the record.
        fail: Takes the error instead.
        version: The one version that may answer; None lets the router decide.
        terms: How urgent it is, and how long it may take.
        context: Its place in a trace, or None.
    """

    given: Given
    item: Item
    arrived: float
    answer: Callable[[int, int, PredictionBatch], None]
    fail: Callable[[KilterError], None]
    version: int | None = None
    terms: Terms = PLAIN
    context: Context | None = None


def by_terms(asks: list[Ask]) -> Iterable[list[Ask]]:
    """Return requests that may be answered together: a group is answered as a whole, so none may wait for less urgent ones."""
    if all(ask.terms is PLAIN for ask in asks):
        return (asks,)
    found: dict[Terms, list[Ask]] = {}
    for ask in asks:
        found.setdefault(ask.terms, []).append(ask)
    return found.values()


class Part:
    """Rows of a group that one version is asked for.

    Args:
        group: The group.
        places: Which of its rows.
        ladder: The versions that may answer, best first.
        arm: Whom the rows were routed to.
        since: When they began to wait for a worker.
    """

    __slots__ = ("alone", "arm", "attempts", "group", "ladder", "places", "rung", "since")

    def __init__(self, group: Group, places: Sequence[int], ladder: tuple[int, ...], arm: Arm, since: float) -> None:
        self.group = group
        self.places = places
        self.ladder = ladder
        self.arm = arm
        self.rung = 0
        self.attempts = 0
        self.alone = False
        self.since = since

    def halves(self) -> tuple[Part, ...]:
        """Return its requests in two parts; nothing when it is of one request."""
        starts = list(accumulate(ask.given.count for ask in self.group.asks))
        owners = [bisect_right(starts, place) for place in self.places]
        several = sorted(set(owners))
        if len(several) < 2:
            return ()
        cut = bisect_left(owners, several[len(several) // 2])
        parts = []
        for places in (self.places[:cut], self.places[cut:]):
            part = Part(self.group, places, self.ladder, self.arm, self.since)
            part.rung, part.attempts, part.alone = self.rung, self.attempts, self.alone
            parts.append(part)
        return tuple(parts)

    def payload(self, reader: RowReader, lookup: Lookup | None) -> bytes:
        """Return the rows as a version's matrix, features looked up as of each row's time.

        Args:
            reader: The version's.
            lookup: Looks a view up; None when there is no online store: features are missing then.

        Raises:
            KilterError: When the rows lack a column of this version, or the features can't be looked up.
        """
        matrix = self.group.matrix(self.places, reader)
        if not reader.views or lookup is None:
            return matrix
        matrix = wide(matrix, len(self.places) * reader.width)
        held = np.frombuffer(matrix, dtype="<f8").reshape(len(self.places), reader.width).copy()
        times = [self.group.times[place] for place in self.places]
        for inputs in reader.views:
            column = self.group.column(inputs.view.entity)
            found = lookup(inputs.view, entities([column[place] for place in self.places]), times)
            held[:, inputs.places] = found[:, inputs.pick]
        return held.tobytes()


class Seen(NamedTuple):
    """What a version saw: which rows, through which reader, and its matrix."""

    places: Sequence[int]
    reader: RowReader
    matrix: bytes

    def column(self, name: str, group: Group) -> list[Scalar]:
        """Return an input of these rows: text as it was sent, numbers as the model saw them."""
        if name in self.reader.categorical:
            column = group.column(name)
            return [column[place] for place in self.places]
        reader = self.reader
        held = array("d", wide(self.matrix, len(self.places) * reader.width))[reader.names.index(name) :: reader.width]
        return [None if math.isnan(value) else value for value in held]


class Group:
    """All rows that arrived for an endpoint in one turn of the event loop, and are answered with as many outputs.

    Args:
        asks: The requests.
        active: What was served when they arrived: they are routed and recorded under it.
        width: How many outputs an answer has.
        due: When the answers are of no more use.
    """

    __slots__ = (
        "_joined",
        "_layout",
        "_rows",
        "_seen",
        "active",
        "arms",
        "asks",
        "columns",
        "due",
        "failed",
        "inputs",
        "keys",
        "left",
        "recorded",
        "size",
        "terms",
        "times",
        "took",
        "values",
        "versions",
        "width",
    )

    def __init__(self, asks: list[Ask], active: Active, width: int, due: float = math.inf) -> None:
        self.active = active
        self.terms = asks[0].terms
        self.due = due
        self.width = width
        self.keys: Sequence[str] = ()
        self.times: Sequence[datetime] = ()
        self._gather(asks)
        self.left = self.size
        self.values = array("d")
        self.versions: Sequence[int] = ()
        self.arms: Sequence[Arm] = ()
        self.failed: dict[int, KilterError] = {}
        self.columns: tuple[str, ...] = ()
        self.recorded = b""
        self.inputs: dict[str, list[Scalar]] = {}
        self.took: dict[int, int] | None = {} if active.plan.mode in {"canary", "split"} else None
        self._seen: list[Seen] = []

    def _gather(self, asks: list[Ask]) -> None:
        first = asks[0].given
        self.asks = asks
        self._rows: list[Row] | None = None
        self._layout = first.reader.layout if first.reader is not None else None
        givens = [ask.given for ask in asks]
        self._joined = _joined_matrices(givens)
        if len(asks) == 1:
            self.size = first.count
            self.keys, self.times = first.keys, first.times
        else:
            self.size = sum([given.count for given in givens])
            if self.size == len(asks):
                self.keys, self.times = [given.keys[0] for given in givens], [given.times[0] for given in givens]
            else:
                self.keys, self.times = _joined_keys(givens), _joined_times(givens)
            layout = self._layout
            if any(given.reader is None or given.reader.layout is not layout for given in givens):
                self._layout = None  # a plan was swapped in between

    @property
    def single(self) -> bool:
        """Whether what goes on record is float32, as it came."""
        return 0 < len(self.recorded) < 8 * self.size * len(self.columns)

    @property
    def rows(self) -> list[Row]:
        """The rows as objects."""
        if self._rows is None:
            self._rows = [row for ask in self.asks for row in ask.given.rows]
        return self._rows

    def column(self, name: str) -> list[Scalar]:
        """Return a column of all rows as it was sent; None where it is absent."""
        return [value for ask in self.asks for value in ask.given.column(name)]

    def matrix(self, places: Sequence[int], reader: RowReader) -> bytes:
        """Return rows as a version's matrix, NaN in the places of its features.

        Raises:
            InvalidInput: When the rows lack a column of this version.
        """
        if self._layout is not reader.layout:  # they were read for a version that takes other columns
            rows = self.rows
            return b"".join([array("d", reader.vector(rows[place], place)).tobytes() for place in places])
        if len(places) == self.size:
            return self._joined
        held = self._joined
        step = len(held) // self.size
        return b"".join([held[place * step : (place + 1) * step] for place in places])

    def answered(
        self, part: Part, version: int, arm: Arm, values: array[float], seen: tuple[RowReader, bytes] | None
    ) -> None:
        """Take the answers of a version, or of the constant, to a part.

        Args:
            part: The part.
            version: Who answered; 0 for the constant.
            arm: ``fallback`` unless the version is the one that the rows were meant for.
            values: Row-major, ``width`` per row.
            seen: The version's reader and the matrix that it was given; None for the constant.
        """
        if seen is not None:
            self._seen.append(Seen(part.places, *seen))
        if len(part.places) == self.size:
            self.values = values
            self.versions, self.arms = alike(version, self.size), alike(arm, self.size)
        else:
            self._place(part.places, version, arm, values)
        self.left -= len(part.places)

    def _place(self, places: Sequence[int], version: int, arm: Arm, values: array[float]) -> None:
        """Put the answers to some of the rows in their places."""
        width = self.width
        if not self.values:
            self.values = array("d", [math.nan]) * (self.size * width)
            self.versions, self.arms = [CONSTANT] * self.size, ["fallback"] * self.size
        versions, arms = self.versions, self.arms
        assert isinstance(versions, list)  # noqa: S101 - rows answered apart are never all of them
        assert isinstance(arms, list)  # noqa: S101 - the same
        for position, place in enumerate(places):
            self.values[place * width : (place + 1) * width] = values[position * width : (position + 1) * width]
            versions[place] = version
            arms[place] = arm

    def fail(self, part: Part, error: KilterError) -> None:
        """Note why nobody could answer a part's rows: their requests fail as a whole."""
        self.failed.update(dict.fromkeys(part.places, error))
        self.left -= len(part.places)

    def split(self) -> tuple[list[Ask], list[tuple[Ask, KilterError]]]:
        """Return the requests that can be answered, and those that can't; rows of the latter leave the group."""
        self._settle()
        if not self.failed:
            return self.asks, []
        good: list[Ask] = []
        bad: list[tuple[Ask, KilterError]] = []
        keep: list[int] = []
        start = 0
        for ask in self.asks:
            span = range(start, start + ask.given.count)
            start = span.stop
            why = next((self.failed[place] for place in span if place in self.failed), None)
            if why is None:
                good.append(ask)
                keep.extend(span)
            else:
                bad.append((ask, why))
        if good:
            width, step = self.width, len(self.recorded) // self.size
            self._gather(good)
            self.values = array("d", [value for i in keep for value in self.values[i * width : (i + 1) * width]])
            self.versions = [self.versions[i] for i in keep]
            self.arms = [self.arms[i] for i in keep]
            self.inputs = {name: [column[i] for i in keep] for name, column in self.inputs.items()}
            self.recorded = b"".join([self.recorded[i * step : (i + 1) * step] for i in keep])
        return good, bad

    def seen(self, name: str) -> list[Scalar] | None:
        """Return an input as it goes on record; None when no answering version has it."""
        if name in self.inputs:
            return self.inputs[name]
        if name not in self.columns:
            return None
        width = len(self.columns)
        held = array("d", wide(self.recorded, self.size * width))[self.columns.index(name) :: width]
        return [None if math.isnan(value) else value for value in held]

    def _settle(self) -> None:
        """Put together what the answering versions saw."""
        seen = self._seen
        if not seen:
            return
        reader = seen[0].reader
        texts = reader.categorical
        if any(one.reader.names != reader.names or one.reader.categorical.keys() != texts.keys() for one in seen[1:]):
            self.inputs = self._scattered()
            return
        self.columns = reader.names
        if len(seen[0].places) == self.size:
            self.recorded = seen[0].matrix
            self.inputs = {name: self.column(name) for name in texts}
            return
        step = 8 * reader.width
        held = bytearray(array("d", [math.nan]).tobytes() * (reader.width * self.size))
        for one in seen:
            matrix = wide(one.matrix, len(one.places) * reader.width)
            for position, place in enumerate(one.places):
                held[place * step : (place + 1) * step] = matrix[position * step : (position + 1) * step]
        self.recorded = bytes(held)
        self.inputs = self._scattered(tuple(texts))

    def _scattered(self, names: tuple[str, ...] | None = None) -> dict[str, list[Scalar]]:
        """Return inputs that came from several versions, None in the rows of versions that lack them."""
        inputs: dict[str, list[Scalar]] = {}
        for one in self._seen:
            for name in one.reader.names if names is None else names:
                column = inputs.setdefault(name, [None] * self.size)
                for place, value in zip(one.places, one.column(name, self), strict=True):
                    column[place] = value
        return inputs


def _joined_keys(givens: Sequence[Given]) -> Sequence[str]:
    if not any(isinstance(given.keys, Keys) for given in givens):
        return [key for given in givens for key in given.keys]
    runs: list[str | Run] = []
    for given in givens:
        runs += given.keys.runs if isinstance(given.keys, Keys) else given.keys
    return Keys(runs)


def _joined_times(givens: Sequence[Given]) -> Sequence[datetime]:
    if not any(isinstance(given.times, Runs) for given in givens):
        return [time for given in givens for time in given.times]
    runs: list[tuple[datetime, int]] = []
    for given in givens:
        runs += given.times.runs if isinstance(given.times, Runs) else [(time, 1) for time in given.times]
    return Runs(runs)


def _joined_matrices(givens: Sequence[Given]) -> bytes:
    """Return matrices as one: in float64 unless all are float32."""
    if len({len(given.matrix) // given.count for given in givens}) == 1:
        return b"".join([given.matrix for given in givens])
    return b"".join([wide(given.matrix, given.count * given.reader.width) if given.reader else b"" for given in givens])
