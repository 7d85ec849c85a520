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
import time
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np

from kilter.core.clock import Clock
from kilter.core.errors import KilterError, NotFound, Unavailable
from kilter.serving.answering.admission import Door, Terms, late, shed
from kilter.serving.answering.batching import Done, Outcome
from kilter.serving.answering.group import Ask, Group, Lookup, Part, by_terms
from kilter.serving.answering.shadow import Shadow
from kilter.serving.front.active import Active, Loaded
from kilter.serving.front.http import HttpError
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import CONSTANT, Arm, PredictionBatch, TrafficPlan, common
from kilter.serving.telemetry.metrics import EndpointMetrics
from kilter.serving.telemetry.tracing import Context

_TICK = 0.02
_FEW = 32
"""How many numbers Python adds up before NumPy has begun to."""

Watch = Callable[[str, Sequence[Context | None], float, float, dict[str, str | int]], None]
"""Takes the name of a step, the requests' places in their traces, when it began and ended, and what to say about it."""

log = logging.getLogger("kilter.serving")


class Endpoint:
    """One endpoint.

    Args:
        loop: Its name.
        log: Where predictions are recorded.
        clock: The time of records.
        lookup: Looks features up; None without an online store.
        door: Says who may wait.
        patience: Seconds that a row waits for its own version's next worker while another version could answer.
        deadline: Seconds after which a row takes whatever answer there is.
        watch: Told of each look-up and each prediction of a group; None when nobody wants to know.
    """

    def __init__(
        self,
        loop: str,
        log: PredictionLog,
        clock: Clock,
        lookup: Lookup | None,
        door: Door,
        *,
        patience: float,
        deadline: float,
        watch: Watch | None = None,
    ) -> None:
        self.loop = loop
        self._watch = watch
        self.active: Active | None = None
        self.metrics = EndpointMetrics()
        self.error = ""
        self._log = log
        self._clock = clock
        self._lookup = lookup
        self._door = door
        self._patience = patience
        self._deadline = deadline
        self._pending: list[Ask] = []
        self._parked: list[Part] = []
        self._running = asyncio.get_running_loop()
        self._now = time.monotonic  # the loop counts milliseconds, and stands still within a turn
        self._ticking: asyncio.TimerHandle | None = None
        self._shadow: Shadow | None = None

    # ------------------------------------------------------------ state

    @property
    def rows(self) -> int:
        """How many rows wait for an answer."""
        return self._door.rows

    @property
    def ready(self) -> bool:
        """Whether the champion can answer; with a plan that has none, the constant can."""
        active = self.active
        return active is not None and (active.champion is None or active.champion.ready)

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

    def check(self, rows: int, terms: Terms) -> None:
        """Refuse rows for which there is no room: before they are read, that costs next to nothing.

        Raises:
            HttpError: When too many rows wait already, or no plan is served yet.
        """
        if self.active is None:
            raise HttpError(503, "the endpoint is being loaded", headers=b"retry-after: 1\r\n")
        self._door.check(rows, terms, self.active.answering)

    def submit(self, ask: Ask) -> None:
        """Take a request's rows, for which there is room: :meth:`check` said so in this turn of the loop."""
        self._door.enter(ask.given.count)
        if not self._pending:
            # Whatever else arrives in this turn of the loop joins the batch.
            self._running.call_soon(self._flush)
        self._pending.append(ask)

    def _flush(self) -> None:
        asks, self._pending = self._pending, []
        active = self.active
        assert active is not None  # noqa: S101 - submit has refused the rows otherwise
        for alike in by_terms(asks):
            direct = any(ask.version for ask in alike)
            routed = [ask for ask in alike if ask.version is None] if direct else alike
            if routed:
                width = active.champion.reader.outputs if active.champion is not None else 1
                group = Group(routed, active, width, self._due(routed))
                for part in self._parts(group, routed[0].arrived):
                    self._dispatch(part)
            if direct:
                self._ask_directly([ask for ask in alike if ask.version is not None], active)

    def _due(self, asks: list[Ask]) -> float:
        return self._door.due(asks[0].arrived, asks[0].terms)

    def _ask_directly(self, asks: list[Ask], active: Active) -> None:
        """Ask the versions that callers named, and no others in their place."""
        by_version: dict[int, list[Ask]] = {}
        for ask in asks:
            by_version.setdefault(ask.version or CONSTANT, []).append(ask)
        for version, wanted in by_version.items():
            model = active.models.get(version)
            if model is None:  # it was loaded when they arrived
                self._door.leave(sum(ask.given.count for ask in wanted), len(wanted))
                for ask in wanted:
                    ask.fail(NotFound("this version is not loaded any more", where="version"))
                continue
            group = Group(wanted, active, model.reader.outputs, self._due(wanted))
            self._dispatch(Part(group, range(group.size), (version,), "direct", wanted[0].arrived))

    def _parts(self, group: Group, since: float) -> list[Part]:
        active, plan = group.active, group.active.plan
        if active.split is not None:
            return self._arms(group, active.split.version, since)
        if plan.mode != "canary" or plan.challenger is None:
            return [Part(group, range(group.size), active.ladders[plan.champion], "champion", since)]
        arm = active.router.arm
        places: dict[Arm, list[int]] = {"champion": [], "challenger": []}
        start = 0
        for ask in group.asks:
            given = ask.given
            if given.route:
                places[arm(given.route)].extend(range(start, start + given.count))
            else:
                for place, key in enumerate(given.keys, start):
                    places[arm(key)].append(place)
            start += given.count
        whose: dict[Arm, int | None] = {"champion": plan.champion, "challenger": plan.challenger}
        return [Part(group, found, active.ladders[whose[name]], name, since) for name, found in places.items() if found]

    @staticmethod
    def _arms(group: Group, version: Callable[[str], int], since: float) -> list[Part]:
        """Deal rows to the arms of an experiment."""
        active = group.active
        places: dict[int, list[int]] = {}
        start = 0
        for ask in group.asks:
            given = ask.given
            if given.route:
                places.setdefault(version(given.route), []).extend(range(start, start + given.count))
            else:
                for place, key in enumerate(given.keys, start):
                    places.setdefault(version(key), []).append(place)
            start += given.count
        control = active.plan.champion
        return [
            Part(group, found, active.ladders[arm], "champion" if arm == control else "challenger", since)
            for arm, found in places.items()
        ]

    def explain(self, ask: Ask, model: Loaded, done: Done) -> None:
        """Ask what each input adds to a version's answers; nothing of it goes on record.

        Args:
            ask: The request.
            model: The version.
            done: Takes float64, rows x outputs x (columns + 1), the last of them what no column adds.

        Raises:
            KilterError: When the rows can't be read for the version.
        """
        assert self.active is not None  # noqa: S101 - the version is one of its
        group = Group([ask], self.active, model.reader.outputs)
        part = Part(group, range(group.size), (model.version,), "direct", ask.arrived)
        model.pool.explain(part.payload(model.reader, self._lookup), group.size, done)

    # ------------------------------------------------------------ who answers

    def _dispatch(self, part: Part) -> None:
        """Send a part to the best version that can take it, or park it until one can or its time is up."""
        now = self._now()
        models = part.group.active.models
        waiting = coming = False
        if now >= part.group.due:
            self._fail(part, late())
            return
        for rung in range(part.rung, len(part.ladder)):
            model = models[part.ladder[rung]]
            if model.pool.ready:
                if self._send(model, part, rung):
                    return
                continue
            coming = model.rouse()
            if not coming and not model.pool.started:
                continue  # it sleeps, and can't be woken now
            waiting = True
            if coming or (rung == part.rung and now - part.since < self._patience):
                break
        if waiting and (coming or now - part.since < self._deadline):
            self._parked.append(part)
            self._tick()
            return
        self._last_resort(part)

    def _send(self, model: Loaded, part: Part, rung: int) -> bool:
        width = part.group.width
        if model.reader.outputs != width:  # it answers another question
            return False
        began = self._now() if self._watch is not None else 0.0
        try:
            payload = part.payload(model.reader, self._lookup)
        except Exception as error:
            self.metrics.input_errors += 1
            if not isinstance(error, KilterError):
                log.exception("rows could not be read for version %d", model.version)
            return False
        count = len(part.places)
        if self._watch is not None:
            began = self._tell("lookup", part, model, began)

        def done(values: bytes | None, outcome: Outcome) -> None:
            if self._watch is not None:
                self._tell("predict", part, model, began)
            found = array("d", values) if values is not None else None
            if found is not None and len(found) == count * width and _finite(found):
                arm: Arm = part.arm if model.version == part.ladder[0] else "fallback"
                if part.group.took is not None and arm != "fallback":
                    part.group.took[model.version] = int((self._now() - part.since) * 1e6)
                part.group.answered(part, model.version, arm, found, (model.reader, payload))
                self._finish(part.group)
                return
            part.rung = rung
            self._again(part, outcome)

        model.ask(payload, count, done, part.group.terms.urgency, part.group.due, alone=part.alone)
        return True

    def _tell(self, step: str, part: Part, model: Loaded, since: float) -> float:
        """Tell who watches of a step that has ended, and return when that was."""
        now = self._now()
        if self._watch is not None:
            contexts = [ask.context for ask in part.group.asks]
            self._watch(step, contexts, since, now, {"kilter.version": model.version, "kilter.rows": len(part.places)})
        return now

    def _again(self, part: Part, outcome: Outcome) -> None:
        """Ask again for rows that a version did not answer: the same one, or the next that may."""
        if outcome in {"late", "shed"}:
            self._fail(part, late() if outcome == "late" else shed())
            return
        self.metrics.retried_rows += len(part.places)
        if outcome in {"died", "gone"}:
            part.since = self._now()
        if outcome == "gone":
            self._dispatch(part)
            return
        # Rows that were in two dying workers may be what kills them; rows that were refused will be again. Either way one
        # request may be the cause, and its neighbours are asked without it.
        part.attempts += 1
        part.alone = outcome == "died"
        if not part.alone or part.attempts > 1:
            halves = part.halves()
            if halves:
                for half in halves:
                    self._dispatch(half)
                return
            part.rung, part.attempts, part.alone = part.rung + 1, 0, False
        self._dispatch(part)

    def _fail(self, part: Part, error: KilterError) -> None:
        part.group.fail(part, error)
        self._finish(part.group)

    def _last_resort(self, part: Part) -> None:
        constant = part.group.active.plan.fallback
        if constant is None or part.arm == "direct" or part.group.width != 1:
            self._fail(part, Unavailable("no model can answer now", where="endpoint", fix="try again shortly"))
            return
        part.group.answered(part, CONSTANT, "fallback", array("d", [constant]) * len(part.places), None)
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
        self._door.leave(group.size, len(group.asks))
        good, bad = group.split()
        for ask, why in bad:
            ask.fail(why)
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
            width=group.width,
            columns=group.columns,
            matrix=group.recorded,
            single=group.single,
            took_us=group.took or {},
            split=plan.split,
            experiment=plan.experiment,
        )
        position = self._log.append(batch)
        self._count(group)
        start = 0
        for ask in good:
            ask.answer(position, start, batch)
            start += ask.given.count
        if self._shadow is not None and plan.mode == "shadow" and good[0].version is None:
            self._shadow.offer(position, group)

    def _count(self, group: Group) -> None:
        counter = self.metrics.rows
        arm, version = common(group.arms), common(group.versions)
        if arm is not None and version is not None:
            counter[arm, version] += group.size
        else:
            counter.update(zip(group.arms, group.versions, strict=True))


def _finite(values: array[float]) -> bool:
    """Say whether all numbers are finite: so is their sum then, unless they are huge."""
    if len(values) > _FEW:
        return bool(np.isfinite(np.frombuffer(values)).all())
    return math.isfinite(sum(values)) or all(map(math.isfinite, values))
