"""Where every protocol hands its requests in: finds the endpoint, has the rows read, asks, and hands the answer back.

A protocol knows bytes and names. It gives a :class:`Call` (who asks, and where the answer goes) and a function that reads its
rows for the version that is to answer; everything between is here, once for all protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime

from kilter.core.clock import SystemClock
from kilter.core.errors import Expired, InvalidInput, KilterError, NotFound, Unavailable
from kilter.serving.access.reception import Reception
from kilter.serving.answering.batching import Outcome
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.answering.group import Ask
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.active import Loaded
from kilter.serving.front.exchange import Answer, Call, Explanation
from kilter.serving.front.http import HttpError, Limits, status_of
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.recording.replays import Answered, Replays
from kilter.serving.records import Item, PredictionBatch

_LONGEST_KEY = 200
_MOST_EXPLAINED = 100


class Tally:
    """What a version has answered since the front started.

    Args:
        requests: Requests.
        rows: Their rows.
        groups: Groups that were answered with one call of the model.
        seconds: From the requests' arrival to their answers, together.
        last: When the last was answered, in seconds since 1970.
    """

    __slots__ = ("groups", "last", "position", "requests", "rows", "seconds")

    def __init__(self) -> None:
        self.requests = self.rows = self.groups = 0
        self.seconds = self.last = 0.0
        self.position = -1

    def add(self, rows: int, seconds: float, position: int, batch: PredictionBatch) -> None:
        """Count an answered request."""
        self.requests += 1
        self.rows += rows
        self.seconds += seconds
        if position != self.position:
            self.position = position
            self.groups += 1
            self.last = batch.at.timestamp()


Read = Callable[[RowReader | None, datetime], Given]
"""Reads a request's rows for a model (None when only the constant can answer), at a time of asking."""


