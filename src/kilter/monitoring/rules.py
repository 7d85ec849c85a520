"""The pure part of monitoring: frames and profiles in, answers out. The controller and the backtest call the same function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl

from kilter.core.clock import utc
from kilter.core.durations import parse_duration
from kilter.monitoring.calibration import judge_calibration
from kilter.monitoring.decay import judge_decay
from kilter.monitoring.declare import Calibration, Decay, Drift, Monitor
from kilter.monitoring.drift import judge_drift
from kilter.monitoring.profile import PREDICTION, Bins, Counts, ReferenceProfile, count, metric_key
from kilter.monitoring.records import Judged
from kilter.monitoring.window import Window, cut, maturity_lag, with_time


def evaluate_frame(
    monitors: Sequence[Monitor],
    frame: pl.DataFrame,
    reference: ReferenceProfile,
    now: datetime,
    *,
    version: int | None = None,
) -> tuple[Judged, ...]:
    """Judge monitors on a frame of predictions. Pure, and a few milliseconds for two weeks of 900 rows a day.

    Decay and calibration look at labelled rows that ``version`` itself answered, in whatever role; they stay ``inconclusive`` until half
    their window has such rows, so a new champion is not judged by its first days. Drift looks at the inputs of all rows (who answered does not
    matter to an input), and at the predictions of ``version``.

    Args:
        monitors: As declared.
        frame: One row per prediction: ``at`` (UTC) or ``day``; ``value``; ``label`` (null while unknown or censored); the inputs by
            name, or by ``x_`` and name; optionally ``version`` and ``label_at``.
        reference: The version's profile.
        now: The windows' end, exclusive.
        version: Whose predictions are judged; None takes all rows of the frame as its own.
    """
    if not monitors:
        return ()
    timed = with_time(frame)
    # What decay and calibration need is little: filtering the inputs along would cost more than judging.
    own = timed.select(column for column in ("at", "value", "label", "label_at", "version") if column in timed.columns)
    mine = own["value"].is_not_null().to_numpy()
    if version is not None and "version" in own.columns:
        mine &= own["version"].to_numpy() == version
    own = own.filter(pl.Series(mine))
    labelled = own.filter(own["label"].is_not_null()) if "label" in own.columns else own.clear()
    until = utc(now)
    mature = until - maturity_lag(labelled)
    windows: dict[str, Window] = {}
    answers: list[Judged] = []
    for monitor in monitors:
        over = parse_duration(monitor.over, where=f"{monitor.name}.over")
        if isinstance(monitor, Drift):
            recent = cut(timed, until, over)
            answers.append(
                judge_drift(
                    monitor, *counted(reference, recent, cut(own, until, over)), least_blocks=recent.least_blocks
                )
            )
            continue
        if monitor.over not in windows:
            windows[monitor.over] = cut(labelled, mature, over)
        window = windows[monitor.over]
        if isinstance(monitor, Decay):
            answers.append(judge_decay(monitor, window, reference.holdout.get(metric_key(monitor.metric))))
        elif isinstance(monitor, Calibration):
            answers.append(judge_calibration(monitor, window))
    return tuple(answers)


def counted(reference: ReferenceProfile, every: Window, own: Window) -> tuple[Mapping[str, Bins], dict[str, Counts]]:
    """Return the reference's bins, and the window's counts per block and bin, by name.

    Args:
        reference: The bins.
        every: All rows of the window, for the inputs.
        own: The version's own rows, for its predictions.
    """
    bins = {known.name: known for known in reference.inputs}
    counts = count(bins, every.frame, every.codes, prefix=input_prefix(reference, every.frame))
    if reference.prediction is not None and own.frame.height:
        bins[PREDICTION] = reference.prediction
        counts |= count({"value": reference.prediction}, own.frame, own.codes)
        counts[PREDICTION] = counts.pop("value")
    return bins, counts


def input_prefix(reference: ReferenceProfile, frame: pl.DataFrame) -> str:
    """Return ``x_`` when the frame names inputs as the prediction log does, else nothing."""
    return "x_" if any(f"x_{known.name}" in frame.columns for known in reference.inputs) else ""
