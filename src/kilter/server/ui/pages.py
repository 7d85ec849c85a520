"""From readings to HTML: each part of a page is rendered once per reading, however many look at it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import date

import jinja2
import msgspec

from kilter.core.digests import digest
from kilter.core.errors import InvalidInput, KilterError, NotFound
from kilter.loop.workspace import Workspace
from kilter.server.ui import boards, outcomes, picture, proof, quality, release, story, words
from kilter.server.ui.assets import Assets
from kilter.server.ui.endpoint_pages import EndpointPages
from kilter.server.ui.model_pages import ModelPages
from kilter.server.ui.reading import Reader, Reading
from kilter.server.ui.records import Timeline
from kilter.server.ui.tracking_pages import TrackingPages

_BACK = 1000
"""How many events of the journal are looked through at once for older lines of the timeline."""


def _timeline(reading: Reading) -> Timeline:
    stages = {one.version: one.stage for one in reading.versions}
    return story.timeline(reading.events, stages, newest=True)


PARTS: dict[str, Callable[[Reading], object]] = {
    "status": picture.status,
    "loop": picture.picture,
    "traffic": boards.traffic,
    "alarms": boards.alarms,
    "quality": quality.quality,
    "proof": proof.proof,
    "drift": boards.heat,
    "timeline": _timeline,
    "versions": boards.versions,
    "declared": boards.declared,
    "release": release.live,
    "clock": release.live,
    "guards": release.guards,
    "outcomes": outcomes.outcomes,
}
"""The parts of a loop's pages, by name; the last ones are those of its release."""
_ACTING = frozenset({"status", "release"})
"""Parts with buttons."""


class Pulse(msgspec.Struct, frozen=True):
    """What has to be asked for again.

    Args:
        now: The time, by the clock of the store.
        simulated: It is not the machine's.
        seq: The newest event of the journal.
        parts: The digest of each part.
    """

    now: str
    simulated: bool
    seq: int
    parts: dict[str, str]


