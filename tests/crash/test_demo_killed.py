"""The demo while its processes are killed with ``kill -9`` at random moments, and what has to be true of its store afterwards.

``KILTER_KILLS=200 pytest tests/crash/test_demo_killed.py -s`` is the full show; the suite kills fewer times. ``KILTER_SEED``
chooses other moments, ``KILTER_STORE`` keeps the store in a folder of that name.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
import urllib.request
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

pytest.importorskip("lightgbm")
pytest.importorskip("sklearn")

from examples.flights import demo as stage_play
from examples.flights.demo import LOOP, START, Demo, Say
from examples.flights.flight_delay import flights, is_late, origin
from examples.flights.replay import Traffic
from examples.flights.stage import Stage

from kilter import Label
from kilter.journal.records import Event
from kilter.loop.decide import decide
from kilter.loop.records import ActionFailed, Actions, Applied, Events, LoopState, Notify
from kilter.loop.simulation.invariants import Watch
from kilter.loop.workspace import Workspace
from kilter.monitoring.labels import LabelJoin
from kilter.registry.tables import versions
from kilter.serving.recording.predictions import PredictionLog, to_frame
from kilter.serving.tables import endpoint_plans
from kilter.tracking.tables import runs

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("KILTER_KILLS", "15"))
SEED = int(os.environ.get("KILTER_SEED", "1"))
MARK = "KILTER_CRASH_TEST"
PATIENCE = 120.0
KINDS = ("controller", "compute", "server", "front", "worker")
HOTFIX = datetime(2013, 3, 3, tzinfo=UTC)
SHORT, LONG = datetime(2013, 3, 9, tzinfo=UTC), datetime(2013, 6, 1, tzinfo=UTC)
GAP = 1.2


# ---------------------------------------------------------------- who kills


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(text) for text in task.read_text().split()]
        except OSError:
            continue
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Killer(threading.Thread):
    """Kills one process after the other, at moments drawn from a seed, never the supervisor.

    Args:
        stage: Whose processes.
        kills: How often.
        seed: What the moments and the order of victims are drawn from.
    """

    def __init__(self, stage: Stage, kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.stage = stage
        self.left = kills
        self.killed: Counter[str] = Counter()
        self.over = threading.Event()
        self._random = random.Random(seed)
        self._bag: list[str] = []

    def run(self) -> None:
        while self.left and not self.over.wait(self._random.expovariate(1 / GAP)):
            if not self._bag:
                self._bag = self._random.sample(KINDS, len(KINDS))
            kind = self._bag.pop()
            victims = self._victims(kind)
            if not victims:
                self._bag.insert(0, kind)  # it is being started: its turn comes later
                continue
            try:
                os.kill(self._random.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.killed[kind] += 1
            self.left -= 1

    def _victims(self, kind: str) -> list[int]:
        run = self.stage.store.run
        if kind == "worker":
            return self._workers()
        said = run.living({"front": "serve", "compute": "controller"}.get(kind, kind))
        if said is None:
            return []
        if kind == "compute":
            return [pid for pid in children(said.pid) if "kilter.engines.compute.worker" in command(pid)]
        return [said.pid]

    def _workers(self) -> list[int]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.stage.serve_port}/models", timeout=2) as answer:
                found = json.load(answer)
        except OSError:
            return []
        return [pid for endpoint in found["endpoints"] for one in endpoint.get("versions", []) for pid in one["pids"]]


# ---------------------------------------------------------------- who is served


class Passengers(Traffic):
    """Keep every answer, and now and then send an old request again under its key."""

    def close(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def __init__(self, port: int, seed: int) -> None:
        super().__init__("127.0.0.1", port, LOOP, PATIENCE)
        self.answers: dict[str, list[dict[str, object]]] = {}
        self.bodies: dict[str, list[dict[str, object]]] = {}
        self.again = 0
        self._random = random.Random(seed)

    def ask(self, rows: list[dict[str, object]], key: str) -> list[dict[str, object]]:
        answer = super().ask(rows, key)
        if rows:
            self.answers[key], self.bodies[key] = answer, rows
            if self._random.random() < 0.2:
                old = self._random.choice(list(self.answers))
                assert super().ask(self.bodies[old], old) == self.answers[old]
                self.again += 1
        return answer


class Rows:
    """The operations of the data room, with a memory of what was acknowledged."""

    def __init__(self, data) -> None:
        self._data = data
        self.acknowledged: list[tuple[str, list[dict[str, object]]]] = []

    def append(self, table, rows, *, request_id):
        answer = self._data.append(table, rows, request_id=request_id)
        assert answer.rows == len({row["flight_id"] for row in rows})  # parts of one row become one
        self.acknowledged.append((request_id, rows))
        return answer

    def __getattr__(self, name: str):
        return getattr(self._data, name)


class KilledDemo(Demo):
    """The demo, with clients that remember; whoever kills is no part of the script."""

    def open(self) -> None:
        self.kilter = self.stage.start()
        self.rows = self.kilter.__dict__["data"] = Rows(self.kilter.data)
        self.killer.start()
        self._patiently(lambda: self.kilter.loops.apply(stage_play.FILE.read_text(), stage_play.FILE.name, by="demo"))
        while self.settle(self.stage.clock.now()).summary.champion is None:
            # What failed is tried again after a while, and the time stands still unless someone moves it.
            self.stage.clock.set(self.stage.clock.now() + timedelta(seconds=20))

    def _ask(self, rows: list[dict[str, object]], now: datetime) -> None:
        self.traffic.ask(rows, f"ask {now:%Y-%m-%dT%H}")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A demo that was killed all along and has ended by itself; the store, and what its clients remember."""
    patch = pytest.MonkeyPatch()
    mark = f"{os.getpid()}-{time.time_ns()}"
    patch.setenv(MARK, mark)
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("POLARS_MAX_THREADS", "1")
    patch.setattr(stage_play, "HOTFIX_BY", HOTFIX)
    folder = os.environ.get("KILTER_STORE") or str(tmp_path_factory.mktemp("demo") / "store")
    stage = Stage(folder, None, START)
    demo = KilledDemo(stage, SHORT if KILLS < 100 else LONG, Say(quiet=False), PATIENCE)
    demo.traffic = Passengers(stage.serve_port, SEED)
    demo.killer = Killer(stage, KILLS, SEED)
    began = time.monotonic()
    try:
        demo.prepare(START)
        demo.open()
        demo.play(START)
        while demo.killer.left:
            begin, demo.end = demo.end, demo.end + timedelta(days=2)
            demo.play(begin)
        demo.killer.over.set()
        demo.killer.join()
        demo._look(demo.settle(demo.end))
        demo.seconds_played = time.monotonic() - began
    except SystemExit as error:
        raise AssertionError(str(error)) from error
    finally:
        demo.killer.over.set()
        demo.traffic.close()
        stage.stop()
        patch.undo()
    demo.mark = mark
    _report(demo)
    return demo


