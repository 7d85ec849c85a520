"""The endpoints' pages: read at most once per second, rendered from pure functions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import Expired, InvalidInput, KilterError, NotFound, Unavailable
from kilter.loop.workspace import Workspace
from kilter.packaging.records import Manifest
from kilter.release.records import ExperimentStatus
from kilter.server.ui import endpoints, trying, words
from kilter.server.ui.endpoint_records import EndpointCard, Field, Form, Results, Search, SpanName
from kilter.server.ui.endpoints import EndpointReading
from kilter.server.ui.search import search
from kilter.server.ui.tally import SPANS, Tally
from kilter.serving.recording.predictions import PREDICTION_ID
from kilter.serving.records import Prediction

PARTS: Mapping[str, Callable[[EndpointReading, SpanName], object]] = {
    "who": endpoints.who,
    "flow": endpoints.flow,
    "callers": lambda reading, _: endpoints.callers(reading),
}
"""The parts of an endpoint's page, by name."""
FRESH = 1.0
_MOST = 1_000
_ARMS = ("champion", "challenger", "direct", "fallback")


class Pulse(msgspec.Struct, frozen=True):
    """What has to be asked for again: the time, and the digest of each part."""

    now: str
    simulated: bool
    parts: dict[str, str]


class EndpointPages:
    """The pages of a workspace's endpoints.

    Args:
        workspace: The store's services.
        render: Makes HTML of a template and its values.
        simulated: The store's clock is not the machine's.
    """

    def __init__(self, workspace: Workspace, render: Callable[..., str], *, simulated: bool) -> None:
        self._house = workspace
        self._render = render
        self._simulated = simulated
        self._tally = Tally(workspace.prediction_logs())
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, EndpointReading]] = {}
        self._manifests: dict[str, Manifest] = {}

    # ------------------------------------------------------------ the list

    def cards(self) -> tuple[EndpointCard, ...]:
        """Return every endpoint, with a loop or without, by name."""
        house = self._house
        loops, now = set(house.loops.ledger.names()), house.clock.now()
        return tuple(
            endpoints.card(
                plan,
                tuple(house.endpoints.status(plan.loop)),
                self._tally.of(plan.loop),
                now,
                loop=plan.loop in loops,
            )
            for plan in house.endpoints.plans()
        )

    def index(self) -> str:
        """Return the page of all endpoints."""
        running = self._house.store.run.living("serve")
        return self._render("endpoints.html", cards=self.cards(), running=running, **self._clock())

    # ------------------------------------------------------------ one endpoint

    def read(self, name: str) -> EndpointReading:
        """Return an endpoint as it is now, or as it was less than a second ago.

        Raises:
            NotFound: When there is no such endpoint.
        """
        with self._lock:
            kept = self._kept.get(name)
        if kept is not None and time.monotonic() - kept[0] < FRESH:
            return kept[1]
        house = self._house
        plan = house.endpoints.plan(name)  # only endpoints that exist are remembered
        try:
            versions = house.models.versions(name)
        except NotFound:
            versions = ()
        taken = EndpointReading(
            now=house.clock.now(),
            simulated=self._simulated,
            plan=plan,
            fronts=tuple(house.endpoints.status(name)),
            versions=versions,
            counts=self._tally.of(name),
            consumers=tuple(house.consumers.of(name)),
            keys=tuple(house.keys.all()),
            recording=house.recording.get(name).rule,
            experiments=house.experiments.list(name),
            loop=name in house.loops.ledger.names(),
        )
        with self._lock:
            if len(self._kept) > _MOST:
                self._kept.clear()
            self._kept[name] = (time.monotonic(), taken)
        return taken

    def part(self, name: str, part: str, span: str) -> str:
        """Return a part of an endpoint's page as HTML."""
        return self._part(self.read(name), _known(part), span_of(span))

    def part_data(self, name: str, part: str, span: str) -> object:
        """Return a part of an endpoint's page as data."""
        return PARTS[_known(part)](self.read(name), span_of(span))

    def _part(self, reading: EndpointReading, part: str, span: SpanName) -> str:
        made = PARTS[part](reading, span)
        return self._render(f"endpoint/{part}.html", part=made, name=reading.plan.loop, spans=tuple(SPANS))

    def pulse(self, name: str, span: str) -> Pulse:
        """Return which parts are how, so that a page asks again only for what has changed."""
        reading, wanted = self.read(name), span_of(span)
        parts = {part: _short(self._part(reading, part, wanted)) for part in PARTS}
        return Pulse(words.iso(self._house.clock.now()), self._simulated, parts)

    def page(self, name: str, span: str, *, acts: bool) -> str:
        """Return an endpoint's page."""
        reading, wanted = self.read(name), span_of(span)
        parts = {part: self._part(reading, part, wanted) for part in PARTS}
        return self._render(
            "endpoint.html",
            name=name,
            span=wanted,
            parts=parts,
            digests={part: _short(text) for part, text in parts.items()},
            form=self.form(name),
            who=endpoints.who(reading, wanted),
            experiments=reading.experiments,
            latest=self.found(Search(loop=name), 6).found,
            acts=acts,
            **self._clock(),
        )

    def data(self, name: str, span: str) -> object:
        """Return everything on an endpoint's page as data."""
        reading, wanted = self.read(name), span_of(span)
        return {
            "endpoint": name,
            "now": reading.now,
            "simulated": reading.simulated,
            "parts": {part: make(reading, wanted) for part, make in PARTS.items()},
            "form": self.form(name),
            "experiments": reading.experiments,
        }

    # ------------------------------------------------------------ trying

    def form(self, name: str) -> Form:
        """Return the form that asks an endpoint."""
        plan = self.read(name).plan
        running = self._house.store.run.living("serve") is not None
        fields: tuple[Field, ...] = ()
        output = problem = ""
        version = plan.champion if plan.champion is not None else next(iter(plan.versions()), None)
        if version is None:
            problem = "No version is loaded that could say what a row is made of."
        else:
            try:
                manifest = self._manifest(plan.bundles[version])
                example = trying.example_of(manifest, self._house.objects.get(manifest.example.digest))
                fields = trying.fields(manifest.signature, self._house.clock.now(), example)
                output = trying.output_of(manifest.signature)
            except KilterError:
                problem = f"The bundle of v{version} can't be read, so nobody knows what a row is made of."
        return Form(
            name=name,
            version=version,
            fields=fields,
            versions=plan.versions(),
            output=output,
            running=running,
            problem=problem,
        )

    def _manifest(self, bundle: str) -> Manifest:
        """Return a bundle's manifest; what has a digest never changes."""
        if bundle not in self._manifests:
            if len(self._manifests) > _MOST:
                self._manifests.clear()
            self._manifests[bundle] = msgspec.json.decode(self._house.objects.get(bundle), type=Manifest)
        return self._manifests[bundle]

    def tried(self, name: str, body: bytes) -> trying.Tried:
        """Ask an endpoint what a form asks.

        Raises:
            InvalidInput: When the body is none of the form's.
            Unavailable: When no front runs on this machine.
        """
        form = self.form(name)
        try:
            asked = msgspec.json.decode(body, type=trying.Asked)
        except msgspec.DecodeError as error:
            raise InvalidInput(
                "the body is not what the form sends", where="body", allowed="row, version, explain, key"
            ) from error
        running = self._house.store.run.living("serve")
        if running is None or not running.url:
            raise Unavailable("no front runs on this store", where="endpoint", fix="start it with `kilter up`")
        return trying.ask(running.url, form, asked, os.environ.get("KILTER_TOKEN", ""))

    def answer(self, name: str, tried: trying.Tried) -> str:
        """Return what came back as HTML."""
        return self._render("endpoint/tried.html", tried=tried, name=name)

    # ------------------------------------------------------------ what was asked

    def found(self, wanted: Search, limit: int = 50) -> Results:
        """Return a page of the predictions that fit."""
        if not wanted.id:
            return search(self._house.prediction_logs(), wanted, limit)
        try:
            one = self._house.endpoints.prediction(wanted.id)
        except (NotFound, Expired) as error:
            return Results(found=(), problem=error.message, where="id")
        if one.loop != wanted.loop:
            return Results(found=(), problem=f"this prediction is of another endpoint: {one.loop}", where="id")
        return search(self._house.prediction_logs(), wanted, 1)

    def requests(self, name: str, query: Mapping[str, str]) -> str:
        """Return the page that looks for predictions."""
        self.read(name)
        wanted, found = self._search(name, query)
        given = {key: value for key, value in query.items() if value and key != "before"}
        return self._render(
            "requests.html",
            name=name,
            query=given,
            wanted=wanted,
            results=found,
            onward=onward(given, found),
            arms=_ARMS,
            **self._clock(),
        )

    def requests_data(self, name: str, query: Mapping[str, str]) -> Results:
        """Return the same as data.

        Raises:
            InvalidInput: When the query can't be read.
        """
        self.read(name)
        return self.found(searched(name, query))

    def _search(self, name: str, query: Mapping[str, str]) -> tuple[Search, Results]:
        try:
            wanted = searched(name, query)
            return wanted, self.found(wanted)
        except InvalidInput as error:
            said = f"{error.message}; allowed: {error.allowed}" if error.allowed else error.message
            return Search(loop=name), Results(found=(), problem=said, where=error.where)

    def request(self, name: str, identity: str) -> str:
        """Return the page of one prediction."""
        return self._render("request.html", name=name, one=self.request_data(name, identity), **self._clock())

    def request_data(self, name: str, identity: str) -> Prediction:
        """Return one prediction.

        Raises:
            NotFound: When this endpoint has given no such answer.
        """
        one = self._house.endpoints.prediction(identity)
        if one.loop != name:
            raise NotFound("this endpoint has given no such answer", where="id")
        return one

    # ------------------------------------------------------------ experiments

    def experiment(self, name: str, experiment: str) -> str:
        """Return the page of an experiment."""
        return self._render("experiment.html", name=name, found=self.experiment_data(name, experiment), **self._clock())

    def experiment_data(self, name: str, experiment: str) -> ExperimentStatus:
        """Return where an experiment stands."""
        return self._house.experiments.status(name, experiment)

    def _clock(self) -> Mapping[str, object]:
        return {"now": self._house.clock.now(), "simulated": self._simulated}