class Intake:
    """The one way in.

    Args:
        log: The prediction log.
        replays: The newest Idempotency-Keys.
        limits: What one client may ask.
        clock: The event loop's time.
        default: The endpoint that answers where a protocol names none; empty for the only one.
        reception: Who comes; None lets everybody in.
    """

    def __init__(
        self,
        log: PredictionLog,
        replays: Replays,
        limits: Limits,
        clock: Callable[[], float],
        default: str = "",
        reception: Reception | None = None,
    ) -> None:
        self.limits = limits
        self.reception = reception or Reception(None, SystemClock(), clock)
        self.endpoints: dict[str, Endpoint] = {}
        self.front = log.front
        self.default = default
        self.tallies: dict[tuple[str, int], Tally] = {}
        self.unloaded: dict[str, int] = {}
        self._log = log
        self._replays = replays
        self._clock = clock

    # ------------------------------------------------------------ who is asked

    def endpoint(self, name: str) -> Endpoint:
        """Return an endpoint.

        Raises:
            NotFound: When there is none of that name.
        """
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            raise NotFound("there is no such endpoint", where="model", fix="GET /models lists them")
        return endpoint

    def only(self) -> Endpoint:
        """Return the endpoint that is meant where a protocol names none.

        Raises:
            NotFound: When there is none, or several and none of them is the default.
        """
        if self.default:
            return self.endpoint(self.default)
        if len(self.endpoints) != 1:
            raise NotFound(
                "the path names no endpoint, and there are several" if self.endpoints else "there is no endpoint",
                where="path",
                allowed="a front with one endpoint, or with a default",
                fix="name the default endpoint in the front's configuration, or use a path that names the endpoint",
            )
        return next(iter(self.endpoints.values()))

    def load(self, endpoint: Endpoint) -> None:
        """Let an endpoint answer again."""
        self.unloaded.pop(endpoint.loop, None)

    def unload(self, endpoint: Endpoint) -> None:
        """Let an endpoint answer nothing, until it is loaded again or has a new plan."""
        self.unloaded[endpoint.loop] = endpoint.active.plan.generation if endpoint.active is not None else 0

    def _check_loaded(self, endpoint: Endpoint) -> None:
        generation = endpoint.active.plan.generation if endpoint.active is not None else 0
        if self.unloaded[endpoint.loop] == generation:
            raise NotFound(
                "the endpoint is unloaded", where="model", fix="load it: POST /v2/repository/models/NAME/load"
            )
        self.load(endpoint)

    @staticmethod
    def loaded(endpoint: Endpoint, version: int | None = None) -> Loaded | None:
        """Return the version that a request is read for: the named one, else the champion; None when there is no model.

        Raises:
            NotFound: When the named version is not loaded.
        """
        active = endpoint.active
        if version is None:
            return active.champion if active is not None else None
        found = active.models.get(version) if active is not None else None
        if found is None:
            raise NotFound("this version is not loaded", where="version", fix="GET /models lists what is loaded")
        return found

    def check_rows(self, count: int) -> None:
        """Refuse a request with no rows, or with more than one may have.

        Raises:
            InvalidInput: When there are none.
            HttpError: 413 when there are too many.
        """
        if not count:
            raise InvalidInput("the request has no rows", where="rows", allowed=f"1 to {self.limits.rows}")
        if count > self.limits.rows:
            raise HttpError(413, f"the request has {count} rows", allowed=f"1 to {self.limits.rows}")

    # ------------------------------------------------------------ asking

    def take(self, endpoint: Endpoint, call: Call, read: Read) -> None:
        """Take a request; its answer or error comes through the call, now or later.

        Args:
            endpoint: Who is asked.
            call: Who asks.
            read: Reads the rows.

        Raises:
            KilterError: When the request is refused at once; it is counted.
        """
        try:
            self.reception.keys.check(call.client, endpoint.loop)
            if call.key and self._replayed(endpoint, call, read):
                return
            self._ask(endpoint, call, read)
        except KilterError as error:
            endpoint.metrics.requests[status_of(error)] += 1
            raise

    def _ask(self, endpoint: Endpoint, call: Call, read: Read) -> None:
        if endpoint.loop in self.unloaded:
            self._check_loaded(endpoint)
        model = self.loaded(endpoint, call.version)
        reader = model.reader if model is not None else None
        terms = call.terms
        endpoint.check(1, terms)
        given = read(reader, endpoint.now())
        count = given.count
        if count > 1 or call.terms is not terms:
            endpoint.check(count, call.terms)
        if call.route:
            given.route = call.route
        route = given.route if count > 1 or given.route != given.keys[0] else ""
        context = call.context
        item = Item(count, call.key, call.body, call.client, context.trace if context is not None else "", route)
        answered = self.reception.answered
        signature = reader.signature if reader is not None else None

        def answer(position: int, start: int, batch: PredictionBatch) -> None:
            seconds = self._clock() - call.arrived
            endpoint.metrics.requests[200] += 1
            endpoint.metrics.observe(seconds)
            name = (endpoint.loop, batch.versions[start])
            tally = self.tallies.get(name)
            if tally is None:
                tally = self.tallies[name] = Tally()
            tally.add(item.rows, seconds, position, batch)
            answered(endpoint.loop, item.client, call.agent, call.protocol, item.rows, 200, call.arrived, context)
            call.answer(Answer(self.front, position, start, item.rows, batch, signature))
            if item.key:
                self._answered(endpoint, item, position, start, batch)

        def fail(error: KilterError) -> None:
            status = status_of(error)
            endpoint.metrics.requests[status] += 1
            answered(endpoint.loop, item.client, call.agent, call.protocol, item.rows, status, call.arrived, context)
            call.fail(error)
            if item.key:
                self._failed(endpoint, item, error)

        endpoint.submit(Ask(given, item, call.arrived, answer, fail, call.version, call.terms, context))
        if item.key:
            self._replays.begin(endpoint.loop, item.key, item.body)

    def explain(self, endpoint: Endpoint, call: Call, read: Read, answer: Callable[[Explanation], None]) -> None:
        """Take a request for what each input adds to an answer; it is no prediction, and not recorded.

        Args:
            endpoint: Who is asked.
            call: Who asks.
            read: Reads the rows.
            answer: Takes the explanation.

        Raises:
            KilterError: When the request is refused at once; it is counted.
        """
        try:
            self.reception.keys.check(call.client, endpoint.loop)
            model = self.loaded(endpoint, call.version)
            if model is None:
                raise InvalidInput("a constant can't be explained", where="model")
            if endpoint.loop in self.unloaded:
                self._check_loaded(endpoint)
            given = read(model.reader, endpoint.now())
            if given.count > _MOST_EXPLAINED:
                raise HttpError(413, f"{given.count} rows are to be explained", allowed=f"1 to {_MOST_EXPLAINED}")

            def done(values: bytes | None, outcome: Outcome) -> None:
                error: KilterError
                if values is not None:
                    endpoint.metrics.requests[200] += 1
                    answer(Explanation(model.version, model.reader.signature, values))
                    return
                if outcome == "refused":
                    error = InvalidInput("this model can't be explained", where="model", fix="ask for predictions")
                else:
                    error = Unavailable(
                        "no worker of the model can explain now", where="model", fix="try again shortly"
                    )
                endpoint.metrics.requests[status_of(error)] += 1
                call.fail(error)

            item = Item(given.count)
            endpoint.explain(Ask(given, item, call.arrived, _nothing, call.fail, model.version), model, done)
        except KilterError as error:
            endpoint.metrics.requests[status_of(error)] += 1
            raise

    # ------------------------------------------------------------ asking again

    def _replayed(self, endpoint: Endpoint, call: Call, read: Read) -> bool:
        """Answer a request that was sent before; say whether it was."""
        if len(call.key) > _LONGEST_KEY:
            raise InvalidInput("the key is too long", where="Idempotency-Key", allowed=f"{_LONGEST_KEY} characters")
        known = self._replays.find(endpoint.loop, call.key, call.body)
        if known is None:
            return False
        model = self.loaded(endpoint)
        signature = model.reader.signature if model is not None else None
        with suppress(KilterError):  # it was answered before, whatever is loaded now
            read(
                model.reader if model is not None else None, endpoint.now()
            )  # a face answers in the form that was asked
        if isinstance(known, Answered):
            try:
                record = self._log.get(known.position)
            except Expired:  # too old to be remembered: it is a new request
                self._replays.end(endpoint.loop, call.key, None)
                return False
            assert isinstance(record, PredictionBatch)  # noqa: S101 - only those have keys
            call.answer(Answer(self.front, known.position, known.start, known.rows, record, signature))
        else:

            def answer(position: int, start: int, batch: PredictionBatch) -> None:
                rows = next(item.rows for item in batch.requests if (item.key, item.body) == (call.key, call.body))
                call.answer(Answer(self.front, position, start, rows, batch, signature))

            known.others.append((answer, call.fail))
        endpoint.metrics.replayed += 1
        return True

    def _answered(self, endpoint: Endpoint, item: Item, position: int, start: int, batch: PredictionBatch) -> None:
        waiting = self._replays.find(endpoint.loop, item.key, item.body)
        self._replays.end(endpoint.loop, item.key, Answered(item.body, position, start, item.rows))
        if waiting is not None and not isinstance(waiting, Answered):
            for send, _ in waiting.others:
                send(position, start, batch)

    def _failed(self, endpoint: Endpoint, item: Item, error: KilterError) -> None:
        waiting = self._replays.find(endpoint.loop, item.key, item.body)
        self._replays.end(endpoint.loop, item.key, None)
        if waiting is not None and not isinstance(waiting, Answered):
            for _, fail in waiting.others:
                fail(error)


def _nothing(position: int, start: int, batch: PredictionBatch) -> None:
    """Take no answer: an explanation is none."""


def version_of(text: str) -> int:
    """Return the version that a path or a message names.

    Raises:
        NotFound: When the text is no version's number: there is no such version.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 9 or text[0] == "0":
        raise NotFound("there is no such version", where="version", allowed="1, 2, ...")
    return int(text)


def labelled(endpoint: Endpoint, label: str) -> int:
    """Return the version that has a label now.

    Args:
        endpoint: The endpoint.
        label: ``champion`` (or ``stable``) or ``challenger`` (or ``canary``).

    Raises:
        NotFound: When no loaded version has it.
    """
    plan = endpoint.active.plan if endpoint.active is not None else None
    labels: Mapping[str, int | None] = (
        {}
        if plan is None
        else {
            "champion": plan.champion,
            "stable": plan.champion,
            "challenger": plan.challenger,
            "canary": plan.challenger,
        }
    )
    version = labels.get(label)
    if version is None:
        raise NotFound("no version has this label", where="label", allowed="champion, challenger")
    return version
