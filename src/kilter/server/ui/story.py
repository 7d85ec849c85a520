"""The journal told for people: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kilter.core.evidence import Finding
from kilter.journal.records import Event
from kilter.server.ui.records import Entry, Group, Timeline, Tone

PAGE = 40

Data = Mapping[str, Any]
Told = tuple[str, Tone, str, str]
"""Icon, tone, title, text."""
Teller = Callable[[Data], Told | None]

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


def _told(kind: str, data: Data) -> Told | None:
    teller = _TELLERS.get(kind)
    return None if teller is None else teller(data)


def _version(data: Data) -> str:
    return f"v{data.get('version')}"


def _by(data: Data) -> str:
    """Who asked, and why."""
    said = (f"by {data['by']}" if data.get("by") else "", str(data.get("reason") or ""))
    return ": ".join(one for one in said if one)


def _applied(data: Data) -> Told:
    by = f" by {data['by']}" if data.get("by") else ""
    rebuild = "; a new model has to be trained" if data.get("rebuild") else ""
    return "file", "plain", f"Declaration applied{by}", f"{data['policy']['spec'][:12]}{rebuild}"


def _judged(icon: str, name: str, words: Mapping[str, str]) -> Teller:
    def tell(data: Data) -> Told:
        return icon, _TONES[data["verdict"]], f"{name}: {words[data['verdict']]}", ""

    return tell


def _traffic(data: Data) -> Told | None:
    if data["mode"] == "canary":
        return "canary", "busy", f"v{data['challenger']} answers {data['share']} %", f"beside v{data['champion']}"
    if data["mode"] == "shadow":
        return "shadow", "busy", f"v{data['challenger']} shadows v{data['champion']}", "answers copies, unseen"
    return None


def _mark(data: Data) -> Told | None:
    stage, reason = str(data["stage"]), str(data["reason"])
    if stage not in _STAGES or reason.startswith(("gates:", "canary:")):
        return None  # what judged it has said so already
    icon, words, tone = _STAGES[stage]
    return icon, tone, f"v{data['version']} {words}", reason


_PROOF = {"pass": "passed", "fail": "refused", "inconclusive": "not proven"}
_HARM = {"pass": "no harm proven", "fail": "harm proven", "inconclusive": "not decided"}

_TELLERS: dict[str, Teller] = {
    "Applied": _applied,
    "AlarmRaised": lambda data: ("alarm", "bad", f"Alarm: {data['monitor']}", f"about {_version(data)}"),
    "AlarmCleared": lambda data: ("calm", "good", f"Alarm over: {data['monitor']}", f"about {_version(data)}"),
    "StartTraining": lambda data: ("train", "busy", "Training begins", str(data.get("trigger", ""))),
    "TrainingFinished": lambda data: (
        "train", "plain", f"{_version(data)} is trained", f"{data['cpu_seconds']:.2f} CPU seconds",
    ),
    "TrainingFailed": lambda data: ("stop", "bad", "Training failed", str(data.get("reason", ""))),
    "GatesJudged": _judged("gate", "Gates", _PROOF),
    "ShadowJudged": _judged("shadow", "Shadow", _PROOF),
    "CanaryJudged": _judged("canary", "Canary", _HARM),
    "SetTraffic": _traffic,
    "RollBack": lambda data: (
        "back", "bad", f"{_version(data)} gives all traffic back to v{data['to']}", str(data.get("reason", "")),
    ),
    "Mark": _mark,
    "PauseRequested": lambda data: ("pause", "open", "Paused", _by(data)),
    "ResumeRequested": lambda data: ("play", "plain", "Resumed", _by(data)),
    "RetrainRequested": lambda data: ("hand", "plain", "A challenger was asked for", _by(data)),
    "RollbackRequested": lambda data: ("hand", "open", "Rollback asked for", _by(data)),
    "PromoteRequested": lambda data: ("hand", "open", f"Promotion of {_version(data)} asked for", _by(data)),
    "Approved": lambda data: ("hand", "good", f"{_version(data)} approved", _by(data)),
    "ActionFailed": lambda data: ("stop", "open", "An action failed", str(data.get("reason") or "")),
    "Notify": lambda data: ("mail", "plain", f"Told {data.get('to', 'the owner')}", str(data.get("title", ""))),
}  # fmt: skip
"""How each kind of event is told; the others say nothing that one of these doesn't."""
