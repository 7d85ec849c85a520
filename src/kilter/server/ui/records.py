"""The words of the pages: what a page shows, as data; each is also what the page's JSON says."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

import msgspec

from kilter.core.evidence import Finding, Verdict

Tone = Literal["plain", "good", "bad", "open", "busy"]
StationKey = Literal["data", "features", "training", "gates", "release", "serving", "monitoring", "retraining"]
Role = Literal["champion", "challenger", "shadow", "fallback"]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A version, where it stands on the loop."""

    version: int
    role: Literal["champion", "challenger", "warm"]
    note: str = ""


class Station(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a model's life.

    Args:
        key: Which.
        label: Its name.
        note: What is there now, in a few words.
        tone: ``busy`` while something is in motion, ``bad`` while an alarm stands.
        tokens: The versions that stand here.
    """

    key: StationKey
    label: str
    note: str
    tone: Tone = "plain"
    tokens: tuple[Token, ...] = ()


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """How far something has come: the part of one, and the same in words."""

    label: str
    value: float
    text: str


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The loop as a picture.

    Args:
        headline: What is happening, in one sentence.
        waiting: What it waits for.
        stations: The eight stages, in their order.
        busy: The stage that something happens at, or None.
        share: The challenger's share in per cent.
        mode: How the endpoint serves, or None before the first champion.
        champion: The version that answers.
        challenger: The version under proof.
        paused: The loop is paused.
        gauges: How far bake and proof of a release in flight have come.
    """

    headline: str
    waiting: str
    stations: tuple[Station, ...]
    busy: StationKey | None
    share: int
    mode: str | None
    champion: int | None
    challenger: int | None
    paused: bool
    gauges: tuple[Gauge, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The line on top: where the loop stands and what may be done about it."""

    headline: str
    waiting: str
    tone: Tone
    paused: str | None
    since: datetime | None
    due: datetime | None
    can_promote: int | None
    can_roll_back: str
    alarms: int


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One receiver of traffic.

    Args:
        role: Who it is.
        version: Its version, or None for the constant.
        planned: Its share in per cent, as the plan says; a shadow's is the part of the traffic that is copied to it.
        seen: Its share of the answers of the latest recorded day, in per cent.
        rows: Answers on that day.
    """

    role: Role
    version: int | None
    planned: int
    seen: float | None
    rows: int


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers."""

    mode: str
    generation: int
    applied: int
    day: date | None
    arms: tuple[Arm, ...]
    fallback: float | None


class Point(msgspec.Struct, frozen=True, array_like=True):
    """A value at a day with its interval."""

    day: date
    value: float
    low: float | None = None
    high: float | None = None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a chart."""

    name: str
    role: str
    points: tuple[Point, ...]


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time below a chart."""

    lane: Literal["alarm", "shadow", "canary"]
    label: str
    start: datetime
    end: datetime
    open: bool = False


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A moment in a chart."""

    at: datetime
    label: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A level in a chart."""

    value: float
    label: str


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A chart over time.

    Args:
        title: What it shows.
        unit: Of the values.
        series: Its lines.
        spans: Stretches below it.
        moments: Vertical marks.
        rules: Horizontal marks.
        log: The values are on a logarithmic scale.
        percent: The values are parts of one, shown in per cent.
        funnel: The newest bands are shown whole; elsewhere a wide band may be cut.
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    spans: tuple[Span, ...] = ()
    moments: tuple[Moment, ...] = ()
    rules: tuple[Rule, ...] = ()
    log: bool = False
    percent: bool = False
    funnel: bool = False


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the answers are."""

    loss: Chart
    level: Chart
    sentence: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a release: gates, a shadow, a share, everything."""

    label: str
    state: Literal["done", "now", "ahead", "failed", "open"]
    note: str = ""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence about the release in flight, or about the latest one.

    Args:
        version: The challenger.
        live: It is in flight.
        stage: Where it stands.
        verdict: What the evidence says.
        sentence: The same in words.
        steps: The way it takes.
        since: When the present step began.
        due: When it is examined next.
        elapsed: The part of the present step that is over, between 0 and 1, or None.
        looks: The findings of the looks at the shadow.
        canary: The canary's latest finding.
        threshold: What the e-values are held against.
        e_values: Their course.
        harm: The estimated harm with its always-valid band.
    """

    version: int
    live: bool
    stage: str
    verdict: Verdict
    sentence: str
    steps: tuple[Step, ...]
    since: datetime | None
    due: datetime | None
    elapsed: float | None
    looks: tuple[Finding, ...]
    canary: Finding | None
    threshold: float | None
    e_values: Chart | None
    harm: Chart | None


class Most(msgspec.Struct, frozen=True, kw_only=True):
    """Where a feature stands, and when it was furthest away."""

    feature: str
    last: float | None
    most: float
    on: date


class Heat(msgspec.Struct, frozen=True, kw_only=True):
    """Drift per feature and day.

    Args:
        features: The rows, the most moved first.
        days: The columns.
        values: The excess of the population stability index over sampling noise; None where nothing was recorded.
        threshold: From where on a monitor calls it drift.
        top: Per feature in the same order its last and its largest value.
    """

    features: tuple[str, ...]
    days: tuple[date, ...]
    values: tuple[tuple[float | None, ...], ...]
    threshold: float
    top: tuple[Most, ...]


class Bar(msgspec.Struct, frozen=True, array_like=True):
    """One bin: its label, and the parts of one that the reference, the day and its last seven days have in it."""

    label: str
    reference: float
    day: float
    week: float


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """One feature on one day beside its reference."""

    feature: str
    day: date
    version: int
    psi: float
    excess: float
    rows: int
    reference_rows: int
    bars: tuple[Bar, ...]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor's alert."""

    monitor: str
    version: int
    raised_at: datetime
    cleared_at: datetime | None
    finding: Finding


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline."""

    seq: int
    at: datetime
    kind: str
    icon: str
    tone: Tone
    title: str
    text: str = ""
    findings: tuple[Finding, ...] = ()


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbouring lines about one version, or about the loop itself."""

    version: int | None
    stage: str
    entries: tuple[Entry, ...]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, newest first.

    Args:
        groups: The lines.
        older: The place before which older lines are, or None at the beginning.
        newest: These are the newest lines.
    """

    groups: tuple[Group, ...]
    older: int | None
    newest: bool


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the declaration in words."""

    label: str
    items: tuple[str, ...]


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A version in the table."""

    version: int
    stage: str
    role: str
    trigger: str
    at: datetime
    data: str
    gates: tuple[Finding, ...]
    reason: str