def span_of(text: str) -> SpanName:
    """Return the span that a page's address names.

    Raises:
        InvalidInput: When it names none.
    """
    for name in SPANS:
        if text in {name, ""}:
            return name
    raise InvalidInput("that is no span", where="span", allowed=", ".join(SPANS))


def searched(name: str, query: Mapping[str, str]) -> Search:
    """Return what a page's address looks for; a row's key is ``row`` there, because ``key`` opens a session.

    Raises:
        InvalidInput: When a field can't be read; ``where`` is the field.
    """
    unknown = set(query) - {"id", "row", "version", "arm", "since", "until", "before"}
    if unknown:
        raise InvalidInput("there is no such field", where=min(unknown), allowed="id, row, version, arm, since, until")
    said = {field: value.strip() for field, value in query.items() if value.strip()}
    if "id" in said and not PREDICTION_ID.match(said["id"]):
        raise InvalidInput("that is not the id of a prediction", where="id", allowed="like main-1f4a0-3")
    if "arm" in said and said["arm"] not in _ARMS:
        raise InvalidInput("nobody answers so", where="arm", allowed=", ".join(_ARMS))
    version = said.get("version", "").removeprefix("v")
    if version and not (version.isdecimal() and len(version) < 10):
        raise InvalidInput("that is no version", where="version", allowed="a whole number; 0 is the constant")
    since, until = moment(said.get("since", ""), "since"), moment(said.get("until", ""), "until")
    if since is not None and until is not None and since >= until:
        raise InvalidInput("the span ends before it begins", where="until", allowed="a moment after the first one")
    return Search(
        loop=name,
        id=said.get("id", ""),
        key=said.get("row", ""),
        version=int(version) if version else None,
        arm=said.get("arm", ""),
        since=since,
        until=until,
        before=tuple(said["before"].split(",")) if "before" in said else (),
    )


def onward(given: Mapping[str, str], found: Results) -> str:
    """Return the query of the next page; empty at the end."""
    return urlencode({**given, "before": ",".join(found.older)}) if found.older else ""


def moment(text: str, where: str) -> datetime | None:
    """Return a moment in UTC, as a form or a person writes it; None for nothing.

    Raises:
        InvalidInput: When it is none.
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("that is no moment", where=where, allowed="2026-01-31 12:00, in UTC") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _known(part: str) -> str:
    if part not in PARTS:
        raise NotFound(f"a page has no part {part!r}", where="part", allowed=", ".join(PARTS))
    return part


def _short(text: str) -> str:
    return digest(text.encode())[:12]
