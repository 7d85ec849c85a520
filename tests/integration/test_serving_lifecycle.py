"""How an endpoint lives: what waits and for how long, who goes first, which models are in memory, and what is kept."""

import os
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import package
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import PredictionBatch, TrafficPlan
from kilter.serving.settings import Settings
from kilter.testing.front import RunningFront

AT = "2013-03-01T10:00:00Z"
BUDGET = 25 << 20
"""Room for one or two workers of the smallest model."""


def row(key="a", x=1.0):
    return {"id": str(key), "at": AT, "x": x}


def linear(front):
    """Package a model that tells rows apart, and refuses a row without a number."""
    models = pytest.importorskip("sklearn.linear_model")
    pytest.importorskip("skops")
    X = np.linspace(-3, 3, 50).reshape(-1, 1)
    model = models.LogisticRegression().fit(X, (X[:, 0] > 0).astype(int))
    encoding = Encoding(("x",), ("numeric",), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        digest = package(model, encoding, X, [], front.objects, table=Table("t", "id", "at")).digest
    return digest, lambda x: float(model.predict_proba([[x]])[0, 1])


class Held:
    """A worker that is stopped, and callers that wait for it."""

    def __init__(self, front, loop):
        self.front = front
        self.loop = loop
        self.pid = front.pids(loop, 1)[0]
        self.callers = ThreadPoolExecutor(32)

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)
        return self

    def __exit__(self, *error):
        os.kill(self.pid, signal.SIGCONT)
        self.callers.shutdown()

    def ask(self, rows=1, **headers):
        before = self.front.metric("waiting_rows", loop=self.loop)

        def post():
            with httpx.Client(base_url=self.front.client.base_url, timeout=30) as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                body = {"rows": [row(x=float(number)) for number in range(rows)]}
                return client.post(f"/predict/{self.loop}", json=body, headers=named)

        asked = self.callers.submit(post)
        self.front.until(lambda: asked.done() or self.front.metric("waiting_rows", loop=self.loop) != before)
        return asked


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    settings = Settings(queue_rows=20, queue_seconds=0)
    endpoints = {
        "cut": Settings(batch_rows=7),
        "kept": Settings(cache=100_000),
        "narrow": Settings(concurrency=2, queue_seconds=0),
        "many": Settings(),
    }
    folder = tmp_path_factory.mktemp("lifecycle")
    with RunningFront(folder, stall=60.0, settings=settings, endpoints=endpoints) as running:
        digest, running.answer = linear(running)
        for loop in ("cut", "late", "kept", "narrow", "many"):
            running.plan(TrafficPlan(loop=loop, champion=1, bundles={1: digest}))
        yield running.start()


# ---------------------------------------------------------------- waiting


def test_a_row_whose_time_is_up_is_not_sent_and_the_others_are_answered(front):
    with Held(front, "late") as held:
        first = held.ask()  # in the worker's hands: nobody can take it back
        patient, hurried = held.ask(), held.ask(x_request_timeout="1500")
        late = hurried.result(10)
        assert (late.status_code, late.json()["status"]) == (504, 504)
        assert not patient.done()
    assert [one.result(10).status_code for one in (first, patient)] == [200, 200]
    refused = front.predict("late", [row()], X_Request_Timeout="soon")
    assert (refused.status_code, refused.json()["where"]) == (422, "X-Request-Timeout")
    assert front.metric("requests_total", loop="late", status="504") == 1


def test_when_the_queue_is_full_the_less_urgent_give_way_and_the_urgent_go_first(front):
    with Held(front, "late") as held:
        first = held.ask()
        low = [held.ask(3, priority="u=7") for _ in range(3)]
        normal = held.ask(10)
        full = held.ask(5, priority="u=7")
        assert (full.result(10).status_code, "retry-after" in full.result().headers) == (429, True)
        urgent = held.ask(5, priority="u=0")
        assert [one.result(10).status_code for one in low[1:]] == [503, 503]
        assert not low[0].done()
    answers = [one.result(10) for one in (first, urgent, normal, low[0])]
    assert [one.status_code for one in answers] == [200] * 4
    positions = [int(one.json()["predictions"][0]["id"].split("-")[1], 16) for one in answers]
    assert positions == sorted(positions)


def test_only_so_many_requests_are_under_way(front):
    with Held(front, "narrow") as held:
        two = [held.ask(), held.ask()]
        assert held.ask().result(10).status_code == 429
    assert [one.result(10).status_code for one in two] == [200, 200]


def test_many_callers_get_their_own_rows_and_a_bad_one_fails_alone(front):
    random = np.random.default_rng(5)
    wanted = {float(x): front.answer(float(x)) for x in random.normal(size=40)}
    wrong, failed = [], []

    def ask(number):
        generator = np.random.default_rng(number)
        with httpx.Client(base_url=front.client.base_url, timeout=30) as client:
            for turn in range(15):
                bad = (number + turn) % 5 == 0
                xs = generator.choice(list(wanted), 1 + turn % 4).tolist()
                rows = [row(x=x) for x in xs] + ([row(x=None)] if bad else [])
                answer = client.post("/predict/many", json={"rows": rows})
                if bad:
                    failed.append(answer.status_code)
                elif [one["value"] for one in answer.json()["predictions"]] != pytest.approx([wanted[x] for x in xs]):
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(failed) == {503}


