"""What is recorded of inputs: rules, hashes, samples, and monitors that must not go blind."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest

from kilter.core.errors import Conflict, DeclarationError, InvalidInput
from kilter.loop.workspace import Workspace
from kilter.monitoring.profile import ReferenceProfile, count, numeric_bins
from kilter.serving.recording.predictions import inputs_of, to_frame
from kilter.serving.recording.redaction import Recording, Redactor, check_monitors, check_rule
from kilter.serving.records import Item, PredictionBatch, ShadowBatch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "ab" * 32


def batch(rows=4, *, matrix=False):
    held = np.arange(rows * 2, dtype=np.float64).reshape(rows, 2)
    return PredictionBatch(
        at=NOW,
        loop="one",
        generation=1,
        share=0,
        keys=[f"k{row}" for row in range(rows)],
        times=[NOW] * rows,
        arms=["champion"] * rows,
        versions=[1] * rows,
        values=[0.5] * rows,
        inputs={"word": [f"w{row % 2}" for row in range(rows)]}
        | ({} if matrix else {"a": held[:, 0].tolist(), "b": held[:, 1].tolist()}),
        requests=[Item(rows)],
        latency_us=1,
        columns=("a", "b") if matrix else (),
        matrix=held.tobytes() if matrix else b"",
    )


@pytest.mark.parametrize("matrix", [False, True])
def test_dropped_columns_are_gone_and_hashed_ones_can_be_told_apart_only(matrix):
    found = inputs_of(Redactor(Recording(drop=("a",), hash=("b", "word")), SECRET).record(batch(matrix=matrix)))
    assert sorted(found) == ["b", "word"]
    assert found["word"][0] == found["word"][2] != found["word"][1]
    assert len(set(found["b"])) == 4
    assert all(len(value) == 16 for value in found["b"])
    other = inputs_of(Redactor(Recording(hash=("b",)), "cd" * 32).record(batch(matrix=matrix)))
    assert set(other["b"]).isdisjoint(found["b"])


def test_equal_values_of_two_columns_look_different_and_missing_ones_stay_missing():
    given = msgspec.structs.replace(batch(2), inputs={"a": [1, None], "b": [1.0, 2.0]})
    found = Redactor(Recording(hash=("a", "b")), SECRET).record(given).inputs
    assert found["a"][0] != found["b"][0]
    assert found["a"][1] is None


@pytest.mark.parametrize("matrix", [False, True])
def test_a_sample_keeps_everything_but_inputs(matrix):
    given = batch(4000, matrix=matrix)
    found = Redactor(Recording(sample=0.25), SECRET).record(given)
    assert (found.keys, found.values, found.arms, found.requests) == (
        given.keys,
        given.values,
        given.arms,
        given.requests,
    )
    assert 900 <= len(found.sampled) <= 1100
    assert len(msgspec.msgpack.encode(found)) < len(msgspec.msgpack.encode(given))
    frame = to_frame([(0, found)])
    assert frame["recorded"].sum() == len(found.sampled)
    whole = to_frame([(0, given)]).filter(frame["recorded"])
    assert frame.filter("recorded").drop("recorded").select(whole.columns).equals(whole)
    assert frame.filter(~pl.col("recorded"))["x_a"].null_count() == 4000 - len(found.sampled)


def test_frames_of_both_kinds_go_together():
    sampled = Redactor(Recording(sample=0.5), SECRET).record(batch(10))
    frame = to_frame([(0, batch(3)), (1, sampled), (2, batch(2))])
    assert frame.height == 15
    assert frame["recorded"].to_list()[:3] == [True] * 3
    assert frame["recorded"].to_list()[-2:] == [True] * 2


def test_nothing_of_a_shadows_sample_is_kept():
    shadow = ShadowBatch(
        at=NOW, loop="one", position=0, rows=[0], version=2, values=[0.1], inputs={"a": [1.0], "b": [2.0]}
    )
    assert Redactor(Recording(sample=0.5), SECRET).record(shadow).inputs == {}
    assert Redactor(Recording(drop=("a",)), SECRET).record(shadow).inputs == {"b": [2.0]}


def test_rows_without_their_inputs_are_no_missing_values_to_a_monitor():
    rng = np.random.default_rng(5)
    reference = numeric_bins("a", pl.Series(rng.normal(size=5000)), np.arange(5000) % 10)
    values = rng.normal(size=4000)
    given = msgspec.structs.replace(batch(4000), inputs={"a": values.tolist()})
    blocks = np.arange(4000) % 7
    frame = to_frame([(0, Redactor(Recording(sample=0.25), SECRET).record(given))])
    counted = count({"a": reference}, frame, blocks, prefix="x_")["a"]
    assert counted.shape == (7, len(reference.counts))
    assert counted[:, -1].sum() == 0  # none is missing
    assert counted.sum() == frame["recorded"].sum()
    assert ReferenceProfile(inputs=(reference,), rows=5000, days=10, base_rate=0.5).bins("a") is reference


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        (Recording(sample=0.0), "one.sample"),
        (Recording(sample=1.5), "one.sample"),
        (Recording(drop=("a",), hash=("a",)), "one"),
        (Recording(drop=("",)), "one.drop"),
        (Recording(hash=("x" * 300,)), "one.hash"),
    ],
)
def test_a_rule_that_can_not_be_is_refused(rule, where):
    with pytest.raises(InvalidInput, match=where):
        check_rule(rule, {}, "one")


@pytest.mark.parametrize("field", ["drop", "hash"])
def test_a_monitor_is_not_made_blind(field):
    rule = Recording(**{field: ("free", "a")})
    needed = {"a": ("drift(psi)",)}
    with pytest.raises(Conflict, match=r"drift\(psi\).*'a'.*Fix"):
        check_rule(rule, needed, "one")
    with pytest.raises(DeclarationError, match=r"drift\(psi\) needs 'a'"):
        check_monitors(rule, needed, "loop.py")
    check_rule(rule, {"b": ("drift(psi)",)}, "one")


def test_the_secret_outlives_a_change_of_the_rule(tmp_path):
    with Workspace.open(tmp_path) as store:
        store.recording.set("one", Recording(hash=("a",)))
        [before] = store.recording.redactors().values()
        store.recording.set("one", Recording(hash=("a", "b")))
        [after] = store.recording.redactors().values()
        assert before.secret == after.secret
        assert store.recording.get("one").rule == Recording(hash=("a", "b"))
        store.recording.set("one", Recording())
        assert store.recording.redactors() == {}
        assert store.recording.get("other").rule.everything


LOOP = """
import polars as pl
from kilter import Label, Loop, Shadow, Table, calibration, drift, Retrain, decay, log_loss
t = Table("t", key="id", time="at")
def label(): return pl.col("y") > 0
def train(data): ...
loop = Loop(name="small", owner="a@example.org", inputs=[t.columns("a", "b")], label=Label(label, known_at="known"),
            train=train, monitors=[MONITORS], retrain=Retrain(every="7d"))
"""


def test_a_loop_and_its_endpoint_agree(tmp_path):
    with Workspace.open(tmp_path) as store:
        store.recording.set("small", Recording(drop=("a",)))
        with pytest.raises(DeclarationError, match=r"drift\(psi\) needs 'a'"):
            store.loops.apply(LOOP.replace("MONITORS", "drift()"))
        store.loops.apply(LOOP.replace("MONITORS", "calibration()"))
        store.recording.set("small", Recording())
        store.loops.apply(LOOP.replace("MONITORS", "drift()"))
        with pytest.raises(Conflict, match=r"drift\(psi\)"):
            store.recording.set("small", Recording(hash=("b",)))
        store.recording.set("small", Recording(drop=("unused",), sample=0.5))
