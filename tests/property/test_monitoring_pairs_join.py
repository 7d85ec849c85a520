"""The label join in any order and any slicing equals a batch join over everything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from kilter.data.declare import Label
from kilter.monitoring.pairs import Pairs, in_order_of_arrival
from kilter.monitoring.truths import LabelBook

START = datetime(2013, 3, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
LABEL = Label(lambda: (pl.col("delay") > 15) & pl.col("diverted").is_null(), "landed")

PARTS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.none() | st.integers(0, 30),
        st.none() | st.integers(0, 3),
        st.sampled_from([None, None, None, 1]),
    ),
    max_size=25,
)
PREDICTIONS = st.lists(st.integers(0, 7), max_size=20)


def part_frame(parts: list[tuple[int, tuple[int, int | None, int | None, int | None]]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "flight": [f"f{part[0]}" for _, part in parts],
            "delay": [part[1] for _, part in parts],
            "landed": [None if part[2] is None else START + timedelta(hours=part[2]) for _, part in parts],
            "diverted": [part[3] for _, part in parts],
            "_at": [START + timedelta(minutes=place) for place, _ in parts],
            "_position": [place for place, _ in parts],
        },
        schema={
            "flight": pl.String,
            "delay": pl.Int64,
            "landed": TIME,
            "diverted": pl.Int64,
            "_at": TIME,
            "_position": pl.Int64,
        },
    )


def prediction_frame(keys: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"p{place:03d}" for place, _ in keys],
            "at": [START + timedelta(minutes=place) for place, _ in keys],
            "key": [f"f{key}" for _, key in keys],
            "time": [START for _ in keys],
            "version": [1 for _ in keys],
            "arm": ["champion" for _ in keys],
            "share": [0 for _ in keys],
            "value": [0.5 for _ in keys],
        },
        schema={
            "id": pl.String, "at": TIME, "key": pl.String, "time": TIME, "version": pl.Int64, "arm": pl.String,
            "share": pl.Int64, "value": pl.Float64,
        },
    )  # fmt: skip


def brute(parts: list[tuple[int, int | None, int | None, int | None]], keys: list[int]) -> list[tuple[object, ...]]:
    """Join with plain Python: the final label, at the place where a label first was there."""
    state: dict[int, list[int | None]] = {}
    first: dict[int, int] = {}
    label: dict[int, float | None] = {}
    for place, (key, *values) in enumerate(parts):
        row = state.setdefault(key, [None, None, None])
        for column, value in enumerate(values):
            row[column] = row[column] if value is None else value
        delay, landed, diverted = row
        known: float | None = None
        if landed is not None and (delay is not None or diverted is not None):
            known = float(delay is not None and delay > 15 and diverted is None)
        label[key] = known
        if known is not None:
            first.setdefault(key, place)
    rows = [
        (max(place, first[key]), first[key], f"p{place:03d}", f"f{key}", label[key])
        for place, key in enumerate(keys)
        if label.get(key) is not None
    ]
    return [(name, key, position, value) for _, position, name, key, value in sorted(rows)]


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size), max_size=5).map(lambda found: [0, *sorted(found), size])


@given(st.data(), PARTS, PREDICTIONS)
def test_the_join_equals_a_batch_join_however_it_is_fed(data, parts, keys) -> None:
    book = LabelBook("flight", LABEL)
    pairs = Pairs(book)
    part_cuts, key_cuts = data.draw(cuts(len(parts))), data.draw(cuts(len(keys)))
    steps = [("parts", a, b) for a, b in pairwise(part_cuts)]
    others = [("keys", a, b) for a, b in pairwise(key_cuts)]
    order = data.draw(st.permutations([0] * len(steps) + [1] * len(others)))
    queues = [iter(steps), iter(others)]
    for which in order:
        kind, low, high = next(queues[which])
        if kind == "parts":
            pairs.learn(book.add(part_frame(list(enumerate(parts))[low:high])))
        else:
            pairs.add(prediction_frame(list(enumerate(keys))[low:high]))
    joined = in_order_of_arrival(pairs.frame())
    assert list(joined.select("id", "key", "position", "label").iter_rows()) == brute(parts, keys)
    seen = pairs.maturity()
    assert seen.predictions == len(keys)
    assert seen.labelled == joined.height
    assert seen.labelled + seen.censored + seen.open == len(keys)


@given(PARTS)
def test_a_truth_has_the_same_place_whether_parts_come_one_by_one_or_at_once(parts) -> None:
    numbered = list(enumerate(parts))
    at_once, one_by_one = LabelBook("flight", LABEL), LabelBook("flight", LABEL)
    at_once.add(part_frame(numbered))
    for single in numbered:
        one_by_one.add(part_frame([single]))
    for key in {f"f{part[0]}" for part in parts}:
        left, right = at_once.get(key), one_by_one.get(key)
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            assert (left.label, left.at, left.position) == (right.label, right.at, right.position)
        assert at_once.is_censored(key) == one_by_one.is_censored(key)