def test_a_request_of_more_rows_than_a_batch_is_answered_in_order(front):
    xs = np.random.default_rng(1).normal(size=100).tolist()
    found = front.predict("cut", [row(x=x) for x in xs]).json()["predictions"]
    assert [one["value"] for one in found] == pytest.approx([front.answer(x) for x in xs])


# ---------------------------------------------------------------- kept answers


def test_an_answer_that_is_kept_needs_no_worker_and_is_still_recorded(front):
    first = front.predict("kept", [row("a", 1.0), row("b", 2.0)]).json()["predictions"]
    with Held(front, "kept"):
        again = front.predict("kept", [row("c", 2.0), row("d", 1.0)]).json()["predictions"]
    assert [one["value"] for one in again] == [one["value"] for one in reversed(first)]
    assert front.metric("cache_hits_total", loop="kept") == 2
    assert front.metric("cache_misses_total", loop="kept") == 2
    assert front.endpoints.prediction(again[0]["id"]).key == "c"
    assert front.metric("cache_hits_total", loop="late") == 0


# ---------------------------------------------------------------- workers and memory


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_with_a_second_worker_a_kill_fails_no_request_and_needs_no_fallback(tmp_path):
    with RunningFront(tmp_path, settings=Settings(replicas=2)) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: front.constant(0.5)}))
        front.start()
        stop, seen = threading.Event(), []

        def ask():
            with httpx.Client(base_url=front.client.base_url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post("/predict/late", json={"rows": [row()]})
                    seen.append(answer.json()["predictions"][0]["arm"] if answer.is_success else answer.text)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            front.until(lambda: len(front.pids("late", 1)) == 2)
            os.kill(front.pids("late", 1)[0], signal.SIGKILL)
            front.until(lambda: len(front.pids("late", 1)) < 2)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(seen) == {"champion"}


def test_within_a_budget_models_are_loaded_when_asked_and_the_least_recently_used_goes(tmp_path):
    names = [f"m{number}" for number in range(4)]
    with RunningFront(tmp_path, memory=BUDGET, recent=0.0) as front:
        for number, name in enumerate(names):
            front.plan(TrafficPlan(loop=name, champion=1, bundles={1: front.constant(float(number))}))
        front.start()
        assert front.client.get("/readyz").status_code == 200
        assert [front.pids(name, 1) for name in names] == [[]] * 4
        pids = {}
        for turn in (0, 1, 2, 0, 3, 1):
            answer = front.predict(names[turn], [row()])
            assert answer.json()["predictions"][0]["value"] == float(turn)
            pids.setdefault(names[turn], []).extend(front.pids(names[turn], 1))
        assert front.metric("evictions_total") >= 2
        awake = {pid for name in names for pid in front.pids(name, 1)}
        assert 0 < len(awake) < 4
        gone = {pid for found in pids.values() for pid in found} - awake
        front.until(lambda: not any(alive(pid) for pid in gone))
        front.until(lambda: 0 < front.metric("memory_bytes") <= BUDGET)


def test_what_a_release_needs_is_loaded_at_once_and_never_goes(tmp_path):
    with RunningFront(tmp_path, memory=BUDGET, recent=0.0) as front:
        one, two = front.constant(1.0), front.constant(2.0)
        bundles = {1: one, 2: two}
        front.plan(TrafficPlan(loop="released", champion=1, challenger=2, mode="canary", share=50, bundles=bundles))
        front.plan(TrafficPlan(loop="rest", champion=1, bundles={1: one}))
        front.start()
        pinned = front.pids("released", 1) + front.pids("released", 2)
        assert len(pinned) == 2
        front.predict("rest", [row()])
        assert front.pids("released", 1) + front.pids("released", 2) == pinned
        front.plan(TrafficPlan(loop="released", champion=2, warm=(1,), bundles=bundles))
        front.predict("rest", [row()])
        assert sorted(front.pids("released", 1) + front.pids("released", 2)) == sorted(pinned)


def test_an_endpoint_without_traffic_sleeps_and_the_first_request_wakes_it(tmp_path):
    with RunningFront(tmp_path, settings=Settings(replicas=0, idle=0.2)) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: front.constant(0.5)}))
        front.start()
        for _ in range(2):
            front.until(lambda: not front.pids("late", 1))
            assert front.client.get("/readyz").status_code == 200
            assert front.predict("late", [row()]).json()["predictions"][0]["arm"] == "champion"
        # a plan that is set while the front runs is proven to load first
        front.plan(TrafficPlan(loop="new", champion=1, bundles={1: front.constant(0.5)}))
        assert front.models("new")["versions"][0]["start_seconds"] > 0


def test_a_model_that_cannot_be_woken_is_not_ready_and_the_front_lives(tmp_path):
    with RunningFront(tmp_path, settings=Settings(replicas=0)) as front:
        digest = front.constant(0.5)
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: digest}))
        front.start()
        for path in (tmp_path / "objects").rglob("*"):
            if path.is_file():
                path.unlink()
        asked = time.monotonic()
        answer = front.predict("late", [row()])
        assert answer.status_code == 503
        assert time.monotonic() - asked < 20
        front.until(lambda: front.client.get("/readyz").status_code == 503)
        assert front.client.get("/livez").status_code == 200


def test_every_answer_of_a_busy_front_is_in_the_log_once(front):
    log = PredictionLog.open(front.folder / "log")
    rows = sum(len(batch.keys) for _, batch in log.read() if isinstance(batch, PredictionBatch))
    log.close()
    assert rows == sum(front.metric("rows_total", loop=loop) for loop in ("cut", "late", "kept", "narrow", "many"))
