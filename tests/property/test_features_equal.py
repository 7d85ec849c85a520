"""Offline, online and a loop over plain Python lists give the same bits for any history of parts."""

import math
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data.batch import Batch, parts_frame
from kilter.data.declare import Table
from kilter.engines.online.store import OnlineStore
from kilter.features.declare import FeatureView, count, features, latest, maximum, mean, minimum, total
from kilter.features.offline import offline
from kilter.features.online import OnlineFeatures
from kilter.features.plan import LARGEST, Scale, plan_of

SCHEMA = {"id": "string", "who": "string", "due": "time", "done": "time", "x": "float"}
TABLE = Table("events", key="id", time="due")
START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000
ORIGIN = int(START.timestamp()) * 1_000_000


def view(lag: str, short: str, long: str, resolution: float) -> FeatureView:
    return features(
        TABLE,
        entity="who",
        time="done",
        lag=lag,
        n=count(short),
        n_long=count(long),
        total=total("x", long, resolution=resolution),
        mean=mean("x", short, resolution=resolution),
        low=minimum("x", short),
        high=maximum("x", long),
        last=latest("x", short),
    )


@dataclass
class Part:
    key: str
    who: str | None
    done: int | None
    x: float | None


# Few keys, entities and minutes: ties, duplicates and corrections happen all the time.
values = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, 1e-7, -2.5, 1e300, 1e15]),
    st.floats(-1e6, 1e6, allow_nan=False),
)
parts = st.builds(
    Part,
    key=st.sampled_from([f"k{n}" for n in range(12)]),
    who=st.one_of(st.none(), st.sampled_from(["a", "b"])),
    done=st.one_of(st.none(), st.integers(0, 40)),
    x=values,
)
batches = st.lists(st.lists(parts, min_size=1, max_size=8, unique_by=lambda part: part.key), max_size=8)
queries = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(-5, 60)), min_size=1, max_size=8)
views = st.builds(
    view,
    lag=st.sampled_from(["0s", "1m", "7m"]),
    short=st.sampled_from(["1m", "5m", "90s"]),
    long=st.sampled_from(["10m", "33m", "1d"]),
    resolution=st.sampled_from([1e-6, 0.01, 0.25, 3.0, 100.0]),
)


def as_batch(position: int, rows: list[Part]) -> Batch:
    columns: dict[str, list[object]] = {
        "id": [row.key for row in rows],
        "who": [row.who for row in rows],
        "done": [None if row.done is None else ORIGIN + row.done * MINUTE for row in rows],
        "x": [row.x for row in rows],
    }
    return Batch("events", ORIGIN + position * MINUTE, columns, position=position)


def merged(history: list[list[Part]]) -> dict[str, Part]:
    rows: dict[str, Part] = {}
    for batch in history:
        for part in batch:
            row = rows.setdefault(part.key, Part(part.key, None, None, None))
            row.who = row.who if part.who is None else part.who
            row.done = row.done if part.done is None else part.done
            row.x = row.x if part.x is None else part.x
    return rows


def frame_of(rows: dict[str, Part]) -> pl.DataFrame:
    batch = as_batch(0, list(rows.values())) if rows else Batch("events", 0, {}, position=0)
    frame = parts_frame([batch] if rows else [], SCHEMA).drop("_at", "_position")
    return frame.with_columns(due=pl.lit(START, dtype=pl.Datetime("us", "UTC")))


def reference(view: FeatureView, rows: dict[str, Part], who: str, at: int) -> tuple[float | None, ...]:
    """Compute the features with plain loops and exact fractions."""
    plan = plan_of(view)
    found: list[float | None] = []
    for feature in plan.features:
        end = ORIGIN + at * MINUTE - plan.lag
        inside = sorted(
            (row.done, row.key, row.x)
            for row in rows.values()
            if row.who == who and row.done is not None and end - feature.over <= ORIGIN + row.done * MINUTE < end
        )
        if feature.operation == "count":
            found.append(float(len(inside)))
            continue
        there = [x + 0.0 for _, _, x in inside if x is not None]
        scale = plan.fields[feature.field].scale
        if scale is None:
            pick = {"min": min, "max": max, "last": lambda values: values[-1]}[feature.operation]
            found.append(pick(there) if there else None)
            continue
        multiples = []
        for x in there:
            scaled = x * scale.factor if scale.factor is not None else x / scale.step
            if abs(scaled) <= LARGEST:
                multiples.append(int(round(Fraction(scaled))))  # noqa: RUF046 - half to even, exactly
        if not multiples:
            found.append(None)
            continue
        whole = float(sum(multiples))
        value = whole / scale.factor if scale.factor is not None else whole * scale.step
        found.append(value / len(multiples) if feature.operation == "mean" else value)
    return tuple(found)