def _report(demo: KilledDemo) -> None:
    said = [line for line in (demo.stage.store.folder / "up.log").read_text().splitlines() if line.startswith("{")]
    died = Counter(line["part"] for line in map(json.loads, said) if line.get("event") == "died")
    traffic = demo.traffic
    print(
        f"\n{sum(demo.killer.killed.values())} kills in {demo.seconds_played:.0f} s: {dict(demo.killer.killed)}; "
        f"restarts {dict(died)}; {traffic.requests:,} requests, {traffic.rows:,} predictions, {traffic.failed} failed, "
        f"{traffic.retried} sent again, {traffic.again} asked again under their key, {traffic.fallbacks} fallback answers; "
        f"{len(demo.rows.acknowledged):,} appends; until {demo.end:%d %B}"
    )


@pytest.fixture(scope="module")
def workspace(played):
    """The store that is left, with nobody else at work on it."""
    with Workspace.open(played.stage.store, played.stage.clock) as opened:
        yield opened


@pytest.fixture(scope="module")
def log(workspace):
    opened = PredictionLog.open(workspace.prediction_logs())
    records = list(opened.read())
    opened.close()
    return records


@pytest.fixture(scope="module")
def story(workspace) -> list[Event]:
    found: list[Event] = []
    while page := workspace.journal_log.events(after=found[-1].seq if found else 0, limit=1000):
        found += page
    return found


# ---------------------------------------------------------------- what has to be true


def test_it_was_killed_as_often_as_asked_and_ended_by_itself(played):
    assert sum(played.killer.killed.values()) == KILLS
    assert played.traffic.failed == 0, played.traffic.errors[:3]


def test_no_process_stays(played):
    deadline = time.monotonic() + 10
    wanted = f"{MARK}={played.mark}".encode()
    while time.monotonic() < deadline:
        left = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    left[folder.name] = command(int(folder.name))
            except OSError:
                continue
        left.pop(str(os.getpid()), None)
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(f"left behind: {left}")


