"""Why a version is where it is: alarm, data, run, gates, shadow, canary, verdict, told from what was written at the time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from kilter.core.evidence import Finding
from kilter.journal.records import Event
from kilter.registry.records import Lineage, ModelVersion, Origin, VersionHistory
from kilter.serving.records import Prediction


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain.

    Args:
        at: When it happened.
        step: ``trigger``, ``alarm``, ``data``, ``arrival``, ``run``, ``gates``, ``approval``, ``shadow``, ``canary``, ``traffic``, ``stage``, ``request``
            or ``batch``.
        title: What happened, in one line.
        findings: What it rests on.
        seq: The event of the journal that tells of it, or 0.
    """

    at: datetime
    step: str
    title: str
    findings: tuple[Finding, ...] = ()
    seq: int = 0


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The whole chain behind a version.

    Args:
        version: ``flight-delay@v7``.
        stage: Where it stands now.
        verdict: Why it stands there, in one line.
        trigger: Why it was trained.
        lineage: Data, features, code, declaration and environment it was built from.
        chain: What happened, in order.
        prediction: The prediction that was asked about, if one was.
    """

    version: str
    stage: str
    verdict: str
    trigger: str
    lineage: Lineage
    chain: tuple[Link, ...]
    prediction: Prediction | None = None


def explain(
    history: VersionHistory, events: Sequence[Event], alarms: Sequence[Event], prediction: Prediction | None = None
) -> Why:
    """Put the chain of one version together.

    Args:
        history: What the registry knows of it.
        events: The journal's events about this version, in order.
        alarms: The loop's alarms that stood when it was trained, in order.
        prediction: The prediction of it that was asked about.
    """
    version = history.version
    links = [
        Link(at=event.at, step="alarm", title=_alarm(event), findings=_findings(event), seq=event.seq)
        for event in alarms
    ]
    links.append(Link(at=version.at, step="trigger", title=f"a challenger was wanted: {version.trigger}"))
    links.append(
        Link(
            at=version.at,
            step="data",
            title=f"trained on rows {version.lineage.data_digest[:12]}, as known at {_trained_at(version):%Y-%m-%d %H:%M} UTC",
        )
    )
    if version.lineage.origin is not None:
        links.append(_arrival(history, version.lineage.origin))
    for event in events:
        link = _link(event)
        if link is not None:
            links.append(link)
    links.extend(
        Link(
            at=approval.at,
            step="approval",
            title=f"approved by {approval.by}" + (f": {approval.comment}" if approval.comment else ""),
        )
        for approval in history.approvals
    )
    links.extend(
        Link(at=mark.at, step="stage", title=f"{mark.stage}: {mark.reason}")
        for mark in history.stages
        # The registry's own mark says why it was trained, which is the trigger's line already.
        if (mark.stage, mark.reason) != ("candidate", version.trigger)
    )
    order = {name: place for place, name in enumerate(_ORDER)}
    chain = tuple(sorted(links, key=lambda link: (link.at, order.get(link.step, 99), link.seq)))
    return Why(
        version=version.reference,
        stage=version.stage,
        verdict=version.reason,
        trigger=version.trigger,
        lineage=version.lineage,
        chain=chain,
        prediction=prediction,
    )


def _trained_at(version: ModelVersion) -> datetime:
    return version.at if version.lineage.origin is None else version.lineage.origin.at


def _arrival(history: VersionHistory, origin: Origin) -> Link:
    """Tell where a version came from; its gates were judged there."""
    version = history.version
    approved = f", approved there by {', '.join(origin.approvals)}" if origin.approvals else ""
    return Link(
        at=version.at,
        step="arrival",
        title=f"promoted by {origin.by or 'somebody'} from {origin.version} of {origin.environment or origin.store}, "
        f"where it was {origin.stage}{approved}",
        findings=tuple(finding for one in history.evidence if one.kind == "gates" for finding in one.findings),
    )


_ORDER = (
    "alarm",
    "trigger",
    "data",
    "arrival",
    "run",
    "gates",
    "approval",
    "shadow",
    "canary",
    "request",
    "traffic",
    "stage",
    "batch",
)


def _alarm(event: Event) -> str:
    return f"{event.data.get('monitor')} on v{event.data.get('version')}"


def _findings(event: Event) -> tuple[Finding, ...]:
    one = event.data.get("finding")
    many = event.data.get("findings") or ([one] if one else [])
    return tuple(msgspec.convert(many, list[Finding]))


def _link(event: Event) -> Link | None:
    data = event.data
    findings = _findings(event)
    match event.kind:
        case "TrainingFinished":
            step, title = "run", f"run {data['run']} finished in {data['cpu_seconds']:.2f} CPU seconds"
        case "GatesJudged":
            step, title = "gates", f"gates: {data['verdict']}"
        case "ShadowJudged":
            step, title = "shadow", f"shadow: {data['verdict']}"
        case "CanaryJudged":
            step, title = "canary", f"canary: {data['verdict']}"
        case "SetTraffic":
            step, title = "traffic", _traffic(data)
        case "Promote":
            step, title = "traffic", "promoted: takes all traffic"
        case "RollBack":
            step, title = "traffic", f"taken back to v{data['to']}: {data['reason']}"
        case "BatchFinished":
            step, title = (
                "batch",
                f"batch {data['batch']} of {str(data['slot'])[:16]}: {data['rows']:,} rows to {data['output']}",
            )
        case "PromoteRequested" | "RollbackRequested" | "PauseRequested":
            step, title = "request", f"{event.kind} by {data.get('by', '')}"
        case _:
            return None
    return Link(at=event.at, step=step, title=title, findings=findings, seq=event.seq)


def _traffic(data: dict[str, object]) -> str:
    if data["mode"] == "canary":
        return f"canary: {data['share']} % of the traffic"
    if data["mode"] == "shadow":
        return "shadow: answers a copy of the traffic"
    return f"all traffic to v{data['champion']}"
