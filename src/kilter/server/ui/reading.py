"""Reading a loop for its page: everything at once, at most once per second, whoever asks."""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import msgspec

from kilter.core.clock import SystemClock
from kilter.core.errors import NotFound
from kilter.core.evidence import Finding, Verdict
from kilter.journal.records import Event
from kilter.loop.declaration.spec import LoopSpec
from kilter.loop.ledger import Row
from kilter.loop.status import LoopStatus
from kilter.loop.workspace import Workspace
from kilter.monitoring.records import Alert, DailyRow, HeatmapCell
from kilter.registry.records import ModelVersion
from kilter.release.records import ReleaseEvidence
from kilter.serving.records import TrafficPlan

FRESH = 1.0
SHORTEST = 0.25
"""Seconds for which a reading stands: without and with new events in the journal."""

ALERTS = 60
EVENTS = 400
_SETTLED = timedelta(days=45)
_STALE = timedelta(minutes=1)
"""A page shows how far a bake has come; so much later it is made again though nothing has happened."""


@dataclass(frozen=True)
class Reading:
    """Everything that a loop's page is made of, as it was at one moment.

    Args:
        seq: The newest event of the journal.
        now: The time, by the clock of the store.
        simulated: That clock is not the machine's.
        row: The loop as it is stored.
        status: Where it stands.
        spec: Its declaration.
        versions: Its versions, newest first.
        plan: What its endpoint is to do, or None before the first.
        applied: The generation of the plan that every front serves.
        daily: Sums per version, role and day.
        heat: Drift per feature and day.
        alerts: The alerts, open ones first.
        evidence: About the release in flight, or the latest one that has any.
        events: The newest events of the loop, newest first.
        gates: The findings of the gates, by version.
        judged: What the gates said together, by version; a guard may stay open and the whole still pass.
        marks: When a version got which stage, oldest first: version, stage, moment.
    """

    seq: int
    now: datetime
    simulated: bool
    row: Row
    status: LoopStatus
    spec: LoopSpec
    versions: tuple[ModelVersion, ...]
    plan: TrafficPlan | None
    applied: int
    daily: tuple[DailyRow, ...]
    heat: tuple[HeatmapCell, ...]
    alerts: tuple[Alert, ...]
    evidence: ReleaseEvidence | None
    events: tuple[Event, ...]
    gates: dict[int, tuple[Finding, ...]]
    judged: dict[int, Verdict]
    marks: tuple[tuple[int, str, datetime], ...]


@dataclass
class _Kept:
    """What is remembered of a loop between two readings."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    reading: Reading | None = None
    taken: float = 0.0
    days: dict[tuple[date, int, str], DailyRow] = field(default_factory=dict)
    cells: dict[tuple[str, date], HeatmapCell] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)


class Reader:
    """Reads loops, and remembers what it has read.

    Args:
        workspace: The store's services.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.simulated = not isinstance(workspace.clock, SystemClock)
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def end(self) -> int:
        """Return the newest event's place in the journal."""
        newest = self.workspace.journal_log.events(limit=1, newest=True)
        return newest[0].seq if newest else 0

    def read(self, name: str) -> Reading:
        """Return a loop as it is now, or as it was less than a second ago when nothing has happened since.

        Raises:
            NotFound: When there is no such loop.
        """
        with self._lock:
            known = name in self._kept
        if not known:
            self.workspace.loops.ledger.row(name)  # only loops that exist are remembered
        with self._lock:
            kept = self._kept.setdefault(name, _Kept())
        with kept.lock:
            age = time.monotonic() - kept.taken
            if kept.reading is not None and age < SHORTEST:
                return kept.reading
            seq = self.end()
            if kept.reading is not None and age < FRESH and kept.reading.seq == seq:
                return kept.reading
            taken = self._take(name, seq, kept)
            if kept.reading is None or not _same(kept.reading, taken):
                kept.reading = taken
            kept.taken = time.monotonic()
            return kept.reading

    def _take(self, name: str, seq: int, kept: _Kept) -> Reading:
        house = self.workspace
        row = house.loops.ledger.row(name)
        plan = self._plan(name)
        versions = self._versions(name)
        self._follow(name, kept)
        events = tuple(sorted(kept.events.values(), key=lambda event: -event.seq))
        return Reading(
            seq=seq,
            now=house.clock.now(),
            simulated=self.simulated,
            row=row,
            status=house.loops.status(name),
            spec=house.loops.spec(name),
            versions=versions,
            plan=plan,
            applied=house.endpoints.applied(name) if plan is not None else 0,
            daily=tuple(kept.days[key] for key in sorted(kept.days)),
            heat=tuple(kept.cells[key] for key in sorted(kept.cells)),
            alerts=tuple(house.monitors.alerts(name, limit=ALERTS)),
            evidence=self._evidence(name, row),
            events=events[:EVENTS],
            gates=_gates(events),
            judged={int(one.data["version"]): one.data["verdict"] for one in events if one.kind == "GatesJudged"},
            marks=_marks(events),
        )

    def _follow(self, name: str, kept: _Kept) -> None:
        """Read what is new: old days and events stay as they are."""
        house = self.workspace
        last_day = max((key[0] for key in kept.days), default=None)
        since = None if last_day is None else last_day - _SETTLED
        kept.days.update({(one.day, one.version, one.arm): one for one in house.monitors.daily(name, since=since)})
        last_cell = max((key[1] for key in kept.cells), default=None)
        fresh = house.monitors.heatmap(name, since=None if last_cell is None else last_cell - timedelta(days=3))
        kept.cells.update({(one.feature, one.day): one for one in fresh})
        after = max(kept.events, default=0)
        while page := house.journal_log.events(after=after, limit=1000, subject=name):
            kept.events.update({event.seq: event for event in page if event.kind != "Tick"})
            after = page[-1].seq
            if len(page) < 1000:
                break

    def _plan(self, name: str) -> TrafficPlan | None:
        try:
            return self.workspace.endpoints.plan(name)
        except NotFound:
            return None

    def _versions(self, name: str) -> tuple[ModelVersion, ...]:
        try:
            return self.workspace.models.versions(name)
        except NotFound:
            return ()

    def _evidence(self, name: str, row: Row) -> ReleaseEvidence | None:
        """Return the evidence about the release in flight or, when it has none yet or nothing flies, of the latest."""
        flying = row.state.release
        known = [found.version for found in self.workspace.releases.list(name)]
        if flying is not None and flying.version is not None and flying.version in known:
            return self.workspace.releases.evidence(name, flying.version)
        return self.workspace.releases.evidence(name, known[0]) if known else None


def _same(before: Reading, after: Reading) -> bool:
    """Say whether a page of one reading is still good for the other, so that it needn't be made again."""
    if after.now - before.now >= _STALE:
        return False
    status = msgspec.structs.replace(after.status, now=before.status.now)
    return dataclasses.replace(after, now=before.now, seq=before.seq, status=status) == before


def _gates(events: tuple[Event, ...]) -> dict[int, tuple[Finding, ...]]:
    return {
        int(event.data["version"]): msgspec.convert(event.data["findings"], tuple[Finding, ...])
        for event in reversed(events)
        if event.kind == "GatesJudged"
    }


def _marks(events: tuple[Event, ...]) -> tuple[tuple[int, str, datetime], ...]:
    return tuple(
        (int(event.data["version"]), str(event.data["stage"]), event.at)
        for event in reversed(events)
        if event.kind == "Mark"
    )
