"""The two layouts of predictions in the log: what was written in the first is read, and the second says the same."""

import base64
import math
from array import array
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.engines.streams.log import Log
from kilter.server.ui.endpoint_records import Search
from kilter.server.ui.search import search
from kilter.server.ui.tally import Tally
from kilter.serving.recording.packing import packed, unpacked
from kilter.serving.recording.predictions import PredictionLog, find, inputs_of, record_of, to_frame
from kilter.serving.recording.redaction import Recording, Redactor
from kilter.serving.recording.replays import Answered, Replays
from kilter.serving.records import Item, Keys, PredictionBatch, Runs, ShadowBatch, alike, common
from kilter.serving.workers.frames import wide

AT = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
# A segment that a front wrote before the second layout: two rows by two versions, and a shadow's record.
FIRST_LAYOUT = (
    "OH4;GEdc-ktvE8P-T)A!ba`-Pp>U#Mbl3kKZzuq305(9RY;SLHq-<eyWvXXoZe?;|bZKvH1Eq6lVRB^!q-$k)bCRQBEij{DEit8ZX>Db5lGpzo"
    "Zzuq305(9^{~d2A0BZm?K%`-EZF7>SV`yP*aA|LDs$*zjY;0w2XJvAzc4cyNX>V?Gk^usyc42IFWpk3tKhOXG00000%Rk@%000000H$efaCLNZ"
    "fv00(a&l>9a+0D|LBObTWpQ<7b98f&mI9?~WqB<z#0W7mGc+|eH#nnVaB!fZVXAClbY*U1d0%yNTBl=gY;|pJbCRTJZ*_8~V_|Y~X=QSzZDDkB"
    "X?VmS00000000y~000000000000000008)Z00000008hmr*v;`YhQJ9f&nN3GD}QHF<Afr046f+Es3Obd2nT+bE08%*Z&=FC;)2!HbA6oZ*Op<"
    "Y+-a|sBmv{X>@6CZUCfmZ+CN%0jG9la&u{KZUd%vVQh6}bCJtG=l}o!0001{X>M?JbaQ~EcWGpFXaN"
)


def batch(**changes):
    fields = {
        "at": AT, "loop": "late", "generation": 3, "share": 0, "keys": Keys([("a", 3), "own"]), "times": [AT] * 4,
        "arms": ["champion"] * 4, "versions": [1] * 4, "values": [0.25, 0.5, 0.75, 1.0], "inputs": {},
        "requests": [Item(3, "key-2", b"12345678", "app", "", "a"), Item(1)], "latency_us": 90, "columns": ("hour", "far"),
        "matrix": array("d", [1.5, math.nan, 2.5, 0.0, 3.5, 1.0, 4.5, 0.5]).tobytes(),
    }  # fmt: skip
    return PredictionBatch(**{**fields, **changes})


def test_a_segment_of_the_first_layout_is_read(tmp_path):
    folder = tmp_path / "main"
    folder.mkdir()
    (folder / "00000000.log").write_bytes(base64.b85decode(FIRST_LAYOUT))
    log = PredictionLog.open(tmp_path, "main", readonly=False)
    (first, old), (_, shadow) = log.read()
    assert list(old.keys) == ["a-0", "a-1"]
    assert inputs_of(old) == {"hour": [5.0, None], "carrier": ["UA", None]}
    assert isinstance(shadow, ShadowBatch)
    later = log.append(batch())
    assert find(tmp_path, f"main-{first:x}-1").key == "a-1"
    assert find(tmp_path, f"main-{later:x}-2").key == "a-2"
    assert to_frame(log.read())["key"].to_list() == ["a-0", "a-1", "a-0", "a-1", "a-2", "own"]
    log.close()
    raw = Log.open(folder)
    replays = Replays()
    replays.rebuild(raw)
    assert replays.find("late", "key-1", b"12345678") == Answered(b"12345678", first, 0, 2)
    assert replays.find("late", "key-2", b"12345678") == Answered(b"12345678", later, 0, 3)
    raw.close()
    (minute,) = Tally(tmp_path).of("late").minutes.values()
    assert (minute.requests, minute.rows) == (3, {("champion", 1): 5, ("challenger", 2): 1})
    found = search(tmp_path, Search(loop="late")).found
    assert {(one.key, one.value, one.client) for one in found} == {
        ("a-0", 0.25, "app"), ("a-1", 0.5, "app"), ("a-2", 0.75, "app"), ("own", 1.0, ""),
    }  # fmt: skip


def test_what_is_alike_is_written_once_and_made_up_keys_are_counted():
    rows = 1000
    many = batch(
        keys=Keys([("a", rows)]), times=[AT] * rows, arms=["champion"] * rows, versions=[1] * rows, values=[0.5] * rows,
        columns=(), matrix=b"",
    )  # fmt: skip
    assert len(msgspec.msgpack.encode(packed(many))) < 8 * rows + 300


