"""One endpoint of a front: rows in, answers out, whatever happens to the workers.

Requests that arrive in one turn of the event loop are one group: routed row by row, looked up and predicted together,
recorded with one write, and only then answered. There is no timer and nothing waits while the endpoint is idle.

A row is answered by the version that it was routed to. When that version's worker has died, the row waits a moment for its
successor; then the champion answers, then a version kept warm, then the constant; each is recorded as what it is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from array import array
from datetime import datetime

from kilter.core.clock import Clock
from kilter.core.errors import KilterError, Unavailable
from kilter.serving.active import Active, Loaded
from kilter.serving.group import Ask, Group, Lookup, Part
from kilter.serving.http import HttpError
from kilter.serving.metrics import EndpointMetrics
from kilter.serving.recording import PredictionLog
from kilter.serving.records import CONSTANT, Arm, PredictionBatch, TrafficPlan
from kilter.serving.shadow import Shadow

_TICK = 0.02

log = logging.getLogger("kilter.serving")


class Budget:
    """How many rows wait in the whole front, for all endpoints together.

    Args:
        most: The bound.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows = 0


class Endpoint:
    """One endpoint.

    Args:
        loop: Its name.
        log: Where predictions are recorded.
        clock: The time of records.
        lookup: Looks features up; None without an online store.
        budget: The front's bound on waiting rows; a single endpoint may take half of it.
        patience: Seconds that a row waits for its own version's next worker while another version could answer.
        deadline: Seconds after which a row takes whatever answer there is.
    """

    def __init__(
        self,
        loop: str,
        log: PredictionLog,
        clock: Clock,
        lookup: Lookup | None,
        budget: Budget,
        *,
        patience: float,
        deadline: float,
    ) -> None:
        self.loop = loop
        self.active: Active | None = None
        self.metrics = EndpointMetrics()
        self.error = ""
        self._log = log
        self._clock = clock
        self._lookup = lookup
        self._budget = budget
        self._patience = patience
        self._deadline = deadline
        self._pending: list[Ask] = []
        self._parked: list[Part] = []
        self._rows = 0
        self._running = asyncio.get_running_loop()
        self._now = self._running.time
        self._ticking: asyncio.TimerHandle | None = None
        self._shadow: Shadow | None = None

    # ------------------------------------------------------------ state

    @property
    def rows(self) -> int:
        """How many rows wait for an answer."""
        return self._rows

    @property
    def ready(self) -> bool:
        """Whether the champion can answer; with a plan that has none, the constant can."""
        active = self.active
        return active is not None and (active.champion is None or active.champion.pool.ready)

    def now(self) -> datetime:
        """Return the time of records."""
        return self._clock.now()

    def swap(self, active: Active) -> None:
        """Serve another plan, from this assignment on. What is in flight ends under the plan it began under."""
        self.active = active
        challenger = active.models.get(active.plan.challenger) if active.plan.challenger is not None else None
        if active.plan.mode == "shadow" and challenger is not None:
            if self._shadow is None or self._shadow.model is not challenger:
                self._shadow = Shadow(challenger, self.loop, self._log, self._clock, self._lookup, self.metrics)
        else:
            self._shadow = None
        self.wake()

    def uses(self, model: Loaded) -> bool:
        """Whether rows may still be sent to a version that the plan no longer names."""
        return model.pool.rows > 0 or any(model in part.group.active.models.values() for part in self._parked)

    # ------------------------------------------------------------ rows in

    def submit(self, ask: Ask) -> None:
        """Take a request's rows.

        Raises:
            HttpError: When too many rows wait already, or no plan is served yet.
        """
        if self.active is None:
            raise HttpError(503, "the endpoint is being loaded", headers=b"retry-after: 1\r\n")
        size = len(ask.rows)
        if self._budget.rows + size > self._budget.most:
            raise HttpError(503, "too many rows are waiting for an answer", headers=b"retry-after: 1\r\n")
        if self._rows + size > self._budget.most // 2:
            raise HttpError(429, "too many rows are waiting at this endpoint", headers=b"retry-after: 1\r\n")
        self._rows += size
        self._budget.rows += size
        if not self._pending:
            # Whatever else arrives in this turn of the loop joins the batch.
            self._running.call_soon(self._flush)
        self._pending.append(ask)

    def _flush(self) -> None:
        asks, self._pending = self._pending, []
        assert self.active is not None  # noqa: S101 - submit has refused the rows otherwise
        group = Group(asks, self.active)
        for part in self._parts(group, asks[0].arrived):
            self._dispatch(part)

    def _parts(self, group: Group, since: float) -> list[Part]:
        active, plan = group.active, group.active.plan
        if plan.mode != "canary" or plan.challenger is None:
            return [Part(group, list(range(len(group.rows))), active.ladders[plan.champion], "champion", since)]
        arm = active.router.arm
        places: dict[Arm, list[int]] = {"champion": [], "challenger": []}
        for place, key in enumerate(group.keys):
            places[arm(key)].append(place)
        whose: dict[Arm, int | None] = {"champion": plan.champion, "challenger": plan.challenger}
        return [Part(group, found, active.ladders[whose[name]], name, since) for name, found in places.items() if found]

    # ------------------------------------------------------------ who answers

    def _dispatch(self, part: Part) -> None:
        """Send a part to the best version that can take it, or park it until one can or its time is up."""
        now = self._now()
        models = part.group.active.models
        waiting = False
        for rung in range(part.rung, len(part.ladder)):
            model = models[part.ladder[rung]]
            if model.pool.ready:
                if self._send(model, part, rung):
                    return
                continue
            waiting = True
            if rung == part.rung and now - part.since < self._patience:
                break
        if waiting and now - part.since < self._deadline:
            self._parked.append(part)
            self._tick()
            return
        self._last_resort(part)

    def _send(self, model: Loaded, part: Part, rung: int) -> bool:
        try:
            payload = part.payload(model.reader, self._lookup)
        except Exception as error:
            self.metrics.input_errors += 1
            if not isinstance(error, KilterError):
                log.exception("rows could not be read for version %d", model.version)
            return False
        count = len(part.places)

        def done(values: bytes | None, died: bool) -> None:
            found = array("d", values) if values is not None else None
            if found is not None and len(found) == count and all(map(math.isfinite, found)):
                arm: Arm = part.arm if model.version == part.ladder[0] else "fallback"
                part.group.answered(part, model.version, arm, found, model.reader)
                self._finish(part.group)
                return
            self.metrics.retried_rows += count
            part.attempts += 1
            # Rows that were in two dying workers may be what kills them; rows that were refused will be again.
            if not died or part.attempts > 1:
                part.rung, part.attempts = rung + 1, 0
            self._dispatch(part)

        model.pool.ask(payload, count, done)
        return True

    def _last_resort(self, part: Part) -> None:
        constant = part.group.active.plan.fallback
        if constant is None:
            part.group.fail(part)
        else:
            part.group.answered(part, CONSTANT, "fallback", [constant] * len(part.places), None)
        self._finish(part.group)

    def _tick(self) -> None:
        if self._ticking is None:
            self._ticking = self._running.call_later(_TICK, self.wake)

    def wake(self) -> None:
        """Look again after the parked rows: a worker has become ready, or time has passed."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        parked, self._parked = self._parked, []
        for part in parked:
            self._dispatch(part)
        if self._parked:
            self._tick()
        if self._shadow is not None:
            self._shadow.wake()

    # ------------------------------------------------------------ answers out

    def _finish(self, group: Group) -> None:
        """Record a complete group, then answer its requests."""
        if group.left:
            return
        size = sum(len(ask.rows) for ask in group.asks)
        self._rows -= size
        self._budget.rows -= size
        good, bad = group.split()
        for ask in bad:
            ask.fail(Unavailable("no model can answer now", where="endpoint", fix="try again shortly"))
        if not good:
            return
        plan = group.active.plan
        try:
            self._answer(group, good, plan)
        except Exception as error:  # what is not on record is not answered
            log.exception("predictions of %s could not be recorded", self.loop)
            fix = error.fix if isinstance(error, KilterError) else ""
            for ask in good:
                ask.fail(Unavailable("the prediction can't be recorded", where="endpoint", fix=fix))

    def _answer(self, group: Group, good: list[Ask], plan: TrafficPlan) -> None:
        batch = PredictionBatch(
            at=self._clock.now(),
            loop=self.loop,
            generation=plan.generation,
            share=plan.share,
            keys=group.keys,
            times=group.times,
            arms=group.arms,
            versions=group.versions,
            values=group.values,
            inputs=group.inputs,
            requests=[ask.item for ask in good],
            latency_us=int((self._now() - good[0].arrived) * 1e6),
        )
        position = self._log.append(batch)
        self._count(group)
        start = 0
        for ask in good:
            ask.answer(position, start, batch)
            start += len(ask.rows)
        if self._shadow is not None and plan.mode == "shadow":
            self._shadow.offer(position, group)

    def _count(self, group: Group) -> None:
        counter = self.metrics.rows
        if len(group.values) == 1:
            counter[group.arms[0], group.versions[0]] += 1
            return
        for pair in zip(group.arms, group.versions, strict=True):
            counter[pair] += 1