def bits(row: tuple[float | None, ...]) -> tuple[str | None, ...]:
    return tuple(None if value is None else float(value).hex() for value in row)


@settings(max_examples=150, deadline=None)
@given(
    view=views, history=batches, asked=queries, split=st.integers(0, 8), refill=st.integers(0, 8), again=st.booleans()
)
def test_offline_and_online_equal_a_plain_loop(view, history, asked, split, refill, again):
    rows = merged(history)
    expected = [bits(reference(view, rows, who, at)) for who, at in asked]
    moments = [START + timedelta(minutes=at) for _, at in asked]
    entities = [who for who, _ in asked]

    frame = pl.DataFrame({"who": entities, "due": moments}, schema_overrides={"due": pl.Datetime("us", "UTC")})
    result = offline(view, frame_of(rows), frame)
    assert [bits(row) for row in result.select(view.names).rows()] == expected

    with tempfile.TemporaryDirectory() as folder:
        store = OnlineStore.open(folder)
        try:
            online = OnlineFeatures(store)
            first = history[:split]
            online.backfill(view, frame_of(merged(first)), position=len(first) - 1, at=START)
            for position, batch in enumerate(history):  # those that the backfill held change nothing
                online.observe(view, as_batch(position, batch))
                if again:
                    online.observe(view, as_batch(position, batch))
            if again:  # filled once more, from an older state
                first = history[:refill]
                online.backfill(view, frame_of(merged(first)), position=len(first) - 1, at=START)
            online = OnlineFeatures(store)  # a restart
            for position, batch in enumerate(history):
                online.observe(view, as_batch(position, batch))
            found = online.lookup(view, entities, moments)
            alone = [online.lookup(view, [who], [at])[0] for who, at in zip(entities, moments, strict=True)]
        finally:
            store.close()
    assert [bits(row) for row in found] == expected
    assert [bits(row) for row in alone] == expected


@given(value=st.floats(allow_nan=True, allow_infinity=True), resolution=st.sampled_from([1e-6, 0.01, 0.3, 1.0, 7.0]))
def test_one_value_and_an_array_are_quantised_alike(value, resolution):
    scale = Scale.of(resolution)
    import numpy as np

    assert int(scale.quantise(np.array([value]))[0]) == scale.quantise_one(value)


def test_sums_stay_exact_where_int64_would_overflow():
    history = [[Part(f"k{n}", "a", 1, 9e15) for n in range(3000)]]
    view = features(TABLE, entity="who", time="done", s=total("x", "1d", resolution=1.0))
    frame = pl.DataFrame({"who": ["a"], "due": [START + timedelta(hours=1)]}).cast({"due": pl.Datetime("us", "UTC")})
    assert offline(view, frame_of(merged(history)), frame)["s"].to_list() == [3000 * 9e15]
    assert math.log2(3000 * 9e15) > 63


@pytest.mark.parametrize("entities", [2, 400])
def test_entities_and_long_histories_pack_into_ranks_when_64_bits_are_too_few(entities):
    rows = {f"k{n}": Part(f"k{n}", f"e{n}", None, 1.0) for n in range(entities)}
    frame = frame_of(rows).with_columns(
        done=pl.int_range(pl.len()).mul(10**15).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    )
    view = features(TABLE, entity="who", time="done", n=count("1d"))
    asked = frame.select("who", due=pl.col("done") + timedelta(hours=1))
    assert offline(view, frame, asked)["n"].to_list() == [1.0] * entities
