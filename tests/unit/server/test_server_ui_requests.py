"""Counting and finding what was asked: over real prediction logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kilter.core.errors import InvalidInput
from kilter.engines.streams.log import Log
from kilter.server.ui import tally
from kilter.server.ui.endpoint_pages import moment, onward, searched, span_of
from kilter.server.ui.endpoint_records import Results, Search
from kilter.server.ui.search import search
from kilter.server.ui.tally import Counts, Seen, Tally, bucket, flow, quantile
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import Item, PredictionBatch, ShadowBatch

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def batch(at: datetime, keys: list[str], *, loop: str = "shop", arm: str = "champion", version: int = 1, **more):
    return PredictionBatch(
        at=at,
        loop=loop,
        generation=1,
        share=0,
        keys=keys,
        times=[at] * len(keys),
        arms=[arm] * len(keys),
        versions=[version] * len(keys),
        values=[0.25] * len(keys),
        inputs={"x": [1.0] * len(keys)},
        requests=[Item(len(keys), client="billing")],
        **{"latency_us": 2_000} | more,
    )


def write(root: Path, records: list, front: str = "main", segment_bytes: int = 1 << 20) -> None:
    log = PredictionLog(Log.open(root / front, segment_bytes=segment_bytes), front)
    for one in records:
        log.append(one)
    log.close()


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """An hour of an endpoint, a request a minute; in many small segments, with another endpoint and a shadow between."""
    records: list = []
    for minute in range(60):
        at = START + minute * MINUTE
        arm, version = ("challenger", 2) if minute % 4 == 3 else ("champion", 1)
        records.append(batch(at, [f"k{minute}", f"j{minute % 5}"], arm=arm, version=version))
        records.append(batch(at, ["other"], loop="churn"))
        records.append(ShadowBatch(at=at, loop="shop", position=0, rows=[0], version=3, values=[0.1]))
    write(tmp_path, records, segment_bytes=4_000)
    return tmp_path


def test_what_was_asked_is_counted_once_and_followed(asked):
    counted = Tally(asked)
    now = START + 59 * MINUTE
    found = flow(counted.of("shop"), now, "1h")
    assert (found.requests, found.rows, found.fallbacks, found.constants) == (60, 120, 0, 0)
    assert {one.role: sum(one.counts) for one in found.layers} == {"champion": 90, "challenger": 30}
    assert all(sum(one.counts[bin_] for one in found.layers) == 2 for bin_ in range(60))
    assert found.newest == now
    assert flow(counted.of("churn"), now, "1h").rows == 60
    assert flow(counted.of("nobody"), now, "1h").rows == 0
    write(asked, [batch(now, ["late"], arm="fallback", version=0), batch(now, ["later"], arm="fallback", version=1)])
    counted._taken = 0.0  # a page looks again after half a second
    later = flow(counted.of("shop"), now, "1h")
    assert (later.rows, later.constants, later.fallbacks) == (122, 1, 1)


def test_a_page_says_from_when_on_it_has_read(asked, monkeypatch):
    monkeypatch.setattr(tally, "BYTES", 10_000)
    found = flow(Tally(asked).of("shop"), START + 59 * MINUTE, "1h")
    assert 0 < found.rows < 120
    assert found.complete_since is not None
    assert START < found.complete_since < START + 59 * MINUTE


def test_percentiles_are_within_the_width_of_a_bucket():
    took = np.random.default_rng(1).lognormal(8.5, 0.6, 4_000).astype(int)
    counts = Counts()
    for micros in took:
        counts.add(Seen(START, "shop", ["champion"], [1], int(micros), [()]))
    found = flow(counts, START, "1h")
    for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert getattr(found, name) == pytest.approx(np.quantile(took, part) / 1000, rel=0.06)
    assert quantile({}, 0.5) is None
    assert bucket(0) == 0
    assert [one.name for one in found.latency] == ["p50", "p95", "p99"]


def test_what_is_remembered_has_a_bound(monkeypatch):
    monkeypatch.setattr(tally, "MINUTES", 100)
    counts = Counts()
    for minute in range(500):
        more = Counts()
        more.add(Seen(START + minute * MINUTE, "shop", ["champion"], [1], 900))
        before = counts.minutes.copy()
        counts.take(more)
        assert all(one.requests == 1 for one in before.values())  # what a page has been given stays as it was
    assert len(counts.minutes) <= 100
    assert counts.since is not None
    assert max(counts.minutes) == int((START + 499 * MINUTE).timestamp()) // 60


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_pages_hold_everything_once_newest_first(asked, limit):
    write(asked, [batch(START + minute * MINUTE, [f"s{minute}"]) for minute in range(0, 60, 7)], front="side")
    found, wanted = [], Search(loop="shop")
    while True:
        page = search(asked, wanted, limit, budget=1_000)
        found += page.found
        if not page.older:
            break
        assert len(page.found) == limit
        wanted = Search(loop="shop", before=page.older)
    assert len(found) == len({one.id for one in found}) == 129
    assert all(one.at >= other.at for one, other in pairwise(found))
    assert {one.client for one in found} == {"billing"}


def test_by_key_version_arm_and_time(asked):
    def keys(**what) -> list[str]:
        return [one.key for one in search(asked, Search(loop="shop", **what), 200, budget=1_000).found]

    assert keys(key="k17") == ["k17"]
    assert len(keys(key="j2")) == 12
    assert len(keys(version=2)) == len(keys(arm="challenger")) == 30
    assert keys(key="k17", version=2) == []
    since, until = START + 10 * MINUTE, START + 12 * MINUTE
    assert set(keys(since=since, until=until)) == {"k10", "k11", "j0", "j1"}
    assert keys(until=START) == []


def test_a_long_search_stops_says_where_and_goes_on(asked):
    write(asked, [batch(START + minute * MINUTE, ["j3"]) for minute in range(60)], front="side", segment_bytes=900)
    found: list[str] = []
    stops: list[datetime] = []
    wanted = Search(loop="shop", key="j3")
    while True:
        page = search(asked, wanted, budget=2)
        found += [one.id for one in page.found]
        if page.back_to is None:
            break
        stops.append(page.back_to)
        wanted = Search(loop="shop", key="j3", before=page.older)
    assert len(stops) > 4
    assert stops == sorted(stops, reverse=True)
    assert len(found) == len(set(found)) == 72


def test_a_search_is_read_from_the_address():
    found = searched(
        "shop", {"row": " k1 ", "version": "v2", "since": "2026-03-01 12:00", "until": "2026-03-02", "id": ""}
    )
    assert (found.key, found.version, found.since, found.until) == ("k1", 2, START, datetime(2026, 3, 2, tzinfo=UTC))
    assert moment("2026-03-01T14:00+02:00", "since") == START
    assert moment("", "since") is None
    assert onward({"row": "a b"}, Results(found=(), older=("main-1-0",))) == "row=a+b&before=main-1-0"
    assert onward({}, Results(found=())) == ""
    assert span_of("") == "1h"


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({"id": "x"}, "id"),
        ({"version": "two"}, "version"),
        ({"arm": "nobody"}, "arm"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "until"),
        ({"what": "1"}, "what"),
    ],
)
def test_a_search_that_cannot_be_read_names_its_field(query, where):
    with pytest.raises(InvalidInput) as refused:
        searched("shop", query)
    assert refused.value.where == where


def test_a_place_that_is_none_is_refused(asked):
    with pytest.raises(InvalidInput) as refused:
        search(asked, Search(loop="shop", before=("nowhere",)))
    assert refused.value.where == "before"
    with pytest.raises(InvalidInput):
        span_of("3w")
