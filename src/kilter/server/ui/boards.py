"""Traffic, drift, alarms and versions of a page: pure, from one reading."""

from __future__ import annotations

from collections import defaultdict
from datetime import date

from kilter.loop.declaration.spec import PolicySpec
from kilter.monitoring.records import Histogram
from kilter.server.ui.reading import Reading
from kilter.server.ui.records import Alarm, Arm, Bar, Declared, Distribution, Heat, Most, Role, Traffic, VersionRow

DEFAULT_THRESHOLD = 0.2
MOST_DAYS = 366


def traffic(reading: Reading) -> Traffic | None:
    """Return who answers, as planned and as seen on the latest recorded day; None before the first plan."""
    plan = reading.plan
    if plan is None:
        return None
    day = max((row.day for row in reading.daily), default=None)
    rows: defaultdict[str, int] = defaultdict(int)
    for row in reading.daily:
        if row.day == day:
            rows[row.arm] += row.rows
    answers = sum(count for arm, count in rows.items() if arm != "shadow")

    def arm(role: Role, version: int | None, planned: int) -> Arm:
        seen = round(100 * rows[role] / answers, 1) if answers else None
        return Arm(role=role, version=version, planned=planned, seen=seen, rows=rows[role])

    arms = [arm("champion", plan.champion, 100 - plan.share)]
    if plan.mode == "canary":
        arms.append(arm("challenger", plan.challenger, plan.share))
    elif plan.mode == "shadow":
        arms.append(arm("shadow", plan.challenger, 100))
    arms.append(arm("fallback", None, 0))
    return Traffic(
        mode=plan.mode,
        generation=plan.generation,
        applied=reading.applied,
        day=day,
        arms=tuple(arms),
        fallback=plan.fallback,
    )


def heat(reading: Reading) -> Heat:
    """Return the drift of every feature on every day, the feature that moved most first."""
    days = sorted({cell.day for cell in reading.heat})[-MOST_DAYS:]
    place = {day: number for number, day in enumerate(days)}
    values: dict[str, list[float | None]] = {}
    for cell in reading.heat:
        if cell.day in place:
            values.setdefault(cell.feature, [None] * len(days))[place[cell.day]] = round(cell.excess, 3)
    # The prediction is the model's own answer, so it stands first whatever it does.
    order = sorted(values, key=lambda name: (name != "prediction", -sum(v or 0.0 for v in values[name]), name))
    return Heat(
        features=tuple(order),
        days=tuple(days),
        values=tuple(tuple(values[name]) for name in order),
        threshold=_threshold(reading),
        top=tuple(_most(name, values[name], days) for name in order),
    )


def _most(feature: str, values: list[float | None], days: list[date]) -> Most:
    most, on = max((value or 0.0, day) for value, day in zip(values, days, strict=True))
    return Most(feature=feature, last=values[-1], most=most, on=on)


def _threshold(reading: Reading) -> float:
    for monitor in reading.spec.monitors:
        above = monitor.values.get("above")
        if monitor.kind == "Drift" and isinstance(above, int | float):
            return float(above)
    return DEFAULT_THRESHOLD


def distribution(found: Histogram) -> Distribution:
    """Return a feature's day beside its reference, as parts of one."""

    def parts(counts: tuple[int, ...]) -> list[float]:
        total = sum(counts)
        return [round(count / total, 5) if total else 0.0 for count in counts]

    reference, day, week = parts(found.reference), parts(found.counts), parts(found.trailing)
    bars = [
        Bar(label, *values) for label, *values in zip(found.labels, reference, day, week, strict=True) if any(values)
    ]
    return Distribution(
        feature=found.feature,
        day=found.day,
        version=found.version,
        psi=found.psi,
        excess=found.excess,
        rows=sum(found.counts),
        reference_rows=sum(found.reference),
        bars=tuple(bars),
    )


def alarms(reading: Reading, most: int = 8) -> tuple[Alarm, ...]:
    """Return the alarms, open ones first; an open one with its latest finding, one that is over with what raised it."""
    return tuple(
        Alarm(
            monitor=alert.monitor,
            version=alert.version,
            raised_at=alert.raised_at,
            cleared_at=alert.cleared_at,
            finding=alert.latest if alert.cleared_at is None else alert.finding,
        )
        for alert in reading.alerts[:most]
    )


def declared(reading: Reading) -> tuple[Declared, ...]:
    """Return what the loop's owner has asked for, in words."""
    spec = reading.spec
    retrain = spec.retrain
    when = [f"on {name}" for name in retrain.on]
    when += [f"every {retrain.every}"] if retrain.every else []
    when += [f"at most every {retrain.cooldown}"]
    when += [f"within {retrain.budget}"] if retrain.budget else []
    return (
        Declared(label="Gates", items=tuple(_words(one) for one in spec.gates)),
        Declared(label="Release", items=tuple(_words(one) for one in spec.release)),
        Declared(label="Monitors", items=tuple(_words(one) for one in spec.monitors)),
        Declared(label="Retrain", items=tuple(when)),
        Declared(label="Train on", items=tuple(f"{one.train}, holdout {one.holdout}" for one in spec.windows)),
    )


def _words(declared: PolicySpec) -> str:
    """Return a gate, step or monitor in words: its kind, and what was said about it."""
    kind = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in declared.kind).strip()
    said: list[str] = []
    for name, value in declared.values.items():
        if isinstance(value, dict):
            said.insert(0, str(value.get("name", "")))
        elif name == "steps" and isinstance(value, list):
            said.append(" → ".join(f"{share} %" for share in value))
        elif name in _TOLD and value is not None:
            said.append(f"{_TOLD[name]} {value}".strip())
    return f"{kind}: {', '.join(said)}" if said else kind


_TOLD = {
    "bound": "≥", "by": "by", "max_gap": "gap ≤", "p99": "p99 <", "bake": "bake", "above": "above",
    "over": "over", "method": "",
}  # fmt: skip


def versions(reading: Reading) -> tuple[VersionRow, ...]:
    """Return the versions, newest first."""
    plan = reading.plan
    roles = {}
    if plan is not None:
        roles = dict.fromkeys(plan.warm, "kept warm")
        if plan.challenger is not None:
            roles[plan.challenger] = "shadow" if plan.mode == "shadow" else f"{plan.share} %"
        if plan.champion is not None:
            roles[plan.champion] = f"{100 - plan.share} %"
    return tuple(
        VersionRow(
            version=one.version,
            stage=one.stage,
            role=roles.get(one.version, ""),
            trigger=one.trigger,
            at=one.at,
            data=one.lineage.data_digest[:12],
            gates=reading.gates.get(one.version, ()),
            reason=one.reason,
        )
        for one in reading.versions
    )
