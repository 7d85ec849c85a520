"""The policies of a declaration: windows, gates, steps of the release, monitors, retraining."""

from __future__ import annotations

from typing import get_args

from kilter.core.errors import InvalidInput
from kilter.core.words import did_you_mean
from kilter.data.declare import Columns
from kilter.evaluation.declare import AtLeast, BeatsChampion, BeatsNaive, Block, Fair, FasterThan, Metric
from kilter.loop.declaration.faults import Faults, shown
from kilter.loop.declaration.guard_checks import check_freeze, check_guards
from kilter.loop.declaration.spec import BUDGET_ALLOWED, parse_budget
from kilter.monitoring.declare import Calibration, Decay, Drift, Monitor
from kilter.release.declare import Canary, Freeze, Shadow


def check_windows(faults: Faults) -> None:
    """Check which rows a training sees."""
    windows = faults.loop.windows
    if not windows:
        faults.wrong("data", "there is no window", allowed="at least one Window")
    holdouts = set()
    for i, window in enumerate(windows):
        field = f"data[{i}]" if isinstance(faults.loop.data, tuple) else "data"
        train = faults.duration(f"{field}.train", window.train)
        holdout = faults.duration(f"{field}.holdout", window.holdout)
        holdouts.add(holdout)
        faults.literal(f"{field}.mode", window.mode, ("slide", "expand"))
        if train is not None and holdout is not None and holdout >= train:
            faults.wrong(
                f"{field}.holdout",
                f"the holdout of {window.holdout} is as long as the training rows of {window.train}, or longer",
                allowed="a holdout shorter than train",
            )
    if len(holdouts) > 1 and None not in holdouts:
        faults.wrong(
            "data",
            f"the windows have holdouts of {', '.join(window.holdout for window in windows)}",
            allowed="one holdout for all windows, or they could not be compared",
        )
    if len(set(windows)) < len(windows):
        faults.wrong("data", "two windows are the same")


def check_gates(faults: Faults) -> None:
    """Check what a challenger has to prove."""
    if not faults.loop.gates:
        faults.wrong(
            "gates", "a challenger would have to prove nothing", fix="leave gates out to get the gates of an expert"
        )
    for i, gate in enumerate(faults.loop.gates):
        field = f"gates[{i}]"
        if isinstance(gate, FasterThan):
            faults.duration(f"{field}.p99", gate.p99)
            continue
        _metric(faults, f"{field}.metric", gate.metric)
        faults.literal(f"{field}.resample", gate.resample, get_args(Block))
        faults.between(f"{field}.confidence", gate.confidence, 0.5, 1)
        if isinstance(gate, Fair):
            _fair(faults, field, gate)
        elif isinstance(gate, BeatsChampion) and not gate.margin >= 0:
            faults.wrong(f"{field}.margin", f"{gate.margin!r} is negative", allowed="0 or more")
        elif isinstance(gate, AtLeast) and not abs(gate.bound) < float("inf"):
            faults.wrong(f"{field}.bound", f"{gate.bound!r} is no bound", allowed="a finite number")
    if not any(isinstance(gate, BeatsChampion | BeatsNaive | AtLeast) for gate in faults.loop.gates):
        faults.wrong("gates", "no gate looks at how good the model is", fix="add beats_champion(log_loss)")


def _metric(faults: Faults, field: str, metric: object) -> None:
    if not isinstance(metric, Metric):
        faults.wrong(field, f"{shown(metric)} was given", allowed="log_loss, brier, auc, recall, precision, accuracy")
    else:
        faults.between(f"{field}.threshold", metric.threshold, 0, 1)


def _fair(faults: Faults, field: str, gate: Fair) -> None:
    faults.between(f"{field}.max_gap", gate.max_gap, 0, 1)
    if gate.min_support < 1:
        faults.wrong(f"{field}.min_support", f"{gate.min_support!r} rows", allowed="1 or more")
    direct = [name for item in faults.loop.inputs if isinstance(item, Columns) for name in item.names]
    schema = faults.schemas.get(faults.loop.inputs[0].table.name) if faults.loop.inputs else None
    known = list(dict.fromkeys([*direct, *(schema or ())]))
    if not gate.by or (schema is not None and gate.by not in known):
        faults.wrong(
            f"{field}.by", f"there is no column {gate.by!r}", allowed=", ".join(known), fix=did_you_mean(gate.by, known)
        )


