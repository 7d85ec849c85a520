"""The journal told for people: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kilter.core.evidence import Finding
from kilter.journal.records import Event
from kilter.server.ui.records import Entry, Group, Timeline, Tone

PAGE = 40

_TONES: dict[str, Tone] = {"pass": "good", "fail": "bad", "inconclusive": "open"}
_STAGES: dict[str, tuple[str, str, Tone]] = {
    "champion": ("star", "is champion", "good"),
    "rejected": ("stop", "is refused", "bad"),
    "rolled_back": ("back", "was taken back", "bad"),
    "inconclusive": ("stop", "stays unproven", "open"),
}


def timeline(events: Sequence[Event], stages: Mapping[int, str], *, newest: bool, older: int | None = None) -> Timeline:
    """Return what happened, newest first, with neighbouring lines about one version put together.

    Args:
        events: The events, newest first.
        stages: Where each version stands now.
        newest: The events are the newest ones.
        older: The place before which older events are, if the caller knows better.
    """
    entries: list[tuple[int | None, Entry]] = []
    last: int | None = None
    for event in events:
        found = entry(event)
        if found is None:
            continue
        if len(entries) == PAGE:
            last = entries[-1][1].seq
            break
        entries.append((version_of(event), found))
    return Timeline(groups=tuple(_groups(entries, stages)), older=last if last is not None else older, newest=newest)


def _groups(entries: Iterable[tuple[int | None, Entry]], stages: Mapping[int, str]) -> list[Group]:
    found: list[tuple[int | None, list[Entry]]] = []
    for version, one in entries:
        if found and found[-1][0] == version:
            found[-1][1].append(one)
        else:
            found.append((version, [one]))
    return [
        Group(version=version, stage=stages.get(version, "") if version is not None else "", entries=tuple(lines))
        for version, lines in found
    ]


def version_of(event: Event) -> int | None:
    """Return the version that an event is about; an alarm is about the loop, though it names the champion."""
    if event.kind in {"AlarmRaised", "AlarmCleared"}:
        return None
    _, _, version = event.subject.partition("@v")
    return int(version) if version.isdecimal() else None


def entry(event: Event) -> Entry | None:
    """Return an event as a line, or None for the ones that say nothing that another doesn't."""
    told = _told(event.kind, event.data)
    if told is None:
        return None
    icon, tone, title, text = told
    return Entry(
        seq=event.seq,
        at=event.at,
        kind=event.kind,
        icon=icon,
        tone=tone,
        title=title,
        text=text,
        findings=findings_of(event),
    )


def findings_of(event: Event) -> tuple[Finding, ...]:
    """Return the findings that an event rests on."""
    one = event.data.get("finding")
    return msgspec.convert(event.data.get("findings") or ([one] if one else []), tuple[Finding, ...])


def _told(kind: str, data: Mapping[str, Any]) -> tuple[str, Tone, str, str] | None:
    version = f"v{data.get('version')}"
    match kind:
        case "Applied":
            by = f" by {data['by']}" if data.get("by") else ""
            rebuild = "; a new model has to be trained" if data.get("rebuild") else ""
            return "file", "plain", f"Declaration applied{by}", f"{data['policy']['spec'][:12]}{rebuild}"
        case "AlarmRaised":
            return "alarm", "bad", f"Alarm: {data['monitor']}", f"about {version}"
        case "AlarmCleared":
            return "calm", "good", f"Alarm over: {data['monitor']}", f"about {version}"
        case "StartTraining":
            return "train", "busy", "Training begins", str(data.get("trigger", ""))
        case "TrainingFinished":
            return "train", "plain", f"{version} is trained", f"{data['cpu_seconds']:.2f} CPU seconds"
        case "TrainingFailed":
            return "stop", "bad", "Training failed", str(data.get("reason", ""))
        case "GatesJudged":
            return "gate", _TONES[data["verdict"]], f"Gates: {_judged(data['verdict'])}", ""
        case "ShadowJudged":
            return "shadow", _TONES[data["verdict"]], f"Shadow: {_judged(data['verdict'])}", ""
        case "CanaryJudged":
            word = {"pass": "no harm proven", "fail": "harm proven"}.get(data["verdict"], "not decided")
            return "canary", _TONES[data["verdict"]], f"Canary: {word}", ""
        case "SetTraffic":
            return _traffic(data)
        case "RollBack":
            return "back", "bad", f"{version} gives all traffic back to v{data['to']}", str(data.get("reason", ""))
        case "Mark":
            return _mark(data)
        case _:
            return _asked(kind, data, version)


def _judged(verdict: str) -> str:
    return {"pass": "passed", "fail": "refused", "inconclusive": "not proven"}[verdict]


def _traffic(data: Mapping[str, Any]) -> tuple[str, Tone, str, str] | None:
    if data["mode"] == "canary":
        return "canary", "busy", f"v{data['challenger']} answers {data['share']} %", f"beside v{data['champion']}"
    if data["mode"] == "shadow":
        return "shadow", "busy", f"v{data['challenger']} shadows v{data['champion']}", "answers copies, unseen"
    return None


def _mark(data: Mapping[str, Any]) -> tuple[str, Tone, str, str] | None:
    stage, reason = str(data["stage"]), str(data["reason"])
    if stage not in _STAGES or reason.startswith(("gates:", "canary:")):
        return None  # what judged it has said so already
    icon, words, tone = _STAGES[stage]
    return icon, tone, f"v{data['version']} {words}", reason


def _asked(kind: str, data: Mapping[str, Any], version: str) -> tuple[str, Tone, str, str] | None:
    by = f"by {data['by']}" if data.get("by") else ""
    reason = str(data.get("reason") or "")
    match kind:
        case "PauseRequested":
            return "pause", "open", "Paused", f"{by}{': ' if by and reason else ''}{reason}"
        case "ResumeRequested":
            return "play", "plain", "Resumed", by
        case "RetrainRequested":
            return "hand", "plain", "A challenger was asked for", by
        case "RollbackRequested":
            return "hand", "open", "Rollback asked for", f"{by}{': ' if by and reason else ''}{reason}"
        case "PromoteRequested":
            return "hand", "open", f"Promotion of {version} asked for", by
        case "Approved":
            return "hand", "good", f"{version} approved", by
        case "ActionFailed":
            return "stop", "open", "An action failed", reason
        case "Notify":
            return "mail", "plain", f"Told {data.get('to', 'the owner')}", str(data.get("title", ""))
        case _:
            return None
