"""The page of a release in flight: what may be done, when it is judged, and on which evidence. Pure, from one reading."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from kilter.core.evidence import Finding, Verdict
from kilter.server.ui import picture
from kilter.server.ui.proof import proof
from kilter.server.ui.reading import Reading
from kilter.server.ui.records import Step, Tone


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """When the present step is judged.

    Args:
        label: What ends then: a bake, or a look.
        since: When the step began.
        due: When it ends; a breach ends it at once.
        elapsed: The part of it that is over.
        left: What is left, in words.
        last: When the release ends without a proof at the latest, or None.
        simulated: These are moments of a simulated clock.
    """

    label: str
    since: datetime
    due: datetime
    elapsed: float
    left: str
    last: datetime | None
    simulated: bool


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The head of the page: where the release is and what may be done about it.

    Args:
        version: The challenger.
        champion: Who answers beside it.
        live: It is in flight.
        stage: Where it stands.
        tone: How that is to be taken.
        headline: What is happening.
        sentence: What the evidence says.
        steps: The way it takes.
        clock: When the present step is judged; None when nothing bakes.
        paused: Why the loop is paused, or None.
        frozen: Why nothing goes forward, or empty.
        frozen_until: When that ends by itself.
        can_promote: Somebody may end the bake.
        can_abort: It can be taken back.
    """

    version: int
    champion: int | None
    live: bool
    stage: str
    tone: Tone
    headline: str
    sentence: str
    steps: tuple[Step, ...]
    clock: Clock | None
    paused: str | None
    frozen: str
    frozen_until: datetime | None
    can_promote: bool
    can_abort: bool


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """How much evidence there is, on a logarithmic scale towards its threshold.

    Args:
        kind: ``harm`` takes the challenger back at the threshold, ``safe`` lets it go on.
        now: The e-value now.
        best: The largest so far, which is what counts.
        fill: How far the largest is, in per cent of the way from 1 to the threshold.
        reached: It is there.
    """

    kind: Literal["harm", "safe"]
    now: float
    best: float
    fill: float
    reached: bool


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence of one kind of outcome.

    Args:
        name: Which.
        what: What it looks at.
        verdict: What it says.
        threshold: What its e-values are held against.
        ticks: Powers of ten on the way, in per cent.
        bars: Its processes.
        finding: The finding, for the interval and its numbers.
    """

    name: str
    what: str
    verdict: Verdict
    threshold: float
    ticks: tuple[float, ...]
    bars: tuple[Bar, ...]
    finding: Finding


class Guards(msgspec.Struct, frozen=True, kw_only=True):
    """All guards of a release.

    Args:
        kind: ``canary`` (e-processes), ``shadow`` (looks) or empty.
        guards: The canary's.
        looks: The shadow's.
        at: When the evidence was last computed.
        rows: Labelled answers behind it.
        challenger_rows: Of these, the challenger's.
    """

    kind: Literal["canary", "shadow", ""]
    guards: tuple[Guard, ...]
    looks: tuple[Finding, ...]
    at: datetime | None
    rows: int
    challenger_rows: int


# ---------------------------------------------------------------- the head

_TONES: dict[str, Tone] = {"champion": "good", "rejected": "bad", "rolled_back": "bad", "inconclusive": "open"}


def live(reading: Reading) -> Live | None:
    """Return the head of the page; None before the first release."""
    found = proof(reading)
    if found is None:
        return None
    summary, release = reading.status.summary, reading.row.state.release
    flying = found.live and release is not None
    moving = flying and release is not None and release.work in {"shadow", "canary"}
    tone: Tone = "busy" if flying else _TONES.get(found.stage, "plain")
    return Live(
        version=found.version,
        champion=summary.champion,
        live=flying,
        stage=found.stage,
        tone="open" if flying and (summary.paused or summary.frozen) else tone,
        headline=picture.headline(reading)
        if flying
        else f"v{found.version}, the latest release, is {found.stage.replace('_', ' ')}",
        sentence=found.sentence,
        steps=found.steps,
        clock=clock(reading) if moving else None,
        paused=summary.paused,
        frozen=summary.frozen,
        frozen_until=summary.frozen_until,
        can_promote=moving,
        can_abort=flying and release is not None and release.work in {"shadow", "canary", "promoting"},
    )


def clock(reading: Reading) -> Clock | None:
    """Return when the present step of a release is judged; None before the endpoint has confirmed it."""
    release = reading.row.state.release
    over = picture.elapsed(reading)
    if release is None or over is None or release.since is None or release.due is None:
        return None
    policy = release.policy
    last: datetime | None = None
    if release.work == "shadow":
        label, limit = f"look {release.look + 1} at the shadow", policy.shadow_limit
        last = release.since + timedelta(seconds=limit) if limit else None
    else:
        steps = policy.canary_steps
        final = release.step >= len(steps) - 1
        label = "the last bake ends with the verdict" if final else f"the bake ends, then {steps[release.step + 1]} %"
        if final:
            last = release.since + timedelta(seconds=policy.canary_bake + policy.canary_limit)
    return Clock(
        label=label,
        since=release.since,
        due=release.due,
        elapsed=over,
        left=span_words((release.due - reading.now).total_seconds()),
        last=last,
        simulated=reading.simulated,
    )


def span_words(seconds: float) -> str:
    """Return a stretch of time as people say it: ``1 d 4 h``, ``12 min``, ``due now``."""
    if seconds <= 0:
        return "due now"
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes = rest // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else "less than a minute"


# ---------------------------------------------------------------- the evidence


def guards(reading: Reading) -> Guards:
    """Return the evidence so far, one entry per kind of outcome."""
    found = proof(reading)
    evidence = reading.evidence
    if found is None or evidence is None or evidence.version != found.version:
        return Guards(kind="", guards=(), looks=(), at=None, rows=0, challenger_rows=0)
    last = evidence.points[-1] if evidence.points else None
    held = [] if evidence.canary is None else [(evidence.canary, True), *((one, False) for one in evidence.guards)]
    made = tuple(one for one in (_guard(finding, labels=labels) for finding, labels in held) if one is not None)
    return Guards(
        kind="canary" if made else "shadow" if evidence.shadow else "",
        guards=made,
        looks=evidence.shadow,
        at=None if last is None else last.at,
        rows=0 if last is None else last.rows,
        challenger_rows=0 if last is None else last.challenger_rows,
    )


def _guard(finding: Finding, *, labels: bool) -> Guard | None:
    threshold = _number(finding, "threshold")
    if threshold is None or threshold <= 1:
        return None
    bars = [_bar("harm", finding, "e_rollback", "best_e_rollback", threshold)]
    if labels:
        bars.append(_bar("safe", finding, "e_promote", "best_e_promote", threshold))
    most = math.floor(math.log10(threshold))
    return Guard(
        name="labels" if labels else finding.name,
        what="the outcome that the loop cares about" if labels else _WHAT.get(finding.name.partition("(")[0], ""),
        verdict=finding.verdict,
        threshold=threshold,
        ticks=tuple(round(100 * power / math.log10(threshold), 2) for power in range(1, most + 1)),
        bars=tuple(bars),
        finding=finding,
    )


_WHAT = {
    "errors": "rows that the challenger could not answer",
    "latency": "answers that took too long",
    "agreement": "how far its mean answer is from the champion's",
    "business": "a number that was observed",
}


def _bar(kind: Literal["harm", "safe"], finding: Finding, now: str, best: str, threshold: float) -> Bar:
    value = _number(finding, now) or 0.0
    most = max(_number(finding, best) or 0.0, value)
    fill = math.log(max(1.0, most)) / math.log(threshold)
    return Bar(kind=kind, now=value, best=most, fill=round(100 * min(1.0, fill), 1), reached=most >= threshold)


def _number(finding: Finding, name: str) -> float | None:
    value = finding.detail.get(name)
    return float(value) if isinstance(value, int | float) else None
