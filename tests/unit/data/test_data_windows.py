"""Cuts by event time: nothing unknown, nothing overlapping, and a refusal that says how many rows are where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from kilter.core.errors import DeclarationError, InsufficientData
from kilter.data.declare import Label, Table, Window
from kilter.data.windows import LABEL, cut, labelled, nested

FLIGHTS = Table("flights", key="id", time="due")
LATE = Label(lambda: pl.col("delay") > 15, known_at="landed")
AT = datetime(2013, 3, 1, tzinfo=UTC)
UTC_TIME = pl.Datetime("us", "UTC")


def table(days: int = 100, per_day: int = 24) -> pl.DataFrame:
    """Flights each hour until AT, landing three hours later; every tenth is cancelled."""
    hours = days * per_day
    return (
        pl.DataFrame({"number": range(hours)})
        .with_columns(
            id=pl.format("f{}", "number"),
            due=pl.lit(AT).cast(UTC_TIME) - pl.duration(hours=pl.lit(hours) - pl.col("number")),
        )
        .with_columns(
            landed=pl.when(pl.col("number") % 10 != 0).then(pl.col("due") + pl.duration(hours=3)),
            delay=pl.when(pl.col("number") % 10 != 0).then((pl.col("number") * 7919 % 40).cast(pl.Float64)),
        )
    )


def test_a_cut_has_known_truth_only_and_the_holdout_after_the_training_rows():
    window = Window(train="60d", holdout="7d")
    found = cut(table(), FLIGHTS, LATE, window, AT)
    split = AT - timedelta(days=7)
    assert found.training["due"].min() >= split - timedelta(days=60)
    assert found.training["due"].max() < split <= found.holdout["due"].min()
    assert found.holdout["landed"].max() <= AT
    assert found.training.height == 60 * 24 - 144
    assert found.holdout.height + found.training.height + found.censored == 67 * 24
    assert found.training[LABEL].null_count() == 0
    assert set(found.training[LABEL].unique()) == {0.0, 1.0}
    assert 0.4 < found.base_rate < 0.8
    assert found.binary


def test_what_happens_after_the_moment_changes_nothing():
    window = Window(train="30d", holdout="7d")
    early = cut(table().filter(pl.col("due") < AT - timedelta(days=20)), FLIGHTS, LATE, window, AT - timedelta(days=20))
    late = cut(table(), FLIGHTS, LATE, window, AT - timedelta(days=20))
    assert early.training.equals(late.training)
    assert early.holdout.equals(late.holdout)
    # In the last three hours before the moment nothing has landed: those rows are censored, not "on time".
    assert late.holdout["due"].max() <= AT - timedelta(days=20, hours=3)


def test_expand_reaches_back_to_the_first_row():
    found = cut(table(), FLIGHTS, LATE, Window(train="30d", holdout="7d", mode="expand"), AT)
    assert found.starts == table()["due"].min()
    assert found.training.height > cut(table(), FLIGHTS, LATE, Window(train="30d", holdout="7d"), AT).training.height


def test_a_nested_holdout_lies_inside_the_training_rows():
    window = Window(train="60d", holdout="7d")
    outer = cut(table(), FLIGHTS, LATE, window, AT)
    inner = nested(outer, FLIGHTS, window)
    assert inner.holdout["due"].max() < outer.holdout["due"].min()
    assert inner.training["due"].max() < inner.holdout["due"].min()
    assert inner.training.height + inner.holdout.height == outer.training.height
    assert (inner.splits, inner.ends) == (AT - timedelta(days=14), outer.splits)
    with pytest.raises(InsufficientData, match="nested training"):
        nested(cut(table(), FLIGHTS, LATE, Window("7d", "7d"), AT), FLIGHTS, Window("7d", "7d"))


@pytest.mark.parametrize(
    ("frame", "at", "words"),
    [
        (table(), AT - timedelta(days=400), "training window .* has no rows; the table has 2,400 rows from 2012-11-21"),
        (table(), AT + timedelta(days=40), r"holdout window .* \(1w\)|holdout window .* \(7d\) has no rows"),
        (table(days=8), AT, "training window .* has 21 rows with a known label, of 24 rows"),
        (table().with_columns(delay=pl.lit(3.0)), AT, "one class only: the label is False in all 1,296 rows"),
        (table().with_columns(delay=pl.lit(None, pl.Float64)), AT, "0 rows with a known label, of 1,440"),
        (table().clear(), AT, "no rows with an event time"),
    ],
)
def test_windows_that_teach_nothing_are_refused_with_counts_and_spans(frame, at, words):
    with pytest.raises(InsufficientData, match=words) as caught:
        cut(frame, FLIGHTS, LATE, Window(train="60d", holdout="7d"), at)
    assert caught.value.fix
    assert caught.value.allowed


def test_one_class_in_the_holdout_is_refused():
    frame = table().with_columns(
        delay=pl.when(pl.col("due") < AT - timedelta(days=7)).then(pl.col("delay")).otherwise(99.0)
    )
    with pytest.raises(InsufficientData, match=r"holdout window .* one class only: the label is True"):
        cut(frame, FLIGHTS, LATE, Window(train="60d", holdout="7d"), AT)


def test_labels_may_be_numbers_and_wrong_ones_are_refused():
    minutes = Label(lambda: pl.col("delay"), known_at="landed")
    assert not cut(table(), FLIGHTS, minutes, Window(), AT).binary
    with pytest.raises(DeclarationError, match="did you mean 'delay'"):
        labelled(table(), FLIGHTS, Label(lambda: pl.col("dealy") > 15, known_at="landed"), AT)
    with pytest.raises(DeclarationError, match="unknown column 'arrived'"):
        labelled(table(), FLIGHTS, Label(lambda: pl.col("delay") > 15, known_at="arrived"), AT)
    with pytest.raises(DeclarationError, match="'number' is Int64"):
        labelled(table(), FLIGHTS, Label(lambda: pl.col("delay") > 15, known_at="number"), AT)
    with pytest.raises(DeclarationError, match="the label is String"):
        labelled(table(), FLIGHTS, Label(lambda: pl.col("id"), known_at="landed"), AT)
    with pytest.raises(DeclarationError, match="one value per row"):
        labelled(table(), FLIGHTS, Label(lambda: pl.col("delay").mean(), known_at="landed"), AT)
