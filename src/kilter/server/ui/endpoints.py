"""The pages of an endpoint: pure, from one reading of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kilter.registry.records import ModelVersion
from kilter.release.records import ExperimentStatus
from kilter.server.ui import tally
from kilter.server.ui.endpoint_records import (
    Callers,
    EndpointCard,
    Fact,
    Flow,
    Key,
    Server,
    SpanName,
    Who,
)
from kilter.serving.access.consumers import Consumer
from kilter.serving.access.keys import ApiKey
from kilter.serving.recording.redaction import Recording
from kilter.serving.records import EndpointStatus, TrafficPlan

_BARS = 24
Role = Literal["champion", "challenger", "shadow", "arm", "warm", "fallback"]


@dataclass(frozen=True)
class EndpointReading:
    """Everything that an endpoint's page is made of, as it was at one moment.

    Args:
        now: The time, by the clock of the store.
        simulated: That clock is not the machine's.
        plan: What the endpoint is to do.
        fronts: How far each front has followed it.
        versions: The versions of its model, newest first.
        counts: What was answered lately.
        consumers: Who calls it.
        keys: Every key of the store.
        recording: What is recorded of its inputs.
        experiments: Its experiments, the newest first.
        loop: A loop of its name decides about it.
    """

    now: datetime
    simulated: bool
    plan: TrafficPlan
    fronts: tuple[EndpointStatus, ...]
    versions: tuple[ModelVersion, ...]
    counts: tally.Counts
    consumers: tuple[Consumer, ...]
    keys: tuple[ApiKey, ...]
    recording: Recording
    experiments: tuple[ExperimentStatus, ...]
    loop: bool


def who(reading: EndpointReading, span: SpanName) -> Who:
    """Return who answers, as planned and as seen."""
    plan = reading.plan
    seen = tally.answered(reading.counts, reading.now, span)
    rows: Counter[int] = Counter()
    for (_, version), count in seen.items():
        rows[version] += count
    total = sum(rows.values())
    known = {one.version: one for one in reading.versions}

    def server(version: int, role: Role, share: float) -> Server:
        made = known.get(version)
        return Server(
            version=version,
            role=role,
            share=round(share, 1),
            seen=round(100 * rows[version] / total, 1) if total else None,
            rows=rows[version],
            since=None if made is None else made.at,
            trigger="" if made is None else made.trigger,
            bundle=plan.bundles.get(version, "")[:12],
        )

    servers: list[Server] = []
    if plan.mode == "split":
        servers += [server(version, "arm", 100 * share) for version, share in _arms(plan)]
    elif plan.champion is not None:
        servers.append(server(plan.champion, "champion", 100.0 - plan.share))
    if plan.challenger is not None and plan.mode in {"canary", "shadow"}:
        servers.append(server(plan.challenger, "challenger" if plan.mode == "canary" else "shadow", float(plan.share)))
    servers += [server(version, "warm", 0.0) for version in plan.warm if version not in plan.split]
    if plan.fallback is not None:
        share = 100.0 if plan.champion is None and not plan.split else 0.0
        constant = server(0, "fallback", share)
        servers.append(Server(version=None, role="fallback", share=share, seen=constant.seen, rows=constant.rows))
    return Who(
        headline=headline(plan),
        mode=plan.mode,
        generation=plan.generation,
        fronts=reading.fronts,
        servers=tuple(servers),
        settings=tuple(settings(reading)),
        loop=reading.loop,
        experiment=plan.experiment if plan.mode == "split" else "",
        release=reading.loop and plan.mode in {"canary", "shadow"},
    )


def headline(plan: TrafficPlan) -> str:
    """Say in one sentence who answers."""
    if plan.mode == "split" and plan.split:
        arms = ", ".join(f"v{version} {100 * share:.0f} %" for version, share in _arms(plan))
        return f"The arms of {plan.experiment} share the traffic: {arms}"
    if plan.champion is None:
        return "Nobody can answer yet" if plan.fallback is None else "The constant answers everything"
    if plan.mode == "canary" and plan.challenger is not None:
        return f"v{plan.challenger} answers {plan.share} % of the traffic beside v{plan.champion}"
    if plan.mode == "shadow" and plan.challenger is not None:
        return f"v{plan.champion} answers everything; v{plan.challenger} scores copies, unseen"
    return f"v{plan.champion} answers everything"


def _arms(plan: TrafficPlan) -> list[tuple[int, float]]:
    """Return the arms of an experiment with their shares, the control first."""
    return sorted(plan.split.items(), key=lambda one: (one[0] != plan.champion, one[0]))


def settings(reading: EndpointReading) -> list[Fact]:
    """Return what else is set about an endpoint."""
    plan, rule = reading.plan, reading.recording
    found = [
        Fact(name="Mode", value=plan.mode),
        Fact(
            name="When no model can",
            value="503" if plan.fallback is None else f"{plan.fallback:g}",
            note="the request fails" if plan.fallback is None else "the constant answers",
        ),
        Fact(name="Warm", value=", ".join(f"v{one}" for one in plan.warm) or "none", note="the way back"),
    ]
    said = [f"{100 * rule.sample:g} % of the rows"] if rule.sample < 1 else []
    said += [f"without {', '.join(rule.drop)}"] if rule.drop else []
    said += [f"hashed: {', '.join(rule.hash)}"] if rule.hash else []
    found.append(Fact(name="Recorded", value="; ".join(said) or "all inputs of all rows"))
    if plan.spec:
        found.append(Fact(name="Declaration", value=plan.spec[:12]))
    return found


def callers(reading: EndpointReading) -> Callers:
    """Return who calls and who may; a key is known by its name only."""
    name = reading.plan.loop
    return Callers(
        consumers=reading.consumers,
        keys=tuple(_key(one, reading.now) for one in reading.keys if not one.endpoints or name in one.endpoints),
        locked=bool(reading.keys),
    )


def _key(key: ApiKey, now: datetime) -> Key:
    return Key(
        name=key.name,
        endpoints=key.endpoints,
        created_at=key.created_at,
        expires_at=key.expires_at,
        state="revoked" if key.revoked_at is not None else "holds" if key.holds(now) else "expired",
    )


def flow(reading: EndpointReading, span: SpanName) -> Flow:
    """Return what was asked lately."""
    return tally.flow(reading.counts, reading.now, span)


def card(
    plan: TrafficPlan, fronts: tuple[EndpointStatus, ...], counts: tally.Counts, now: datetime, *, loop: bool
) -> EndpointCard:
    """Return an endpoint as it stands in the list, with its last day."""
    day = tally.flow(counts, now, "24h")
    bins = [sum(values) for values in zip(*(layer.counts for layer in day.layers), strict=True)]
    width = max(1, -(-len(bins) // _BARS))
    return EndpointCard(
        name=plan.loop,
        loop=loop,
        mode=plan.mode,
        champion=plan.champion,
        challenger=plan.challenger if plan.mode in {"canary", "shadow"} else None,
        share=plan.share,
        generation=plan.generation,
        applied=min((one.applied for one in fronts), default=0),
        error=next((one.error for one in fronts if one.error), ""),
        rows=day.rows,
        p95=day.p95,
        fallbacks=day.fallbacks + day.constants,
        newest=day.newest,
        activity=tuple(sum(bins[at : at + width]) for at in range(0, len(bins), width)),
    )
