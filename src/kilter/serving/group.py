"""The rows of one turn of the event loop: who was asked for them, what came back, and what of it goes on record."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from kilter.core.errors import KilterError
from kilter.serving.active import Active
from kilter.serving.records import CONSTANT, Arm, Item, PredictionBatch, Scalar
from kilter.serving.rows import Row, RowReader, columns, entities

Lookup = Callable[[Any, Sequence[str | None], Sequence[datetime]], "np.ndarray[Any, np.dtype[np.float64]]"]


class Ask:
    """One request's rows, read and checked.

    Args:
        rows: The rows as they were sent.
        keys: Their keys.
        times: Their times.
        vectors: Their direct inputs as numbers, as ``reader`` read them; empty without one.
        reader: The champion's at that moment, or None.
        item: How the request is recorded.
        arrived: When it arrived, on the loop's clock.
        answer: Takes the log position, the request's first row in the record, and the record.
        fail: Takes the error instead.
    """

    __slots__ = ("answer", "arrived", "fail", "item", "keys", "reader", "rows", "times", "vectors")

    def __init__(
        self,
        rows: list[Row],
        keys: list[str],
        times: list[datetime],
        vectors: list[list[float]],
        reader: RowReader | None,
        item: Item,
        arrived: float,
        answer: Callable[[int, int, PredictionBatch], None],
        fail: Callable[[KilterError], None],
    ) -> None:
        self.rows = rows
        self.keys = keys
        self.times = times
        self.vectors = vectors
        self.reader = reader
        self.item = item
        self.arrived = arrived
        self.answer = answer
        self.fail = fail


class Part:
    """Rows of a group that one version is asked for.

    Args:
        group: The group.
        places: Which of its rows.
        ladder: The versions that may answer, best first.
        arm: Whom the rows were routed to.
    """

    __slots__ = ("arm", "attempts", "group", "ladder", "looked", "places", "rung", "since")

    def __init__(self, group: Group, places: list[int], ladder: tuple[int, ...], arm: Arm, since: float) -> None:
        self.group = group
        self.places = places
        self.ladder = ladder
        self.arm = arm
        self.rung = 0
        self.attempts = 0
        self.since = since
        self.looked: dict[str, list[Scalar]] = {}

    def payload(self, reader: RowReader, lookup: Lookup | None) -> bytes:
        """Return the rows as the version's matrix, features looked up as of each row's time.

        Args:
            reader: The version's.
            lookup: Looks a view up; None when there is no online store: features are missing then.

        Raises:
            KilterError: When the rows lack a column of this version, or the features can't be looked up.
        """
        group = self.group
        places = self.places
        if reader is group.reader:  # they were read for this version already
            vectors = [group.vectors[place] for place in places]
        else:
            vectors = [reader.vector(group.rows[place], place) for place in places]
        self.looked = {}
        if reader.views:
            rows = [group.rows[place] for place in places]
            times = [group.times[place] for place in places]
            for inputs in reader.views:
                if lookup is None:
                    self.looked.update({name: [None] * len(rows) for name in inputs.names})
                    continue
                found = lookup(inputs.view, entities(rows, inputs.view.entity), times)
                for pick, place, name in zip(inputs.pick, inputs.places, inputs.names, strict=True):
                    values = found[:, pick].tolist()
                    for vector, value in zip(vectors, values, strict=True):
                        vector[place] = value
                    self.looked[name] = [None if math.isnan(value) else value for value in values]
        if len(vectors) == 1:
            return array("d", vectors[0]).tobytes()
        return b"".join([array("d", vector).tobytes() for vector in vectors])


class Group:
    """All rows that arrived for an endpoint in one turn of the event loop.

    Args:
        asks: The requests.
        active: What was served when they arrived: they are routed and recorded under it.
    """

    __slots__ = (
        "active",
        "arms",
        "asks",
        "failed",
        "inputs",
        "keys",
        "left",
        "reader",
        "rows",
        "times",
        "values",
        "vectors",
        "versions",
    )

    def __init__(self, asks: list[Ask], active: Active) -> None:
        self.active = active
        self.reader = asks[0].reader
        if len(asks) == 1:
            only = asks[0]
            self.rows, self.keys, self.times, self.vectors = only.rows, only.keys, only.times, only.vectors
        else:
            self.rows = [row for ask in asks for row in ask.rows]
            self.keys = [key for ask in asks for key in ask.keys]
            self.times = [time for ask in asks for time in ask.times]
            self.vectors = [vector for ask in asks for vector in ask.vectors]
            if any(ask.reader is not self.reader for ask in asks):  # a plan was swapped in between
                self.reader = None
        size = len(self.rows)
        self.asks = asks
        self.left = size
        self.values = [math.nan] * size
        self.versions = [CONSTANT] * size
        self.arms: list[Arm] = ["fallback"] * size
        self.inputs: dict[str, list[Scalar]] = {}
        self.failed: set[int] = set()

    def answered(self, part: Part, version: int, arm: Arm, values: Sequence[float], reader: RowReader | None) -> None:
        """Take the answers of a version, or of the constant, to a part.

        Args:
            part: The part.
            version: Who answered; 0 for the constant.
            arm: ``fallback`` unless the version is the one that the rows were routed to.
            values: One per row.
            reader: The version's; None for the constant.
        """
        size = len(self.rows)
        seen = columns(reader, [self.rows[place] for place in part.places]) if reader is not None else {}
        seen |= part.looked if reader is not None else {}
        if len(part.places) == size:
            self.values = list(values)
            self.versions = [version] * size
            self.arms = [arm] * size
            self.inputs = seen
        else:
            for name in seen:
                if name not in self.inputs:
                    self.inputs[name] = [None] * size
            for position, place in enumerate(part.places):
                self.values[place] = values[position]
                self.versions[place] = version
                self.arms[place] = arm
                for name, column in seen.items():
                    self.inputs[name][place] = column[position]
        self.left -= len(part.places)

    def fail(self, part: Part) -> None:
        """Note that nobody could answer a part's rows: their requests fail as a whole."""
        self.failed.update(part.places)
        self.left -= len(part.places)

    def split(self) -> tuple[list[Ask], list[Ask]]:
        """Return the requests that can be answered, and those that can't; rows of the latter leave the group."""
        if not self.failed:
            return self.asks, []
        good: list[Ask] = []
        bad: list[Ask] = []
        keep: list[int] = []
        start = 0
        for ask in self.asks:
            span = range(start, start + len(ask.rows))
            start = span.stop
            if self.failed.isdisjoint(span):
                good.append(ask)
                keep.extend(span)
            else:
                bad.append(ask)
        self.rows = [self.rows[i] for i in keep]
        self.keys = [self.keys[i] for i in keep]
        self.times = [self.times[i] for i in keep]
        self.values = [self.values[i] for i in keep]
        self.versions = [self.versions[i] for i in keep]
        self.arms = [self.arms[i] for i in keep]
        self.inputs = {name: [column[i] for i in keep] for name, column in self.inputs.items()}
        return good, bad
