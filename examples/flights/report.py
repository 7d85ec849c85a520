"""What the demo says: one line per event, and the summary at the end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl
from examples.flights import airline

from kilter.core.evidence import Finding
from kilter.data.windows import labelled
from kilter.evaluation.declare import auc, log_loss
from kilter.evaluation.metrics import row_losses
from kilter.evaluation.metrics import value as metric_value
from kilter.journal.records import Event
from kilter.loop.backtest import Outcome
from kilter.serving.recording.predictions import PredictionLog, fronts, to_frame

if TYPE_CHECKING:
    from examples.flights.demo import Demo


class PolicyResult(msgspec.Struct, frozen=True):
    """One policy over the replayed months."""

    log_loss: float
    auc: float
    deployments: int
    trainings: int
    cpu_seconds: float


class VersionLine(msgspec.Struct, frozen=True):
    """One version of the model."""

    version: int
    stage: str
    trigger: str
    trained: datetime
    reason: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the demo."""

    promotions: int
    refusals: int
    rollbacks: int
    requests: int
    rows: int
    failed_requests: int
    fallbacks: int
    retried_requests: int
    seconds: float
    simulated_days: float
    policies: dict[str, PolicyResult]
    versions: list[VersionLine]
    verdicts: list[str]
    time_to_heal: float | None
    decay_began: datetime | None
    healed: datetime | None
    hotfix_rollback_hours: float | None
    kill_recovery_ms: float | None
    training_cpu_seconds: float
    request_ms: dict[str, float]
    journal_ok: bool
    journal_events: int
    page: str

    def text(self) -> str:
        """Return the summary for people."""
        lines = [
            "",
            f"{self.simulated_days:.0f} simulated days in {self.seconds:.0f} s (the clock is simulated).",
            f"{self.requests:,} requests, {self.rows:,} predictions, {self.failed_requests} failed requests, {self.fallbacks} fallback answers.",
            f"{self.promotions} challengers promoted, {self.refusals} refused or unproven, {self.rollbacks} taken back.",
            f"Trainings took {self.training_cpu_seconds:.1f} CPU seconds.",
            f"Request time: median {self.request_ms['p50']:.1f} ms, p99 {self.request_ms['p99']:.1f} ms for an hour's flights.",
        ]
        if self.time_to_heal is not None and self.decay_began and self.healed:
            lines.append(
                f"The decay began on {self.decay_began:%d %b}; the proven challenger had all traffic on {self.healed:%d %b}: "
                f"healed in {self.time_to_heal:.0f} days."
            )
        if self.hotfix_rollback_hours is not None:
            lines.append(
                f"The hotfix (minutes where hours belong) was taken back by its canary after {self.hotfix_rollback_hours:.0f} simulated hours."
            )
        if self.kill_recovery_ms is not None:
            lines.append(
                f"kill -9 of the champion's worker under load: every request answered, within {self.kill_recovery_ms:.0f} ms."
            )
        lines += ["", "Verdicts"] + [f"  {line}" for line in self.verdicts]
        lines += ["", f"{'policy':20} {'log loss':>9} {'AUC':>7} {'deployments':>12} {'trainings':>10} {'CPU s':>7}"]
        lines += [
            f"{name:20} {one.log_loss:9.4f} {one.auc:7.4f} {one.deployments:12d} {one.trainings:10d} {one.cpu_seconds:7.1f}"
            for name, one in self.policies.items()
        ]
        lines += [
            "",
            f"The journal holds {self.journal_events:,} events; its chain {'is whole' if self.journal_ok else 'IS BROKEN'}.",
            "",
        ]
        return "\n".join(lines)


_SHOWN = {
    "AlarmRaised": "alarm",
    "AlarmCleared": "alarm cleared",
    "StartTraining": "training",
    "TrainingFailed": "training failed",
    "GatesJudged": "gates",
    "ShadowJudged": "shadow",
    "CanaryJudged": "canary",
    "SetTraffic": "traffic",
    "Promote": "promoted",
    "RollBack": "rolled back",
    "PauseRequested": "paused",
    "ResumeRequested": "resumed",
    "Notify": "told the owner",
}


