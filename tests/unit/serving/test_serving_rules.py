from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import InvalidInput, NotFound
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.features.declare import count, features, mean
from kilter.packaging.records import Signature
from kilter.serving.answering.router import Router
from kilter.serving.answering.rows import RowReader
from kilter.serving.recording.predictions import (
    PredictionLog,
    find,
    fronts,
    parse_id,
    prediction_id,
    shadows_to_frame,
    to_frame,
)
from kilter.serving.recording.replays import Answered, Replays
from kilter.serving.records import Item, PredictionBatch, ShadowBatch, TrafficPlan
from kilter.serving.rules import ladder
from kilter.serving.workers.frames import READY, ROWS, Reader, frame

AT = datetime(2013, 3, 1, tzinfo=UTC)
PLACE = 0.4530857282811145
KEYS = [f"flight-{number}" for number in range(20_000)]

# ---------------------------------------------------------------- routing


def test_a_key_keeps_its_arm_while_the_share_grows():
    before: set[str] = set()
    for share in (1, 5, 25, 50, 99):
        router = Router("late", 2, share)
        chosen = {key for key in KEYS if router.arm(key) == "challenger"}
        assert before <= chosen
        assert len(chosen) / len(KEYS) == pytest.approx(share / 100, abs=0.012)
        before = chosen


def test_releases_and_loops_deal_independently():
    first = np.array([Router("late", 2, 50).arm(key) == "challenger" for key in KEYS])
    for other in (Router("late", 3, 50), Router("early", 2, 50)):
        second = np.array([other.arm(key) == "challenger" for key in KEYS])
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_places_are_stable_between_processes_and_versions_of_python():
    assert Router("late", 2, 5).place("UA-1545") == PLACE
    assert Router("late", 2, 5).place("UA-1545") == Router("late", 2, 50).place("UA-1545")


def test_without_a_challenger_all_is_the_champions():
    assert {Router("late", None, 0).arm(key) for key in KEYS[:100]} == {"champion"}


def test_the_ladder():
    plan = TrafficPlan(loop="a", champion=2, challenger=3, mode="canary", share=5, warm=(1, 2), bundles={})
    assert ladder(plan, 3) == (3, 2, 1)
    assert ladder(plan, 2) == (2, 1)


# ---------------------------------------------------------------- rows

TABLE = Table("flights", "id", "at")
VIEW = features(TABLE, entity="origin", time="dep", lag="1h", delay=mean("d", "3h"), n=count("3h"))


@pytest.fixture
def reader():
    encoding = Encoding(
        ("hour", "n", "carrier", "delay"), ("numeric", "numeric", "categorical", "numeric"), {"carrier": ("AA", "UA")}
    )
    import msgspec

    return RowReader(
        Signature(table="flights", key="id", time="at", encoding=encoding, views=(msgspec.to_builtins(VIEW),))
    )


def test_a_row_is_read_as_the_encoding_of_training_reads_it(reader):
    rows = [
        {"hour": 5, "carrier": "UA"},
        {"hour": 5.5, "carrier": "??"},
        {"hour": None, "carrier": None},
        {"hour": True, "carrier": "AA"},
    ]
    encoding = Encoding(("hour", "carrier"), ("numeric", "categorical"), {"carrier": ("AA", "UA")})
    alone = RowReader(Signature(table="t", key="id", time="at", encoding=encoding))
    got = np.array([alone.vector(row, 0) for row in rows])
    np.testing.assert_array_equal(got, encoding.rows(rows))
    np.testing.assert_array_equal(
        got, encoding.matrix(pl.DataFrame({"hour": [5.0, 5.5, None, 1.0], "carrier": ["UA", "??", None, "AA"]}))
    )
    assert np.isnan(reader.vector(rows[0], 0)).tolist() == [False, True, False, True]


def test_equal_views_of_two_versions_are_one_object(reader):
    import msgspec

    other = RowReader(
        Signature(
            table="t",
            key="id",
            time="at",
            encoding=Encoding(("n",), ("numeric",), {}),
            views=(msgspec.to_builtins(VIEW),),
        )
    )
    assert other.views[0].view is reader.views[0].view
    assert (other.views[0].pick, other.views[0].places) == ((1,), (0,))


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"carrier": "UA"}, "rows[3].hour"),
        ({"hour": 1}, "rows[3].carrier"),
        ({"hour": "1", "carrier": "UA"}, "rows[3].hour"),
        ({"hour": 1, "carrier": 7}, "rows[3].carrier"),
        ({"hour": float("inf"), "carrier": "UA"}, "rows[3].hour"),
        ({"hour": 10**400, "carrier": "UA"}, "rows[3].hour"),
    ],
)
def test_a_bad_column_is_named_and_its_value_is_not(reader, row, where):
    with pytest.raises(InvalidInput) as caught:
        reader.vector(row, 3)
    assert caught.value.where == where


