"""The challenger scores copies of what was answered, after it was answered, and never in front of it.

The queue is bounded; what doesn't fit is dropped and counted. Scores are recorded by the position of the batch they belong to.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections import deque

from kilter.core.clock import Clock
from kilter.core.errors import KilterError
from kilter.serving.answering.batching import Done, Outcome
from kilter.serving.answering.group import Group, Lookup, Part, Seen
from kilter.serving.front.active import Loaded
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import Scalar, ShadowBatch
from kilter.serving.telemetry.metrics import EndpointMetrics

log = logging.getLogger("kilter.serving")

_QUEUED_ROWS = 20_000
_IN_FLIGHT = 2


class Shadow:
    """One challenger's queue of copies.

    Args:
        model: The challenger.
        loop: The endpoint.
        log: Where its answers are recorded.
        clock: The time of records.
        lookup: Looks features up.
        metrics: Where drops are counted.
    """

    def __init__(
        self,
        model: Loaded,
        loop: str,
        log: PredictionLog,
        clock: Clock,
        lookup: Lookup | None,
        metrics: EndpointMetrics,
    ) -> None:
        self.model = model
        self._loop = loop
        self._log = log
        self._clock = clock
        self._lookup = lookup
        self._metrics = metrics
        self._queue: deque[tuple[int, Part, int]] = deque()
        self._rows = 0
        self._flying = 0

    def offer(self, position: int, group: Group) -> None:
        """Take a copy of an answered batch, if there is room for it."""
        size = group.size
        if self._rows + size > _QUEUED_ROWS:
            self._metrics.shadow_dropped += size
            return
        self._rows += size
        part = Part(group, range(size), (self.model.version,), "challenger", 0.0)
        self._queue.append((position, part, 0))
        self.wake()

    def wake(self) -> None:
        """Send what can be sent."""
        while self._queue and self._flying < _IN_FLIGHT and self.model.pool.ready:
            position, part, attempts = self._queue.popleft()
            try:
                payload = part.payload(self.model.reader, self._lookup)
            except Exception as error:  # a shadow never breaks what it shadows
                if not isinstance(error, KilterError):
                    log.exception("rows could not be read for the shadow")
                self._drop(part)
                continue
            self._flying += 1
            self.model.ask(payload, len(part.places), self._done(position, part, payload, attempts))

    def _done(self, position: int, part: Part, payload: bytes, attempts: int) -> Done:
        def done(values: bytes | None, outcome: Outcome) -> None:
            self._flying -= 1
            found = array("d", values) if values is not None else None
            wanted = len(part.places) * self.model.reader.outputs
            if found is not None and len(found) == wanted and all(map(math.isfinite, found)):
                self._record(position, part, payload, found.tolist())
            elif outcome in {"died", "gone"} and attempts == 0:
                self._queue.appendleft((position, part, 1))
            else:
                self._drop(part)
            self.wake()

        return done

    def _record(self, position: int, part: Part, payload: bytes, values: list[float]) -> None:
        group, reader = part.group, self.model.reader
        seen = Seen(part.places, reader, payload)
        # Versions of one loop mostly see the same; only what differs is written again.
        others: dict[str, list[Scalar]] = {}
        if reader.names != group.columns or payload != group.recorded:
            for name in reader.names:
                column = seen.column(name, group)
                if column != group.seen(name):
                    others[name] = column
        record = ShadowBatch(
            at=self._clock.now(),
            loop=self._loop,
            position=position,
            rows=list(part.places),
            version=self.model.version,
            values=values,
            inputs=others,
            width=reader.outputs,
        )
        try:
            self._log.append(record)
        except KilterError as error:
            log.warning("the shadow's answers can't be recorded: %s", error)
            self._drop(part)
            return
        self._rows -= len(part.places)
        self._metrics.shadow_rows += len(part.places)

    def _drop(self, part: Part) -> None:
        self._rows -= len(part.places)
        self._metrics.shadow_dropped += len(part.places)