class Pages:
    """The pages of a workspace.

    Args:
        workspace: The store's services.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.assets = Assets()
        self.reader = Reader(workspace)
        self._workspace = workspace
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Reading, dict[tuple[str, bool], str]]] = {}
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("kilter.server.ui"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(words.FILTERS)
        self._templates.globals["asset"] = self.assets.url
        self.endpoints = EndpointPages(workspace, self._render, simulated=self.reader.simulated)
        self.tracking = TrackingPages(workspace, self._render, simulated=self.reader.simulated)
        self.models = ModelPages(workspace, self._render, simulated=self.reader.simulated)

    # ------------------------------------------------------------ a loop

    def part(self, loop: str, name: str, *, acts: bool) -> str:
        """Return a part of a loop's page as HTML.

        Args:
            loop: The loop's name.
            name: The part's name.
            acts: Whoever looks may ask the loop for something.

        Raises:
            NotFound: When there is no such loop or part.
        """
        _known(name)
        return self._part(self.reader.read(loop), name, acts=acts)

    def part_data(self, loop: str, name: str) -> object:
        """Return a part of a loop's page as data."""
        _known(name)
        return PARTS[name](self.reader.read(loop))

    def _part(self, reading: Reading, name: str, *, acts: bool) -> str:
        loop = reading.status.name
        with self._lock:
            if self._kept.get(loop, (None,))[0] is not reading:
                self._kept[loop] = (reading, {})
            made = self._kept[loop][1]
        key = (name, acts and name in _ACTING)
        if key not in made:
            made[key] = self._render(
                f"parts/{name}.html", part=PARTS[name](reading), name=loop, acts=acts, simulated=reading.simulated
            )
        return made[key]

    def pulse(self, loop: str) -> Pulse:
        """Return which parts are how, so that a page asks again only for what has changed."""
        reading = self.reader.read(loop)
        now = words.iso(self._workspace.clock.now())
        return Pulse(now, reading.simulated, reading.seq, self._digests(reading))

    def _digests(self, reading: Reading) -> dict[str, str]:
        return {name: digest(self._part(reading, name, acts=False).encode())[:12] for name in PARTS}

    def loop(self, name: str, *, acts: bool) -> str:
        """Return a loop's page."""
        reading = self.reader.read(name)
        parts = {part: self._part(reading, part, acts=acts) for part in PARTS}
        return self._render(
            "loop.html",
            reading=reading,
            status=reading.status,
            parts=parts,
            digests=self._digests(reading),
            acts=acts,
            name=name,
            histogram=self._most_moved(reading),
        )

    def release(self, name: str, *, acts: bool) -> str:
        """Return the page of a loop's release in flight, or of its latest one."""
        reading = self.reader.read(name)
        return self._render(
            "release.html",
            reading=reading,
            status=reading.status,
            found=release.live(reading),
            parts={part: self._part(reading, part, acts=acts) for part in PARTS},
            digests=self._digests(reading),
            name=name,
        )

    def _most_moved(self, reading: Reading) -> str:
        """Return the distribution that a page begins with: the feature that is furthest away on the latest day."""
        heat = boards.heat(reading)
        if not heat.days:
            return ""
        last = [(row[-1] or 0.0, name) for name, row in zip(heat.features, heat.values, strict=True)]
        try:
            return self.histogram(reading.status.name, max(last)[1], heat.days[-1].isoformat())
        except NotFound:  # the latest day may lack the one or other feature
            return ""

    def loop_data(self, name: str) -> object:
        """Return everything on a loop's page as data."""
        reading = self.reader.read(name)
        return {
            "loop": reading.status,
            "seq": reading.seq,
            "simulated": reading.simulated,
            "parts": {part: make(reading) for part, make in PARTS.items()},
        }

    # ------------------------------------------------------------ the other pages

    def index(self) -> str:
        """Return the page of all loops."""
        return self._render("index.html", loops=self._workspace.loops.list(), **self._clock())

    def version(self, loop: str, version: str) -> str:
        """Return the page of a version: why it is where it is."""
        return self._render("version.html", why=self.version_data(loop, version), name=loop, **self._clock())

    def version_data(self, loop: str, version: str) -> object:
        """Return the chain behind a version."""
        return self._workspace.loops.why(f"{loop}@{version}")

    def histogram(self, loop: str, feature: str, day: str) -> str:
        """Return a feature's day beside its reference."""
        return self._render("parts/histogram.html", found=self.histogram_data(loop, feature, day), name=loop)

    def histogram_data(self, loop: str, feature: str, day: str) -> object:
        """Return a feature's day beside its reference, as data."""
        try:
            wanted = date.fromisoformat(day)
        except ValueError:
            raise InvalidInput("not a day", where="day", allowed="a date such as 2013-04-26") from None
        return boards.distribution(self._workspace.monitors.histogram(loop, feature, wanted))

    def older(self, loop: str, before: int) -> str:
        """Return older lines of the timeline."""
        return self._render("parts/timeline.html", part=self.older_data(loop, before), name=loop)

    def older_data(self, loop: str, before: int) -> Timeline:
        """Return the lines of the timeline before a place in the journal."""
        reading = self.reader.read(loop)
        journal = self._workspace.journal_log
        start, found = before, 0
        events = []
        while start > 1 and found < story.PAGE:
            after = max(0, start - 1 - _BACK)
            page = journal.events(after=after, limit=_BACK, subject=loop)
            events += [event for event in reversed(page) if event.seq < start]
            found = sum(story.entry(event) is not None for event in events)
            start = after + 1
        stages = {one.version: one.stage for one in reading.versions}
        return story.timeline(events, stages, newest=False, older=start if start > 1 else None)

    def error(self, error: KilterError) -> str:
        """Return a page that says what is wrong."""
        return self._render("error.html", error=error, **self._clock())

    def _clock(self) -> Mapping[str, object]:
        return {"now": self._workspace.clock.now(), "simulated": self.reader.simulated}

    def _render(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(**values)


def _known(part: str) -> None:
    if part not in PARTS:
        raise NotFound(f"a page has no part {part!r}", where="part", allowed=", ".join(PARTS))
