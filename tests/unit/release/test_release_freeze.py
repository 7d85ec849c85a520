"""Freeze windows: what they mean, to the minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.core.errors import InvalidInput
from kilter.release.freeze import frozen_until, parse

WEEKEND = "0 16 * * fri for 64h"


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "moment", "until"),
    [
        ("2026-12-20 to 2027-01-04", "2026-12-19T23:59", None),
        ("2026-12-20 to 2027-01-04", "2026-12-20T00:00", "2027-01-05T00:00"),
        ("2026-12-20 to 2027-01-04", "2027-01-04T23:59", "2027-01-05T00:00"),
        ("2026-12-20 to 2027-01-04", "2027-01-05T00:00", None),
        ("2026-12-24T18:00 to 2026-12-27T06:00", "2026-12-27T05:59", "2026-12-27T06:00"),
        ("2026-12-24T18:00+02:00 to 2026-12-24T19:00+02:00", "2026-12-24T16:30", "2026-12-24T17:00"),
        (WEEKEND, "2026-11-20T15:59", None),
        (WEEKEND, "2026-11-20T16:00", "2026-11-23T08:00"),
        (WEEKEND, "2026-11-23T07:59", "2026-11-23T08:00"),
        (WEEKEND, "2026-11-23T08:00", None),
        ("*/30 9-17/4 * * mon-fri for 10m", "2026-11-20T13:31", "2026-11-20T13:40"),
        ("*/30 9-17/4 * * mon-fri for 10m", "2026-11-21T13:31", None),
        ("0 0 1 * * for 1d", "2026-11-01T12:00", "2026-11-02T00:00"),
        ("0 0 1 jan,dec * for 1d", "2026-11-01T12:00", None),
        ("0 0 13 * fri for 1d", "2026-11-13T01:00", "2026-11-14T00:00"),
        ("0 0 13 * fri for 1d", "2026-11-20T01:00", "2026-11-21T00:00"),  # one of both day fields is enough
        ("0 0 * * 7 for 1d", "2026-11-22T01:00", "2026-11-23T00:00"),
        ("0 0 * * fri-sun for 1d", "2026-11-22T01:00", "2026-11-23T00:00"),
        ("0 0 29 feb * for 1d", "2026-02-28T12:00", None),
    ],
)
def test_a_window_holds_from_its_start_to_before_its_end(window, moment, until):
    assert frozen_until((window,), at(moment)) == (None if until is None else at(until))


def test_windows_that_follow_each_other_are_one():
    windows = ("2026-12-20 to 2026-12-22", "2026-12-23 to 2026-12-24", "2026-12-24T12:00 to 2026-12-26T12:00")
    assert frozen_until(windows, at("2026-12-21T00:00")) == at("2026-12-26T12:00")
    assert frozen_until((), at("2026-12-21T00:00")) is None
    assert frozen_until(("* * * * * for 2h",), at("2026-12-21T00:00")) > at("2026-12-22T00:00"), "it has no end"
    assert frozen_until(("2026-01-01 to 9999-12-31",), at("2026-12-21T00:00")).year == 9999


@pytest.mark.parametrize(
    "text",
    [
        "",
        "christmas",
        "2026-12-24 to 2026-12-20",
        "2026-12-24 to",
        "24.12.2026 to 26.12.2026",
        "0 16 * * fri",
        "0 16 * * fri for ever",
        "0 16 * * fri for 32d",
        "60 16 * * fri for 1h",
        "0 24 * * * for 1h",
        "0 0 0 * * for 1h",
        "0 0 * 13 * for 1h",
        "0 0 * * 8 for 1h",
        "0 0 * * mon-someday for 1h",
        "5-1 * * * * for 1h",
        "*/0 * * * * for 1h",
        "0 0 * * for 1h",
        "0 0 * * * * for 1h",
    ],
)
def test_what_is_no_window_is_refused(text):
    with pytest.raises(InvalidInput) as error:
        parse(text, "release[0].windows[0]")
    assert error.value.where == "release[0].windows[0]"


@given(
    st.integers(0, 59), st.integers(0, 23), st.sampled_from(["mon", "tue", "fri", "sun"]), st.integers(1, 200),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - hypothesis wants them bare
)  # fmt: skip
def test_it_agrees_with_trying_every_minute(minute, hour, day, hours, moment):
    window = (f"{minute} {hour} * * {day} for {hours}h",)
    now = moment.replace(tzinfo=UTC, second=0, microsecond=0)
    number = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].index(day)
    back = [now - timedelta(days=d) for d in range(hours // 24 + 8)]
    starts = [one.replace(hour=hour, minute=minute) for one in back if one.weekday() == number]
    held = any(start <= now < start + timedelta(hours=hours) for start in starts)
    assert (frozen_until(window, now) is not None) == held