def test_one_row_is_written_as_it_is(tmp_path):
    log = PredictionLog.open(tmp_path, "main", readonly=False)
    one = batch(
        keys=["own"],
        times=[AT],
        arms=["champion"],
        versions=[1],
        values=[0.5],
        requests=[Item(1)],
        columns=(),
        matrix=b"",
    )
    log.append(one)
    log.close()
    ((_, payload),) = Log.open(tmp_path / "main", readonly=True).read()
    assert msgspec.msgpack.decode(payload)["type"] == "p"
    assert record_of(payload, 0) == one


RUNS = st.lists(
    st.one_of(st.text(max_size=5), st.tuples(st.text(max_size=5), st.integers(1, 20))), min_size=1, max_size=5
)


@settings(max_examples=200, deadline=None)
@given(RUNS, st.data())
def test_both_layouts_say_the_same(runs, data):
    rows = len(Keys(runs))
    width = data.draw(st.integers(1, 3))

    def drawn(*values):
        return data.draw(st.lists(st.sampled_from(values), min_size=rows, max_size=rows))

    numbers = st.floats(allow_nan=False, allow_infinity=False)
    before = batch(
        keys=Keys(runs),
        times=drawn(AT, AT + timedelta(microseconds=1)),
        arms=drawn("champion", "challenger", "fallback"),
        versions=drawn(0, 1, 2),
        values=data.draw(st.lists(numbers, min_size=rows * width, max_size=rows * width)),
        width=width,
        requests=[Item(rows)],
        columns=("hour",),
        matrix=np.arange(rows, dtype="<f4").tobytes(),
        single=True,
    )
    plain = msgspec.structs.replace(before, keys=list(before.keys))
    assert record_of(msgspec.msgpack.encode(packed(before)), 0) == plain == unpacked(packed(before))
    assert record_of(msgspec.msgpack.encode(plain), 0) == plain
    assert inputs_of(before) == {"hour": [float(row) for row in range(rows)]}
    assert before.keys[0] == plain.keys[0]
    assert before.keys[:2] == plain.keys[:2]


@pytest.mark.parametrize("rule", [Recording(drop=("hour",)), Recording(hash=("hour",)), Recording(sample=0.5)])
def test_rules_see_float32_as_the_numbers_it_holds(rule):
    double = array("d", [0.5, 1.25, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    redactor = Redactor(rule, "ab" * 32)
    kept = redactor.record(batch(matrix=double.tobytes()))
    narrow = redactor.record(batch(matrix=array("f", double).tobytes(), single=True))
    assert inputs_of(kept) == inputs_of(narrow)
    assert kept.sampled == narrow.sampled


def test_a_matrix_of_float32_is_known_by_its_length():
    double = array("d", [0.5, math.pi, 3.0])
    assert wide(double.tobytes(), 3) == double.tobytes()
    assert wide(array("f", double).tobytes(), 3) == array("d", array("f", double)).tobytes()
    assert wide(b"", 0) == b""
    assert wide(b"1234", 3) == b"1234"


def test_times_are_written_once_per_request():
    later = AT + timedelta(milliseconds=3)
    requests = [Item(3), Item(1), Item(2)]
    shape = {
        "keys": Keys([("a", 6)]),
        "values": array("d", range(6)),
        "requests": requests,
        "columns": (),
        "matrix": b"",
    }
    alike_in = Runs([(AT, 3), (later, 1), (AT, 2)])
    found = packed(batch(**shape, times=alike_in, arms=Runs([("champion", 6)]), versions=Runs([(4, 6)])))
    assert found.times == [AT, later, AT]
    assert (found.arms, found.versions) == (["champion"], [4])
    again = unpacked(found)
    assert list(again.times) == list(alike_in) == [AT] * 3 + [later] + [AT] * 2
    assert (list(again.arms), list(again.versions), list(again.values)) == (["champion"] * 6, [4] * 6, list(range(6)))
    once = packed(batch(**shape, times=Runs([(AT, 3), (AT, 1), (AT, 2)]), arms=["champion"] * 6, versions=[4] * 6))
    assert once.times == [AT]
    crossing = Runs([(AT, 2), (later, 4)])  # not as the requests are
    assert list(
        unpacked(packed(batch(**shape, times=crossing, arms=["champion"] * 6, versions=[4] * 6))).times
    ) == list(crossing)


def test_what_rows_have_in_common():
    column = Runs([("a", 3), ("b", 2)])
    assert (len(column), list(column), column[3], column[1:4]) == (5, ["a"] * 3 + ["b"] * 2, "b", ["a", "a", "b"])
    assert (common(column), common(column, 0, 3), common(column, 2, 2), common(column, 3)) == (None, "a", None, "b")
    assert (common(alike("a", 7), 2, 3), common(alike("a", 1)), common(["a", "b"], 1, 1)) == ("a", "a", "b")