def test_the_journal_is_whole_and_the_database_is_sound(workspace, played):
    verified = workspace.journal_log.verify()
    assert verified.ok, verified
    assert verified.checked > 10
    with sqlite3.connect(played.stage.store.folder / "kilter.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def _decisions(story: list[Event]) -> list[tuple[Events, list[Event]]]:
    """Return each event that was decided on, with the actions that the journal has after it."""
    kinds = {kind.__struct_config__.tag for kind in Events.__args__}
    found: list[tuple[Events, list[Event]]] = []
    for event in story:
        if event.kind == "TableVersioned":
            continue  # of the data's room, which decides nothing
        if event.kind in kinds:
            found.append((msgspec.convert({**event.data, "kind": event.kind, "at": event.at}, Events), []))
        else:
            found[-1][1].append(event)
    return found


def test_every_decision_in_the_journal_keeps_the_invariants_and_can_be_replayed(workspace, story):
    decisions = _decisions(story)
    first = decisions[0][0]
    assert isinstance(first, Applied)
    state, watch = LoopState(policy=first.policy), Watch(first.policy)
    for event, written in decisions:
        told = event
        if isinstance(event, ActionFailed):
            entry = next(entry for entry in state.pending if entry.action.id == event.action)
            told = msgspec.structs.replace(event, attempt=entry.attempts)
        after, actions = decide(state, told)
        watch.check(decide, state, told, after, actions)
        assert [_said(action) for action in actions] == [(one.kind, one.data) for one in written]
        state = after
    stored = workspace.loops.ledger.row(LOOP).state
    assert msgspec.structs.replace(state, now=None) == msgspec.structs.replace(stored, now=None)
    assert watch.champion == stored.champion is not None


def _said(action: Actions) -> tuple[str, dict[str, object]]:
    data = msgspec.json.decode(msgspec.json.encode(action))
    kind = data.pop("kind")
    if isinstance(action, Notify):
        data.pop("id")
    return kind, data


def test_every_action_took_effect_once(workspace, story):
    asked = {event.data["id"] for event in story if event.kind == "StartTraining"}
    finished = [event for event in story if event.kind == "TrainingFinished"]
    with workspace.database.reading() as connection:
        rows = connection.execute(sa.select(versions.c.version, versions.c.key, versions.c.run)).all()
        status = dict(connection.execute(sa.select(runs.c.id, runs.c.status)).all())
        generation = connection.execute(sa.select(endpoint_plans.c.generation)).scalar_one()
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert set(keys) <= asked
    assert sorted(event.data["version"] for event in finished) == sorted(row.version for row in rows)
    assert {event.data["run"] for event in finished} == {row.run for row in rows}
    assert all(status[row.run] == "FINISHED" for row in rows)
    assert "RUNNING" not in status.values()
    steered = {event.data["id"] for event in story if event.kind in {"SetTraffic", "Promote", "RollBack"}}
    applied = [event for event in story if event.kind == "Applied"]
    assert generation <= len(steered) + len(applied) - 1
    champion = workspace.loops.ledger.row(LOOP).state.champion
    assert workspace.models.get(LOOP, "champion").version == champion
    for row in rows:
        kinds = [kept.kind for kept in workspace.models.history(LOOP, row.version).evidence]
        judged = Counter(event.kind for event in story if event.subject == f"{LOOP}@v{row.version}")
        assert kinds.count("gates") == judged["GatesJudged"]
        assert kinds.count("shadow") == judged["ShadowJudged"]
        assert kinds.count("canary") == judged["CanaryJudged"]


def test_the_hotfix_was_taken_back(story):
    kinds = Counter(event.kind for event in story)
    assert kinds["RollBack"] >= 1
    assert kinds["Promote"] >= 1


def test_the_monitors_never_go_back_to_a_day_before_an_alarm(story):
    alarms = [event for event in story if event.kind in {"AlarmRaised", "AlarmCleared"}]
    assert [event.at for event in alarms] == sorted(event.at for event in alarms)
    days = Counter((event.data["monitor"], event.data["version"], event.at) for event in alarms)
    assert set(days.values()) <= {1}


def test_trainings_kept_their_budget(story):
    spent: Counter[str] = Counter()
    for event in story:
        spent[f"{event.at:%Y-%m-%d}"] += (
            event.data.get("cpu_seconds", 0.0) if event.kind.startswith("Training") else 0.0
        )
    assert max(spent.values()) <= 600


def test_versions_have_traffic_after_their_gates_and_in_declared_shares_only(story, log):
    gated = {
        event.data["version"]: event.at
        for event in story
        if event.kind == "GatesJudged" and event.data["verdict"] == "pass"
    }
    shares = {0, *(event.data["share"] for event in story if event.kind == "SetTraffic")}
    assert shares <= {0, 5, 25, 50}
    champions: dict[int, set[int]] = {}
    for _, record in log:
        if not hasattr(record, "arms"):
            assert gated[record.version] <= record.at
            continue
        assert record.share in shares
        for arm, version in zip(record.arms, record.versions, strict=True):
            assert version == 0 or gated[version] <= record.at
            if arm == "champion":
                champions.setdefault(record.generation, set()).add(version)
            assert arm != "challenger" or record.share > 0
    assert all(len(found) == 1 for found in champions.values())


def test_every_acknowledged_prediction_is_on_record_as_it_was_answered(workspace, log, played):
    recorded = {}
    for position, record in log:
        if hasattr(record, "arms"):
            for row, key in enumerate(record.keys):
                found = (key, record.values[row], record.versions[row], record.arms[row])
                recorded[f"main-{position:x}-{row:x}"] = found
    answered = 0
    for key, answer in played.traffic.answers.items():
        for row, one in zip(played.traffic.bodies[key], answer, strict=True):
            assert recorded[one["id"]] == (row["flight_id"], one["value"], one["version"], one["arm"])
            answered += 1
    assert answered > 1000
    for one in random.Random(SEED).sample([one for answer in played.traffic.answers.values() for one in answer], 200):
        found = workspace.endpoints.prediction(one["id"])
        assert (found.value, found.version, found.arm) == (one["value"], one["version"], one["arm"])


def test_a_request_that_was_sent_again_has_one_record(log):
    times: Counter[str] = Counter()
    for _, record in log:
        if hasattr(record, "arms"):
            times.update(item.key for item in record.requests)
    assert set(times.values()) == {1}


def test_every_acknowledged_row_is_in_the_table(workspace, played):
    table = workspace.data.frame("flights")
    known = dict(zip(table["flight_id"].to_list(), table.iter_rows(named=True), strict=True))
    checked = 0
    for _, rows in played.rows.acknowledged:
        for row in rows:
            found = known[row["flight_id"]]
            for name, value in row.items():
                if value is not None:
                    assert _plain(found[name]) == value, (row, name)
                    checked += 1
    assert checked > 1000
    stored = Counter(
        batch.request for batch in workspace.data.batches("flights", -1) if batch.request and not batch.bulk
    )
    assert set(stored.values()) == {1}
    assert stored.keys() == {request for request, _ in played.rows.acknowledged}


def _plain(value: object) -> object:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else value


def test_online_features_are_those_of_a_recomputation(workspace, log):
    table = workspace.data.frame("flights")
    frame = to_frame(log).filter(pl.col("version") > 0)
    for names in (("delay_3h", "departures_3h"),):
        asked = frame.filter(pl.col(f"x_{names[1]}").is_not_null())
        queries = asked.select("id", "key", flights_time="time").rename(
            {"key": "flight_id", "flights_time": "sched_dep"}
        )
        queries = queries.join(table.select("flight_id", "origin"), on="flight_id", how="left", maintain_order="left")
        assert queries["origin"].null_count() == 0
        offline = workspace.features.offline([origin], table.drop("delay_3h", "departures_3h", strict=False), queries)
        same = asked.select(pl.col("id"), **{name: pl.col(f"x_{name}") for name in names})
        # the hotfix computes delay_3h from another column: its answers have features of their own
        mine = pl.Series(_views_of(workspace, asked["version"].to_list()))
        for name in names:
            left = same[name].filter(mine).to_numpy()
            right = offline[name].cast(pl.Float64).filter(mine).to_numpy()
            np.testing.assert_array_equal(left, right)
        assert mine.sum() > 1000


def _views_of(workspace: Workspace, asked: list[int]) -> list[bool]:
    """Return whether each version's features are those of the declaration."""
    known = {
        version: workspace.models.get(LOOP, version).lineage.feature_digest
        == workspace.models.get(LOOP, 1).lineage.feature_digest
        for version in set(asked)
    }
    return [known[version] for version in asked]


def test_the_label_join_is_the_batch_truth(workspace, log, played):
    join = LabelJoin(workspace.prediction_logs(), workspace.data, retention=timedelta(days=400))
    join.watch(LOOP, flights, Label(is_late, known_at="arr_time"))
    join.catch_up(played.stage.clock.now())
    joined = join.joined(LOOP)
    join.close()
    table = workspace.data.frame("flights").filter(pl.col("arr_time") <= played.stage.clock.now())
    truth = table.filter(pl.col("arr_delay").is_not_null()).select(key="flight_id", truth=is_late().cast(pl.Float64))
    expected = to_frame(log).join(truth, on="key", how="inner")
    assert set(joined["id"]) == set(expected["id"])
    both = joined.join(expected.select("id", "truth"), on="id", how="inner", validate="1:1")
    assert both.height > 1000
    assert both["label"].cast(pl.Float64).to_list() == both["truth"].to_list()