def show(event: Event) -> str:
    """Return an event of the journal as one line, or nothing for those that say little."""
    word = _SHOWN.get(event.kind)
    if word is None or (event.kind == "SetTraffic" and event.data["mode"] == "solo"):
        return ""
    return f"{word:15} {_said(event.kind, event.data)}"


def _said(kind: str, data: dict[str, Any]) -> str:
    match kind:
        case "AlarmRaised" | "AlarmCleared":
            return f"{data['monitor']} on v{data['version']}: {_value(data.get('finding'))}".rstrip(": ")
        case "GatesJudged":
            primary = [one for one in data["findings"] if one["detail"].get("role") == "primary"]
            proven = "".join(f"; {one['name']} {one['verdict']} {_value(one)}" for one in primary)
            return f"v{data['version']} {data['verdict']}{proven}"
        case "ShadowJudged" | "CanaryJudged":
            return f"v{data['version']} {data['verdict']} {_value(data['finding'])}"
        case "SetTraffic":
            return f"v{data['challenger']} " + ("shadows" if data["mode"] == "shadow" else f"answers {data['share']} %")
        case "Promote" | "RollBack":
            back = f" back to v{data['to']}: {data['reason']}" if kind == "RollBack" else " is champion"
            return f"v{data['version']}{back}"
    return str(data.get("title") or data.get("trigger") or data.get("reason") or data.get("by") or "")


def _value(finding: object) -> str:
    found = msgspec.convert(finding, Finding) if finding else None
    return "" if found is None or found.value is None else str(found.value)


def summarise(demo: Demo, outcomes: tuple[Outcome, ...], seconds: float) -> Summary:
    """Put the summary together from what the store says, not from what the demo hoped for."""
    events = _events(demo)
    versions = demo.kilter.models.versions("flight-delay")
    stages = [version.stage for version in versions]
    promotions = [event for event in events if event.kind == "Promote" and event.data.get("previous") is not None]
    rollbacks = [event for event in events if event.kind == "RollBack"]
    refusals = sum(stage in {"rejected", "inconclusive"} for stage in stages)
    began, healed = _healing(demo, events)
    live = _live(demo, events)
    policies = {outcome.name: _policy(outcome) for outcome in outcomes if outcome.name != "loop"}
    backtested = next((outcome for outcome in outcomes if outcome.name == "loop"), None)
    ordered = {
        "frozen": policies.pop("frozen", None),
        "loop (live)": live,
        "loop (backtest)": backtested and _policy(backtested),
    }
    verification = demo.kilter.journal.verify()
    times = np.array(demo.traffic.seconds or [0.0]) * 1000
    hotfix = next((event for event in rollbacks if demo.hotfix_since and event.at >= demo.hotfix_since), None)
    canary = [
        e.at for e in events if e.kind == "SetTraffic" and hotfix and e.data.get("challenger") == hotfix.data["version"]
    ]
    return Summary(
        promotions=len(promotions),
        refusals=refusals,
        rollbacks=len(rollbacks),
        requests=demo.traffic.requests,
        rows=demo.traffic.rows,
        failed_requests=demo.traffic.failed,
        fallbacks=demo.traffic.fallbacks,
        retried_requests=demo.traffic.retried,
        seconds=round(seconds, 1),
        simulated_days=(demo.end - demo.start).total_seconds() / 86400,
        policies={**{name: one for name, one in ordered.items() if one is not None}, **policies},
        versions=[VersionLine(v.version, v.stage, v.trigger, v.at, v.reason) for v in reversed(versions)],
        verdicts=[
            f"{event.at:%d %b}  {show(event)}"
            for event in events
            if event.kind in {"GatesJudged", "ShadowJudged", "CanaryJudged"}
        ],
        time_to_heal=(healed - began).total_seconds() / 86400 if began and healed else None,
        decay_began=began,
        healed=healed,
        hotfix_rollback_hours=(hotfix.at - canary[0]).total_seconds() / 3600 if hotfix and canary else None,
        kill_recovery_ms=None if demo.kill_recovery is None else demo.kill_recovery * 1000,
        training_cpu_seconds=sum(
            float(e.data["cpu_seconds"]) for e in events if e.kind in {"TrainingFinished", "TrainingFailed"}
        ),
        request_ms={"p50": float(np.quantile(times, 0.5)), "p99": float(np.quantile(times, 0.99))},
        journal_ok=verification.ok,
        journal_events=verification.checked,
        page=demo.stage.page,
    )


