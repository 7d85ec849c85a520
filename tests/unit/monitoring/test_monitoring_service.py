"""The daily record and the alerts, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import NotFound
from kilter.engines.sql.database import Database
from kilter.evaluation.declare import log_loss
from kilter.evaluation.metrics import row_losses
from kilter.monitoring.declare import Monitor, calibration, decay, drift
from kilter.monitoring.profile import ReferenceProfile
from kilter.monitoring.reference import reference_profile
from kilter.monitoring.service import MonitorService
from kilter.operations.table import collect

START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROWS = 60
MONITORS: list[Monitor] = [decay(log_loss), calibration(), drift()]


def predictions(days: int = 40, *, bad_from: int = 12, bad_to: int = 24) -> pl.DataFrame:
    """Forty days of predictions of 0.2; between two days half of the labels are positive."""
    generator = np.random.default_rng(0)
    day = np.repeat(np.arange(days), ROWS)
    rate = np.where((day >= bad_from) & (day < bad_to), 0.6, 0.2)
    at = [START + timedelta(days=row // ROWS, minutes=7 * (row % ROWS)) for row in range(day.size)]
    return pl.DataFrame(
        {
            "id": [f"main-0-{row:x}" for row in range(day.size)],
            "at": at,
            "version": np.where(np.arange(day.size) % 4 == 3, 2, 1),
            "arm": np.where(np.arange(day.size) % 4 == 3, "challenger", "champion"),
            "value": np.clip(generator.normal(0.2, 0.03, day.size), 0.01, 0.99),
            "label": (generator.uniform(size=day.size) < rate).astype(float),
            "x_hour": generator.integers(0, 24, day.size).astype(float),
            "x_carrier": generator.choice(["AA", "UA"], day.size),
            "shadow_version": pl.Series([3 if d == 2 else None for d in day], dtype=pl.Int64),
            "shadow_value": pl.Series([0.3 if d == 2 else None for d in day], dtype=pl.Float64),
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


@pytest.fixture(scope="module")
def reference() -> ReferenceProfile:
    generator = np.random.default_rng(1)
    times = np.datetime64("2013-01-01", "us") + np.arange(59 * 50) // 50 * np.timedelta64(86_400_000_000, "us")
    labels = (generator.uniform(size=times.size) < 0.2).astype(float)
    return reference_profile(
        pl.DataFrame({"hour": generator.integers(0, 24, times.size), "carrier": generator.choice(["AA", "UA"], times.size)}),
        times, labels, holdout_times=times[-700:], holdout_values=np.clip(generator.normal(0.2, 0.03, 700), 0.01, 0.99),
        holdout_labels=labels[-700:],
    )  # fmt: skip


def run(service: MonitorService, reference: ReferenceProfile, first: int, last: int, version: int = 1) -> None:
    frame = predictions()
    for day in range(first, last + 1):
        now = START + day * DAY
        window = frame.filter((pl.col("at") >= now - 14 * DAY) & (pl.col("at") < now))
        service.evaluate("late", MONITORS, version, reference, window, now)


def everything(service: MonitorService) -> tuple[object, ...]:
    heat = service.heatmap("late")
    return (
        service.daily("late"),
        heat,
        [service.histogram("late", cell.feature, cell.day) for cell in heat],
        service.alerts("late"),
    )


def test_the_days_add_up_to_the_frame(database: Database, clock: ManualClock, reference: ReferenceProfile) -> None:
    service = MonitorService(database, clock)
    run(service, reference, 1, 10)
    frame = predictions().filter(pl.col("at") < START + 10 * DAY)
    rows = service.daily("late")
    assert [(row.day, row.version, row.arm) for row in rows[:2]] == [
        (date(2013, 3, 1), 1, "champion"),
        (date(2013, 3, 1), 2, "challenger"),
    ]
    answered = [row for row in rows if row.arm != "shadow"]
    assert sum(row.rows for row in answered) == frame.height
    assert sum(row.label_sum for row in answered) == frame["label"].sum()
    losses = row_losses(log_loss, frame["label"].to_numpy(), frame["value"].to_numpy())
    assert losses is not None
    assert sum(row.log_loss_sum for row in answered) == pytest.approx(losses.sum())
    (shadow,) = [row for row in rows if row.arm == "shadow"]
    assert (shadow.version, shadow.day, shadow.rows, shadow.mean_value) == (
        3,
        date(2013, 3, 3),
        ROWS,
        pytest.approx(0.3),
    )
    assert service.daily("late", since=date(2013, 3, 4), until=date(2013, 3, 5))[0].day == date(2013, 3, 4)
    assert {row.day for row in service.daily("late", until=date(2013, 3, 1))} == {date(2013, 3, 1)}


def test_the_heatmap_has_every_feature_on_every_day(
    database: Database, clock: ManualClock, reference: ReferenceProfile
) -> None:
    service = MonitorService(database, clock)
    run(service, reference, 1, 10)
    cells = service.heatmap("late")
    assert {(cell.feature, cell.day) for cell in cells} == {
        (feature, date(2013, 3, 1 + day)) for feature in ("hour", "carrier", "prediction") for day in range(10)
    }
    found = service.histogram("late", "carrier", date(2013, 3, 9))
    assert sorted(found.labels[:2]) == ["AA", "UA"]
    assert found.labels[2:] == ("(other)", "(missing)")
    assert sum(found.counts) == ROWS
    assert sum(found.trailing) == 7 * ROWS
    assert len(found.reference) == len(found.labels)
    assert sum(service.histogram("late", "prediction", date(2013, 3, 9)).counts) == ROWS * 3 // 4
    with pytest.raises(NotFound, match="'weather'"):
        service.histogram("late", "weather", date(2013, 3, 9))


def test_a_day_that_is_done_again_is_recorded_once(
    database: Database, clock: ManualClock, reference: ReferenceProfile
) -> None:
    run(MonitorService(database, clock), reference, 1, 26)
    once = everything(MonitorService(database, clock))
    # A controller that was killed begins again with nothing in memory, and redoes the last days.
    run(MonitorService(database, clock), reference, 24, 26)
    assert everything(MonitorService(database, clock)) == once


def test_part_of_a_day_does_not_replace_the_whole(
    database: Database, clock: ManualClock, reference: ReferenceProfile
) -> None:
    service = MonitorService(database, clock)
    run(service, reference, 1, 4)
    before = service.daily("late")
    half = predictions().filter((pl.col("at") >= START + 2.1 * DAY) & (pl.col("at") < START + 4 * DAY))
    MonitorService(database, clock).evaluate("late", MONITORS, 1, reference, half, START + 4 * DAY)
    assert service.daily("late") == before


def test_an_alert_is_raised_once_and_cleared_once(
    database: Database, clock: ManualClock, reference: ReferenceProfile
) -> None:
    service = MonitorService(database, clock)
    run(service, reference, 8, 20)
    alerts = {alert.monitor: alert for alert in service.alerts("late")}
    assert set(alerts) == {"decay(log_loss)", "calibration"}
    raised = alerts["calibration"]
    assert raised.cleared_at is None
    assert raised.finding.verdict == "fail"
    assert raised.latest.value != raised.finding.value
    assert START + 12 * DAY < raised.raised_at < START + 18 * DAY
    run(service, reference, 21, 40)
    cleared = {alert.monitor: alert for alert in service.alerts("late")}["calibration"]
    assert cleared.id == raised.id
    assert cleared.cleared_at is not None
    assert cleared.latest.verdict == "pass"
    assert service.alerts("other") == []
    assert len(service.alerts(limit=1)) == 1


def test_a_replaced_versions_alerts_end_with_it(
    database: Database, clock: ManualClock, reference: ReferenceProfile
) -> None:
    service = MonitorService(database, clock)
    run(service, reference, 8, 20)
    assert all(alert.cleared_at is None for alert in service.alerts("late"))
    clock.set(START + 21 * DAY)
    service.evaluate("late", MONITORS, 9, reference, predictions().head(0))
    assert {alert.cleared_at for alert in service.alerts("late")} == {START + 21 * DAY}


def test_the_service_is_operations_that_only_read(database: Database, clock: ManualClock) -> None:
    found = {operation.name: operation for operation in collect({"monitors": MonitorService(database, clock)})}
    assert set(found) == {"monitors.alerts", "monitors.daily", "monitors.heatmap", "monitors.histogram"}
    assert not any(operation.writes for operation in found.values())
    assert found["monitors.daily"].call({"loop": "late", "since": "2013-03-01"}) == []