def test_key_and_time(reader):
    assert reader.identity({"id": 7, "at": "2013-03-01T00:00:00Z"}, 0) == ("7", AT)
    assert reader.identity({"id": "x", "at": AT.timestamp()}, 0) == ("x", AT)
    assert reader.identity({"id": "x", "at": "2013-02-28T19:00:00-05:00"}, 0) == ("x", AT)
    for bad in ({"at": 0}, {"id": "x"}, {"id": None, "at": 0}, {"id": 1.5, "at": 0}, {"id": "x", "at": "soon"},
                {"id": "x", "at": None}, {"id": "x", "at": True}, {"id": "x", "at": 1e300}):  # fmt: skip
        with pytest.raises(InvalidInput):
            reader.identity(bad, 0)


# ---------------------------------------------------------------- frames


def test_frames_come_whole_however_the_bytes_are_cut():
    sent = [(ROWS, number, 1, bytes(number % 50)) for number in range(200)]
    stream = b"".join(frame(*one) for one in sent) + frame(READY, 1, 0, b"")[:-1]
    for step in (1, 7, 1000, len(stream)):
        reader = Reader()
        got = [one for start in range(0, len(stream), step) for one in reader.feed(stream[start : start + step])]
        assert got == sent


# ---------------------------------------------------------------- records


def batch(rows=2, key="", **changes):
    fields = {
        "at": AT, "loop": "late", "generation": 3, "share": 5, "keys": [f"k{n}" for n in range(rows)], "times": [AT] * rows,
        "arms": ["champion"] * rows, "versions": [1] * rows, "values": [0.5] * rows, "inputs": {"hour": [5] * rows},
        "requests": [Item(rows, key, b"12345678")], "latency_us": 90,
    }  # fmt: skip
    return PredictionBatch(**{**fields, **changes})


def test_predictions_are_found_by_id_and_become_a_frame(tmp_path):
    log = PredictionLog.open(tmp_path, "main", readonly=False)
    first = log.append(batch())
    second = log.append(batch(rows=1, inputs={"hour": [6], "carrier": ["UA"]}))
    log.append(batch(loop="other"))
    log.append(ShadowBatch(at=AT, loop="late", position=first, rows=[1], version=2, values=[0.75]))
    assert find(tmp_path, prediction_id("main", first, 1)).key == "k1"
    assert find(tmp_path, prediction_id("main", second, 0)).inputs == {"hour": 6, "carrier": "UA"}
    frame = to_frame(log.read(), "main", "late")
    assert frame["id"].to_list() == [
        prediction_id("main", first, 0),
        prediction_id("main", first, 1),
        prediction_id("main", second, 0),
    ]
    assert frame["x_hour"].to_list() == [5, 5, 6]
    assert frame["x_carrier"].to_list() == [None, None, "UA"]
    assert frame.schema["at"] == pl.Datetime("us", "UTC")
    shadows = shadows_to_frame(log.read(), "main", "late")
    assert shadows.rows() == [(prediction_id("main", first, 1), 2, 0.75)]
    assert to_frame([]).width == 11
    assert fronts(tmp_path) == ("main",)
    log.close()


@pytest.mark.parametrize(
    "wrong", ["", "x", "main-0-99", "main-fff-0", "other-0-0", "../etc-0-0", "main-0-0-0", "MAIN-0-0"]
)
def test_what_is_no_id_is_not_found(tmp_path, wrong):
    log = PredictionLog.open(tmp_path, "main", readonly=False)
    log.append(batch())
    log.close()
    with pytest.raises(NotFound):
        find(tmp_path, wrong)


def test_ids_are_read_back():
    assert parse_id(prediction_id("main", 123456, 7)) == ("main", 123456, 7)


def test_keys_are_found_again_in_the_log(tmp_path):
    from kilter.engines.streams.log import Log

    raw = Log.open(tmp_path / "main", segment_bytes=2000)
    log = PredictionLog(raw, "main")
    positions = {f"key-{number}": log.append(batch(rows=3, key=f"key-{number}")) for number in range(40)}
    log.append(ShadowBatch(at=AT, loop="late", position=0, rows=[0], version=2, values=[0.5]))
    assert len(raw.segments()) > 3
    replays = Replays()
    replays.rebuild(raw)
    for key, position in positions.items():
        assert replays.find("late", key, b"12345678") == Answered(b"12345678", position, 0, 3)
    assert replays.find("other", "key-39", b"12345678") is None
    with pytest.raises(InvalidInput):
        replays.find("late", "key-39", b"other")
    few = Replays(most=5)
    few.rebuild(raw)
    assert few.find("late", "key-39", b"12345678") is not None
    assert few.find("late", "key-0", b"12345678") is None
    log.close()


def test_only_the_newest_keys_are_kept():
    replays = Replays(most=2)
    for key in "abc":
        replays.begin("late", key, b"")
    assert replays.find("late", "a", b"") is None
    assert replays.find("late", "c", b"") is not None
    replays.end("late", "c", None)
    assert replays.find("late", "c", b"") is None