def _events(demo: Demo) -> list[Event]:
    found: list[Event] = []
    while page := demo.kilter.loops.timeline("flight-delay", after=found[-1].seq if found else 0, limit=1000):
        found += page
    return found


def _policy(outcome: Outcome) -> PolicyResult:
    return PolicyResult(outcome.log_loss, outcome.auc, outcome.deployments, outcome.trainings, outcome.cpu_seconds)


def _live(demo: Demo, events: list[Event]) -> PolicyResult:
    """Return how good the answers were that were really given, over all whose label is known by now."""
    folder = demo.stage.store.folder / "log" / "predictions"
    frames = []
    for front in fronts(folder):
        log = PredictionLog.open(folder, front)
        frames.append(to_frame(log.read(), front, "flight-delay").select("key", "value", "at"))
        log.close()
    answers = pl.concat(frames).unique("key", keep="first", maintain_order=True)
    until = demo.stage.clock.now() + timedelta(days=1)
    truth = labelled(airline.airline().flights, demo.table, demo.declared.label, until)
    joined = answers.join(truth.select(key="flight_id", label="_label"), on="key").filter(pl.col("label").is_not_null())
    y, p = joined["label"].to_numpy(), joined["value"].to_numpy()
    losses = row_losses(log_loss, y, p)
    assert losses is not None  # noqa: S101 - log loss has a loss per row
    trainings = [event for event in events if event.kind == "TrainingFinished"]
    promotions = [event for event in events if event.kind == "Promote" and event.data.get("previous") is not None]
    return PolicyResult(
        float(losses.mean()),
        float(metric_value(auc, y, p)),
        len(promotions),
        len(trainings) - 1,
        sum(float(event.data["cpu_seconds"]) for event in trainings),
    )


def _healing(demo: Demo, events: list[Event]) -> tuple[datetime | None, datetime | None]:
    """Return when the first healed decay began, and when the proven challenger had all traffic.

    The decay begins on the last day on which Page's cumulative sum of the champion's daily excess loss over its holdout stood at zero
    before the alarm (Page 1954): a change point, not the day somebody noticed.
    """
    promotion = next((e for e in events if e.kind == "Promote" and e.data.get("previous") is not None), None)
    if promotion is None:
        return None, None
    alarm = next((e for e in events if e.kind == "AlarmRaised" and e.at <= promotion.at), None)
    if alarm is None:
        return None, promotion.at
    champion = int(alarm.data["version"])
    rows = [
        row
        for row in demo.kilter.monitors.daily("flight-delay", until=alarm.at.date())
        if row.version == champion and row.arm == "champion" and row.labels
    ]
    run = demo.kilter.models.get("flight-delay", champion).lineage.run
    holdout = demo.kilter.runs.metrics(run, "holdout_log_loss")[0].number
    total, zero = 0.0, alarm.at
    for row in sorted(rows, key=lambda one: one.day):
        excess = (row.log_loss or 0.0) - holdout
        if total + excess <= 0.0:
            zero = datetime(row.day.year, row.day.month, row.day.day, tzinfo=promotion.at.tzinfo) + timedelta(days=1)
        total = max(0.0, total + excess)
    return min(zero, alarm.at), promotion.at
