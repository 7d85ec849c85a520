"""Monitors on simulated months: they see decay, and hold their peace without it, also when days differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import InvalidInput
from kilter.evaluation.declare import auc, log_loss, recall
from kilter.monitoring.declare import Monitor, calibration, decay, drift
from kilter.monitoring.records import Judged
from kilter.monitoring.reference import reference_profile
from kilter.monitoring.rules import evaluate_frame
from kilter.monitoring.window import maturity_lag

ORIGIN = np.datetime64("2013-01-01", "us")
DAY = timedelta(days=1)
ROWS = 200
LIVE = 67


class Year:
    """Days of predictions by a model that is right on average, while each day has luck of its own.

    Args:
        seed: Of the luck.
        luck: Standard deviation of a day's shift of the log odds, unknown to the model.
        days: How many; the first 60 are training, the next 7 the holdout.
        shift: From this day on the log odds are ``by`` higher than the model knows.
        by: How much.
        moved: From the shift on the input is this much higher.
    """

    def __init__(
        self, seed: int, *, luck: float = 0.0, days: int = 110, shift: int = 999, by: float = 0.0, moved: float = 0.0
    ) -> None:
        generator = np.random.default_rng(seed)
        day = np.repeat(np.arange(days), ROWS)
        drawn = generator.normal(0, luck, days)[day] if luck else np.zeros(day.size)
        x = generator.normal(size=day.size) + 0.7 * drawn + np.where(day >= shift, moved, 0)
        odds = -1.3 + 0.8 * x
        values = 1 / (1 + np.exp(-odds))
        truth = 1 / (1 + np.exp(-(odds + drawn + np.where(day >= shift, by, 0))))
        labels = (generator.uniform(size=day.size) < truth).astype(float)
        times = ORIGIN + day * np.timedelta64(86_400_000_000, "us")
        training, holdout = day < 60, (day >= 60) & (day < LIVE)
        self.reference = reference_profile(
            pl.DataFrame({"x": x[training]}), times[training], labels[training],
            holdout_times=times[holdout], holdout_values=values[holdout], holdout_labels=labels[holdout],
        )  # fmt: skip
        self.frame = pl.DataFrame({"at": times, "value": values, "label": labels, "x": x}).with_columns(
            pl.col("at").dt.replace_time_zone("UTC")
        )

    def judge(self, monitors: list[Monitor], day: int) -> tuple[Judged, ...]:
        window = self.frame.slice(max(LIVE, day - 14) * ROWS, (day - max(LIVE, day - 14)) * ROWS)
        return evaluate_frame(monitors, window, self.reference, datetime(2013, 1, 1, tzinfo=UTC) + day * DAY)


ALL: list[Monitor] = [decay(log_loss), calibration(), drift()]


def test_decay_that_is_injected_is_found_within_its_window() -> None:
    year = Year(1, luck=0.3, shift=80, by=1.2)
    first: dict[str, int] = {}
    for day in range(LIVE + 7, 110):
        for monitor, finding, raised in year.judge(ALL, day):
            assert raised == (finding.verdict == "fail")
            if raised:
                first.setdefault(monitor, day)
    assert 81 < first["decay(log_loss)"] <= 94
    assert 81 < first["calibration"] <= 94
    assert "drift(psi)" not in first


def test_drift_that_is_injected_is_found_and_is_not_decay() -> None:
    year = Year(2, shift=80, moved=1.0)
    # The input moved and the model follows: its probabilities stay right, which is a season and no decay.
    (decayed, biased, drifted) = year.judge([decay(auc), calibration(), drift()], 94)
    assert drifted.raised
    assert set(str(drifted.finding.detail["drifted"]).split(", ")) == {"x", "prediction"}
    assert drifted.finding.value is not None
    assert drifted.finding.value.low is not None
    assert drifted.finding.value.low > 0.2
    assert not biased.raised
    assert not decayed.raised


def test_false_alarms_are_as_rare_as_the_bounds_say_when_days_differ() -> None:
    # The thresholds of the effect are set to nothing, so that only the bounds over whole days hold the alarms back.
    bare: list[Monitor] = [decay(log_loss, by=1e-9), drift("psi", above=0.0)]
    raised = np.array(
        [[found.raised for found in Year(seed, luck=0.3, days=81).judge(bare, 81)] for seed in range(200)]
    )
    decayed, drifted = raised.mean(axis=0)
    assert decayed <= 0.09, "one-sided 95 % over 14 and 7 days: 5 % and Monte Carlo error"
    assert drifted <= 0.05, "1 % at two columns and Monte Carlo error"


def test_rows_as_such_are_no_evidence() -> None:
    # Fourteen days of one unlucky day each: thousands of rows, few days. An interval over rows would be sure of a bias.
    luck = np.array(
        [
            [found.raised for found in Year(seed, luck=0.6, days=81).judge([calibration(above=1e-9)], 81)]
            for seed in range(60)
        ]
    )
    assert luck.mean() < 0.25


def test_a_new_champion_is_not_judged_by_its_first_days() -> None:
    year = Year(3, shift=0, by=3.0)
    early = year.judge(ALL, LIVE + 3)
    assert [found.finding.verdict for found in early] == ["inconclusive"] * 3
    assert not any(found.raised for found in early)
    assert "needed" in str(early[0].finding.detail["why"])
    assert year.judge(ALL, LIVE + 8)[1].raised


def test_only_the_versions_own_rows_count() -> None:
    year = Year(4, shift=70, by=2.0)
    half = year.frame.with_columns(version=pl.when(pl.col("at").dt.day() % 2 == 0).then(1).otherwise(2))
    now = datetime(2013, 1, 1, tzinfo=UTC) + 90 * DAY
    own = evaluate_frame([calibration()], half.filter(pl.col("version") == 2), year.reference, now)
    mixed = evaluate_frame([calibration()], half, year.reference, now, version=2)
    assert mixed == own
    assert mixed[0].finding.rows == 7 * ROWS


def test_a_metric_without_a_reference_value_is_inconclusive() -> None:
    year = Year(5)
    (found,) = year.judge([decay(recall.at(0.3))], 90)
    assert found.finding.verdict == "inconclusive"
    assert "no holdout value" in str(found.finding.detail["why"])


def test_a_metric_that_does_not_exist_on_the_labels_is_inconclusive() -> None:
    year = Year(6)
    frame = year.frame.slice(70 * ROWS, 14 * ROWS).with_columns(label=pl.lit(0.0))
    (found,) = evaluate_frame([decay(auc)], frame, year.reference, datetime(2013, 1, 1, tzinfo=UTC) + 84 * DAY)
    assert found.finding.verdict == "inconclusive"


def test_censored_and_open_rows_take_no_part() -> None:
    year = Year(7)
    frame = year.frame.slice(70 * ROWS, 14 * ROWS)
    now = datetime(2013, 1, 1, tzinfo=UTC) + 84 * DAY
    holes = frame.with_row_index("i").with_columns(label=pl.when(pl.col("i") % 5 > 0).then("label")).drop("i")
    known = holes.filter(pl.col("label").is_not_null())
    assert evaluate_frame(ALL[:2], holes, year.reference, now) == evaluate_frame(ALL[:2], known, year.reference, now)


def test_a_frame_of_days_is_as_good_as_one_of_moments() -> None:
    year = Year(8)
    frame = year.frame.slice(70 * ROWS, 14 * ROWS)
    now = datetime(2013, 1, 1, tzinfo=UTC) + 84 * DAY
    days = frame.with_columns(day=pl.col("at").dt.date()).drop("at").rename({"x": "x_x"})
    assert evaluate_frame(ALL, days, year.reference, now) == evaluate_frame(ALL, frame, year.reference, now)
    with pytest.raises(InvalidInput, match="no time"):
        evaluate_frame(ALL, days.drop("day"), year.reference, now)
    assert evaluate_frame([], days.drop("day"), year.reference, now) == ()


def test_no_rows_at_all_are_inconclusive() -> None:
    year = Year(9)
    found = evaluate_frame(ALL, year.frame.clear(), year.reference, datetime(2013, 6, 1, tzinfo=UTC))
    assert [each.finding.verdict for each in found] == ["inconclusive"] * 3


def test_the_same_rows_give_the_same_finding() -> None:
    assert Year(10).judge(ALL, 90) == Year(10).judge(ALL, 90)


def test_labels_that_come_weeks_late_move_the_window_back() -> None:
    at = pl.Series([datetime(2013, 3, 1, tzinfo=UTC)] * 4)
    delays = [timedelta(days=10), timedelta(days=11), timedelta(days=12, hours=5), timedelta(days=12, hours=6)]
    frame = pl.DataFrame({"at": at, "label_at": [datetime(2013, 3, 1, tzinfo=UTC) + delay for delay in delays]})
    assert maturity_lag(frame) == timedelta(days=12)
    assert maturity_lag(frame.clear()) == timedelta(0)
    assert maturity_lag(frame.drop("label_at")) == timedelta(0)


def test_an_input_that_vanished_is_drift() -> None:
    year = Year(11)
    frame = year.frame.slice(70 * ROWS, 14 * ROWS).with_columns(x=pl.lit(None, dtype=pl.Float64))
    (found,) = evaluate_frame([drift()], frame, year.reference, datetime(2013, 1, 1, tzinfo=UTC) + 84 * DAY)
    assert found.raised
    assert found.finding.detail["worst"] == "x"


def test_one_value_in_the_reference_and_another_one_live_is_drift() -> None:
    year = Year(12)
    constant = reference_profile(
        pl.DataFrame({"x": ["a"] * 600}), np.repeat(ORIGIN + np.arange(60) * np.timedelta64(1, "D"), 10), np.zeros(600),
        holdout_times=np.array([ORIGIN] * 4), holdout_values=np.full(4, 0.5), holdout_labels=np.array([0.0, 1, 0, 1]),
    )  # fmt: skip
    frame = (
        year.frame.slice(70 * ROWS, 14 * ROWS).with_columns(x=pl.lit("b")).drop("value").with_columns(value=pl.lit(0.5))
    )
    (found,) = evaluate_frame([drift()], frame, constant, datetime(2013, 1, 1, tzinfo=UTC) + 84 * DAY)
    assert found.raised
