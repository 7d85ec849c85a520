"""Messages in, answers out, each once: bad ones beside, predictions on record, and whatever a turn is interrupted by."""

import itertools
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from kilter.cli.main import main
from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.streams.local import LogSink, LogSource
from kilter.engines.streams.log import Log
from kilter.engines.streams.port import Outgoing
from kilter.loop.versions.streaming import StreamPlan, stream
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import fetch, load, package
from kilter.packaging.constant import Constant
from kilter.serving.answering.rows import RowReader
from kilter.serving.recording.predictions import PredictionLog, find
from kilter.serving.recording.redaction import Recording
from kilter.serving.scoring.model import Scorer
from kilter.serving.scoring.streams import Answering, StreamScorer

lightgbm = pytest.importorskip("lightgbm")

NAMES = ("carrier", "distance")
ENCODING = Encoding(NAMES, ("categorical", "numeric"), {"carrier": ("AA", "B6", "DL")})


def rows(count, first=0):
    return [
        {"flight_id": f"f{n}", "sched_dep": "2013-03-01T10:00:00Z", "carrier": ("AA", "B6", "DL", "??")[n % 4], "distance": n / 7}
        for n in range(first, first + count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    workspace = Workspace.open(
        tmp_path_factory.mktemp("streaming"), clock=ManualClock(datetime(2013, 3, 1, tzinfo=UTC))
    )
    random = np.random.default_rng(0)
    X = np.column_stack([random.integers(0, 3, 500).astype(float), random.normal(size=500)])
    table = Table("flights", "flight_id", "sched_dep")
    for trees in (4, 8):
        model = lightgbm.LGBMClassifier(n_estimators=trees, verbosity=-1, n_jobs=1).fit(X, X[:, 0] + X[:, 1] > 1)
        bundle = package(model, ENCODING, X, [], workspace.objects, table=table)
        workspace.models.register("late", bundle.digest, "run", "spec", "data", "test")
    champion(workspace, 1)
    yield workspace
    workspace.close()


def champion(workspace, version):
    with workspace.database.transaction() as connection:
        workspace.models.set_alias(connection, "late", "champion", version)


def fill(workspace, name, messages):
    log = Log.open(workspace.store.folder / "log" / "streams" / name)
    for message in messages:
        log.append(message if isinstance(message, bytes) else json.dumps(message).encode())
    log.close()


def read(workspace, name):
    source = LogSource(workspace.store.folder / "log" / "streams", name, f"reader-{next(_readers)}", str)
    found = source.take(100_000, 0).messages
    source.close()
    return found


_readers = itertools.count()


def run(workspace, plan):
    turns = list(stream(workspace, plan, lambda: False))
    return [sum(counts) for counts in zip(*(turn[:4] for turn in turns), strict=True)]


def expected(workspace, given, version=1):
    runtime = load(workspace.models.get("late", version).bundle, workspace.objects)
    return runtime.predict(ENCODING.rows(given)).tolist()


def test_messages_are_answered_recorded_and_committed(store):
    fill(store, "a", rows(250))
    plan = StreamPlan(model="late", source="log:a", target="log:a-out", group="a", batch=100, drain=True)
    assert run(store, plan) == [250, 250, 0, 0]
    answers = [json.loads(one.value) for one in read(store, "a-out")]
    assert [one["key"] for one in answers] == [f"f{n}" for n in range(250)]
    assert [one["prediction"] for one in answers] == expected(store, rows(250))
    assert {(one["model"], one["version"]) for one in answers} == {("late", 1)}
    prediction = find(store.prediction_logs(), answers[101]["id"])
    assert (prediction.key, prediction.value, prediction.arm) == ("f101", answers[101]["prediction"], "champion")
    assert prediction.inputs["carrier"] == "B6"
    assert run(store, plan) == [0, 0, 0, 0]
    fill(store, "a", rows(3, 250))
    assert run(store, plan) == [3, 3, 0, 0]
    assert len(read(store, "a-out")) == 253


def test_messages_that_cannot_be_used_go_beside_with_the_reason(store):
    good = rows(3)
    bad = [b"no json", b"[1]", {"flight_id": "x"}, good[0] | {"distance": "far"}, good[0] | {"sched_dep": "today"}]
    fill(store, "b", [good[0], *bad[:3], good[1], *bad[3:], good[2]])
    plan = StreamPlan(
        model="late", source="log:b", target="log:b-out", dead="log:b-bin", group="b", drain=True, record=False
    )
    assert run(store, plan) == [8, 3, 5, 0]
    letters = read(store, "b-bin")
    assert [one.value for one in letters] == [
        one if isinstance(one, bytes) else json.dumps(one).encode() for one in bad
    ]
    reasons = [one.reason for one in letters]
    for reason, words in zip(
        reasons, ["no row", "no row", "carrier: the column is missing", "distance", "sched_dep"], strict=True
    ):
        assert words in reason
    assert "far" not in reasons[3]


def test_what_may_not_be_recorded_is_not_and_who_waits_is_counted(store):
    store.recording.set("late", Recording(drop=("distance",)))
    fill(store, "rules", rows(30))
    plan = StreamPlan(
        model="late",
        source="log:rules",
        target="log:rules-out",
        group="rules",
        batch=10,
        look=0.0,
        count=0.0,
        drain=True,
    )
    turns = stream(store, plan, lambda: False)
    waiting = []
    while len(waiting) < 3:
        turn = next(turns)
        waiting += [turn.waiting] if turn.taken else []
        store.recording.set("late", Recording())
    assert waiting == [20, 10, 0]
    turns.close()
    answers = [json.loads(one.value) for one in read(store, "rules-out")]
    found = [find(store.prediction_logs(), answers[row]["id"]).inputs for row in (0, 29)]
    assert "distance" not in found[0]
    assert found[1]["distance"] == 29 / 7


def test_one_row_that_the_model_refuses_does_not_take_the_others_with_it(store, tmp_path):
    class Refusing(Scorer):
        def predict(self, matrix):
            if (matrix[:, 1] == 1.0).any():
                raise InvalidInput("the estimator refused the rows")
            answers = super().predict(matrix).copy()
            answers[matrix[:, 1] == 2.0] = np.inf
            return answers

    parts = fetch(store.models.get("late", 1).bundle, store.objects)
    scorer = Refusing(parts)
    answering = Answering("late", 1, "direct", scorer, RowReader(parts.manifest.signature), None)
    answers, dead = LogSink(tmp_path, "out"), LogSink(tmp_path, "dead")
    given = LogSink(tmp_path, "in")
    given.send([Outgoing("", b"", json.dumps(one | {"distance": n}).encode()) for n, one in enumerate(rows(5))])
    one = StreamScorer(lambda: answering, "g", answers, dead, store.clock, log=None)
    source = LogSource(tmp_path, "in", "g", one.mark)
    assert one.turn(source, 0)[1:3] == (3, 2)
    assert sorted(dead.since("")) == ["g/in/" + name.rpartition("/")[2] for name in sorted(dead.since(""))]
    for stream_ in (answers, dead, given, source):
        stream_.close()


def test_a_new_champion_answers_from_its_promotion_on(store):
    fill(store, "c", rows(10))
    plan = StreamPlan(model="late", source="log:c", target="log:c-out", group="c", batch=5, look=0.0, record=False)
    turns = stream(store, plan, lambda: False)
    while next(turns).answered == 0:
        pass
    champion(store, 2)
    while next(turns).answered == 0:
        pass
    turns.close()
    champion(store, 1)
    answers = [json.loads(one.value) for one in read(store, "c-out")]
    assert [one["version"] for one in answers] == [1] * 5 + [2] * 5
    assert [one["prediction"] for one in answers] == expected(store, rows(5)) + expected(store, rows(5, 5), 2)


class Interrupted(Exception):
    """What stands for a kill."""


def breaking(target, method, after):
    """Let a method of an object fail at its n-th call: before it did anything, or behind it."""
    plain, calls = getattr(target, method), itertools.count()

    def wrapped(*arguments):
        number = next(calls)
        if number == after // 2 and not after % 2:
            raise Interrupted
        result = plain(*arguments)
        if number == after // 2:
            raise Interrupted
        return result

    setattr(target, method, wrapped)


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("where", ["take", "record", "send", "dead", "flush", "commit"])
def test_interrupted_anywhere_nothing_is_lost_and_nothing_is_twice(where, after, store, tmp_path):
    parts = fetch(store.models.get("late", 1).bundle, store.objects)
    answering = Answering("late", 1, "champion", Scorer(parts), RowReader(parts.manifest.signature), None)
    given = [one if n % 10 else {"bad": n} for n, one in enumerate(rows(60))]
    begin = LogSink(tmp_path, "in")
    begin.send([Outgoing("", b"", json.dumps(one).encode()) for one in given])
    begin.close()
    interrupted = False
    for attempt in range(2):
        answers, dead = LogSink(tmp_path, "out"), LogSink(tmp_path, "dead")
        log = PredictionLog.open(tmp_path / "predictions", "s", readonly=False)
        scorer = StreamScorer(lambda: answering, "g", answers, dead, store.clock, log=log, batch=20)
        source = LogSource(tmp_path, "in", "g", scorer.mark)
        if attempt == 0:
            target = {"take": source, "commit": source, "record": log, "send": answers, "dead": dead, "flush": answers}[
                where
            ]
            breaking(target, {"record": "append", "dead": "send"}.get(where, where), after)
        try:
            for _ in range(5):
                scorer.turn(source, 0)
        except Interrupted:
            interrupted = True
        for stream_ in (answers, dead, log, source):
            stream_.close()
    assert interrupted
    sink = LogSink(tmp_path, "out")
    made = list(sink.since(""))
    sink.close()
    sink = LogSink(tmp_path, "dead")
    thrown = list(sink.since(""))
    sink.close()
    assert (len(made), len(set(made))) == (54, 54)
    assert (len(thrown), len(set(thrown))) == (6, 6)
    log = PredictionLog.open(tmp_path / "predictions", "s")
    keys = [key for _, record in log.read() for key in record.keys]
    values = {item.key: record.values[row] for _, record in log.read() for row, item in enumerate(record.requests)}
    log.close()
    assert keys == [one["flight_id"] for one in given if "bad" not in one]
    assert sorted(values) == sorted(made)


def test_a_second_kill_does_not_hide_what_the_first_one_left(store, tmp_path):
    """Forty messages are answered and not committed; the next life passes ten of them by, and dies as well."""
    parts = fetch(store.models.get("late", 1).bundle, store.objects)
    answering = Answering("late", 1, "champion", Scorer(parts), RowReader(parts.manifest.signature), None)
    given = LogSink(tmp_path, "in")
    given.send([Outgoing("", b"", json.dumps(one).encode()) for one in rows(60)])
    given.close()
    for batch, turns in ((40, 1), (10, 2), (25, 9)):
        answers, dead = LogSink(tmp_path, "out"), LogSink(tmp_path, "dead")
        log = PredictionLog.open(tmp_path / "predictions", "s", readonly=False)
        scorer = StreamScorer(lambda: answering, "g", answers, dead, store.clock, log=log, batch=batch)
        source = LogSource(tmp_path, "in", "g", scorer.mark)
        if batch == 40:
            breaking(source, "commit", 0)
        for _ in range(turns):
            try:
                scorer.turn(source, 0)
            except Interrupted:
                break
        for stream_ in (answers, dead, log, source):
            stream_.close()
    sink = LogSink(tmp_path, "out")
    made = list(sink.since(""))
    sink.close()
    assert made == list(dict.fromkeys(made))
    assert len(made) == 60
    log = PredictionLog.open(tmp_path / "predictions", "s")
    assert [key for _, record in log.read() for key in record.keys] == [f"f{n}" for n in range(60)]
    log.close()


def test_who_takes_over_finds_what_another_front_recorded(store, tmp_path):
    """The first life dies between its record and its answers; the next one has a front of its own."""
    parts = fetch(store.models.get("late", 1).bundle, store.objects)
    answering = Answering("late", 1, "champion", Scorer(parts), RowReader(parts.manifest.signature), None)
    given = LogSink(tmp_path, "in")
    given.send([Outgoing("", b"", json.dumps(one).encode()) for one in rows(30)])
    given.close()
    for front in ("first", "second"):
        answers, dead = LogSink(tmp_path, "out"), LogSink(tmp_path, "dead")
        log = PredictionLog.open(tmp_path / "predictions", front, readonly=False)
        scorer = StreamScorer(
            lambda: answering, "g", answers, dead, store.clock, log=log, batch=10,
            others=lambda name: PredictionLog.open(tmp_path / "predictions", name),
        )  # fmt: skip
        source = LogSource(tmp_path, "in", "g", scorer.mark)
        if front == "first":
            breaking(answers, "send", 2)
        try:
            for _ in range(5):
                scorer.turn(source, 0)
        except Interrupted:
            assert front == "first"
        for stream_ in (answers, dead, log, source):
            stream_.close()
    out = LogSource(tmp_path, "out", "r", str)
    made = [json.loads(one.value) for one in out.take(99, 0).messages]
    out.close()
    assert [one["key"] for one in made] == [f"f{n}" for n in range(30)]
    assert [one["id"].partition("-")[0] for one in made] == ["first"] * 20 + ["second"] * 10
    assert [find(tmp_path / "predictions", one["id"]).key for one in made] == [one["key"] for one in made]
    recorded = []
    for front in ("first", "second"):
        log = PredictionLog.open(tmp_path / "predictions", front)
        recorded += [key for _, record in log.read() for key in record.keys]
        log.close()
    assert recorded == [f"f{n}" for n in range(30)]


def test_a_stream_that_does_not_answer_commits_nothing(store, tmp_path):
    class Down(LogSink):
        def flush(self):
            raise Unavailable("down")

    parts = fetch(store.models.get("late", 1).bundle, store.objects)
    answering = Answering("late", 1, "champion", Scorer(parts), RowReader(parts.manifest.signature), None)
    given = LogSink(tmp_path, "in")
    given.send([Outgoing("", b"", json.dumps(one).encode()) for one in rows(5)])
    answers, dead = Down(tmp_path, "out"), LogSink(tmp_path, "dead")
    scorer = StreamScorer(lambda: answering, "g", answers, dead, store.clock, log=None)
    source = LogSource(tmp_path, "in", "g", scorer.mark)
    with pytest.raises(Unavailable):
        scorer.turn(source, 0)
    source.close()
    again = LogSource(tmp_path, "in", "g", scorer.mark)
    assert len(again.take(100, 0).messages) == 5
    for stream_ in (given, answers, dead, again):
        stream_.close()


def test_commits_of_another_program_are_not_read_on_from(store, tmp_path):
    parts = fetch(store.models.get("late", 1).bundle, store.objects)
    answering = Answering("late", 1, "champion", Scorer(parts), RowReader(parts.manifest.signature), None)
    LogSource(tmp_path, "in", "g", lambda: "theirs").close()
    answers, dead = LogSink(tmp_path, "out"), LogSink(tmp_path, "dead")
    scorer = StreamScorer(lambda: answering, "g", answers, dead, store.clock, log=None)
    source = LogSource(tmp_path, "in", "g", scorer.mark)
    with pytest.raises(InvalidInput, match="another program's"):
        scorer.turn(source, 0)
    for stream_ in (answers, dead, source):
        stream_.close()


def test_models_without_keys_take_the_messages_own(store, tmp_path):
    bundle = package(Constant(0.5), Encoding(("x",), ("numeric",), {}), np.zeros((1, 1)), [], store.objects, table=None)
    parts = fetch(bundle.digest, store.objects)
    answering = Answering("half", 1, "direct", Scorer(parts), RowReader(parts.manifest.signature), None)
    given = LogSink(tmp_path, "in")
    given.send([Outgoing("", b"mine", b'{"x": 1}'), Outgoing("", b"", b'{"x": null}')])
    answers, dead = LogSink(tmp_path, "out"), LogSink(tmp_path, "dead")
    scorer = StreamScorer(lambda: answering, "g", answers, dead, store.clock, log=None)
    source = LogSource(tmp_path, "in", "g", scorer.mark)
    assert scorer.turn(source, 0).answered == 2
    out = LogSource(tmp_path, "out", "r", str)
    keys = [json.loads(one.value)["key"] for one in out.take(9, 0).messages]
    assert keys[0] == "mine"
    assert keys[1].startswith("in/")
    for stream_ in (given, answers, dead, source, out):
        stream_.close()


def test_plans_that_cannot_be_used_are_refused(store):
    def refused(**changes):
        plan = StreamPlan(**({"model": "late", "source": "log:z", "target": "log:z-out", "drain": True} | changes))
        return list(stream(store, plan, lambda: False))

    with pytest.raises(InvalidInput, match="two of the streams are one"):
        refused(target="log:z")
    with pytest.raises(InvalidInput, match="messages per turn"):
        refused(batch=0)
    with pytest.raises(NotFound):
        refused(model="early")
    with pytest.raises(InvalidInput, match="names no stream"):
        refused(source="mqtt://h/x")
    taken = PredictionLog.open(store.prediction_logs(), "stream_late", readonly=False)
    with pytest.raises(Conflict):
        refused()
    taken.close()


def test_the_command_drains_a_stream(store, capsys):
    fill(store, "cli", rows(20))
    given = ["stream", "late@v2", "--store", store.store.home, "--from", "log:cli", "--to", "log:cli-out", "--drain",
             "--group", "cli"]  # fmt: skip
    assert main([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["event"], told["answered"], told["dead"]) == ("done", 20, 0)
    assert main(given) == 0
    assert "0 answered" in capsys.readouterr().out
