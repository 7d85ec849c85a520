"""The loop as a picture, and the line above it: pure, from one reading."""

from __future__ import annotations

import math

from kilter.loop.declaration.spec import ColumnsSpec, ViewSpec
from kilter.loop.records import Work
from kilter.server.ui import words
from kilter.server.ui.reading import Reading
from kilter.server.ui.records import Gauge, Picture, Station, StationKey, Status, Token, Tone

_PLACE: dict[str, StationKey] = {
    "training": "training",
    "gating": "gates",
    "approval": "gates",
    "held": "gates",
    "shadow": "release",
    "canary": "release",
    "promoting": "serving",
    "rolling_back": "serving",
}


def picture(reading: Reading) -> Picture:
    """Return the eight stages of a model's life with what stands and moves there."""
    found = reading.status.summary
    busy = _PLACE.get(found.work)
    return Picture(
        headline=headline(reading),
        waiting=words.waits(found.waiting),
        stations=tuple(_stations(reading, busy)),
        busy=busy,
        share=found.share,
        mode=found.mode,
        champion=found.champion,
        challenger=found.version,
        paused=found.paused is not None,
        gauges=tuple(_gauges(reading)),
    )


def elapsed(reading: Reading) -> float | None:
    """Return the part of the present step of a release that is over, or None when none has begun."""
    release = reading.row.state.release
    if release is None or release.since is None or release.due is None or release.due <= release.since:
        return None
    return round(min(1.0, max(0.0, (reading.now - release.since) / (release.due - release.since))), 3)


def _gauges(reading: Reading) -> list[Gauge]:
    release = reading.row.state.release
    over = elapsed(reading)
    if release is None or over is None or release.due is None or release.work not in {"shadow", "canary"}:
        return []
    label = "bake" if release.work == "canary" or not release.look else f"look {release.look + 1}"
    found = [Gauge(label=label, value=over, text=f"until {release.due:%-d %b}")]
    evidence = reading.evidence
    if release.work == "canary" and evidence is not None and evidence.version == release.version and evidence.points:
        last = evidence.points[-1]
        proven = math.log(max(1.0, last.e_promote)) / math.log(last.threshold)
        text = f"e = {min(last.e_promote, 1e6):,.1f} of {last.threshold:,.0f}"
        found.append(Gauge(label="proof", value=round(min(1.0, proven), 3), text=text))
    return found


def headline(reading: Reading) -> str:
    """Say in one sentence what is happening."""
    found = reading.status.summary
    who = "a challenger" if found.version is None else f"v{found.version}"
    if found.paused is not None and found.work == "idle":
        return f"P{found.paused[1:]}" if found.paused.startswith("paused") else f"Paused: {found.paused}"
    if found.work == "idle":
        return "No model serves yet" if found.champion is None else f"v{found.champion} serves all traffic"
    return _HEADLINES[found.work].format(
        who=who, champion=found.champion, share=found.share, trigger=found.trigger, owner=reading.status.owner
    )


_HEADLINES: dict[Work, str] = {
    "training": "Training a challenger ({trigger})",
    "gating": "{who} is judged at the gates",
    "approval": "{who} has passed its gates and waits for {owner}",
    "held": "{who} has passed its gates and waits for the end of a freeze",
    "shadow": "{who} shadows v{champion}: it answers copies, nobody sees them",
    "canary": "{who} answers {share} % of the traffic beside v{champion}",
    "promoting": "{who} takes over all traffic",
    "rolling_back": "{who} is taken back; v{champion} answers everything",
}


def _stations(reading: Reading, busy: StationKey | None) -> list[Station]:
    found = reading.status.summary
    spec = reading.spec
    columns = sum(len(item.names) for item in spec.inputs if isinstance(item, ColumnsSpec))
    windowed = sum(len(item.aggregates) for item in spec.inputs if isinstance(item, ViewSpec))
    place: dict[StationKey, list[Token]] = {}
    if found.champion is not None:
        place.setdefault("serving", []).append(Token(version=found.champion, role="champion"))
    if found.version is not None and busy is not None:
        place.setdefault(busy, []).append(Token(version=found.version, role="challenger", note=found.work))
    alarms = len(found.alarms)
    notes: list[tuple[StationKey, str, str, Tone]] = [
        ("data", "Data", ", ".join(table.name for table in spec.tables), "plain"),
        ("features", "Features", f"{columns + windowed} inputs" + (f", {windowed} windowed" * bool(windowed)), "plain"),
        ("training", "Training", _training(reading), "plain"),
        (
            "gates",
            "Gates",
            "approval by the owner" if found.work == "approval" else f"{len(spec.gates)} proofs",
            "plain",
        ),
        ("release", "Release", _release(reading), "plain"),
        ("serving", "Serving", _serving(reading), "plain"),
        (
            "monitoring",
            "Monitoring",
            f"{alarms} alarm{'s' * (alarms > 1)}" if alarms else f"{len(spec.monitors)} monitors",
            "bad" if alarms else "plain",
        ),
        ("retraining", "Retraining", _retraining(reading), "open" if found.paused else "plain"),
    ]
    return [
        Station(key=key, label=label, note=note, tone="busy" if key == busy else tone, tokens=tuple(place.get(key, ())))
        for key, label, note, tone in notes
    ]


def _training(reading: Reading) -> str:
    if reading.status.summary.work == "training":
        return "running"
    last = reading.row.state.last_training
    return "not yet" if last is None else f"last {last:%-d %b}"


def _release(reading: Reading) -> str:
    found = reading.status.summary
    if found.work == "shadow":
        return "shadow"
    if found.work == "canary":
        return f"canary {found.share} %"
    steps = [step.kind.lower() for step in reading.spec.release]
    return ", then ".join(steps) or "all at once"


def _serving(reading: Reading) -> str:
    found = reading.status.summary
    if found.champion is None:
        return "nothing yet"
    return f"{100 - found.share} %" if found.share else "all traffic"


def _retraining(reading: Reading) -> str:
    state = reading.row.state
    if state.paused is not None:
        return "paused"
    if state.requested:
        return "asked for"
    if state.release is None and state.last_training is not None and state.alarms:
        return "cooling down"
    every = reading.spec.retrain.every
    return "on alarm" + (f" or every {every}" if every else "")


def status(reading: Reading) -> Status:
    """Return the line on top of the page."""
    found = reading.status.summary
    state = reading.row.state
    release = state.release
    tone: Tone = "plain"
    if found.paused is not None:
        tone = "open"
    elif found.work != "idle":
        tone = "busy"
    elif found.alarms:
        tone = "bad"
    can_roll_back = ""
    if release is not None and release.work in {"shadow", "canary", "promoting"} and release.version is not None:
        can_roll_back = f"v{release.version}, the release in flight"
    elif release is None and state.previous is not None:
        can_roll_back = f"v{state.champion}, back to v{state.previous}"
    return Status(
        headline=headline(reading),
        waiting=words.waits(found.waiting),
        tone=tone,
        paused=found.paused,
        since=found.since,
        due=found.deadline,
        can_promote=release.version if release is not None and release.work in {"shadow", "canary"} else None,
        can_roll_back=can_roll_back,
        alarms=len(found.alarms),
    )