def check_release(faults: Faults) -> None:
    """Check the steps between gates and full traffic."""
    kinds = [type(step) for step in faults.loop.release if not isinstance(step, Freeze)]
    if kinds not in ([], [Shadow], [Canary], [Shadow, Canary]):
        faults.wrong(
            "release",
            " then ".join(kind.__name__ for kind in kinds),
            allowed="Shadow, Canary, or Shadow then Canary, each once",
        )
    if not kinds:
        faults.wrong("release", "a challenger would get all traffic at once", allowed="at least a Shadow or a Canary")
    for i, step in enumerate(faults.loop.release):
        field = f"release[{i}]"
        if isinstance(step, Freeze):
            check_freeze(faults, field, step)
            continue
        bake = faults.duration(f"{field}.bake", step.bake)
        limit = faults.duration(f"{field}.limit", step.limit)
        if bake is not None and limit is not None and limit < bake:
            faults.wrong(
                f"{field}.limit",
                f"{step.limit} is shorter than the bake of {step.bake}",
                allowed="the bake or longer",
            )
        faults.between(f"{field}.confidence", step.confidence, 0.5, 1)
        if isinstance(step, Canary):
            _canary(faults, field, step)
        check_guards(faults, field, step)


def _canary(faults: Faults, field: str, step: Canary) -> None:
    whole = isinstance(step.steps, list | tuple) and all(
        isinstance(share, int) and not isinstance(share, bool) for share in step.steps
    )
    shares = tuple(step.steps) if whole else ()
    if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 100:
        faults.wrong(
            f"{field}.steps",
            f"{step.steps!r} is no ramp",
            allowed="whole per cents, rising, each above 0 and below 100, like (5, 25, 50)",
            fix="100 % is the promotion itself and needs no step" if 100 in shares else "",
        )
    faults.between(f"{field}.margin", step.margin, 0, 1)
    faults.between(f"{field}.detect", step.detect, 0, 1)


def check_monitors(faults: Faults) -> None:
    """Check what is watched."""
    names: dict[str, int] = {}
    for i, monitor in enumerate(faults.loop.monitors):
        field = f"monitors[{i}]"
        _monitor(faults, field, monitor)
        if monitor.name in names:
            faults.wrong(
                field,
                f"{monitor.name} is watched already, by monitors[{names[monitor.name]}]",
                fix="leave one of them out",
            )
        names.setdefault(monitor.name, i)


def _monitor(faults: Faults, field: str, monitor: Monitor) -> None:
    faults.duration(f"{field}.over", monitor.over)
    if isinstance(monitor, Decay):
        _metric(faults, f"{field}.metric", monitor.metric)
        if not 0 < monitor.by < float("inf"):
            faults.wrong(
                f"{field}.by", f"{monitor.by!r} is no fraction", allowed="a number above 0: 0.10 is 10 % worse"
            )
    elif isinstance(monitor, Calibration):
        faults.between(f"{field}.above", monitor.above, 0, 1)
    elif isinstance(monitor, Drift):
        faults.literal(f"{field}.method", monitor.method, ("psi",))
        if not 0 < monitor.above < float("inf"):
            faults.wrong(f"{field}.above", f"{monitor.above!r} is no bound", allowed="a number above 0; 0.2 is usual")


def check_retrain(faults: Faults) -> None:
    """Check when a challenger is trained."""
    retrain = faults.loop.retrain
    for i, monitor in enumerate(retrain.on):
        if monitor not in faults.loop.monitors:
            faults.wrong(
                f"retrain.on[{i}]",
                f"{monitor.name} is not among the loop's monitors, or is declared otherwise there",
                allowed=", ".join(found.name for found in faults.loop.monitors) or "none: the loop has no monitors",
                fix="bind the monitor to a name and use it in both places",
            )
    cooldown = faults.duration("retrain.cooldown", retrain.cooldown, zero=True)
    if retrain.every is not None:
        every = faults.duration("retrain.every", retrain.every)
        if every is not None and cooldown is not None and every < cooldown:
            faults.wrong(
                "retrain.every",
                f"{retrain.every} is shorter than the cooldown of {retrain.cooldown}",
                allowed="the cooldown or longer",
            )
    if retrain.budget is not None:
        try:
            parse_budget(retrain.budget)
        except InvalidInput as error:
            faults.wrong("retrain.budget", error.message, allowed=BUDGET_ALLOWED)
    if retrain.max_rejections < 1:
        faults.wrong("retrain.max_rejections", f"{retrain.max_rejections!r}", allowed="1 or more")
